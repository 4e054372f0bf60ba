"""When a connection is used again, and when it must not be (checklist F)."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits, _pool
from fastapi_httpx_pool.engine._pool import GRACE
from fastapi_httpx_pool.events import ConnectionClosed
from fastapi_httpx_pool.exceptions import LocalProtocolError, RemoteProtocolError
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
    until,
)
from tests.support.patience import with_patience
from tests.support.tls import Authority
from tests.support.upstream import Connection, Script, answering, answering_together, ok, scripted

pytestmark = pytest.mark.anyio

POISON = ok(b"POISON")
GOOD = ok(b"GOOD")


# F2: what is left on a connection is nobody's response.


class Poisoned:
    """An upstream whose first answer is followed by more, at once or when the test says so."""

    def __init__(self, first: bytes, later: bytes = b"") -> None:
        self._first = first
        self._later = later
        self.send_later = threading.Event()
        self.sent = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        if connection.number == 0:
            connection.read_request()
            connection.send(self._first)
            if self._later:
                self.send_later.wait(LIMIT)
                connection.send(self._later)
                self.sent.set()
        answering(GOOD)(connection)


@both_loops
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
class TestPoisoning:
    """The next caller gets its own answer, whatever came before it and however."""

    def options(self, authority: Authority, *, secure: bool) -> tuple[Any, ConnectOptions]:
        """Return the upstream's TLS context and the engine's options."""
        return (authority.server() if secure else None), ConnectOptions(ssl_context=authority.client())

    @pytest.mark.parametrize(
        ("method", "first"),
        [
            pytest.param(b"GET", ok(b"first") + POISON, id="a-same-segment"),
            pytest.param(
                b"GET",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n" + POISON,
                id="a-chunked",
            ),
            pytest.param(b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON", id="d-head-with-body"),
            pytest.param(b"GET", b"HTTP/1.1 204 No Content\r\n\r\n" + POISON, id="e-204-with-body"),
            pytest.param(
                b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n" + POISON, id="f-304-with-body"
            ),
            pytest.param(b"GET", ok(b"first") + b"garbage", id="g-garbage"),
            pytest.param(b"GET", ok(b"first", b"Connection: close") + POISON, id="h-behind-close"),
        ],
    )
    async def test_f2_behind_the_response(
        self, authority: Authority, *, secure: bool, method: bytes, first: bytes
    ) -> None:
        """What comes together with a response and does not belong to it ends the connection."""
        tls, options = self.options(authority, secure=secure)
        with scripted(Poisoned(first), tls) as upstream:
            async with running(options=options) as engine:
                assert await fetch(engine, upstream.url, method=method) in {b"first", b""}
                assert engine.statistics().idle == 0
                assert await fetch(engine, upstream.url) == b"GOOD"
                assert await fetch(engine, upstream.url) == b"GOOD"
                assert engine.statistics().origins[upstream.url].closed == {"not reusable": 1}
            assert upstream.accepted == 2

    async def test_f2b_while_idle(self, authority: Authority, *, secure: bool) -> None:
        """Bytes on an idle connection close it at once."""
        tls, options = self.options(authority, secure=secure)
        script, events = Poisoned(ok(b"first"), POISON), Events()
        with scripted(script, tls) as upstream:
            async with running(options=options, observer=events) as engine:
                assert await fetch(engine, upstream.url) == b"first"
                assert engine.statistics().idle == 1
                script.send_later.set()
                (closed,) = await events.wait_for(ConnectionClosed)
                assert closed.reason == "unsolicited"
                assert engine.statistics().idle == 0
                assert await fetch(engine, upstream.url) == b"GOOD"

    async def test_f2c_while_the_loop_is_blocked(self, authority: Authority, *, secure: bool) -> None:
        """Bytes that the loop has not read yet are seen before the connection is used again (F3)."""
        tls, options = self.options(authority, secure=secure)
        script = Poisoned(ok(b"first"), POISON)
        with scripted(script, tls) as upstream:
            async with running(options=options) as engine:
                assert await fetch(engine, upstream.url) == b"first"
                script.send_later.set()
                assert script.sent.wait(LIMIT)  # blocks the loop
                assert await fetch(engine, upstream.url) == b"GOOD"
                assert engine.statistics().origins[upstream.url].closed == {"peer": 1}

    async def test_f2g_garbage_instead(self, authority: Authority, *, secure: bool) -> None:
        """Garbage in the place of a response is an error, and of no consequence for the next one."""
        tls, options = self.options(authority, secure=secure)
        with scripted(Poisoned(b"garbage\r\n\r\n"), tls) as upstream:
            async with running(options=options) as engine:
                with pytest.raises(RemoteProtocolError):
                    await fetch(engine, upstream.url)
                assert await fetch(engine, upstream.url) == b"GOOD"
                assert engine.statistics().origins[upstream.url].closed == {"protocol error": 1}

    @pytest.mark.parametrize("together", [True, False], ids=["same-segment", "later"])
    async def test_f2i_while_uploading(self, authority: Authority, *, secure: bool, together: bool) -> None:
        """An answer that comes during an upload, with more behind it, leaves nothing to the next caller."""
        tls, options = self.options(authority, secure=secure)
        go_on, sent = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def script(connection: Connection) -> None:
            if connection.number == 0:
                connection.read_request()
                connection.send(GOOD)
                connection.read_head()
                connection.send(ok(b"early") + (POISON if together else b""))
                if not together:
                    go_on.wait(LIMIT)
                    connection.send(POISON)
                loop.call_soon_threadsafe(sent.set)
            answering(GOOD)(connection)

        async def body() -> AsyncIterator[bytes]:
            yield b"some"
            await asyncio.wait_for(sent.wait(), LIMIT)
            yield b"more"

        with scripted(script, tls) as upstream:
            async with running(options=options) as engine:
                assert await fetch(engine, upstream.url) == b"GOOD"
                response = await engine(request_to(upstream.url, method=b"POST", body=body()))
                go_on.set()
                assert await read(response) == b"early"
                assert await fetch(engine, upstream.url) == b"GOOD"
                assert await fetch(engine, upstream.url) == b"GOOD"
            assert upstream.accepted == 2


async def test_f2_can_fail() -> None:
    """An answer that nothing follows is followed by another on the same connection."""
    with scripted(Poisoned(ok(b"first"))) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"first"
            assert await fetch(engine, upstream.url) == b"GOOD"
        assert upstream.accepted == 1


# F1, F9, F10, F11: what else it takes.


def numbered(first: bytes = b"HTTP/1.1 200 OK", *lines: bytes) -> Script:
    """Answer with the number of the connection; the very first answer has such a status line, and such lines."""
    seen = []

    def script(connection: Connection) -> None:
        while connection.read_request()[0].endswith(b"\r\n\r\n"):
            seen.append(connection)
            head = (first, *lines) if len(seen) == 1 else (b"HTTP/1.1 200 OK",)
            body = b"%d" % connection.number
            connection.send(b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body)))

    return script


NEW = b"HTTP/1.1 200 OK"
OLD = b"HTTP/1.0 200 OK"


@pytest.mark.parametrize(
    ("head", "reused"),
    [
        pytest.param((NEW,), True, id="http-1.1"),
        pytest.param((NEW, b"Connection: keep-alive"), True, id="keep-alive"),
        pytest.param((NEW, b"Connection: close"), False, id="close"),
        pytest.param((NEW, b"connection: Close"), False, id="close-in-another-case"),
        pytest.param((NEW, b"Connection: keep-alive, close"), False, id="close-in-a-list"),
        pytest.param((NEW, b"Connection: keep-alive", b"Connection: close"), False, id="close-in-a-second-line"),
        pytest.param((NEW, b"Proxy-Connection: close"), False, id="proxy-connection-close"),
        pytest.param((OLD,), False, id="http-1.0"),
        pytest.param((OLD, b"Connection: keep-alive"), True, id="http-1.0-keep-alive"),
        pytest.param((NEW, b"Keep-Alive: timeout=1"), False, id="will-close-in-a-second"),
        pytest.param((NEW, b"Keep-Alive: timeout=60, max=100"), True, id="will-close-in-a-minute"),
        pytest.param((NEW, b"Upgrade: h2c", b"Connection: Upgrade"), True, id="upgrade-that-is-none"),
    ],
)
async def test_f9_what_the_server_says(head: tuple[bytes, ...], *, reused: bool) -> None:
    """A connection is used again exactly if the server's answer leaves it open."""
    with scripted(numbered(*head)) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            assert await fetch(engine, upstream.url) == (b"0" if reused else b"1")
            found = engine.statistics().origins[upstream.url]
            assert found.reused == (1 if reused else 0)
            assert found.closed == ({} if reused else {"not reusable": 1})


async def test_f10_what_the_request_says() -> None:
    """A connection is closed after a request that asked for it, though the server would keep it."""
    with scripted(numbered(NEW, b"Connection: keep-alive")) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url, headers=[(b"Connection", b"close")]) == b"0"
            assert engine.statistics().idle == 0
            assert await fetch(engine, upstream.url) == b"1"


async def test_f11_answer_before_the_end_of_the_upload() -> None:
    """A refusal that comes before the upload is over ends both, and the connection."""

    def script(connection: Connection) -> None:
        if connection.number == 0:
            connection.read_head()
            connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            connection.wait_until_closed()
        answering(GOOD)(connection)

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.sleep(LIMIT)

    with scripted(script) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url, method=b"POST", body=body()) == b"big"
            assert_quiet(engine)
            assert engine.statistics().idle == 0
            assert await fetch(engine, upstream.url) == b"GOOD"


@both_loops
async def test_f11_server_says_no_more() -> None:
    """A server that has answered and closed its side is sent the rest, and nothing else after it."""
    sent, read_all = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(GOOD)
        connection.sock.shutdown(socket.SHUT_WR)
        loop.call_soon_threadsafe(sent.set)
        assert connection.read_until(b"0\r\n\r\n") == b"4\r\nsome\r\n4\r\nmore\r\n0\r\n\r\n"
        read_all.set()
        connection.wait_until_closed()

    async def body() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.wait_for(sent.wait(), LIMIT)
        (exchange,) = pool_of(engine)._exchanges
        await until(lambda: not exchange.reader.reusable)  # the end of the stream is here
        yield b"more"

    with scripted(script) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url, method=b"POST", body=body()) == b"GOOD"
            assert engine.statistics().origins[upstream.url].closed == {"not reusable": 1}
            assert await anyio.to_thread.run_sync(read_all.wait, LIMIT)


async def test_f1_until_the_end_of_the_stream() -> None:
    """A response without a length ends with its connection."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n%d" % connection.number)

    with scripted(script) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            assert await fetch(engine, upstream.url) == b"1"
            assert_quiet(engine)


async def test_f1_most_recently_used_first() -> None:
    """Of several idle connections the one used last is used next; the others may grow old and be closed."""
    barrier = threading.Barrier(3)

    def script(connection: Connection) -> None:
        connection.read_request()
        barrier.wait(LIMIT)
        connection.send(ok(b"%d" % connection.number))
        answering(ok(b"%d" % connection.number))(connection)

    with scripted(script) as upstream:
        async with running() as engine:
            await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(3)))
            assert engine.statistics().idle == 3
            assert len({await fetch(engine, upstream.url) for _ in range(6)}) == 1
            assert [one.exchanges for one in pool_of(engine)._books.idle_connections()] == [1, 1, 7]


async def test_reuse_after_a_request_that_never_was() -> None:
    """A request that is refused before it is sent touches no connection."""
    with scripted(numbered()) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"0"
            with pytest.raises(LocalProtocolError):
                await fetch(engine, upstream.url, headers=[(b"X", b"a\r\nb")])
            for length in (b"1", b"9"):
                wrong = request_to(upstream.url, method=b"POST")
                wrong.headers.append((b"Content-Length", length))
                wrong.body = b"four"
                with pytest.raises(LocalProtocolError, match=r"Too (much|little) data for declared Content-Length"):
                    await engine(wrong)
            assert await fetch(engine, upstream.url) == b"0"
        assert upstream.accepted == 1


async def test_no_body_where_one_was_declared() -> None:
    """A declared length without a body is refused too: the next request would be taken for it."""
    request = request_to("http://127.0.0.1:1", headers=[(b"Content-Length", b"4")])
    with pytest.raises(LocalProtocolError, match="Too little data"):
        await Engine()(request)


# F4, F5: while it is idle.


async def test_f4_line_break_behind_the_response() -> None:
    """A superfluous line break is as unsolicited as anything else on an idle connection."""
    script, events = Poisoned(ok(b"first"), b"\r\n"), Events()
    with scripted(script) as upstream:
        async with running(observer=events) as engine:
            await fetch(engine, upstream.url)
            script.send_later.set()
            assert (await events.wait_for(ConnectionClosed))[0].reason == "unsolicited"


@both_loops
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_f5_server_closes(authority: Authority, how: str, *, secure: bool) -> None:
    """That the server closed an idle connection is seen at once, without a request."""
    hang_up, events = threading.Event(), Events()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok())
        hang_up.wait(LIMIT)
        getattr(connection, how)()

    with scripted(script, authority.server() if secure else None) as upstream:
        async with running(options=ConnectOptions(ssl_context=authority.client()), observer=events) as engine:
            await fetch(engine, upstream.url)
            assert engine.statistics().idle == 1
            hang_up.set()
            (closed,) = await events.wait_for(ConnectionClosed)
            assert (closed.reason, closed.exchanges) == ("peer", 1)
            assert_quiet(engine)
            assert engine.statistics().idle == 0


# F7: for how long.


async def test_f7_expires() -> None:
    """A connection that nobody needs for a while is closed."""
    events = Events()
    with scripted(numbered()) as upstream:
        async with running(Limits(idle_expiry=0.05), observer=events) as engine:
            await fetch(engine, upstream.url)
            assert (await events.wait_for(ConnectionClosed))[0].reason == "expired"
            assert engine.statistics().idle == 0
            assert await fetch(engine, upstream.url) == b"1"


async def test_f7_expires_while_the_loop_is_blocked() -> None:
    """A connection that has been idle for too long is not used, even if the loop had no time to close it."""
    with scripted(numbered()) as upstream:
        async with running(Limits(idle_expiry=0.05)) as engine:
            await fetch(engine, upstream.url)
            time.sleep(0.06)  # noqa: ASYNC251 -- that is the point
            assert await fetch(engine, upstream.url) == b"1"
            assert engine.statistics().origins[upstream.url].closed == {"expired": 1}


async def test_f7_use_starts_the_time_again() -> None:
    """The time is counted from the end of the last exchange."""
    with scripted(numbered()) as upstream:
        async with running(Limits(idle_expiry=30.0)) as engine:
            await fetch(engine, upstream.url)
            (connection,) = pool_of(engine)._books.idle_connections()
            first = connection.due
            assert await fetch(engine, upstream.url) == b"0"
            assert first < connection.due <= asyncio.get_running_loop().time() + 30.0


async def test_f7_never() -> None:
    """With no expiry no timer runs for an idle connection."""
    with scripted(numbered()) as upstream:
        async with running(Limits(idle_expiry=None)) as engine:
            await fetch(engine, upstream.url)
            timer = pool_of(engine).timer
            assert (timer._handle, timer._precise) == (None, {})
            assert await fetch(engine, upstream.url) == b"0"


async def test_f7_at_once() -> None:
    """With an expiry of 0 no connection is used twice."""
    with scripted(numbered()) as upstream:
        async with running(Limits(idle_expiry=0)) as engine:
            assert [await fetch(engine, upstream.url) for _ in range(3)] == [b"0", b"1", b"2"]
            assert engine.statistics().idle == 0


@pytest.mark.parametrize(("expiry", "rest"), [(None, 9.0), (30.0, 9.0), (5.0, 5.0)])
async def test_f7_what_the_server_promises(expiry: float | None, rest: float) -> None:
    """A server that tells when it will close is believed, if that is sooner; a second is left for the way."""
    with scripted(numbered(NEW, b"Keep-Alive: timeout=10")) as upstream:
        async with running(Limits(idle_expiry=expiry)) as engine:
            await fetch(engine, upstream.url)
            (connection,) = pool_of(engine)._books.idle_connections()
            assert rest - 3.0 < connection.due - asyncio.get_running_loop().time() < rest + 1.0
            assert await fetch(engine, upstream.url) == b"0"
            # The second answer makes no promise.
            assert connection.rest == (float("inf") if expiry is None else expiry)


# F8: how many.


async def test_f8_none() -> None:
    """With no idle connection allowed each is closed after its exchange, unless somebody waits for it."""
    with scripted(numbered()) as upstream:
        async with running(Limits(max_idle=0, max_connections=1)) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            assert engine.statistics().idle == 0
            assert sorted(await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(3)))) == [b"1"] * 3
            assert await fetch(engine, upstream.url) == b"2"
            assert engine.statistics().origins[upstream.url].closed == {"surplus": 3}


@with_patience(GRACE)
async def test_f8_oldest_first_and_lazily(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """Idle connections beyond the limit are kept for a moment, then the oldest are closed."""
    monkeypatch.setattr(_pool, "GRACE", limit)
    events = Events()
    with scripted(answering_together(6, ok())) as upstream:
        async with running(Limits(max_idle=2), observer=events) as engine:
            await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(6)))
            assert engine.statistics().idle == 6
            kept = pool_of(engine)._books.idle_connections()[-2:]
            closed = await events.wait_for(ConnectionClosed, 4)
            assert {event.reason for event in closed} == {"surplus"}
            assert pool_of(engine)._books.idle_connections() == kept


async def test_f8_no_limit() -> None:
    """Without a limit all are kept, and nothing is scheduled to look after them."""
    with scripted(answering_together(30, ok())) as upstream:
        async with running(Limits(max_idle=None)) as engine:
            await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(30)))
            assert engine.statistics().idle == 30
            assert pool_of(engine)._trimming is None


@with_patience(GRACE)
async def test_f8_no_churn(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """Fifty callers with room for twenty idle connections use fifty connections, not hundreds."""
    monkeypatch.setattr(_pool, "GRACE", limit)
    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=100, max_idle=20)) as engine:

            async def caller() -> None:
                for _ in range(10):
                    await fetch(engine, upstream.url)

            await asyncio.gather(*(caller() for _ in range(50)))
        assert upstream.accepted <= 60


# Lifetime.


async def test_lifetime_of_an_idle_connection() -> None:
    """A connection that has become too old is closed."""
    events = Events()
    with scripted(numbered()) as upstream:
        async with running(Limits(lifetime=0.06, idle_expiry=None), observer=events) as engine:
            await fetch(engine, upstream.url)
            (closed,) = await events.wait_for(ConnectionClosed)
            assert closed.reason == "lifetime"
            assert closed.age >= 0.05
            assert await fetch(engine, upstream.url) == b"1"


async def test_lifetime_of_a_busy_connection() -> None:
    """A connection that becomes too old during an exchange is closed after it, not in it."""
    arrived, answer = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        arrived.set()
        answer.wait(LIMIT)
        connection.send(ok(b"old"))

    with scripted(script) as upstream:
        async with running(Limits(lifetime=0.01)) as engine:
            sending = asyncio.ensure_future(fetch(engine, upstream.url))
            assert await anyio.to_thread.run_sync(arrived.wait, LIMIT)
            time.sleep(0.01)  # noqa: ASYNC251 -- the connection grows old
            answer.set()
            assert await sending == b"old"
            assert engine.statistics().origins[upstream.url].closed == {"lifetime": 1}
            assert_quiet(engine)


async def test_lifetime_ends_before_the_expiry() -> None:
    """An idle connection is closed at the end of its life, though it might be idle for longer."""
    with scripted(numbered()) as upstream:
        async with running(Limits(lifetime=20.0, idle_expiry=60.0)) as engine:
            await fetch(engine, upstream.url)
            (connection,) = pool_of(engine)._books.idle_connections()
            assert connection.due == connection.ends


async def test_lifetimes_differ() -> None:
    """Connections opened together do not all end together."""
    with scripted(answering_together(8, ok())) as upstream:
        async with running(Limits(lifetime=100.0)) as engine:
            await asyncio.gather(*(fetch(engine, upstream.url) for _ in range(8)))
            lives = [connection.ends - connection.since for connection in pool_of(engine)._connections]
            assert len(set(lives)) == 8
            assert all(90.0 <= life <= 100.0 for life in lives)
