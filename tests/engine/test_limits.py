"""How many connections there may be, and who gets them (checklist G)."""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Limits
from fastapi_httpx_pool.engine._bookkeeping import OPEN
from fastapi_httpx_pool.events import ConnectionClosed, ExchangeEnded, RequestQueued
from fastapi_httpx_pool.exceptions import ConnectError, PoolTimeout, TotalTimeout, UnsupportedProtocol
from fastapi_httpx_pool.messages import Origin, Request, Timeouts
from tests.support.engines import (
    Events,
    assert_quiet,
    both_loops,
    fetch,
    origin_of,
    pool_of,
    read,
    request_to,
    running,
    sending,
    turn,
    until,
)
from tests.support.ports import refusing_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, Upstream, answering, ok, scripted
from tests.support.watched import Held

pytestmark = pytest.mark.anyio

ONE = Limits(max_connections=1)


class Crowd:
    """A script that counts how many connections are open at a time, and the most there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self.most = 0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        answering(ok())(connection)
        with self._lock:
            self._open -= 1


# G1: the limit.


@both_loops
async def test_g1_never_more() -> None:
    """The upstream never sees more connections than the limit allows, and the pool counts none."""
    crowd = Crowd()
    with scripted(crowd) as upstream:
        async with running(Limits(max_connections=7)) as engine:

            async def caller() -> None:
                for _ in range(5):
                    await fetch(engine, upstream.url)
                    assert pool_of(engine)._books.open <= 7

            await asyncio.gather(*(caller() for _ in range(40)))
            assert_quiet(engine)
        assert crowd.most == upstream.accepted == 7


async def test_g1_counts_those_being_opened() -> None:
    """A connection counts from the moment in which it is decided on."""
    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=3)) as engine:
            tasks = [sending(engine, upstream.url) for _ in range(10)]
            await turn()
            found = engine.statistics()
            assert (found.active, found.idle, found.queued) == (3, 0, 7)
            await asyncio.gather(*tasks)


async def test_g1_no_limit() -> None:
    """Without a limit nobody waits."""
    held, events = Held(), Events()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=None), observer=events) as engine:
            tasks = [sending(engine, upstream.url) for _ in range(150)]
            await held.arrived(150)
            assert engine.statistics().active == 150
            held.release()
            assert await asyncio.gather(*tasks) == [b"late"] * 150
            assert not events.of(RequestQueued)


# G2, G3: the queue.


async def test_g2_first_come_first_served() -> None:
    """Requests are served in the order in which they came, whatever their origins."""
    order: list[str] = []
    held = Held()
    with scripted(held) as first, scripted(answering(ok())) as second:
        async with running(ONE) as engine:

            async def call(upstream: Upstream, name: str) -> None:
                await fetch(engine, upstream.url)
                order.append(name)

            names = ["a0", "b1", "a2", "a3", "b4", "b5", "a6"]
            tasks = []
            for name in names:
                tasks.append(asyncio.ensure_future(call(first if name[0] == "a" else second, name)))
                await turn()
            held.release()
            await asyncio.gather(*tasks)
            assert order == names
            assert first.accepted == 3  # a0, a2 with a3, a6
            assert second.accepted == 2


async def test_g2_newcomers_do_not_overtake() -> None:
    """Who comes while others wait waits behind them, though a connection to his origin becomes free."""
    held = Held()
    with scripted(held) as first, scripted(answering(ok())) as second:
        async with running(ONE) as engine:
            order: list[str] = []

            async def call(upstream: Upstream, name: str) -> None:
                response = await engine(request_to(upstream.url))
                order.append(name)
                if name == "a":
                    # The connection to the first upstream is free now, and handed on.
                    assert await read(response) == b"late"
                    late.append(asyncio.ensure_future(call(first, "late")))
                else:
                    await read(response)

            late: list[asyncio.Task[None]] = []
            tasks = [asyncio.ensure_future(call(first, "a")), asyncio.ensure_future(call(second, "b"))]
            await held.arrived()
            held.release()
            await asyncio.gather(*tasks)
            await asyncio.gather(*late)
            assert order == ["a", "b", "late"]


async def test_g3_idle_connections_make_room() -> None:
    """With the pool full of other origins' idle connections, the oldest of them is closed at once."""
    events = Events()
    with ExitStack() as stack:
        upstreams = [stack.enter_context(scripted(answering(ok()))) for _ in range(4)]
        async with running(Limits(max_connections=3), observer=events) as engine:
            for upstream in upstreams[:3]:
                await fetch(engine, upstream.url)
            assert engine.statistics().idle == 3
            assert await fetch(engine, upstreams[3].url) == b"ok"
            assert not events.of(RequestQueued)
            (closed,) = events.of(ConnectionClosed)
            assert (closed.origin, closed.reason) == (origin_of(upstreams[0].url), "evicted")
            for upstream in upstreams[1:]:
                await fetch(engine, upstream.url)
            assert [upstream.accepted for upstream in upstreams] == [1, 1, 1, 1]


# G4: the limit per host.


async def test_g4_waits_for_its_own_host_only() -> None:
    """Requests that wait for a slow host keep nobody else waiting."""
    held = Held()
    with scripted(held) as slow, scripted(answering(ok())) as quick:
        async with running(Limits(max_connections=10, max_connections_per_host=2)) as engine:
            tasks = [sending(engine, slow.url) for _ in range(6)]
            await held.arrived(2)
            found = engine.statistics()
            assert (found.active, found.queued) == (2, 4)
            assert found.origins[slow.url].queued == 4
            assert [await fetch(engine, quick.url) for _ in range(3)] == [b"ok"] * 3
            assert await asyncio.gather(*(fetch(engine, quick.url) for _ in range(8))) == [b"ok"] * 8
            held.release()
            assert await asyncio.gather(*tasks) == [b"late"] * 6
            assert_quiet(engine)
        assert slow.accepted == 2
        assert quick.accepted == 2


async def test_g4_both_limits() -> None:
    """A request passes the queue of its host, then that of the pool; cancelled in either, it leaves no trace."""
    held = Held()
    with scripted(held) as slow, scripted(held) as other:
        async with running(Limits(max_connections=2, max_connections_per_host=1)) as engine:
            tasks = [sending(engine, url) for url in (slow.url, slow.url, other.url, other.url)]
            await held.arrived(2)
            assert engine.statistics().queued == 2
            tasks[1].cancel()
            tasks[3].cancel()
            await turn(2)
            assert engine.statistics().queued == 0
            held.release()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert_quiet(engine)
            assert await fetch(engine, slow.url) == b"late"


# G5: the pool timeout.


@both_loops
@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.02])
async def test_g5_pool_timeout(seconds: float) -> None:
    """Whoever waits too long gets an error, and is not in the queue any more."""
    held = Held()
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            with pytest.raises(PoolTimeout, match=f"no connection of the pool became free within {seconds:g} s"):
                await fetch(engine, upstream.url, timeouts=Timeouts(pool=seconds))
            assert engine.statistics().queued == 0
            held.release()
            assert await holder == b"late"
            assert await fetch(engine, upstream.url, timeouts=Timeouts(pool=seconds)) == b"late"
            assert engine.statistics().origins[upstream.url].failures == {"PoolTimeout": 1}


async def test_g5_not_while_connecting() -> None:
    """The time limit for the queue does not run once a connection is being made."""
    with scripted(answering(ok())) as upstream:
        async with running(ONE) as engine:
            assert await fetch(engine, upstream.url, timeouts=Timeouts(pool=0.0)) == b"ok"


async def test_total_timeout_in_the_queue() -> None:
    """The total timeout counts the time in the queue too, and wins if it is the shorter one."""
    held = Held()
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            for pool in (None, 10.0):
                with pytest.raises(TotalTimeout):
                    await fetch(engine, upstream.url, timeouts=Timeouts(pool=pool, total=0.02))
            with pytest.raises(PoolTimeout):
                await fetch(engine, upstream.url, timeouts=Timeouts(pool=0.01, total=10.0))
            held.release()
            await holder


@pytest.mark.parametrize("first", ["timeout", "service"])
async def test_g5_timeout_in_the_tick_of_service(first: str) -> None:
    """A waiter whose time is over in the tick in which it is served gets its connection, or passes it on."""
    held = Held()
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            waiter = sending(engine, upstream.url, timeouts=Timeouts(pool=5.0))
            behind = sending(engine, upstream.url)
            await turn()
            pool = pool_of(engine)
            (turn_of_waiter,) = (one for one in pool._turns if one.due < float("inf"))
            (exchange,) = pool._exchanges
            connection = exchange.connection
            assert connection is not None

            def time_is_over() -> None:
                turn_of_waiter.expire(pool.timer.now())

            def is_served() -> None:
                connection.data_received(ok(b"served"))

            steps: list[Callable[[], None]] = [time_is_over, is_served]
            for step in steps if first == "timeout" else reversed(steps):
                step()
            held.release()
            if first == "timeout":
                with pytest.raises(PoolTimeout):
                    await waiter
            # What the upstream says late is stray here, so the connection is replaced.
            assert await holder == b"served"
            assert await behind == b"late"
            if first == "service":
                assert await waiter == b"late"
            assert_quiet(engine)


async def test_pool_timeout_tells_who_has_the_connections() -> None:
    """The error tells how many each origin holds, and what the oldest holders are doing."""
    held = Held()
    big = ok(b"x" * 2_000_000)
    with scripted(held) as slow, scripted(answering(ok(b"y" * 20)[:-10])) as unread, scripted(answering(big)) as full:
        async with running(Limits(max_connections=5)) as engine:
            responses = [await engine(request_to(full.url, method=b"POST"))]
            responses.append(await engine(request_to(unread.url)))
            holders = [sending(engine, slow.url) for _ in range(3)]
            await held.arrived(3)
            await until(lambda: next(iter(pool_of(engine)._exchanges)).described == "response never closed")
            with pytest.raises(PoolTimeout) as raised:
                await fetch(engine, slow.url, timeouts=Timeouts(pool=0.0))
            text = str(raised.value)
            assert "5 of 5 are open, with 1 in the queue" in text
            assert f"held: 3 by {slow.url}, 1 by {full.url}, 1 by {unread.url}; oldest: POST {full.url} for " in text
            assert " s (response never closed); GET " in text
            assert re.search(rf"GET {unread.url} for \d\.", text)
            assert " s (response not read); " in text
            assert " s (waiting for the response)." in text
            assert "If responses are never closed, close them" in text
            for response in responses:
                await response.aclose()
            held.release()
            await asyncio.gather(*holders)


async def test_pool_timeout_text_is_made_once_for_all() -> None:
    """The text is not made again for each of the many that time out together."""
    held = Held()
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            waiting = [sending(engine, upstream.url, timeouts=Timeouts(pool=0.0)) for _ in range(50)]
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in errors} == {PoolTimeout}
            assert len({str(error) for error in errors}) == 1
            held.release()
            await holder


async def test_pool_timeout_without_a_limit() -> None:
    """With a limit per host only, the text says so."""
    held = Held()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=None, max_connections_per_host=1)) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            with pytest.raises(PoolTimeout, match="1 of any number are open"):
                await fetch(engine, upstream.url, timeouts=Timeouts(pool=0.0))
            held.release()
            await holder


# G7, G8: what became of it is nothing.


async def test_g7_a_failed_connect_passes_its_place_on() -> None:
    """Those who wait behind one that cannot connect are served, and learn nothing of its failure."""
    nobody = f"http://127.0.0.1:{refusing_port()}"
    with scripted(answering(ok())) as upstream:
        async with running(ONE) as engine:
            urls = [nobody, upstream.url, nobody, nobody, upstream.url, nobody]
            found = await asyncio.gather(*(fetch(engine, url) for url in urls), return_exceptions=True)
            assert [type(one) if isinstance(one, Exception) else one for one in found] == [
                ConnectError if url is nobody else b"ok" for url in urls
            ]
            assert_quiet(engine)


async def test_g7_what_cannot_be_connected_to_passes_its_place_on() -> None:
    """A scheme that is none of ours costs no place in the pool."""
    async with running(ONE) as engine:
        for scheme, text in ((b"gopher", "unsupported protocol 'gopher://'"), (b"", "is missing an 'http://' or")):
            request = Request(b"GET", Origin(scheme, b"127.0.0.1", 70), b"/", [(b"Host", b"x")])
            with pytest.raises(UnsupportedProtocol, match=text):
                await engine(request)
        assert_quiet(engine)


@both_loops
async def test_g8_dead_between_handing_over_and_taking() -> None:
    """A connection that dies after it was handed over is replaced, in the same place, without a word."""
    held = Held(ok(b"one"))
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            waiters = [sending(engine, upstream.url) for _ in range(2)]
            await turn()
            (exchange,) = pool_of(engine)._exchanges
            connection = exchange.connection
            assert connection is not None
            # In one turn of the loop: the whole answer, which hands the connection on, and its end.
            connection.data_received(ok(b"first"))
            assert engine.statistics().queued == 1
            connection.transport.abort()
            held.release()
            assert await holder == b"first"
            assert await asyncio.gather(*waiters) == [b"one", b"one"]
            found = engine.statistics().origins[upstream.url]
            assert (found.opened, found.retried, found.closed) == (2, 0, {"peer": 1})
            assert_quiet(engine)


# G9: origins.


@pytest.mark.parametrize(("scheme", "port"), [(b"http", 80), (b"ws", 80), (b"https", 443), (b"wss", 443)])
async def test_g9_default_ports(scheme: bytes, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port it is the scheme's, and the web socket schemes mean HTTP."""
    async with running() as engine:
        await engine.drain(0)
        seen: list[Origin] = []

        async def connect(make: Any, origin: Origin, *_: Any) -> None:
            seen.append(origin)
            raise ConnectError("no")

        request = Request(b"GET", Origin(scheme, b"example.org", 0), b"/", [(b"Host", b"x")])
        sent = engine(request)  # makes the pool
        monkeypatch.setattr(pool_of(engine)._connector, "connect", connect)
        with pytest.raises(ConnectError):
            await sent
        assert seen == [Origin(b"https" if port == 443 else b"http", b"example.org", port)]


async def test_g9_another_name_is_another_origin() -> None:
    """A connection that was made for one server name carries no request for another."""
    authority = Authority()
    with scripted(answering(ok()), authority.server()) as upstream:
        async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
            names: list[dict[str, Any]] = [{}, {"sni_hostname": "localhost"}, {"sni_hostname": b"localhost"}, {}]
            for extensions in names:
                await fetch(engine, upstream.url, extensions=extensions)
            assert upstream.accepted == 2
            found = engine.statistics().origins
            assert {name: (one.requests, one.idle) for name, one in found.items()} == {
                upstream.url: (2, 1),
                f"{upstream.url} (localhost)": (2, 1),
            }


async def test_g9_a_websocket_is_of_its_host() -> None:
    """However its URL is written, a WebSocket counts to the limits and statistics of the host that requests go to."""
    events = Events()
    with scripted(answering(ok())) as upstream:
        async with running(observer=events) as engine:
            await fetch(engine, upstream.url.replace("http", "ws", 1))
            await fetch(engine, upstream.url)
            assert upstream.accepted == 1
            assert [event.origin.scheme for event in events.of(ExchangeEnded)] == [b"http", b"http"]
            found = engine.statistics().origins
            assert {name: one.requests for name, one in found.items()} == {upstream.url: 2}


async def test_g9_one_shot_origins_leave_nothing() -> None:
    """Hundreds of origins that are used once leave nothing in the books, and a bounded lot of statistics."""
    with ExitStack() as stack:
        upstreams = [stack.enter_context(scripted(answering(ok(b"", b"Connection: close")))) for _ in range(20)]
        async with running(Limits(max_connections=10)) as engine:
            await asyncio.gather(*(fetch(engine, upstream.url) for upstream in upstreams))
            assert_quiet(engine)
            assert list(pool_of(engine)._books.origins()) == []
            assert len(engine.statistics().origins) == 20


async def test_g9_statistics_are_kept_of_a_thousand_origins() -> None:
    """Of ten thousand origins nothing is left in the books, and the statistics of those used last are kept."""
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            await fetch(engine, upstream.url)
            pool = pool_of(engine)
            for number in range(10_000):
                address = Origin(b"http", b"%d.example" % number, 80)
                origin = pool._books.origin(address)
                pool._new_counters(address)
                assert pool._books.take(origin) is OPEN
                pool._books.drop(origin)
                if number % 500 == 0:
                    await fetch(engine, upstream.url)
            assert len(list(pool._books.origins())) == 1
            found = engine.statistics().origins
            assert len(found) == 1000
            assert found[upstream.url].requests == 21
            assert found[upstream.url].opened == upstream.accepted == 1
            assert "http://9999.example:80" in found


async def test_g10_abandoned_waiters_do_not_pile_up() -> None:
    """Thousands of requests that gave up in the queue leave nothing in it."""
    held = Held()
    with scripted(held) as upstream:
        async with running(ONE) as engine:
            holder = sending(engine, upstream.url)
            await held.arrived()
            for _ in range(3):
                waiters = [sending(engine, upstream.url) for _ in range(1000)]
                await turn(2)
                assert engine.statistics().queued == 1000
                for waiter in waiters:
                    waiter.cancel()
                found = await asyncio.gather(*waiters, return_exceptions=True)
                assert Counter(type(one) for one in found) == {asyncio.CancelledError: 1000}
                books = pool_of(engine)._books
                assert (books.waiting, len(books._queue), len(pool_of(engine)._turns)) == (0, 0, 0)
            held.release()
            assert await holder == b"late"
            assert_quiet(engine)
