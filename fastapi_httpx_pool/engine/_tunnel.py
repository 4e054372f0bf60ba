"""
What is left of a connection for whoever speaks to it directly: httpx's ``network_stream``.

After a 101, or a 2xx to CONNECT, the connection speaks another protocol, and a ``Tunnel`` has it
until it is closed; it keeps its place in the pool meanwhile. Every other response has a
``ConnectionInfo`` only, which tells about the connection and cannot read from it.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Any, Final, final

from ..exceptions import ConnectError, ConnectTimeout, ReadError, ReadTimeout, WriteError, WriteTimeout
from ._connection import Connection

__all__ = ("ConnectionInfo", "Tunnel", "TunnelBody")

HIGH_WATER: Final = 64 * 1024
"""Bytes that wait to be read before the peer has to wait."""
GOODBYE: Final = 1.0
"""Seconds that a connection may take to write what is left when it is closed."""


def _extra_info(connection: Connection, name: str) -> Any:
    transport = connection.transport
    if name == "client_addr":
        return transport.get_extra_info("sockname")
    if name == "server_addr":
        return transport.get_extra_info("peername")
    if name == "is_readable":
        return not connection.is_usable()
    return transport.get_extra_info(name)  # socket, ssl_object


@final
class ConnectionInfo:
    """Tells about the connection that a response came on."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_extra_info(self, name: str) -> Any:
        """Return ``client_addr``, ``server_addr``, ``socket``, ``ssl_object`` or ``is_readable``."""
        return _extra_info(self._connection, name)


@final
class Tunnel:
    """A connection that speaks another protocol than HTTP; it holds it until it is closed."""

    def __init__(self, connection: Connection, surplus: bytes, release: Callable[["Tunnel"], None]) -> None:
        """
        Take over.

        Args:
            connection: From now on nobody else's.
            surplus: What came behind the head of the response already.
            release: Called with it when the connection has been closed, once or twice.
        """
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(surplus)
        self._release = release
        self._ended = connection.is_closing
        self._closed = False
        self._error: Exception | None = None
        self._readable: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._soon = b""
        self.on_drain: Callable[[], None] | None = None
        """Called when the pool begins to wait for what is in flight: the time to say goodbye."""
        self.draining: bool = False
        """Whether the pool waits for what is in flight already."""
        connection.holder = self

    def get_extra_info(self, name: str) -> Any:
        """Return ``client_addr``, ``server_addr``, ``socket``, ``ssl_object`` or ``is_readable``."""
        return _extra_info(self._connection, name)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's
        """
        Read at most so many bytes, as soon as there are any; none at the end.

        Raises:
            ReadTimeout: Nothing came for ``timeout`` seconds.
            ReadError: The connection broke, or was closed.
        """
        if self._readable is not None:
            raise RuntimeError("two tasks read from the same network stream")
        if not self._buffer and not self._ended:
            await self._wait_for_more(timeout)
            if not self._buffer and not self._ended:
                raise ReadTimeout(f"nothing came for {timeout:g} s")
        if not self._buffer and (self._error is not None or self._closed):
            raise ReadError(str(self._error or "the network stream was closed")) from self._error
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if len(self._buffer) < HIGH_WATER:
            self._connection.resume_reading()
        return data

    async def _wait_for_more(self, seconds: float | None) -> None:
        connection = self._connection
        self._readable = self._loop.create_future()
        if seconds is not None:
            connection.expire_in(seconds)  # the pool's timer costs less than a timeout each time
        try:
            await self._readable
        finally:
            self._readable = None
            connection.due = inf

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- httpcore's
        """
        Write bytes; return when they have gone out, but for a few.

        Raises:
            WriteTimeout: The peer took nothing for ``timeout`` seconds.
            WriteError: The connection broke, or was closed.
        """
        if not buffer:
            return
        self._check_writable()
        self._connection.write(buffer)
        while self._connection.write_paused:
            if self._drained is None:
                self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._drained)  # several may wait for it
            except TimeoutError as exc:
                raise WriteTimeout(f"the peer took nothing for {timeout:g} s") from exc
            self._check_writable()

    def write_nowait(self, buffer: bytes) -> bool:
        """
        Write bytes if none wait to go out; whether that was so.

        Raises:
            WriteError: The connection broke, or was closed.
        """
        self._check_writable()
        if self._connection.write_paused:
            return False
        self._connection.write(buffer)
        return True

    async def write_soon(self, buffer: bytes) -> None:
        """
        Write a few bytes as soon as no others wait to go out; of several calls until then only the last one counts.

        Raises:
            WriteError: The connection broke, or was closed.
        """
        if not self.write_nowait(buffer):
            self._soon = buffer

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- httpcore's
    ) -> "Tunnel":
        """
        Encrypt it from here on; return the stream to go on with.

        Raises:
            ConnectTimeout: It took too long.
            ConnectError: It failed; the connection is closed.
        """
        connection = self._connection
        if self._ended or self._buffer:
            # What came unencrypted must not pass for something that came encrypted.
            text = "the peer spoke before TLS began" if self._buffer else "the connection was closed before TLS began"
            self.close()
            raise ConnectError(text)
        try:
            async with asyncio.timeout(timeout):
                transport = await self._loop.start_tls(
                    connection.transport, connection, ssl_context, server_hostname=server_hostname
                )
        except BaseException as exc:
            self.close()
            if isinstance(exc, TimeoutError):
                raise ConnectTimeout(f"no TLS within {timeout:g} s") from exc
            if isinstance(exc, OSError):
                raise ConnectError(str(exc)) from exc
            raise
        assert transport is not None
        connection.connection_made(transport)
        return self

    def drain(self) -> None:
        """Tell whoever speaks here that the pool waits for the end."""
        self.draining = True
        if self.on_drain is not None:
            self.on_drain()

    async def aclose(self) -> None:
        """Close the connection once everything has gone out, or a second later. Harmless twice."""
        if self._gone is None and not self._closed and not self._connection.is_closing:
            self._shut()
            self._gone = self._loop.create_future()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE):
                        await self._flush(self._gone)
            finally:
                self.close()
        elif self._gone is not None:
            await asyncio.shield(self._gone)

    async def _flush(self, gone: "asyncio.Future[None]") -> None:
        connection = self._connection
        connection.flush()
        while connection.unsent and not gone.done():
            drained = self._drained = self._loop.create_future()
            await drained
        if connection.is_tls and not gone.done():
            connection.resume_reading()  # or the peer's end would not be seen
            connection.transport.close()  # it has a buffer of its own below, and a goodbye of its own
            await gone

    def close(self) -> None:
        """Close the connection, now."""
        self._shut()
        self._connection.close("tunnel closed")
        self._wake(self._gone)
        self._release(self)

    def _shut(self) -> None:
        """Let nobody read and write any more."""
        if not self._closed:
            self._closed = True
            self._buffer.clear()
            self._end(None)

    def _check_writable(self) -> None:
        if self._closed or self._connection.is_closing:
            raise WriteError(str(self._error or "the network stream was closed")) from self._error

    # The connection's holder.

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes."""
        self._buffer += data
        if len(self._buffer) > HIGH_WATER:
            self._connection.pause_reading()
        self._wake(self._readable)

    def receive_end(self) -> None:
        """Take the peer's end of the stream."""
        self._end(None, still_writing=True)

    def lose(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        self._end(exc)
        self._closed = self._closed or exc is not None
        self._connection.close("peer")
        self._wake(self._gone)
        self._release(self)

    def go_on(self) -> None:
        """Write on."""
        soon, self._soon = self._soon, b""
        if soon and not self._connection.is_closing:
            self._connection.write(soon)
        self._wake(self._drained)
        self._drained = None

    def expire(self, now: float) -> None:
        """Act: nothing came in time."""
        self._wake(self._readable)

    @property
    def writes(self) -> bool:
        """Whether it may still write."""
        return not self._closed

    def _end(self, exc: Exception | None, *, still_writing: bool = False) -> None:
        self._ended = True
        self._error = self._error or exc
        self._wake(self._readable)
        if not still_writing:
            self.go_on()

    @staticmethod
    def _wake(future: "asyncio.Future[None] | None") -> None:
        if future is not None and not future.done():
            future.set_result(None)


@final
class TunnelBody:
    """The body of a response that switched protocols: none, but closing it closes the tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the tunnel."""
        self._tunnel.close()
