"""What a pool tells about itself: ``statistics()``, ``repr``, and events for an observer."""

import asyncio
import dataclasses
import inspect
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_httpx_pool.engine import Engine, Limits, OriginStatistics, PoolStatistics
from fastapi_httpx_pool.events import ConnectionClosed, ConnectionOpened, Event, ExchangeEnded, RequestQueued
from fastapi_httpx_pool.exceptions import ConnectError, ReadTimeout, RemoteProtocolError
from fastapi_httpx_pool.messages import Origin, Request, Timeouts
from tests.support.engines import LIMIT, Events, fetch, origin_of, pool_of, read, request_to, running, turn
from tests.support.ports import refusing_port
from tests.support.recording import RecordingUpstream
from tests.support.upstream import Connection, Script, answering, ok, scripted
from tests.support.watched import Held

pytestmark = pytest.mark.anyio


# Snapshots.


def test_outside_of_a_loop() -> None:
    """Outside of an event loop there is no pool, and that is what is told."""
    engine = Engine(Limits(max_connections=7))
    assert engine.statistics() == PoolStatistics("native", 7, 0, 0, 0, {})
    assert repr(engine) == "<Engine [0 active, 0 idle, 0 queued, of 7]>"


async def test_before_the_first_request() -> None:
    """Before its first request a pool is empty."""
    async with running() as engine:
        assert engine.statistics() == PoolStatistics("native", 100, 0, 0, 0, {})


async def test_states() -> None:
    """Connections are active or idle, requests have one or wait; in all, and by origin."""
    held = Held()
    with scripted(held) as slow, scripted(answering(ok())) as quick:
        async with running(Limits(max_connections=3)) as engine:
            await fetch(engine, quick.url)
            tasks = [asyncio.ensure_future(fetch(engine, slow.url)) for _ in range(2)]
            await held.arrived(2)
            tasks += [asyncio.ensure_future(fetch(engine, slow.url)) for _ in range(4)]
            await held.arrived()
            found = engine.statistics()
            assert (found.engine, found.max_connections) == ("native", 3)
            assert (found.active, found.idle, found.queued) == (3, 0, 3)
            assert repr(engine) == "<Engine [3 active, 0 idle, 3 queued, of 3]>"
            of_slow, of_quick = found.origins[slow.url], found.origins[quick.url]
            assert (of_slow.active, of_slow.idle, of_slow.queued, of_slow.requests) == (3, 0, 3, 3)
            assert (of_quick.active, of_quick.idle, of_quick.queued, of_quick.requests) == (0, 0, 0, 1)
            assert of_quick.closed == {"evicted": 1}
            held.release()
            await asyncio.gather(*tasks)
            found = engine.statistics()
            assert (found.active, found.idle, found.queued) == (0, 3, 0)
            of_slow = found.origins[slow.url]
            assert (of_slow.requests, of_slow.opened, of_slow.reused) == (6, 3, 3)
            assert of_slow.queue_wait.count == 3
            assert of_slow.first_byte.count == 6
            # Those that waited were served within the test, so within the last bucket but one.
            assert of_slow.queue_wait.quantile(1.0) in of_slow.queue_wait.bounds[:-1]


async def test_snapshots_are_frozen() -> None:
    """A snapshot does not change, not even by what happens later."""
    with scripted(answering(ok(b"", b"Connection: close"))) as upstream:
        async with running() as engine:
            await fetch(engine, upstream.url)
            found = engine.statistics()
            of_origin = found.origins[upstream.url]
            with pytest.raises(dataclasses.FrozenInstanceError):
                found.active = 3  # type: ignore[misc] # that is the point
            assert json.loads(json.dumps(dataclasses.asdict(found)))["origins"][upstream.url]["opened"] == 1
            await fetch(engine, upstream.url)
            assert (of_origin.requests, of_origin.closed) == (1, {"not reusable": 1})
            assert engine.statistics().origins[upstream.url].requests == 2


async def test_an_observer_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an observer raises is logged, and disturbs nothing."""

    def observe(event: Event) -> None:
        raise ValueError("broken observer")

    with scripted(answering(ok())) as upstream:
        async with running(observer=observe) as engine:
            assert await fetch(engine, upstream.url) == b"ok"
            assert await fetch(engine, upstream.url) == b"ok"
            assert engine.statistics().origins[upstream.url].reused == 1
    assert "broken observer" in caplog.text


async def test_repr() -> None:
    """The representation tells the essentials."""
    engine = Engine(Limits(max_connections=None))
    with scripted(answering(ok())) as upstream:
        assert repr(engine) == "<Engine [0 active, 0 idle, 0 queued, of any number]>"
        await fetch(engine, upstream.url)
        assert repr(engine) == "<Engine [0 active, 1 idle, 0 queued, of any number]>"
        await engine.aclose()
        assert repr(engine) == "<Engine [closed]>"


async def test_bytes() -> None:
    """The bytes in both directions are counted as they are on the wire."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    upstream_script = RecordingUpstream(chunked)

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        yield b"more"

    with scripted(upstream_script) as upstream:
        async with running() as engine:
            for sent in (None, b"x" * 100_000, body()):
                assert await fetch(engine, upstream.url, method=b"PUT", body=sent) == b"hello"
            found = engine.statistics().origins[upstream.url]
            assert found.bytes_in == 3 * len(chunked)
            assert found.bytes_out == sum(map(len, upstream_script.heads)) + sum(map(len, upstream_script.bodies))


async def test_bytes_of_an_open_exchange() -> None:
    """They count as soon as they have come, whether there will be more or not."""

    def begin(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"x" * 50)[:-10])
        connection.wait_until_closed()

    with scripted(begin) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url))
            assert engine.statistics().origins[upstream.url].bytes_in > 0
            await response.aclose()


async def test_bytes_of_a_connection_that_broke() -> None:
    """Bytes of a response that was never complete count too."""
    with scripted(answering(ok(b"x" * 50)[:-10], times=1)) as upstream:
        async with running() as engine:
            with pytest.raises(RemoteProtocolError):
                await fetch(engine, upstream.url)
            assert engine.statistics().origins[upstream.url].bytes_in == len(ok(b"x" * 50)) - 10


async def test_ipv6_in_brackets() -> None:
    """An IPv6 origin is shown as in a URL."""
    async with running() as engine:
        port = refusing_port()
        with pytest.raises(ConnectError):
            await engine(Request(b"GET", Origin(b"http", b"::1", port), b"/", [(b"Host", b"x")]))
        assert list(engine.statistics().origins) == [f"http://[::1]:{port}"]


# Why connections were closed, and exchanges failed.


def breaking_off(head: bytes) -> Script:
    """Answer with something that is not complete, and stay."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(head)
        connection.wait_until_closed()

    return script


SOME = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"


async def _abandon(engine: Engine, url: str) -> None:
    await (await engine(request_to(url))).aclose()


async def _cancel(engine: Engine, url: str) -> None:
    task = asyncio.ensure_future(engine(request_to(url)))
    while not engine.statistics().origins.get(url, OriginStatistics()).opened:
        await turn()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _time_out(engine: Engine, url: str) -> None:
    with pytest.raises(ReadTimeout):
        await fetch(engine, url, timeouts=Timeouts(read=0.01))


async def _fail_to_make_a_body(engine: Engine, url: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetch(engine, url, body=body())


async def _fail_to_trace(engine: Engine, url: str) -> None:
    async def trace(name: str, info: Any) -> None:
        if name == "http11.send_request_body.started":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetch(engine, url, extensions={"trace": trace})


async def _upgrade(engine: Engine, url: str) -> None:
    headers = [(b"Connection", b"upgrade"), (b"Upgrade", b"other")]
    response = await engine(request_to(url, headers=headers))
    assert [chunk async for chunk in response.body] == []
    assert pool_of(engine)._describe(0.0).count("(a tunnel)") == 1
    await response.aclose()
    await response.aclose()


async def _shut_down(engine: Engine, url: str) -> None:
    response = await engine(request_to(url))
    pool_of(engine).close()
    await response.aclose()


async def _complain(engine: Engine, url: str) -> None:
    with pytest.raises(RemoteProtocolError):
        await fetch(engine, url)


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"

REASONS = {
    "abandoned": (SOME, _abandon, {"abandoned": 1}),
    "cancelled": (b"", _cancel, {"CancelledError": 1}),
    "timeout": (b"", _time_out, {"ReadTimeout": 1}),
    "timeout in the body": (SOME, _time_out, {"timeout": 1}),
    "body failed": (b"", _fail_to_make_a_body, {"ZeroDivisionError": 1}),
    "failed": (b"", _fail_to_trace, {"ZeroDivisionError": 1}),
    "tunnel closed": (SWITCH, _upgrade, {}),
    "shutdown": (SOME, _shut_down, {"shutdown": 1}),
    "protocol error": (b"garbage\r\n\r\n", _complain, {"RemoteProtocolError": 1}),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_reasons(reason: str) -> None:
    """Each connection is closed for one reason, which is documented; and a failed exchange counted once."""
    head, act, failures = REASONS[reason]
    reason = reason.removesuffix(" in the body")
    events = Events()
    with scripted(breaking_off(head)) as upstream:
        async with running(observer=events) as engine:
            await act(engine, upstream.url)
            found = pool_of(engine).origins()[upstream.url]
            assert found.closed == {reason: 1}
            assert found.failures == failures
            assert (found.active, found.idle) == (0, 0)
            assert [event.reason for event in events.of(ConnectionClosed)] == [reason]
            assert [event.error for event in events.of(ExchangeEnded)] == [next(iter(failures), None)]
    assert f"``{reason}``" in _documented("closed")


def _documented(name: str) -> str:
    """Return the docstring of a field."""
    found = re.search(rf'    {name}: .*?"""(.*?)"""', inspect.getsource(OriginStatistics), re.DOTALL)
    assert found is not None
    return found[1]


async def test_a_failure_without_a_connection() -> None:
    """A request that never had a connection failed all the same."""
    async with running() as engine:
        port = refusing_port()
        with pytest.raises(ConnectError):
            await fetch(engine, f"http://127.0.0.1:{port}")
        found = engine.statistics().origins[f"http://127.0.0.1:{port}"]
        assert (found.requests, found.opened, found.failures) == (1, 0, {"ConnectError": 1})


# Events.


async def test_events_of_a_quiet_life() -> None:
    """A connection is opened, carries exchanges, and is closed; each is told with its numbers."""
    events = Events()
    with scripted(answering(ok(b"x", b"X: y"))) as upstream:
        async with running(observer=events) as engine:
            await fetch(engine, upstream.url)
            await fetch(engine, upstream.url, method=b"DELETE")
        origin = origin_of(upstream.url)
        opened, first, second, closed = events.all
        assert isinstance(opened, ConnectionOpened)
        assert isinstance(first, ExchangeEnded)
        assert isinstance(second, ExchangeEnded)
        assert isinstance(closed, ConnectionClosed)
        assert {opened.origin, first.origin, second.origin, closed.origin} == {origin}
        assert 0 < opened.seconds < first.seconds < LIMIT
        assert (first.method, first.status, first.error) == (b"GET", 200, None)
        assert (second.method, second.status, second.error) == (b"DELETE", 200, None)
        assert (closed.reason, closed.exchanges) == ("shutdown", 2)
        assert second.seconds < closed.age < LIMIT


async def test_events_of_the_queue() -> None:
    """Whoever has to wait is told of when he begins to; his exchange's time includes it."""
    held, events = Held(), Events()
    with scripted(held) as upstream:
        async with running(Limits(max_connections=1), observer=events) as engine:
            tasks = [asyncio.ensure_future(fetch(engine, upstream.url)) for _ in range(2)]
            await held.arrived()
            assert [type(event) for event in events.all] == [RequestQueued, ConnectionOpened]
            assert events.of(RequestQueued)[0].origin == origin_of(upstream.url)
            loop = asyncio.get_running_loop()
            before = loop.time()
            await turn(20)
            waited = loop.time() - before
            held.release()
            await asyncio.gather(*tasks)
            assert all(ended.seconds > waited > 0 for ended in events.of(ExchangeEnded))
            assert len(events.of(ConnectionOpened)) == 1


async def test_events_of_failures() -> None:
    """An exchange that had a connection and no response ends with the name of the error, and no status."""
    events = Events()
    with scripted(answering(b"garbage\r\n\r\n")) as upstream:
        async with running(observer=events) as engine:
            with pytest.raises(RemoteProtocolError):
                await fetch(engine, upstream.url)
            (ended,) = events.of(ExchangeEnded)
            assert (ended.status, ended.error) == (None, "RemoteProtocolError")
            port = refusing_port()
            with pytest.raises(ConnectError):
                await fetch(engine, f"http://127.0.0.1:{port}")
            assert events.of(ExchangeEnded)[1].error == "ConnectError"


async def test_an_exchange_ends_when_its_message_has_arrived() -> None:
    """An exchange is through with its connection when the last byte is there, though nobody has read it yet."""
    events = Events()
    with scripted(answering(ok(b"small"))) as upstream:
        async with running(observer=events) as engine:
            response = await engine(request_to(upstream.url))
            await events.wait_for(ExchangeEnded)
            assert engine.statistics().idle == 1
            assert await read(response) == b"small"
            assert len(events.of(ExchangeEnded)) == 1


async def test_events_come_in_the_loop() -> None:
    """An observer is called in the thread of the event loop."""
    threads = set()

    class Noting(Events):
        def __call__(self, event: Any) -> None:
            threads.add(threading.get_ident())
            super().__call__(event)

    with scripted(answering(ok())) as upstream:
        async with running(observer=Noting()) as engine:
            await fetch(engine, upstream.url)
    assert threads == {threading.get_ident()}
