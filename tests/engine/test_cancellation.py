"""Whatever is cancelled, and when: nothing is lost, and nothing is left (checklist H)."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits
from fastapi_httpx_pool.exceptions import TransportError
from fastapi_httpx_pool.messages import Timeouts
from tests.support.engines import (
    LIMIT,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    request_to,
    running,
    turn,
)
from tests.support.ports import deaf_port
from tests.support.stages import BEGUN, STAGES, HangingUpstream
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, ok, scripted
from tests.support.watched import Held

pytestmark = [pytest.mark.anyio, both_loops]

COMPETITORS = 6
TURNS = 61

Call = Callable[[], Awaitable[Any]]


# The ways to be cancelled, after so many turns of the loop.


async def by_cancel(call: Call, turns: int) -> None:
    """Cancel the task."""
    task = asyncio.ensure_future(call())
    await turn(turns)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_two_cancels(call: Call, turns: int) -> None:
    """Cancel the task, and once more in what it does then."""
    task = asyncio.ensure_future(call())
    await turn(turns)
    task.cancel()
    await turn(turns % 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_timeout(call: Call, turns: int) -> None:
    """Let asyncio.timeout end."""

    async def end(limit: asyncio.Timeout) -> None:
        await turn(turns)
        with contextlib.suppress(RuntimeError):  # it is over already
            limit.reschedule(asyncio.get_running_loop().time())

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            ending = asyncio.ensure_future(end(limit))
            await call()
    ending.cancel()


async def by_wait_for(call: Call, turns: int) -> None:
    """Let asyncio.wait_for end, which counts time and not turns."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(call(), turns * 0.00005)


async def by_cancel_scope(call: Call, turns: int) -> None:
    """Cancel one of anyio's scopes, as Starlette does, which cancels again and again."""

    async def calling() -> None:
        await call()

    async with anyio.create_task_group() as group:
        group.start_soon(calling)
        await turn(turns)
        group.cancel_scope.cancel()


async def by_move_on_after(call: Call, turns: int) -> None:
    """Let anyio.move_on_after end."""
    with anyio.move_on_after(turns * 0.00005):
        await call()


async def by_failing_neighbour(call: Call, turns: int) -> None:
    """Fail in another task of the same group."""

    async def fail() -> None:
        await turn(turns)
        raise ZeroDivisionError

    async def calling() -> None:
        await call()

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(calling())
            group.create_task(fail())


WAYS = [
    by_cancel,
    by_two_cancels,
    by_timeout,
    by_wait_for,
    by_cancel_scope,
    by_move_on_after,
    by_failing_neighbour,
]


# H1, H2: the sweep.


async def sweep(engine: Engine, url: str, way: Callable[[Call, int], Awaitable[None]], turns: range) -> None:
    """Cancel one request among others after any number of turns; each time all must be as it was."""

    async def call() -> None:
        await fetch(engine, url)

    for number in turns:
        before = [asyncio.ensure_future(fetch(engine, url)) for _ in range(COMPETITORS // 2)]
        cancelled = asyncio.ensure_future(way(call, number))
        behind = [asyncio.ensure_future(fetch(engine, url)) for _ in range(COMPETITORS // 2)]
        assert set(await asyncio.gather(*before, *behind)) == {b"ok"}
        await cancelled
        assert_quiet(engine)
    assert await fetch(engine, url) == b"ok"


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(max_connections=2), id="reused"),
        pytest.param(Limits(max_connections=2, idle_expiry=0), id="new-each-time"),
        pytest.param(Limits(max_connections=3, max_connections_per_host=2), id="limit-per-host"),
    ],
)
async def test_h1_sweep(limits: Limits) -> None:
    """A request cancelled at any moment takes nothing with it."""
    with scripted(answering(ok())) as upstream:
        async with running(limits) as engine:
            await sweep(engine, upstream.url, by_cancel, range(TURNS))


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.__name__)
async def test_h2_sweep(way: Callable[[Call, int], Awaitable[None]]) -> None:
    """It does not matter by what it is cancelled."""
    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=2)) as engine:
            await sweep(engine, upstream.url, way, range(0, TURNS, 2))


async def test_h2_sweep_over_tls() -> None:
    """Nor in which part of a TLS handshake."""
    authority = Authority()
    with scripted(answering(ok()), authority.server()) as upstream:
        options = ConnectOptions(ssl_context=authority.client())
        async with running(Limits(max_connections=2, idle_expiry=0), options) as engine:
            await sweep(engine, upstream.url, by_cancel, range(0, TURNS, 12))


async def test_h2_all_at_once() -> None:
    """Hundreds of requests cancelled in any state, in any order, and the next ones are served."""
    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=5)) as engine:
            await fetch(engine, upstream.url)
            for number in range(40):
                calls = [asyncio.ensure_future(fetch(engine, upstream.url)) for _ in range(20)]
                await turn(number)
                for call in calls[number % 3 :: 2]:
                    call.cancel()
                await turn(number % 2)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert_quiet(engine)
            assert await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(20))) == [b"ok"] * 20
            assert engine.statistics().idle <= 5


@pytest.mark.parametrize("first", ["cancelled", "served"])
@pytest.mark.parametrize("handed", ["connection", "place"])
async def test_h2_cancelled_in_the_tick_of_service(first: str, handed: str) -> None:
    """What a waiter is handed in the tick in which it is cancelled goes to the next one."""
    held = Held()
    with scripted(held) as upstream, scripted(answering(ok(b"other"))) as other:
        async with running(Limits(max_connections=1)) as engine:
            holder = asyncio.ensure_future(fetch(engine, upstream.url))
            await held.arrived()
            victim = asyncio.ensure_future(fetch(engine, (upstream if handed == "connection" else other).url))
            behind = asyncio.ensure_future(fetch(engine, upstream.url))
            await turn()
            (exchange,) = pool_of(engine)._exchanges
            connection = exchange.connection
            assert connection is not None

            if first == "cancelled":
                victim.cancel()
            connection.data_received(ok(b"served"))
            if first == "served":
                assert engine.statistics().queued == 1
                victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            held.release()
            assert await holder == b"served"
            # The upstream's own first answer, late, is stray here: the connection may be replaced.
            assert await behind == b"late"
            assert_quiet(engine)
        assert other.accepted == 0


async def test_h2_handed_over_dead_and_cancelled() -> None:
    """A connection that was handed to a waiter, died, and was given back by it, is nobody's."""
    held = Held()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            holder = asyncio.ensure_future(fetch(engine, upstream.url))
            await held.arrived()
            victim = asyncio.ensure_future(fetch(engine, upstream.url))
            behind = asyncio.ensure_future(fetch(engine, upstream.url))
            await turn()
            (exchange,) = pool_of(engine)._exchanges
            connection = exchange.connection
            assert connection is not None
            connection.data_received(ok(b"served"))
            connection.data_received(b"stray")
            victim.cancel()
            held.release()
            assert (await holder, await behind) == (b"served", b"late")
            with pytest.raises(asyncio.CancelledError):
                await victim
            assert engine.statistics().origins[upstream.url].closed == {"unsolicited": 1}
            assert_quiet(engine)


# H2: in each of the places where an exchange waits.


async def cancelled(call: Awaitable[Any]) -> None:
    """Cancel what waits, and wait for its end, which must come at once."""
    task = asyncio.ensure_future(call)
    await turn(2)
    task.cancel()
    async with asyncio.timeout(LIMIT):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_h2_while_connecting() -> None:
    """Cancelled while a server takes no connection, the place in the pool is free at once."""
    with deaf_port() as port, scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            for _ in range(3):
                await cancelled(fetch(engine, f"http://127.0.0.1:{port}"))
                assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"


async def test_h2_in_the_handshake() -> None:
    """Cancelled while a TLS server says nothing, the socket is closed."""
    connected, closed = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        assert connection.read_exactly(1)
        connected.set()
        if connection.wait_until_closed():
            closed.set()

    with scripted(script) as upstream:
        options = ConnectOptions(ssl_context=ssl.create_default_context())
        async with running(Limits(max_connections=1), options) as engine:
            task = asyncio.ensure_future(fetch(engine, upstream.url.replace("http", "https")))
            assert await anyio.to_thread.run_sync(connected.wait, LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert await anyio.to_thread.run_sync(closed.wait, LIMIT)


@pytest.mark.parametrize("stage", STAGES)
async def test_h2_at_each_stage_of_a_response(stage: str) -> None:
    """Cancelled while the response comes, or does not, the connection is closed at once and its place free."""
    hanging = HangingUpstream(STAGES[stage])
    with scripted(hanging) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            begun = asyncio.Event()

            async def call() -> None:
                response = await engine(request_to(upstream.url))
                try:
                    async for _ in response.body:
                        begun.set()
                finally:
                    await response.aclose()

            task = asyncio.ensure_future(call())
            assert await anyio.to_thread.run_sync(hanging.hanging.wait, LIMIT)
            if stage in BEGUN and "silent" not in stage:
                await asyncio.wait_for(begun.wait(), LIMIT)
            assert engine.statistics().active == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"next"
            assert await anyio.to_thread.run_sync(hanging.closed.wait, LIMIT)


async def test_h2_in_an_upload_that_nobody_reads() -> None:
    """Cancelled while the server takes nothing of a body, whatever it is, the connection is closed."""
    arrived, closed = threading.Semaphore(0), threading.Semaphore(0)

    def script(connection: Connection) -> None:
        if b"GET" in connection.read_head():
            connection.send(ok())
            return
        arrived.release()
        if connection.wait_until_closed():
            closed.release()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    with scripted(script) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            for body in (b"x" * 20_000_000, endless()):
                task = asyncio.ensure_future(fetch(engine, upstream.url, method=b"POST", body=body))
                assert await anyio.to_thread.run_sync(arrived.acquire, True, LIMIT)
                await turn(5)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert_quiet(engine)
                assert await anyio.to_thread.run_sync(closed.acquire, True, LIMIT)
            assert await fetch(engine, upstream.url) == b"ok"


async def test_h2_in_the_body_generator() -> None:
    """Cancelled while a body is made, its generator is closed before the cancellation is told."""
    steps: list[str] = []
    making = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"some"
            making.set()
            await asyncio.sleep(LIMIT)
        finally:
            await turn(3)
            steps.append("closed")

    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            task = asyncio.ensure_future(fetch(engine, upstream.url, method=b"POST", body=body()))
            await asyncio.wait_for(making.wait(), LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert steps == ["closed"]
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"


async def test_h2_again_while_the_body_generator_closes() -> None:
    """Cancelled once more while a body's generator takes its time to close, the place is free all the same."""
    making, closing, may_close = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"some"
            making.set()
            await asyncio.sleep(LIMIT)
        finally:
            closing.set()
            await may_close.wait()

    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            task = asyncio.ensure_future(fetch(engine, upstream.url, method=b"POST", body=body()))
            await asyncio.wait_for(making.wait(), LIMIT)
            task.cancel()
            await asyncio.wait_for(closing.wait(), LIMIT)
            assert_quiet(engine)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await fetch(engine, upstream.url) == b"ok"
            may_close.set()
            await turn(5)


async def test_h2_in_closing_a_response() -> None:
    """Cancelled in ``aclose`` of a response whose request is still being sent, the place is free already."""
    sent, closing, may_close = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(connection: Connection) -> None:
        if b"GET" in connection.read_head():
            connection.send(ok())
            return
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        loop.call_soon_threadsafe(sent.set)
        connection.wait_until_closed()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"some"
            await asyncio.sleep(LIMIT)
        finally:
            closing.set()
            await may_close.wait()

    with scripted(script) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            response = await engine(request_to(upstream.url, method=b"POST", body=body()))
            task = asyncio.ensure_future(response.aclose())
            await asyncio.wait_for(closing.wait(), LIMIT)
            assert_quiet(engine)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await fetch(engine, upstream.url) == b"ok"
            may_close.set()
            await turn(5)
            await response.aclose()


async def test_cancelled_and_timed_out_in_one_tick() -> None:
    """A request whose time is over in the tick in which it is cancelled is cancelled."""
    held = Held()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            holder = asyncio.ensure_future(fetch(engine, upstream.url))
            await held.arrived()
            waiter = asyncio.ensure_future(fetch(engine, upstream.url, timeouts=Timeouts(pool=5.0)))
            await turn()
            (waiting,) = pool_of(engine)._turns
            waiting.fail(TransportError("over"))
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            held.release()
            assert await holder == b"late"
            assert_quiet(engine)


async def test_a_cancelled_task_leaves_a_clean_reader() -> None:
    """A reader that is cancelled may be followed by another one of the same response."""
    hanging = HangingUpstream(STAGES["in-a-known-length"])
    with scripted(hanging) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url))
            assert await anext(aiter(response.body)) == b"hello"
            await cancelled(read_on(response))
            await cancelled(read_on(response))
            assert engine.statistics().active == 1
            await response.aclose()
            assert_quiet(engine)


async def read_on(response: Any) -> None:
    """Read without closing at the end."""
    async for _ in response.body:
        pass
