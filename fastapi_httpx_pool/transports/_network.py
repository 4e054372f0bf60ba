"""
A network backend for httpcore that loses no socket.

httpcore closes the socket when a TLS handshake fails, but not when it is cancelled: then the event
loop keeps the half-made connection until the peer hangs up.
"""

from typing import Any, final

import anyio

__all__ = ("CarefulBackend",)


@final
class CarefulBackend:
    """Connects as another backend does."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.sleep = backend.sleep

    async def connect_tcp(self, *args: Any, **options: Any) -> Any:
        """Connect to a host and port."""
        return _CarefulStream(await self._backend.connect_tcp(*args, **options))

    async def connect_unix_socket(self, *args: Any, **options: Any) -> Any:
        """Connect to a path."""
        return _CarefulStream(await self._backend.connect_unix_socket(*args, **options))


@final
class _CarefulStream:
    """A connection before TLS; what ``start_tls`` gives is httpcore's own again."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        # Not wrapped, so that they cost nothing.
        self.read = stream.read
        self.write = stream.write
        self.aclose = stream.aclose
        self.get_extra_info = stream.get_extra_info

    async def start_tls(self, *args: Any, **options: Any) -> Any:
        try:
            return await self._stream.start_tls(*args, **options)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise
