"""
Network backends for httpcore: one that loses no socket, and one that opens none.

httpcore closes the socket when a TLS handshake fails, but not when it is cancelled: then the event
loop keeps the half-made connection until the peer hangs up.
"""

from typing import Any, final

import anyio

from ..exceptions import ConnectError

__all__ = ("CarefulBackend", "SealedBackend")


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
class SealedBackend:
    """Connects to nothing, because httpcore looks names up itself and nobody could check what it finds."""

    async def connect_tcp(self, host: str, *args: Any, **options: Any) -> Any:
        """Refuse to connect."""
        raise ConnectError(
            f"{host} was not connected to: the client has allowed_addresses, which only this package's own engine can "
            "check, on asyncio and without a forward proxy. If HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is set, set "
            "trust_env=False, or NO_PROXY; let the proxy check instead with allowed_addresses='any'. "
            "Under trio, and past a mock that lets requests through, nobody can check."
        )


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
