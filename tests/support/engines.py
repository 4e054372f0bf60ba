"""An engine alone, requests as plain as they come, and what the engine tells about them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits
from fastapi_httpx_pool.engine._pool import Pool
from fastapi_httpx_pool.events import Event, Observer
from fastapi_httpx_pool.messages import Header, Origin, Request, Response, Timeouts

LIMIT = 15.0
"""Seconds after which what should have happened has failed to."""

BACKENDS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
"""For ``anyio_backend``: the event loops that the engine runs in."""

both_loops = pytest.mark.parametrize("anyio_backend", BACKENDS, ids=["asyncio", "uvloop"])

EventT = TypeVar("EventT", bound=Event)


class Events:
    """An observer that keeps what it is told, and can be waited for."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._came: asyncio.Future[None] | None = None

    def __call__(self, event: Event) -> None:
        """Take note."""
        self.all.append(event)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Return all of one kind so far."""
        return [event for event in self.all if isinstance(event, kind)]

    async def wait_for(self, kind: type[EventT], count: int = 1) -> list[EventT]:
        """Wait until there are so many of one kind."""
        async with asyncio.timeout(LIMIT):
            while len(self.of(kind)) < count:
                self._came = asyncio.get_running_loop().create_future()
                await self._came
        return self.of(kind)


def origin_of(url: str) -> Origin:
    """Return the origin of an upstream's URL."""
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return Origin(scheme.encode(), host.encode(), int(port))


NO_LIMITS = Timeouts()


def request_to(
    url: str,
    target: bytes = b"/",
    *,
    method: bytes = b"GET",
    headers: Iterable[Header] = (),
    body: bytes | AsyncIterable[bytes] | None = None,
    length: int | None = None,
    timeouts: Timeouts = NO_LIMITS,
    extensions: dict[str, Any] | None = None,
) -> Request:
    """Return a request; a body that is neither in memory nor given a length goes out in chunks."""
    origin = origin_of(url)
    lines = [(b"Host", origin.host), *headers]
    if length is None and isinstance(body, bytes):
        length = len(body)
    if length is not None:
        lines.append((b"Content-Length", b"%d" % length))
    elif body is not None:
        lines.append((b"Transfer-Encoding", b"chunked"))
    return Request(method, origin, target, lines, body, timeouts, {} if extensions is None else extensions)


async def read(response: Response) -> bytes:
    """Return the whole body."""
    try:
        return b"".join([chunk async for chunk in response.body])
    finally:
        await response.aclose()


async def unread(engine: Engine, url: str, **request: Any) -> Response:
    """Send a request, and return its response unread."""
    async with asyncio.timeout(LIMIT):
        return await engine(request_to(url, **request))


def sending(engine: Engine, url: str, **request: Any) -> "asyncio.Task[bytes]":
    """Send a request in a task of its own, which returns the body of its response."""
    return asyncio.ensure_future(fetch(engine, url, **request))


async def fetch(engine: Engine, url: str, **request: Any) -> bytes:
    """Send a request, and return the body of its response."""
    async with asyncio.timeout(LIMIT):
        return await read(await engine(request_to(url, **request)))


@asynccontextmanager
async def running(
    limits: Limits | None = None,
    options: ConnectOptions | None = None,
    observer: Observer | None = None,
    *,
    retry: bool = True,
) -> AsyncIterator[Engine]:
    """Give an engine for a block, and close it."""
    engine = Engine(limits, options, observer, retry=retry)
    try:
        yield engine
    finally:
        await engine.aclose()


def pool_of(engine: Engine) -> Pool:
    """Return the engine's pool in this loop, for what can be seen from nowhere else."""
    return engine._pools[asyncio.get_running_loop()]


async def turn(times: int = 1) -> None:
    """Let the event loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until something is so that nobody tells of."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 -- nobody sets an event
            await asyncio.sleep(0)


def assert_quiet(engine: Engine) -> None:
    """Check that nothing is under way and nothing is left of what was."""
    found, pool = engine.statistics(), pool_of(engine)
    assert (found.active, found.queued) == (0, 0)
    assert not pool._exchanges
    assert not pool._turns
    assert not pool._connecting
    assert len(pool._connections) == found.idle == pool._books.open
    assert all(not origin.leases and not origin.parked for origin in pool._books.origins())
