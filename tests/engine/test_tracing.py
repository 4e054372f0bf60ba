"""The ``trace`` extension: httpcore's events, by name and in order, and what a tracing function may do (checklist A5, A6)."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpcore
import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, Limits
from fastapi_httpx_pool.engine._exchange import Body
from fastapi_httpx_pool.exceptions import ReadError, ReadTimeout, RemoteProtocolError, TransportError
from fastapi_httpx_pool.messages import Timeouts
from tests.support.bodies import Source, for_ever, reached
from tests.support.engines import (
    LIMIT,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    read,
    request_to,
    running,
    turn,
    until,
)
from tests.support.patience import with_patience
from tests.support.ports import refusing_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, Script, answering, ok, scripted

pytestmark = [pytest.mark.anyio, both_loops]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Recorder:
    """A tracing function that keeps what it is told."""

    def __init__(self, act: Callable[[str], Awaitable[object]] | None = None) -> None:
        """``act`` is awaited with each name."""
        self._act = act
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Take note."""
        self.events.append((name, info))
        if self._act is not None:
            await self._act(name)

    @property
    def names(self) -> list[str]:
        """The names, in their order."""
        return [name for name, _ in self.events]

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        """The names, and what there is to know with each."""
        return [(name, sorted(info)) for name, info in self.events]

    def of(self, name: str) -> dict[str, Any]:
        """Return what there was to know with one event."""
        (found,) = [info for told, info in self.events if told == name]
        return found


# The same through httpcore and through the engine.


async def by_engine(
    engine: Engine, trace: Any, url: str, method: bytes, body: Any, *, unread: bool, limit: float = LIMIT
) -> None:
    """Send a request through the engine; its errors are part of what is seen."""
    headers = [(b"Transfer-Encoding", b"chunked")] if body is not None else []
    request = request_to(
        url, method=method, headers=headers, timeouts=Timeouts(read=limit), extensions={"trace": trace}
    )
    request.body = body
    try:
        response = await engine(request)
        try:
            if not unread:
                async for _ in response.body:
                    pass
        finally:
            await response.aclose()
    except TransportError:
        pass


async def by_httpcore(
    pool: httpcore.AsyncConnectionPool,
    trace: Any,
    url: str,
    method: bytes,
    body: Any,
    *,
    unread: bool,
    limit: float = LIMIT,
) -> None:
    """Send it through httpcore."""
    headers = [("Host", "127.0.0.1"), *([("Transfer-Encoding", "chunked")] if body is not None else [])]
    extensions = {"trace": trace, "timeout": {"read": limit}}
    request = httpcore.Request(method, url, headers=headers, content=body, extensions=extensions)
    try:
        response = await pool.handle_async_request(request)
        try:
            if not unread:
                async for _ in response.stream:  # type: ignore[union-attr] # it is an async one
                    pass
        finally:
            await response.aclose()
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        pass


def saying(said: bytes, *, then_close: bool = True) -> Script:
    """Return a script that answers each request like this, and hangs up or waits."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(said)
        if not then_close:
            connection.wait_until_closed()

    return script


SCENARIOS: dict[str, tuple[Script, dict[str, Any]]] = {
    "get": (answering(ok()), {}),
    "head": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), {"method": b"HEAD"}),
    "no content": (answering(b"HTTP/1.1 204 No Content\r\n\r\n"), {}),
    "chunked": (answering(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"), {}),
    "post": (answering(ok()), {"method": b"POST", "body": b"hello"}),
    "pieces": (answering(ok()), {"method": b"POST", "body": [b"hel", b"lo"]}),
    "server error": (answering(b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", times=1), {}),
    # Once: httpcore closes the connection of a response that nobody has read.
    "unread": (answering(ok()), {"unread": True, "times": 1}),
    "without an answer": (saying(b""), {}),
    "half a head": (saying(b"HTTP/1.1 200 OK\r\nCon"), {}),
    "garbage": (saying(b"garbage\r\n\r\n"), {}),
    "half a body": (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), {}),
    "silent": (saying(b"", then_close=False), {}),
    "silent in the body": (saying(CHUNKED + b"5\r\nhello\r\n", then_close=False), {}),
    "informational": (answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok()), {}),
}


OVER_TLS = ["get", "half a body"]


@pytest.mark.parametrize(
    ("name", "secure"),
    [*((name, False) for name in SCENARIOS), *((name, True) for name in OVER_TLS)],
    ids=[*SCENARIOS, *(f"{name}, tls" for name in OVER_TLS)],
)
@with_patience(0.1)
async def test_a6_same_events_as_httpcore(name: str, *, secure: bool, limit: float) -> None:
    """Names, order and what is told: the first request on a connection, and the next."""
    authority, (script, options) = Authority(), SCENARIOS[name]
    traces = []
    for native in (True, False):
        trace = Recorder()
        with scripted(script, authority.server() if secure else None) as upstream:
            request: dict[str, Any] = {"method": b"GET", "unread": False, **options}
            request["limit"] = limit if name.startswith("silent") else LIMIT
            body, times = request.pop("body", None), request.pop("times", 2)
            async with (
                running(options=ConnectOptions(ssl_context=authority.client()), retry=False) as engine,
                httpcore.AsyncConnectionPool(ssl_context=authority.client()) as pool,
            ):
                for _ in range(times):
                    made = Source(body) if isinstance(body, list) else body
                    if native:
                        await by_engine(engine, trace, upstream.url, body=made, **request)
                    else:
                        await by_httpcore(pool, trace, upstream.url, body=made, **request)
        traces.append(trace)
    ours, theirs = traces
    assert ours.shape == theirs.shape


async def test_a6_refused() -> None:
    """A connection that does not come about is told of as well."""
    url = f"http://127.0.0.1:{refusing_port()}"
    ours, theirs = Recorder(), Recorder()
    async with running() as engine, httpcore.AsyncConnectionPool() as pool:
        await by_engine(engine, ours, url, b"GET", None, unread=False)
        await by_httpcore(pool, theirs, url, b"GET", None, unread=False)
    assert ours.shape == theirs.shape
    assert ours.names == ["connection.connect_tcp.started", "connection.connect_tcp.failed"]


async def test_a6_retries() -> None:
    """So are further attempts."""
    url = f"http://127.0.0.1:{refusing_port()}"
    ours, theirs = Recorder(), Recorder()
    async with running(options=ConnectOptions(retries=1)) as engine, httpcore.AsyncConnectionPool(retries=1) as pool:
        await by_engine(engine, ours, url, b"GET", None, unread=False)
        await by_httpcore(pool, theirs, url, b"GET", None, unread=False)
    assert ours.names == theirs.names
    assert ours.names[2:4] == ["connection.retry.started", "connection.retry.complete"]


async def test_a6_what_is_told() -> None:
    """The answer's head is what receiving it has returned; a failure tells its error."""
    trace = Recorder()
    with scripted(answering(ok(b"hello", b"X-One: 1"))) as upstream:
        async with running() as engine:
            request = request_to(upstream.url, extensions={"trace": trace})
            await read(await engine(request))
    headers = [(b"Content-Length", b"5"), (b"X-One", b"1")]
    assert trace.of("http11.receive_response_headers.complete") == {
        "return_value": (b"HTTP/1.1", 200, b"OK", headers),
    }
    assert trace.of("http11.send_request_headers.started") == {"request": request}
    assert trace.of("http11.receive_response_body.complete") == {"return_value": None}
    trace = Recorder()
    with scripted(saying(b"")) as upstream:
        async with running() as engine:
            with pytest.raises(RemoteProtocolError) as raised:
                await fetch(engine, upstream.url, extensions={"trace": trace})
    assert trace.of("http11.receive_response_headers.failed") == {"exception": raised.value}


async def test_a6_reading_on_is_told_once() -> None:
    """A body has one end, however often it is asked for."""
    trace = Recorder()
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url, extensions={"trace": trace}))
            chunks = aiter(response.body)
            assert await anext(chunks) == b"ok"
            for _ in range(3):
                with pytest.raises(StopAsyncIteration):
                    await anext(chunks)
            for _ in range(3):
                await response.aclose()
    assert trace.names[-4:] == [
        "http11.receive_response_body.started",
        "http11.receive_response_body.complete",
        "http11.response_closed.started",
        "http11.response_closed.complete",
    ]


async def test_a6_connections() -> None:
    """What connecting has returned tells about the connection, as httpcore's streams do."""
    trace, authority = Recorder(), Authority()
    with scripted(answering(ok()), authority.server()) as upstream:
        async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
            request = request_to(upstream.url, extensions={"trace": trace}, timeouts=Timeouts(connect=5.0))
            response = await engine(request)
            tcp = trace.of("connection.connect_tcp.complete")["return_value"]
            assert tcp.get_extra_info("server_addr") == ("127.0.0.1", upstream.port)
            assert tcp.get_extra_info("client_addr") == tcp.get_extra_info("socket").getsockname()
            assert tcp.get_extra_info("ssl_object") is None
            tls = trace.of("connection.start_tls.complete")["return_value"]
            assert tls.get_extra_info("ssl_object").version() == "TLSv1.3"
            await read(response)
    assert trace.of("connection.connect_tcp.started") == {
        "host": "127.0.0.1",
        "port": upstream.port,
        "local_address": None,
        "timeout": 5.0,
        "socket_options": (),
    }


async def test_a6_unix_socket(tmp_path: Path) -> None:
    """Connecting to a Unix domain socket has a name of its own."""
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    ours, theirs = Recorder(), Recorder()
    with scripted(answering(ok()), listener=listener):
        async with running(options=ConnectOptions(uds=path)) as engine, httpcore.AsyncConnectionPool(uds=path) as pool:
            await by_engine(engine, ours, "http://127.0.0.1:80", b"GET", None, unread=False)
            await by_httpcore(pool, theirs, "http://127.0.0.1:80", b"GET", None, unread=False)
    assert ours.names[0] == "connection.connect_unix_socket.started"
    assert ours.shape == theirs.shape


async def test_a6_repeated_request() -> None:
    """A repetition on a new connection is seen: the first attempt fails, and another connection is made."""

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok(b"again"))(connection)
            return
        answering(ok(), times=1)(connection)
        connection.read_head()

    trace = Recorder()
    with scripted(script) as upstream:
        async with running() as engine:
            assert await fetch(engine, upstream.url) == b"ok"
            assert await fetch(engine, upstream.url, extensions={"trace": trace}) == b"again"
            assert_quiet(engine)
    assert [name for name in trace.names if name.endswith(("failed", "connect_tcp.started"))] == [
        "http11.receive_response_headers.failed",
        "connection.connect_tcp.started",
    ]


async def test_costs_nothing_without() -> None:
    """A request without the extension has the plain body."""
    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url))
            assert type(response.body) is Body
            assert await read(response) == b"ok"


# What a tracing function may do.


@pytest.mark.parametrize("reused", [False, True])
async def test_a5_must_be_asynchronous(*, reused: bool) -> None:
    """A plain function is a TypeError, whichever event is the first; nothing is left behind."""

    def trace(name: str, info: object) -> None:
        pass

    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            if reused:
                await fetch(engine, upstream.url)
            with pytest.raises(TypeError, match=r"must be an async function, and .* is none"):
                await fetch(engine, upstream.url, extensions={"trace": trace})
            assert_quiet(engine)
            assert engine.statistics().idle == 0
            assert await fetch(engine, upstream.url) == b"ok"


EVENTS = [
    "connection.connect_tcp.started",
    "connection.connect_tcp.complete",
    "http11.send_request_headers.started",
    "http11.send_request_headers.complete",
    "http11.send_request_body.started",
    "http11.send_request_body.complete",
    "http11.receive_response_headers.started",
    "http11.receive_response_headers.complete",
    "http11.receive_response_body.started",
    "http11.receive_response_body.complete",
    "http11.response_closed.started",
    "http11.response_closed.complete",
]


@pytest.mark.parametrize("event", EVENTS)
async def test_it_fails(event: str) -> None:
    """An exception of the function's own, at any event, comes out, and nothing is left behind."""

    async def act(name: str) -> None:
        if name == event:
            raise ZeroDivisionError

    with scripted(answering(ok())) as upstream:
        async with running() as engine:
            with pytest.raises(ZeroDivisionError):
                await fetch(engine, upstream.url, extensions={"trace": Recorder(act)})
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"


@pytest.mark.parametrize("event", EVENTS)
async def test_it_is_cancelled(event: str) -> None:
    """Cancelling a request whose tracing function takes its time leaves nothing behind, either."""
    arrived = asyncio.Event()

    async def act(name: str) -> None:
        if name == event:
            arrived.set()
            await for_ever()

    with scripted(answering(ok())) as upstream:
        async with running(Limits(max_connections=1)) as engine:
            task = asyncio.create_task(fetch(engine, upstream.url, extensions={"trace": Recorder(act)}))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"


async def test_it_is_cancelled_before_closing_an_unread_body() -> None:
    """Whoever is cancelled while it is told that a response is about to be closed has it closed all the same."""
    arrived = asyncio.Event()

    async def act(name: str) -> None:
        if name == "http11.response_closed.started":
            arrived.set()
            await for_ever()

    with scripted(saying(CHUNKED, then_close=False)) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url, extensions={"trace": Recorder(act)}))
            task = asyncio.create_task(response.aclose())
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_quiet(engine)
            assert engine.statistics().origins[upstream.url].closed == {"abandoned": 1}


class TestSlowFunction:
    """While a function takes its time before a request is sent, its connection is nobody's to talk on."""

    EVENT = "http11.send_request_headers.started"

    async def meet(self, engine: Engine, url: str, happen: Callable[[], Awaitable[object]], **request: Any) -> bytes:
        """Send a request, and let something happen while it is told that it is about to be sent."""
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def act(name: str) -> None:
            if name == self.EVENT and not arrived.is_set():
                arrived.set()
                await go_on.wait()

        task = asyncio.create_task(fetch(engine, url, extensions={"trace": Recorder(act)}, **request))
        await arrived.wait()
        await happen()
        go_on.set()
        return await task

    @pytest.mark.parametrize("said", [b"", ok(b"POISON")], ids=["closes", "speaks"])
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    async def test_f2_upstream(self, said: bytes, method: bytes) -> None:
        """If the upstream closes it or speaks first, that is no answer: the request is repeated, or fails."""
        go_on = threading.Event()

        def script(connection: Connection) -> None:
            answering(ok(), times=1)(connection)
            if not connection.number:
                go_on.wait(LIMIT)
                connection.send(said)
                return
            answering(ok())(connection)

        async def happen() -> None:
            go_on.set()
            await until(lambda: not pool_of(engine)._connections)

        with scripted(script) as upstream:
            async with running() as engine:
                await fetch(engine, upstream.url)
                meeting = self.meet(engine, upstream.url, happen, method=method)
                if method == b"GET":
                    assert await meeting == b"ok"
                else:
                    with pytest.raises(ReadError, match="the connection was lost before the request was sent"):
                        await meeting
                assert_quiet(engine)

    async def test_engine_closes(self) -> None:
        """Nothing is sent on a connection that the engine has closed."""
        with scripted(answering(ok())) as upstream:
            async with running() as engine:
                with pytest.raises(ReadError):
                    await self.meet(engine, upstream.url, engine.aclose)

    @with_patience(0.1)
    async def test_idle_expiry(self, limit: float) -> None:
        """A connection that is about to be used does not expire."""
        with scripted(answering(ok())) as upstream:
            async with running(Limits(idle_expiry=limit)) as engine:
                await fetch(engine, upstream.url)
                assert await self.meet(engine, upstream.url, lambda: asyncio.sleep(2 * limit)) == b"ok"
                assert engine.statistics().origins[upstream.url].opened == 1


async def test_uploads_under_trace() -> None:
    """A body that waits for "100 Continue" does not mind that it came while something was told."""
    welcomed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        welcomed.set()
        connection.read_exactly(5)
        connection.send(ok())
        connection.wait_until_closed()

    async def act(name: str) -> None:
        if name == "http11.send_request_body.started":
            await reached(welcomed)
            await turn(5)

    with scripted(script) as upstream:
        async with running() as engine:
            headers = [(b"Expect", b"100-continue")]
            request = request_to(
                upstream.url, method=b"POST", headers=headers, body=b"hello", extensions={"trace": Recorder(act)}
            )
            assert await read(await engine(request)) == b"ok"
            assert_quiet(engine)


async def test_time_limit_in_a_traced_body() -> None:
    """A body that stays silent is told of as having failed."""
    trace = Recorder()
    with scripted(saying(CHUNKED, then_close=False)) as upstream:
        async with running() as engine:
            with pytest.raises(ReadTimeout) as raised:
                await fetch(engine, upstream.url, timeouts=Timeouts(read=0.1), extensions={"trace": trace})
    assert trace.of("http11.receive_response_body.failed") == {"exception": raised.value}
    assert trace.names[-1] == "http11.response_closed.complete"
