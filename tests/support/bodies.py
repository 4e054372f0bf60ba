"""Request bodies that tell how far they were asked for and how they ended, and upstreams that take little."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import anyio.to_thread

from fastapi_httpx_pool.engine import ConnectOptions
from tests.support.upstream import LIMIT, Connection

SMALL_BUFFER = 32 * 1024

TIGHT = ConnectOptions(
    socket_options=(
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER),
    )
)
"""The client's kernel holds little, so that what the engine itself holds is seen."""

PIECE = b"0123456789abcdef" * 1024
"""16 KiB."""


def tighten(connection: Connection) -> None:
    """Let the upstream's kernel hold little, too."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.sock.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)


class Source:
    """A body made piece by piece; its closing takes a turn of the loop."""

    def __init__(self, pieces: Iterable[bytes], then: Callable[[], Awaitable[object]] | None = None) -> None:
        """``then`` is awaited behind the last piece."""
        self._pieces = pieces
        self._then = then
        self.pulled = 0
        """Bytes so far."""
        self.begun = False
        self.closed = False
        self.ended_by: BaseException | None = None
        self.task: asyncio.Task[object] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the pieces."""
        self.begun = True
        self.task = asyncio.current_task()
        try:
            for piece in self._pieces:
                self.pulled += len(piece)
                yield piece
            if self._then is not None:
                await self._then()
        except BaseException as exc:
            self.ended_by = exc
            raise
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            self.closed = True

    @property
    def is_over(self) -> bool:
        """Whether it has been closed, or never begun."""
        return self.closed or not self.begun


async def for_ever() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def reached(event: threading.Event) -> None:
    """Wait until a script has come so far."""
    assert await anyio.to_thread.run_sync(event.wait, LIMIT), "the upstream did not get there"
