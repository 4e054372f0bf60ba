"""A request is repeated if, and only if, a reused connection turned out to be dead (checklist F6)."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_httpx_pool.engine import Limits
from fastapi_httpx_pool.events import ConnectionClosed, ConnectionOpened, ExchangeEnded
from fastapi_httpx_pool.exceptions import ConnectError, ReadError, ReadTimeout, RemoteProtocolError, TransportError
from fastapi_httpx_pool.messages import Timeouts
from tests.support.engines import LIMIT, Events, assert_quiet, both_loops, fetch, pool_of, running, turn, until
from tests.support.upstream import Connection, Upstream, ok, scripted

pytestmark = [pytest.mark.anyio, both_loops]


class Dying:
    """Answers a number of requests on each connection, with its number, then reads another one and dies."""

    def __init__(self, *answers: int, last: bytes = b"", how: str = "close") -> None:
        """``answers`` on the first, the second, ... connection; all further ones answer for ever."""
        self._answers = answers
        self._last = last
        self._how = how
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        left = self._answers[connection.number] if connection.number < len(self._answers) else 1000
        while True:
            head, body = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            self.heads.append(head)
            self.bodies.append(body)
            left -= 1
            if left < 0:
                break
            connection.send(ok(b"" if head.startswith(b"HEAD") else b"%d" % connection.number))
        connection.send(self._last)
        getattr(connection, self._how)()


DEAD = (RemoteProtocolError, ReadError)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE", b"PUT"])
async def test_f6_repeated(method: bytes, how: str) -> None:
    """An idempotent request on a reused connection that dies without a word is repeated on a new one."""
    dying, events = Dying(1, how=how), Events()
    body = b"put" if method == b"PUT" else None
    with scripted(dying) as upstream:
        async with running(observer=events) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            answer = await fetch(engine, upstream.url, method=method, body=body, target=b"/again")
            assert answer == (b"" if method == b"HEAD" else b"1")
            assert [head.split()[:2] for head in dying.heads] == [[b"GET", b"/"], *[[method, b"/again"]] * 2]
            assert dying.bodies == [b"", body or b"", body or b""]
            found = engine.statistics().origins[upstream.url]
            assert (found.retried, found.requests, found.opened, found.failures) == (1, 2, 2, {})
            assert found.closed == {"peer": 1}
            assert len(events.of(ExchangeEnded)) == 2
            assert await fetch(engine, upstream.url) == b"1"
            assert_quiet(engine)
        assert upstream.accepted == 2


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CUSTOM"])
async def test_f6_not_idempotent(method: bytes) -> None:
    """A request that may have had its effect is not repeated."""
    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(DEAD):
                await fetch(engine, upstream.url, method=method, body=b"once")
            assert [head.split()[0] for head in dying.heads] == [b"GET", method]
            assert engine.statistics().origins[upstream.url].retried == 0
            assert_quiet(engine)


async def test_f6_body_that_cannot_be_sent_again() -> None:
    """A request whose body is made while it is sent is not repeated: half of it may be gone."""

    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(DEAD):
                await fetch(engine, upstream.url, method=b"PUT", body=body())
            assert len(dying.heads) == 2
            assert_quiet(engine)


async def test_f6_long_body() -> None:
    """A long body in memory is sent again from its beginning."""
    body = bytes(range(256)) * 4000
    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            assert await fetch(engine, upstream.url, method=b"PUT", body=body) == b"1"
            assert dying.bodies == [b"", body, body]


async def test_f6_not_on_a_new_connection() -> None:
    """A request that a new connection dies of is not repeated."""
    dying = Dying(0)
    with scripted(dying) as upstream:
        async with running() as engine:
            with pytest.raises(RemoteProtocolError, match="Server disconnected without sending a response"):
                await fetch(engine, upstream.url)
            assert len(dying.heads) == 1
            assert_quiet(engine)


async def test_f6_once() -> None:
    """A repeated request that fails in the same way fails."""
    dying, events = Dying(1, 0), Events()
    with scripted(dying) as upstream:
        async with running(observer=events) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(RemoteProtocolError, match="Server disconnected without sending a response"):
                await fetch(engine, upstream.url)
            assert len(dying.heads) == 3
            found = engine.statistics().origins[upstream.url]
            assert (found.retried, found.failures) == (1, {"RemoteProtocolError": 1})
            assert [event.error for event in events.of(ExchangeEnded)] == [None, "RemoteProtocolError"]
            assert_quiet(engine)


@pytest.mark.parametrize("last", [b"H", b"HTTP/1.1 200 O", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_f6_not_after_a_byte(last: bytes) -> None:
    """Once anything of a response has come the request has been taken, and is not repeated."""
    dying = Dying(1, last=last)
    with scripted(dying) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(RemoteProtocolError):
                await fetch(engine, upstream.url)
            assert len(dying.heads) == 2
            assert_quiet(engine)


async def test_f6_switched_off() -> None:
    """Whoever does not want it has it not."""
    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running(retry=False) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(RemoteProtocolError, match="Server disconnected without sending a response"):
                await fetch(engine, upstream.url)
            assert len(dying.heads) == 2
            assert_quiet(engine)


async def test_f6_not_on_the_next_stale_one() -> None:
    """The repetition takes a new connection even if others are idle: they may be as dead."""
    both = threading.Barrier(2)
    first = Dying(1, 1)

    def script(connection: Connection) -> None:
        if connection.number < 2:
            both.wait(LIMIT)
        first(connection)

    with scripted(script) as upstream:
        async with running() as engine:
            answers = await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(2)))
            assert sorted(answers) == [b"0", b"1"]
            assert engine.statistics().idle == 2
            assert await fetch(engine, upstream.url) == b"2"
            assert upstream.accepted == 3
            assert engine.statistics().idle == 2


async def test_f6_keeps_its_place_in_a_full_pool() -> None:
    """A repetition does not go to the end of the queue, and opens no connection beyond the limit."""
    order: list[str] = []
    opened: list[int] = []
    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            assert await fetch(engine, upstream.url) == b"0"

            async def call(name: str) -> None:
                assert await fetch(engine, upstream.url) == b"1"
                opened.append(pool_of(engine)._books.open)
                order.append(name)

            await asyncio.gather(*(call(name) for name in "abcd"))
            assert order == ["a", "b", "c", "d"]
            assert set(opened) == {1}
            assert engine.statistics().origins[upstream.url].retried == 1
        assert upstream.accepted == 2


async def test_f6_not_after_a_time_limit() -> None:
    """A reused connection on which nothing comes in time is not dead, only slow: no second request."""
    heads: list[bytes] = []

    def script(connection: Connection) -> None:
        heads.append(connection.read_head())
        connection.send(ok())
        heads.append(connection.read_head())
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"ok"
            with pytest.raises(ReadTimeout):
                await fetch(engine, upstream.url, timeouts=Timeouts(read=0.02))
            await until(lambda: len(heads) == 2)
            assert heads[1].startswith(b"GET ")
            assert_quiet(engine)
        assert (upstream.accepted, len(heads)) == (1, 2)


async def test_f6_nobody_there_any_more() -> None:
    """If the server is gone altogether the repetition cannot connect, and that is what is told."""
    closing: list[Upstream] = []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        connection.read_request()
        closing[0]._listener.shutdown(socket.SHUT_RDWR)

    with scripted(script) as upstream:
        closing.append(upstream)
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"ok"
            with pytest.raises(ConnectError):
                await fetch(engine, upstream.url)
            assert engine.statistics().origins[upstream.url].retried == 1
            assert_quiet(engine)


@pytest.mark.parametrize("turns", range(0, 12, 2))
async def test_f6_cancelled_meanwhile(turns: int) -> None:
    """A repetition can be cancelled at any moment, and its place is free."""
    with scripted(Dying(1)) as upstream:
        events = Events()
        async with running(Limits(max_connections=1), observer=events) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            task = asyncio.ensure_future(fetch(engine, upstream.url))
            await events.wait_for(ConnectionClosed)
            await turn(turns)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) in {b"1", b"2"}


async def test_f6_seen_by_the_observer_and_the_trace() -> None:
    """Each connection is told of, and each attempt in the trace; the exchange as one."""
    events, steps = Events(), []

    async def trace(name: str, info: Any) -> None:
        steps.append(name)

    with scripted(Dying(1)) as upstream:
        async with running(observer=events) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            assert await fetch(engine, upstream.url, extensions={"trace": trace}) == b"1"
    assert [type(event) for event in events.all] == [
        ConnectionOpened,
        ExchangeEnded,
        ConnectionClosed,
        ConnectionOpened,
        ExchangeEnded,
        ConnectionClosed,
    ]
    assert [step for step in steps if step.startswith("http11.receive_response_headers")] == [
        "http11.receive_response_headers.started",
        "http11.receive_response_headers.failed",
        "http11.receive_response_headers.started",
        "http11.receive_response_headers.complete",
    ]
    assert steps.count("connection.connect_tcp.complete") == 1


async def test_f6_error_of_a_stale_connection_in_the_pool_being_closed() -> None:
    """Nothing is repeated in a pool that is being closed."""
    dying = Dying(1)
    with scripted(dying) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            task = asyncio.ensure_future(fetch(engine, upstream.url))
            await turn(2)
            await engine.aclose()
            with pytest.raises(TransportError):
                await task
        assert upstream.accepted == 1
