"""
What idle streams and slow readers cost a proxy: ``python -m benchmarks.streams``.

1. A thousand browsers listen for server-sent events, and nothing happens. Counted is the memory of
   the proxy's process for each; what the kernel keeps is not.
2. A client asks for an endless answer and reads nothing. Counted is what the upstream could send
   until it was stopped, beside what it can send to a client that does the same without a proxy:
   that much the kernel's buffers take. Through a proxy there are twice as many of those.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .contenders import ALL, Contender, Place, Unavailable
from .processes import Child, Cores, free_port, memory, raise_file_limit

__all__ = ("main",)

NAMES = ("httpx-stream", "aiohttp-stream", "ours-stream", "ours-mounted", "ours-proxy", "go")
STREAMS = 1000
AT_ONCE = 50
SETTLING = 1.0
"""Seconds in which nothing more is sent before it counts as all that will be."""
LIMIT = 30.0

_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata:\n\n\r\n"
_ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n"
_PIECE = bytes(16 * 1024)
_ASK_EVENTS = b"GET /1 HTTP/1.1\r\nhost: bench\r\n\r\n"
_ASK_ENDLESS = b"GET /2 HTTP/1.1\r\nhost: bench\r\n\r\n"


class _Upstream:
    """Sends an event and falls silent, or sends for ever and counts."""

    def __init__(self) -> None:
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, until the other side closes it."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /2 "):
                await self._send_for_ever(writer)
            else:
                writer.write(_EVENTS)
                await reader.read()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _send_for_ever(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        writer.write(_ENDLESS)
        while True:
            writer.write(_PIECE)
            await writer.drain()
            self.sent += len(_PIECE)


async def _memory_of_streams(port: int, process: int) -> float:
    """Return KiB of the proxy's process for each idle stream."""
    await _open(port, _ASK_EVENTS, AT_ONCE)  # what is made once is made now
    before = memory(process)
    writers = await _open(port, _ASK_EVENTS, STREAMS)
    after = memory(process)
    for writer in writers:
        writer.close()
    return (after - before) / STREAMS / 1024


async def _open(port: int, request: bytes, count: int) -> list[asyncio.StreamWriter]:
    """Open streams, and read the first event of each."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> asyncio.StreamWriter:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await asyncio.wait_for(reader.readuntil(b"data:"), LIMIT)
            return writer

    return await asyncio.gather(*(one() for _ in range(count)))


async def _pushed(port: int, upstream: _Upstream) -> float:
    """Return MiB that the upstream can send to a client that reads nothing."""
    upstream.sent = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(_ASK_ENDLESS)
    await reader.readexactly(1)
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    before = -1
    while upstream.sent != before:
        before = upstream.sent
        await asyncio.sleep(SETTLING)
    writer.transport.abort()
    return before / 1024 / 1024


@asynccontextmanager
async def _running(contender: Contender, origin: str, folder: Path) -> AsyncIterator[tuple[int, Child]]:
    place = Place(free_port(), (origin,), folder)
    environment = {"BENCH_UPSTREAM": origin, "BENCH_KEEPALIVE": "20", "BENCH_CONNECTIONS": "2000"}
    child = Child(contender.command(place), Cores.of_this_machine().contender, environment)
    try:
        await asyncio.wait_for(_listens(place.port), LIMIT)
        yield place.port, child
    finally:
        child.stop()


async def _listens(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def _measure() -> None:
    upstream = _Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=64 * 1024, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"{'':16}{'KiB per idle stream':>22}{'MiB pushed to who does not read':>34}")
    print(f"{'no proxy':16}{'':>22}{await _pushed(port, upstream):>34.1f}")
    for contender in (contender for contender in ALL if contender.name in NAMES):
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            try:
                async with _running(contender, f"http://127.0.0.1:{port}", Path(folder)) as (proxy, child):
                    pushed = await _pushed(proxy, upstream)
                    each = await _memory_of_streams(proxy, child.pid)
            except (Unavailable, TimeoutError, asyncio.IncompleteReadError) as exc:
                print(f"{contender.name:16}skipped: {exc or 'it did not answer in time'}")
            else:
                print(f"{contender.name:16}{each:>22.0f}{pushed:>34.1f}")
    server.close()


def main() -> None:
    """Measure, and print a table."""
    raise_file_limit()
    asyncio.run(_measure())


if __name__ == "__main__":
    main()
