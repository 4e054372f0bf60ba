"""One face for the connection behind a response that switched protocols, whoever carried it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, final

import anyio

from .. import exceptions
from ..engine import Tunnel
from ..exceptions import ReadError, TransportError
from ..messages import Response
from ._family import Family, family_of

__all__ = ("NetworkStream", "network_stream_of")


class NetworkStream(Protocol):
    """A connection that speaks another protocol than HTTP; whoever closes the response closes it."""

    on_drain: Callable[[], None] | None
    """Called when the pool begins to wait for what is in flight, if the pool can tell."""
    draining: bool
    """Whether it does so already."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's
        """
        Read at most so many bytes, as soon as there are any; none at the end.

        Raises:
            ReadTimeout: Nothing came for ``timeout`` seconds.
            ReadError: The connection broke, or was closed.
        """
        ...

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- httpcore's
        """
        Write bytes; return when they have gone out, but for a few.

        Raises:
            WriteError: The connection broke, or was closed.
        """
        ...

    def write_nowait(self, buffer: bytes) -> bool:
        """
        Write bytes if that can be done at once; whether it was.

        Raises:
            WriteError: The connection broke, or was closed.
        """
        ...

    async def write_soon(self, buffer: bytes) -> None:
        """
        Write a few bytes as soon as no others wait to go out; of several calls until then only the last one counts.

        Raises:
            WriteError: The connection broke, or was closed.
        """
        ...


def network_stream_of(response: Response, client: Any) -> NetworkStream | None:
    """Return the connection behind a response of a client's; None if its transport gives none."""
    stream = response.extensions.get("network_stream")
    if stream is None or isinstance(stream, Tunnel):
        return stream
    return _TheirStream(stream, family_of(client))


@final
class _TheirStream:
    """A stream of httpcore's, with our errors; one writes at a time, as its sockets want it."""

    def __init__(self, stream: Any, family: Family) -> None:
        self._stream = stream
        self._family = family
        self._writing = anyio.Lock()
        self._soon = b""
        self.draining: bool = False
        self.on_drain: Callable[[], None] | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's
        async with self._our_errors():
            data: bytes = await self._stream.read(max_bytes, timeout)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- httpcore's
        async with self._writing, self._our_errors():
            await self._stream.write(buffer, timeout)
            soon, self._soon = self._soon, b""
            if soon:
                await self._stream.write(soon, timeout)

    def write_nowait(self, buffer: bytes) -> bool:
        return False

    async def write_soon(self, buffer: bytes) -> None:
        if self._writing.locked():
            self._soon = buffer
        else:
            await self.write(buffer)

    @asynccontextmanager
    async def _our_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except self._core_errors as exc:
            raise _our_error(exc) from exc

    @property
    def _core_errors(self) -> tuple[type[Exception], ...]:
        core = self._family.core
        return core.NetworkError, core.TimeoutException


def _our_error(error: Exception) -> TransportError:
    ours: type[TransportError] = getattr(exceptions, type(error).__name__, ReadError)
    return ours(str(error))
