"""What is left when nobody holds on to it any more: no slot, no timer, no circle of references (checklist A12, H)."""

import asyncio
import gc
import itertools
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from fastapi_httpx_pool.engine import Engine, Limits
from fastapi_httpx_pool.exceptions import TransportError
from fastapi_httpx_pool.messages import Response, Timeouts
from tests.support.bodies import PIECE, TIGHT, Source, for_ever
from tests.support.engines import (
    assert_quiet,
    both_loops,
    fetch,
    read,
    request_to,
    running,
    turn,
    until,
)
from tests.support.upstream import Connection, Script, answering, ok, scripted
from tests.support.watched import Watched

pytestmark = pytest.mark.anyio

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"


def half(said: bytes = HALF) -> Script:
    """Return a script that says half of what it should on its first connection, and answers on others."""

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        connection.read_head()
        connection.send(said)
        connection.wait_until_closed()

    return script


class TestDropped:
    """A response that is dropped unclosed gives its place back, and is told of."""

    @pytest.mark.parametrize("read_some", [False, True])
    @both_loops
    async def test_a12_half_read(self, *, read_some: bool) -> None:
        """Its connection is closed as soon as the loop turns, and whoever waits for the place gets it."""
        script = Watched(half())
        with scripted(script) as upstream:
            async with running(Limits(max_connections=1)) as engine:
                response = await engine(request_to(upstream.url, b"/some/path"))
                if read_some:
                    assert await anext(aiter(response.body))
                waiting = asyncio.create_task(fetch(engine, upstream.url))
                await until(lambda: engine.statistics().queued)
                with pytest.warns(ResourceWarning) as warned:
                    del response
                (warning,) = warned
                hint = (
                    "it was requested here:"
                    if sys.flags.dev_mode
                    else "run Python with -X dev to see where it was opened"
                )
                text = f"the response to /some/path was dropped without being closed; {hint}"
                assert str(warning.message).startswith(text)
                assert await waiting == b"next"
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"abandoned": 1}

    @both_loops
    async def test_a12_where_it_was_opened(self) -> None:
        """In debug mode the warning tells where."""
        asyncio.get_running_loop().set_debug(True)
        with scripted(half()) as upstream:
            async with running() as engine:
                response = await self.open_it_here(engine, upstream.url)
                with pytest.warns(ResourceWarning) as warned:
                    del response
                (warning,) = warned
                assert "was dropped without being closed; it was requested here:" in str(warning.message)
                assert "open_it_here" in str(warning.message)
                assert __file__ in str(warning.message)
                await until(lambda: not engine.statistics().active)
        asyncio.get_running_loop().set_debug(False)

    async def open_it_here(self, engine: Engine, url: str) -> Response:
        """Open a response in a function that can be recognised."""
        return await engine(request_to(url))

    async def test_a12_in_another_thread(self) -> None:
        """It may be any thread that drops it."""
        with scripted(half()) as upstream:
            async with running() as engine:
                held = [await engine(request_to(upstream.url))]
                with pytest.warns(ResourceWarning, match="dropped without being closed"):
                    await asyncio.to_thread(held.clear)
                await until(lambda: not engine.statistics().active)
                assert_quiet(engine)

    async def test_a12_while_the_request_is_being_sent(self) -> None:
        """Its upload ends with it."""
        source = Source([b"begun"], for_ever)
        with scripted(half(ok(b"early"))) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url, method=b"POST", body=source))
                with pytest.warns(ResourceWarning, match="dropped without being closed"):
                    del response
                await until(lambda: source.closed)
                assert_quiet(engine)

    async def test_nothing_to_tell(self) -> None:
        """Who drops what is complete, or has failed, or has been closed, hears nothing of it."""
        with scripted(answering(ok())) as upstream:
            async with running() as engine:
                await engine(request_to(upstream.url))
                assert_quiet(engine)
        with scripted(half()) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url, timeouts=Timeouts(read=0.02)))
                with pytest.raises(TransportError):
                    await _read_without_closing(response)
                del response
                assert_quiet(engine)
        with scripted(half()) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url))
                await response.aclose()
                del response
                assert_quiet(engine)

    async def test_tunnels_are_their_users(self) -> None:
        """The response that opened a tunnel may be dropped while the tunnel is in use."""
        with scripted(half(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\nhello")) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url, headers=[(b"Upgrade", b"echo")]))
                tunnel = response.extensions["network_stream"]
                del response
                await turn(2)
                assert await tunnel.read(100) == b"hello"
                assert engine.statistics().active == 1
                await tunnel.aclose()
                assert_quiet(engine)


async def _read_without_closing(response: Response) -> bytes:
    return b"".join([chunk async for chunk in response.body])


def test_dropped_after_its_loop() -> None:
    """A response that outlives its event loop is told of, and touches nothing of the loop."""

    async def open_one(engine: Engine) -> Response:
        return await engine(request_to(upstream.url))

    engine = Engine()
    with scripted(half()) as upstream:
        response = asyncio.run(open_one(engine))
        with pytest.warns(ResourceWarning, match="dropped without being closed"):
            del response
        with warnings.catch_warnings():
            # The loop is gone, and its transport with it.
            warnings.simplefilter("ignore", ResourceWarning)
            engine.close()
            del engine
            gc.collect()


# Circles of references.


@contextmanager
def collecting(found: list[str]) -> Iterator[None]:
    """Note what of ours only the garbage collector could free, among what a block leaves."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        found += sorted({type(left).__name__ for left in gc.garbage if _is_ours(left)})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _is_ours(left: object) -> bool:
    return type(left).__module__.startswith("fastapi_httpx_pool.")


async def _unread(engine: Engine, url: str) -> None:
    await engine(request_to(url))


async def _closed(engine: Engine, url: str) -> None:
    await (await engine(request_to(url))).aclose()


async def _posted(engine: Engine, url: str) -> None:
    await fetch(engine, url, method=b"POST", body=PIECE)


async def _streamed(engine: Engine, url: str) -> None:
    await fetch(engine, url, method=b"POST", body=Source([b"hello"]))


async def _large(engine: Engine, url: str) -> None:
    await fetch(engine, url, method=b"POST", body=PIECE * 50)


async def _traced(engine: Engine, url: str) -> None:
    async def trace(name: str, info: object) -> None:
        pass

    await fetch(engine, url, extensions={"trace": trace})


async def _timed(engine: Engine, url: str) -> None:
    await fetch(engine, url, timeouts=Timeouts(5, 5, 5, 5, 5))


async def _many(engine: Engine, url: str) -> None:
    await asyncio.gather(*(fetch(engine, url) for _ in range(10)))


NORMAL: list[Callable[[Engine, str], Awaitable[None]]] = [
    _unread,
    _closed,
    _posted,
    _streamed,
    _large,
    _traced,
    _timed,
    _many,
]


@pytest.mark.parametrize("exchange", NORMAL)
@both_loops
async def test_no_circles(exchange: Callable[[Engine, str], Awaitable[None]]) -> None:
    """An exchange that is over is gone, without waiting for the garbage collector."""
    found: list[str] = []
    with scripted(answering(ok(b"hello"))) as upstream:
        async with running(Limits(max_connections=3)) as engine:
            await fetch(engine, upstream.url)
            with collecting(found):
                for _ in range(3):
                    await exchange(engine, upstream.url)
                await turn(2)
            assert_quiet(engine)
    assert found == []


@both_loops
async def test_no_circles_of_tunnels() -> None:
    """Nor is a tunnel that is closed, by whomever."""
    found: list[str] = []

    def script(connection: Connection) -> None:
        if connection.read_head():
            connection.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\n")
            if connection.number % 2:
                connection.wait_until_closed()

    async def tunnelled() -> None:
        response = await engine(request_to(upstream.url, headers=[(b"Upgrade", b"echo")]))
        tunnel = response.extensions["network_stream"]
        if upstream.accepted % 2:
            assert await tunnel.read(100) == b""
        await response.aclose()

    with scripted(script) as upstream:
        async with running() as engine:
            with collecting(found):
                for _ in range(4):
                    await tunnelled()
                await turn(3)
            assert_quiet(engine)
            assert upstream.accepted == 4
    assert found == []


FAILING: dict[str, tuple[bytes, dict[str, Any]]] = {
    "nothing": (b"", {}),
    "half a head": (b"HTTP/1.1 200 OK\r\nCont", {}),
    "half a body": (HALF, {}),
    "garbage": (b"garbage garbage garbage", {}),
    "reading takes too long": (HALF, {"timeouts": Timeouts(read=0.01)}),
    "it all takes too long": (b"", {"timeouts": Timeouts(total=0.01)}),
    "refused": (b"HTTP/1.1 413 No\r\nContent-Length: 1\r\n\r\n!", {"body": Source(itertools.repeat(PIECE))}),
}


@pytest.mark.parametrize("name", FAILING)
@both_loops
async def test_no_circles_after_failures(name: str) -> None:
    """Neither is one that failed kept alive by its error."""
    said, request = FAILING[name]
    found: list[str] = []

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(said)
        if "timeouts" in request or "body" in request:
            connection.wait_until_closed()

    with scripted(script) as upstream:
        async with running(retry=False) as engine:
            with collecting(found):
                for _ in range(3):
                    await _attempt(engine, upstream.url, request)
                await turn(3)
            assert_quiet(engine)
    assert found == []


async def _attempt(engine: Engine, url: str, request: dict[str, Any]) -> None:
    # Not ``fetch``, whose asyncio.timeout holds the error in its frame.
    with suppress(TransportError):
        await read(await engine(request_to(url, **request)))


# Cancelled in the middle of ending.


@both_loops
async def test_cancelled_while_closing() -> None:
    """Closing gives the place back first, and then waits for the body's own cleaning up, if need be."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await for_ever()
        finally:
            cleaning.set()
            await cleaned.wait()

    with scripted(half()) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            response = await engine(request_to(upstream.url, method=b"POST", body=body()))
            await turn(3)
            closing = asyncio.create_task(response.aclose())
            await cleaning.wait()
            assert_quiet(engine)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert await fetch(engine, upstream.url) == b"next"
            cleaned.set()
            await turn(3)
            assert_quiet(engine)


@both_loops
async def test_engine_closes_in_the_middle() -> None:
    """Closing the engine ends uploads, and tells readers."""
    source = Source(itertools.repeat(PIECE))
    with scripted(half()) as upstream:
        async with running(options=TIGHT) as engine:
            response = await engine(request_to(upstream.url, method=b"POST", body=source))
            assert engine.statistics().active == 1
            await engine.aclose()
            await until(lambda: source.closed)
            with pytest.raises(TransportError):
                await read(response)


# Timers.


class Timers:
    """Counts the timers that are made in this loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.made += 1
            return call_at(*args, **kwargs)

        monkeypatch.setattr(loop, "call_at", counted)  # which the loop's own ``call_later`` calls


async def test_h7_no_limit_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits nothing is timed: not the request, nor what is idle."""
    with scripted(answering(ok())) as upstream:
        async with running(Limits(idle_expiry=None)) as engine:
            timers = Timers(monkeypatch)
            for _ in range(2):
                assert await read(await engine(request_to(upstream.url))) == b"ok"
            body = Source([b"hello"])
            assert await read(await engine(request_to(upstream.url, body=body))) == b"ok"
            assert timers.made == 0
            assert await read(await engine(request_to(upstream.url, timeouts=Timeouts(read=0.5)))) == b"ok"
            assert timers.made == 1


async def test_h7_no_timer_is_left() -> None:
    """An engine that is closed leaves none behind."""
    loop: Any = asyncio.get_running_loop()

    def pending() -> int:
        return sum(not handle.cancelled() for handle in loop._scheduled)

    before = pending()
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            for timeouts in (Timeouts(5, 5, 5, 5), Timeouts(0.5, 0.5, 0.5, 0.5, 0.5), Timeouts(total=20)):
                assert await read(await engine(request_to(upstream.url, timeouts=timeouts))) == b"ok"
            assert pending() > before
        assert pending() == before
