"""An upstream that misbehaves at random: one asyncio server in a thread, for very many exchanges."""

import asyncio
import contextlib
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from fastapi_httpx_pool import ProxyRequest
from fastapi_httpx_pool.messages import Timeouts
from tests.support.upstream import LIMIT

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Misbehaving(ABC):
    """An upstream in a thread that does odd things at random, for a block."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0
        self.open = 0
        """Connections at present."""
        self.behaves = False
        """Whether from now on it does nothing odd."""
        self.done: Counter[str] = Counter()
        """What was done, how often."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        assert self._ready.wait(LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        """Break everything off."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _handle(self, reader: Reader, writer: Writer) -> None:
        self.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve_connection(reader, writer)
        finally:
            self.open -= 1
            self._close(writer)

    @abstractmethod
    async def _serve_connection(self, reader: Reader, writer: Writer) -> None:
        """Do what is to be done on a connection."""

    @abstractmethod
    def _close(self, writer: Writer) -> None:
        """Close it."""


def waiting_for(upstream: Misbehaving) -> Callable[[ProxyRequest], None]:
    """Return a proxy's hook that takes the short time limits away when the upstream behaves: slow machines need more."""

    def on_request(request: ProxyRequest) -> None:
        if upstream.behaves:
            request.timeouts = Timeouts(*[LIMIT] * 5)

    return on_request


class Chaos(Misbehaving):
    """
    Answers most requests with their own target as the body, and does something odd to the others.

    What is read as a body therefore tells whose answer it was.
    """

    async def _serve_connection(self, reader: Reader, writer: Writer) -> None:
        while await self._answer(reader, writer):
            pass

    def _close(self, writer: Writer) -> None:
        writer.transport.abort()

    async def _answer(self, reader: Reader, writer: Writer) -> bool:
        """Answer one request; whether another may follow on this connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target = head.split(b" ", 2)[:2]
        act = well if self.behaves or self._random.random() < 0.6 else self._random.choice(FAULTS)
        self.done[act.__name__] += 1
        if act is not refuse_early:
            await _read_body(reader, head)
        goes_on = await act(writer, target if method != b"HEAD" else b"")
        await writer.drain()
        return goes_on


async def _read_body(reader: Reader, head: bytes) -> None:
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    elif b"content-length: " in lowered:
        await reader.readexactly(int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def _response(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *lines, b"", body))


# What may happen to a request; whether the connection goes on.


async def well(writer: Writer, target: bytes) -> bool:
    """Answer."""
    writer.write(_response(target))
    return True


async def in_chunks(writer: Writer, target: bytes) -> bool:
    """Answer in chunks, a little later each."""
    if not target:
        return await well(writer, target)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(target), 4):
        piece = target[start : start + 4]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")
    return True


async def at_length(writer: Writer, target: bytes) -> bool:
    """Answer with very many bytes."""
    writer.write(_response(target * 20_000))
    return True


async def slowly(writer: Writer, target: bytes) -> bool:
    """Answer too late for some."""
    await asyncio.sleep(0.02)
    return await well(writer, target)


async def for_the_last_time(writer: Writer, target: bytes) -> bool:
    """Answer, and say goodbye."""
    writer.write(_response(target, b"Connection: close"))
    return False


async def and_leave(writer: Writer, target: bytes) -> bool:
    """Answer, and leave without a word."""
    await well(writer, target)
    await writer.drain()
    return False


async def too_much(writer: Writer, target: bytes) -> bool:
    """Answer more than was asked."""
    writer.write(_response(target) + _response(b"POISON"))
    return True


async def hang_up(writer: Writer, target: bytes) -> bool:
    """Close instead of answering."""
    return False


async def half_a_head(writer: Writer, target: bytes) -> bool:
    """Close in the head."""
    writer.write(b"HTTP/1.1 200 OK\r\nConte")
    return False


async def half_a_body(writer: Writer, target: bytes) -> bool:
    """Close in the body."""
    writer.write(_response(target + b"x" * 100)[:-50])
    return False


async def nonsense(writer: Writer, target: bytes) -> bool:
    """Answer something else."""
    writer.write(b"SMTP 220 hello\r\n\r\n")
    return True


async def nothing(writer: Writer, target: bytes) -> bool:
    """Let it wait."""
    await asyncio.sleep(0.2)
    return False


async def refuse_early(writer: Writer, target: bytes) -> bool:
    """Refuse before the body has been read."""
    writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    return False


FAULTS: list[Callable[[Writer, bytes], Awaitable[bool]]] = [
    in_chunks,
    at_length,
    slowly,
    for_the_last_time,
    and_leave,
    too_much,
    hang_up,
    half_a_head,
    half_a_body,
    nonsense,
    nothing,
    refuse_early,
]


def random_body(chance: random.Random) -> bytes | AsyncIterator[bytes]:
    """Return a body of any size, in memory or made while it is sent; making it may raise ``ZeroDivisionError``."""
    kind = chance.randrange(4)
    if kind < 2:
        return b"x" * chance.choice([0, 10, 70_000, 400_000])
    return _made(chance, breaks=kind == 3)


async def _made(chance: random.Random, *, breaks: bool) -> AsyncIterator[bytes]:
    for _ in range(chance.randrange(5)):
        yield b"x" * chance.choice([1, 1000, 100_000])
        await asyncio.sleep(0)
    if breaks and chance.random() < 0.3:
        raise ZeroDivisionError
