"""``drain`` and ``aclose``: the exchanges in flight may end, or are ended, and nothing hangs."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import anyio.to_thread
import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits, _pool
from fastapi_httpx_pool.events import ConnectionClosed, ExchangeEnded
from fastapi_httpx_pool.exceptions import (
    ClientClosed,
    ConnectTimeout,
    PoolTimeout,
    ReadError,
    TotalTimeout,
    TransportError,
)
from fastapi_httpx_pool.messages import Timeouts
from tests.support.engines import (
    LIMIT,
    Events,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    read,
    request_to,
    running,
    sending,
    turn,
    until,
)
from tests.support.ports import deaf_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, answering_together, ok, scripted
from tests.support.watched import Held, Watched

pytestmark = [pytest.mark.anyio, both_loops]

HALF = ok(b"x" * 100)[:-50]


async def error_of(task: Awaitable[Any]) -> str:
    """Return the text of the ``ReadError`` that a task ends with."""
    async with asyncio.timeout(LIMIT):
        with pytest.raises(ReadError) as raised:
            await task
    return str(raised.value)


# Draining.


async def test_drain_of_nothing() -> None:
    """With nothing in flight there is nothing to wait for; idle connections do not count."""
    async with running() as engine:
        assert await engine.drain(LIMIT) == 0
        with scripted(answering(ok())) as upstream:
            await fetch(engine, upstream.url)
            async with asyncio.timeout(LIMIT / 2):
                assert await engine.drain(LIMIT) == 0
            assert engine.statistics().idle == 1


async def test_drain_waits() -> None:
    """Requests in flight and requests in the queue are waited for, all of them."""
    held = Held()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=2)) as engine:
            tasks = [sending(engine, upstream.url) for _ in range(7)]
            await held.arrived(2)
            draining = asyncio.ensure_future(engine.drain(LIMIT))
            await turn(5)
            assert not draining.done()
            held.release()
            assert await draining == 0
            assert_quiet(engine)
            assert await asyncio.gather(*tasks) == [b"late"] * 7


async def test_drain_waits_for_one_that_is_being_handed_a_connection() -> None:
    """A request between the queue and its connection is in flight too."""
    arrived, answer = threading.Semaphore(0), threading.Semaphore(0)

    def script(connection: Connection) -> None:
        while connection.read_request()[0]:
            arrived.release()
            answer.acquire(timeout=LIMIT)
            connection.send(ok())

    with scripted(script) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            tasks = [sending(engine, upstream.url) for _ in range(2)]
            assert await anyio.to_thread.run_sync(arrived.acquire, True, LIMIT)
            draining = asyncio.ensure_future(engine.drain(LIMIT))
            await turn()
            answer.release()
            assert await anyio.to_thread.run_sync(arrived.acquire, True, LIMIT)
            assert await tasks[0] == b"ok"
            await turn(3)
            assert not draining.done()
            answer.release()
            assert await draining == 0
            assert await tasks[1] == b"ok"


async def test_drain_gives_up() -> None:
    """After so many seconds it returns how many are left, and they go on."""
    held = Held()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=2)) as engine:
            tasks = [sending(engine, upstream.url) for _ in range(5)]
            await held.arrived(2)
            assert await engine.drain(0.01) == 5
            assert await engine.drain(0) == 5
            held.release()
            assert await asyncio.gather(*tasks) == [b"late"] * 5
            assert await engine.drain(0) == 0


async def test_drain_twice_at_a_time() -> None:
    """Several may wait, for as long as each likes."""
    held = Held()
    with scripted(held) as upstream:
        async with running() as engine:
            task = sending(engine, upstream.url)
            await held.arrived()
            long, other = (asyncio.ensure_future(engine.drain(LIMIT)) for _ in range(2))
            assert await engine.drain(0.01) == 1
            cancelled = asyncio.ensure_future(engine.drain(LIMIT))
            await turn(2)
            cancelled.cancel()
            held.release()
            assert (await long, await other) == (0, 0)
            assert await task == b"late"


@pytest.mark.parametrize("how", ["cancelled", "timed-out", "served"])
async def test_drain_sees_every_end(how: str) -> None:
    """However an exchange ends, it is not waited for any longer."""
    with scripted(answering(HALF)) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            response = await engine(request_to(upstream.url))
            waiter = sending(engine, upstream.url, timeouts=Timeouts(pool=0.02 if how == "timed-out" else None))
            await turn()
            draining = asyncio.ensure_future(engine.drain(LIMIT))
            await turn()
            if how == "cancelled":
                waiter.cancel()
            if how == "timed-out":
                with pytest.raises(PoolTimeout):
                    await waiter
            await response.aclose()
            if how == "served":
                await until(lambda: engine.statistics().origins[upstream.url].opened == 2)
                assert not draining.done()
                waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
            assert await asyncio.wait_for(draining, LIMIT) == 0


# Closing.


async def test_a8_everything_at_once() -> None:
    """Idle connections are closed; those who read, wait, connect or queue are told, each in his words."""
    watched = Watched(lambda connection: _serve(connection, arrived))
    arrived = threading.Semaphore(0)
    events = Events()
    with scripted(watched) as upstream, deaf_port() as deaf:
        engine = Engine(Limits(max_connections=5), observer=events)
        await fetch(engine, upstream.url, target=b"/idle")
        reading = await engine(request_to(upstream.url, b"/half"))
        waiting = sending(engine, upstream.url, target=b"/nothing")
        uploading = sending(engine, upstream.url, target=b"/nothing", method=b"PUT", body=b"x" * 20_000_000)
        for _ in range(2):
            assert await anyio.to_thread.run_sync(arrived.acquire, True, LIMIT)
        connecting = [sending(engine, f"http://127.0.0.1:{deaf}") for _ in range(2)]
        await fetch(engine, upstream.url, target=b"/idle")
        queued = [sending(engine, upstream.url) for _ in range(3)]
        await turn(2)
        found = engine.statistics()
        assert (found.active, found.idle) == (5, 0)
        pool = pool_of(engine)
        reader = asyncio.ensure_future(read(reading))
        await turn()
        await engine.aclose()

        in_flight = "the pool was closed before the response was complete"
        assert await error_of(reader) == in_flight
        assert await error_of(waiting) == in_flight
        assert await error_of(uploading) == in_flight
        for task in connecting:
            assert await error_of(task) == "the pool was closed while the connection was made"
        for task in queued:
            assert await error_of(task) == "the pool was closed while the request waited for a connection"
        assert (pool.active, pool.idle, pool.queued) == (0, 0, 0)
        assert not pool._connections
        assert await watched.none_open()
        assert {event.reason for event in events.of(ConnectionClosed)} <= {"shutdown", "evicted"}
        assert engine.statistics().active == 0


def _serve(connection: Connection, arrived: threading.Semaphore) -> None:
    while head := connection.read_head():
        if b"/idle" in head:
            connection.send(ok())
        elif b"/half" in head:
            connection.send(HALF)
        else:
            arrived.release()
            return


async def test_a8_idle_connections() -> None:
    """Idle connections are closed at once, and without waiting for a TLS peer to say goodbye."""
    authority = Authority()
    silent = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        silent.wait(LIMIT)

    with scripted(script, authority.server()) as upstream:
        engine = Engine(options=ConnectOptions(ssl_context=authority.client()))
        await fetch(engine, upstream.url)
        async with asyncio.timeout(LIMIT / 2):
            await engine.aclose()
        await turn(3)
        silent.set()


async def test_a8_tunnels() -> None:
    """A connection that speaks another protocol is closed too, and whoever reads from it is told."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n")
        connection.wait_until_closed()

    watched = Watched(script)
    with scripted(watched) as upstream:
        engine = Engine()
        headers = [(b"Connection", b"upgrade"), (b"Upgrade", b"other")]
        response = await engine(request_to(upstream.url, headers=headers))
        stream = response.extensions["network_stream"]
        reading = asyncio.ensure_future(stream.read(100))
        await turn()
        pool = pool_of(engine)
        await engine.aclose()
        assert await error_of(reading) == "the network stream was closed"
        assert (pool.active, pool._tunnels, pool._exchanges) == (0, set(), {})
        assert await watched.none_open()
        await response.aclose()


async def test_a8_harmless_twice() -> None:
    """Closing again does nothing, nor does closing what was never used."""
    engine = Engine()
    await engine.aclose()
    await engine.aclose()
    with scripted(answering(ok())) as upstream:
        engine = Engine()
        await fetch(engine, upstream.url)
        pool = pool_of(engine)
        await engine.aclose()
        await engine.aclose()
        pool.close()
        assert await engine.drain(LIMIT) == 0


async def test_a8_what_has_arrived_can_be_read() -> None:
    """A response that had arrived whole is read to its end, though its connection is closed."""
    events = Events()
    with scripted(answering(ok(b"small"))) as upstream:
        engine = Engine(observer=events)
        response = await engine(request_to(upstream.url))
        await events.wait_for(ExchangeEnded)
        await engine.aclose()
        assert await read(response) == b"small"


async def test_a8_responses_may_be_closed_after_the_pool() -> None:
    """A response of a closed pool is closed without a word, and read with an error."""
    with scripted(answering(HALF)) as upstream:
        engine = Engine()
        first, second = await engine(request_to(upstream.url)), await engine(request_to(upstream.url))
        await engine.aclose()
        await first.aclose()
        await error_of(read(second))
        await second.aclose()


async def test_closed_for_good() -> None:
    """Whoever uses a closed engine is told, at once and not in a closed pool's queue."""
    with scripted(answering(ok())) as upstream:
        engine = Engine()
        pending = None
        await fetch(engine, upstream.url)
        pending = engine(request_to(upstream.url))  # begun, not yet awaited
        await engine.aclose()
        for sent in (pending, None):
            with pytest.raises(ClientClosed, match="takes no new requests"):
                await (engine(request_to(upstream.url)) if sent is None else sent)


async def test_closed_before_it_was_used() -> None:
    """An engine that was closed before its first request takes none."""
    engine = Engine()
    await engine.aclose()
    with pytest.raises(ClientClosed):
        await engine(request_to("http://127.0.0.1:1"))


@pytest.mark.parametrize("granted", ["connection", "place"])
async def test_closed_between_granting_and_taking(granted: str) -> None:
    """A request that was just handed something by a pool that is closed now does not begin."""
    held = Held()
    with scripted(held) as upstream, deaf_port() as deaf:
        engine = Engine(Limits(max_connections=1))
        holder = sending(engine, upstream.url)
        await held.arrived()
        waiter = sending(engine, upstream.url if granted == "connection" else f"http://127.0.0.1:{deaf}")
        await turn()
        pool = pool_of(engine)
        (exchange,) = pool._exchanges
        assert exchange.connection is not None
        exchange.connection.data_received(ok(b"served"))
        assert pool.queued == 0
        await engine.aclose()
        assert await holder == b"served"
        assert await error_of(waiter) == "the pool was closed while the request waited for a connection"
        assert (pool.active, pool.idle) == (0, 0)
        held.release()


@pytest.mark.parametrize("turns", range(8))
async def test_closed_while_connecting(turns: int) -> None:
    """Closed at any moment of a connection's making, the pool keeps nothing of it."""
    with scripted(answering(ok())) as upstream:
        engine = Engine()
        task = sending(engine, upstream.url)
        await turn()
        pool = pool_of(engine)
        await turn(turns)
        await engine.aclose()
        (found,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), LIMIT)
        assert found == b"ok" or (isinstance(found, ReadError) and "closed" in str(found))
        assert (pool.active, pool.idle, pool.queued, pool._connections) == (0, 0, 0, set())


async def test_closed_in_the_tick_of_the_total_timeout() -> None:
    """A pool that is closed while a connection's time is just over is closed to the end."""
    with scripted(answering(ok())) as upstream, deaf_port() as deaf:
        engine = Engine()
        await fetch(engine, upstream.url)
        task = sending(engine, f"http://127.0.0.1:{deaf}", timeouts=Timeouts(total=30.0))
        await turn(2)
        pool = pool_of(engine)
        (limit,) = pool._connecting.values()
        limit.reschedule(0.0)
        asyncio.get_running_loop().call_soon(pool.close)
        # First the limit, then the pool, in the same turn of the loop.
        with pytest.raises(TransportError):
            await asyncio.wait_for(task, LIMIT)
        assert (pool.active, pool.idle, pool._connections) == (0, 0, set())
        await engine.aclose()


async def test_total_timeout_while_connecting() -> None:
    """The total timeout covers the connection, and its error tells so; ``connect`` may be the shorter one."""
    with deaf_port() as deaf:
        async with running() as engine:
            url = f"http://127.0.0.1:{deaf}"
            with pytest.raises(TotalTimeout):
                await fetch(engine, url, timeouts=Timeouts(connect=10.0, total=0.02))
            with pytest.raises(ConnectTimeout):
                await fetch(engine, url, timeouts=Timeouts(connect=0.02, total=10.0))
            assert_quiet(engine)


async def test_closed_while_idle_connections_wait_to_be_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was scheduled happens after the end."""
    monkeypatch.setattr(_pool, "GRACE", LIMIT)
    with scripted(answering_together(4, ok())) as upstream:
        engine = Engine(Limits(max_idle=1))
        await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(4)))
        trimming = pool_of(engine)._trimming
        assert trimming is not None
        timer = pool_of(engine).timer
        await engine.aclose()
        assert trimming.cancelled()
        assert (timer._handle, timer._precise) == (None, {})


async def test_the_last_request_of_a_task_group() -> None:
    """Closing in the midst of a crowd ends them all; nobody hangs and no task is left."""
    with scripted(answering(ok())) as upstream:
        for turns in range(0, 30, 3):
            engine = Engine(Limits(max_connections=3))
            tasks = [sending(engine, upstream.url) for _ in range(10)]
            await turn(turns + 1)
            pool = pool_of(engine)
            await engine.aclose()
            async with asyncio.timeout(LIMIT):
                found = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(one) for one in found} <= {bytes, ReadError}
            assert (pool.active, pool.idle, pool.queued, pool._connections) == (0, 0, 0, set())
            assert not pool._exchanges


async def test_closing_takes_no_time_with_a_peer_that_does_not_read() -> None:
    """Bytes that the peer does not take are not waited for."""
    arrived = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        arrived.set()
        stop.wait(LIMIT)

    stop = threading.Event()
    with scripted(script) as upstream:
        engine = Engine()
        task = sending(engine, upstream.url, method=b"POST", body=b"x" * 20_000_000)
        assert await anyio.to_thread.run_sync(arrived.wait, LIMIT)
        await turn(5)
        async with asyncio.timeout(LIMIT / 2):
            await engine.aclose()
            await error_of(task)
        stop.set()
