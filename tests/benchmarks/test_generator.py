"""The load generator and the upstream, with each other and with servers that go wrong."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from benchmarks import loops
from benchmarks.generator import Measured, generate, percentile
from benchmarks.loads import Load
from benchmarks.upstream import Upstream

SECONDS = 0.05


@asynccontextmanager
async def _upstream() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _answering(answer: bytes, *, hang_up: bool) -> AsyncIterator[int]:
    """Serve the same answer to whatever is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                if hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _generated(server: AbstractAsyncContextManager[int], load: str, loop: str = "asyncio") -> Measured:
    async def main() -> Measured:
        async with server as port:
            return await generate(port, Load.named(load), SECONDS)

    return loops.run(main(), loop)


@pytest.mark.parametrize("loop", loops.LOOPS)
@pytest.mark.parametrize("load", ["get-1k-5", "get-1m-2", "post-64k-5"])
def test_good_answers(load: str, loop: str) -> None:
    """Answers are counted and timed, on each loop, large ones too."""
    measured = _generated(_upstream(), load, loop)

    assert measured.rate * SECONDS >= 2
    assert measured.errors == 0
    assert measured.p50 is not None
    assert measured.p99 is not None
    assert 0 < measured.p50 <= measured.p99


def test_bad_status() -> None:
    """Answers that are not 2xx are errors, and no part of the rate."""
    measured = _generated(_answering(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", hang_up=False), "get-1k-2")

    assert measured.rate == 0
    assert measured.errors > 2
    assert measured.p50 is None


def test_last_answer_of_a_connection() -> None:
    """A caller whose server says goodbye after each answer connects again, and that is no error."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"

    measured = _generated(_answering(answer, hang_up=True), "get-1k-2")

    assert measured.rate * SECONDS > 2
    assert measured.errors == 0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", b"nonsense\r\n\r\n"])
def test_broken_connections(answer: bytes) -> None:
    """A connection that breaks, or does not speak HTTP, is an error each time."""
    measured = _generated(_answering(answer, hang_up=True), "get-1k-2")

    assert measured.rate == 0
    assert measured.errors > 2


def test_nobody_listens() -> None:
    """A server that is not there is errors, not an exception."""

    @asynccontextmanager
    async def nobody() -> AsyncIterator[int]:
        async with _upstream() as port:
            pass
        yield port

    assert _generated(nobody(), "get-1k-1").errors > 0


def test_percentile() -> None:
    """Percentiles are milliseconds; without calls there are none."""
    assert percentile([], 50) is None
    assert percentile([0.001], 99) == 1
    assert percentile([0.001, 0.003], 50) == 2


async def _ask(port: int, target: str) -> tuple[str, bytes, float]:
    """Return an answer's first line and body, and how long it took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.perf_counter()
    writer.write(f"GET {target} HTTP/1.1\r\nhost: upstream\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.partition("content-length: ")[2].split()[0])
    body = await reader.readexactly(length)
    writer.close()
    return head.partition("\r\n")[0], body, time.perf_counter() - started


def test_upstream() -> None:
    """The upstream answers with so many bytes, late if asked to, counts connections, and knows nothing else."""

    async def main() -> None:
        async with _upstream() as port:
            assert (await _ask(port, "/3"))[:2] == ("HTTP/1.1 200 OK", b"xxx")
            _, _, seconds = await _ask(port, "/3?delay=0.05")
            assert seconds >= 0.05
            _, before, _ = await _ask(port, "/connections")
            _, after, _ = await _ask(port, "/connections")
            assert int(after) - int(before) == 1
            assert (await _ask(port, "/elsewhere"))[:2] == ("HTTP/1.1 404 Not Found", b"")

    loops.run(main())


def test_upstream_waits_for_slow_readers() -> None:
    """A large answer is sent as fast as it is read, and whole."""

    async def main() -> None:
        async with _upstream() as port:
            _, body, _ = await _ask(port, "/3000000")
            assert body == b"x" * 3_000_000

    loops.run(main())
