"""Hundreds of proxied exchanges with clients that leave and upstreams that fail: whoever gets an answer gets its own, and nothing is left."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from fastapi_httpx_pool import ClientSettings, LimitSettings, TimeoutSettings, UpstreamAborted
from tests.support.answers import ask, get
from tests.support.chaos import FAULTS, Chaos, waiting_for
from tests.support.proxies import EVERY_SERVER, proxied, settings_of
from tests.support.proxy_watch import ProxyWatch, at_rest, held_at
from tests.support.raw_client import headers_of
from tests.support.uploads import LAST_CHUNK, announcing, piece
from tests.support.upstream import LIMIT

BROWSERS = 10
CALLS = 35
"""Of each browser."""

SLOTS = 6
LARGEST = 150_000

ANSWERS = {200, 400, 413, 502, 503, 504}


class Browser:
    """Sends requests of all kinds, leaves at every stage, and looks at what it gets."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._seed = seed
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.outcomes: Counter[str] = Counter()

    async def __call__(self) -> None:
        """Send them, one after the other."""
        for number in range(CALLS):
            self.outcomes[await self._ask(b"/%d-%d-" % (self._seed, number))] += 1
        self._leave()

    async def _ask(self, target: bytes) -> str:
        try:
            return await self._exchange(target)
        except (ConnectionError, asyncio.IncompleteReadError):
            self._leave()
            return "broken off"

    async def _exchange(self, target: bytes) -> str:
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        method = self._random.choice([b"GET", b"GET", b"HEAD", b"DELETE", b"POST", b"PUT"])
        parts = list(self._parts(method, target))
        left_after = self._random.randrange(len(parts)) if self._random.random() < 0.25 else None
        for number, part in enumerate(parts):
            writer.write(part)
            await writer.drain()
            if number == left_after:
                await asyncio.sleep(self._random.choice([0, 0, 0.005, 0.04]))
                self._leave()
                return "left"
        return await self._take_answer(reader, b"" if method == b"HEAD" else target)

    def _parts(self, method: bytes, target: bytes) -> Iterator[bytes]:
        """Give a request in the pieces in which it is sent."""
        if method not in (b"POST", b"PUT"):
            request = get(target, method=method)
            yield from (request[:-10], request[-10:])
            return
        sizes = [self._random.choice([1, 1000, 60_000]) for _ in range(self._random.randrange(5))]
        length = self._random.choice([sum(sizes), None])
        expectation = [b"Expect: 100-continue"] if self._random.random() < 0.1 else []
        yield announcing(length, *expectation, target=target, method=method)
        for size in sizes:
            yield piece(b"x" * size, length)
        if length is None:
            yield LAST_CHUNK

    async def _take_answer(self, reader: asyncio.StreamReader, own: bytes) -> str:
        """Read an answer, or a part of it; ``own`` is what a good one has for a body."""
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
        if self._random.random() < 0.1:
            self._leave()
            return "left"
        status = int(head.split(b" ")[1])
        lines = dict(headers_of(head))
        body = await _body_of(reader, lines) if own else b""
        assert status in ANSWERS, head
        if status == 200:
            assert body in {own, own * 20_000}, (body[:100], own)
        if lines.get(b"connection") == b"close" or self._random.random() < 0.3:
            self._leave()
        return "read" if status == 200 else str(status)

    def _leave(self) -> None:
        if self._connection is not None:
            _, writer = self._connection
            if self._random.random() < 0.5:
                writer.transport.abort()
            writer.close()
            self._connection = None


async def _body_of(reader: asyncio.StreamReader, lines: dict[bytes, bytes]) -> bytes:
    if b"content-length" in lines:
        return await reader.readexactly(int(lines[b"content-length"]))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(parts)


async def browse(port: int) -> Counter[str]:
    """Let all browsers ask at once, and count what came of it."""
    browsers = [Browser(port, seed) for seed in range(BROWSERS)]
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(browser() for browser in browsers))
    return sum((browser.outcomes for browser in browsers), Counter[str]())


async def all_at_once(port: int, count: int) -> list[bytes]:
    """Ask so many times at once, and return the bodies of the answers."""

    async def one() -> bytes:
        return await asyncio.to_thread(lambda: ask(port, get(b"/last")).body)

    return await asyncio.gather(*(one() for _ in range(count)))


def settings() -> ClientSettings:
    """Return settings with few connections, of which all are kept for a while, and with short limits."""
    return settings_of(
        limits=LimitSettings(max_connections=SLOTS, max_keepalive_connections=SLOTS, keepalive_expiry=30),
        timeout=TimeoutSettings(connect=5, read=0.1, write=5, pool=0.5, total=5),
    )


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_stress(server: str) -> None:
    """Afterwards no connection is in use, nobody waits, no task is left, and every slot serves."""
    watch = ProxyWatch()
    with (
        Chaos(11) as upstream,
        proxied(
            upstream.url,
            server,
            settings=settings(),
            around=watch.around,
            max_request_body=LARGEST,
            on_request=waiting_for(upstream),
        ) as port,
    ):
        before = held_at(port)
        outcomes = asyncio.run(browse(port))
        assert outcomes.total() == BROWSERS * CALLS
        assert outcomes["read"] > BROWSERS * CALLS / 4, outcomes
        assert outcomes["left"] > BROWSERS * CALLS / 10, outcomes
        assert set(upstream.done) >= {fault.__name__ for fault in FAULTS}
        assert {type(failure) for failure in watch.failures} <= {UpstreamAborted}

        assert at_rest(port, upstream, before).idle <= SLOTS

        upstream.behaves = True
        assert asyncio.run(all_at_once(port, 2 * SLOTS)) == [b"/last"] * (2 * SLOTS)
