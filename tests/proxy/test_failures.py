"""Upstreams that fail before the answer has begun: 502, 503 or 504, and nothing that tells of the inside."""

import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest
from fastapi import Request

from fastapi_httpx_pool import ClientNotStarted, StreamingProxyResponse, TimeoutSettings, get_client, named_client
from tests.support.answers import Answer, ask, begun_in_time, get, post, read_answer
from tests.support.ports import deaf_port, refusing_port
from tests.support.raw_client import raw_client
from tests.support.recording import AppProbe, RecordingUpstream
from tests.support.stack import POOL_OF_ONE, SECOND_FAMILY, Stack, app_of
from tests.support.stages import AT_ONCE, one_slot
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted, silent

SHORT = 0.3
"""Seconds; the time limit of what is meant to run into one."""


def assert_generic(answer: Answer, *secrets: str) -> None:
    """Assert that an error's answer tells nothing of the inside."""
    text = (answer.head + answer.body).lower()
    for secret in ("httpx", "httpcore", "traceback", "errno", "exception", "connection refused", "127.0.0.1", *secrets):
        assert secret.encode() not in text, secret


def test_f1_a_refused_connection_is_a_502(every_stack: Stack) -> None:
    """An upstream that refuses the connection is a 502; its body is generic (F8)."""
    port_of_nobody = refusing_port()
    with every_stack.proxying(f"http://127.0.0.1:{port_of_nobody}") as port:
        answer = ask(port, get(b"/path"))

    assert (answer.status, answer.complete) == (502, True)
    assert_generic(answer, str(port_of_nobody))


def test_f1_a_refused_connection_with_a_body(every_stack: Stack) -> None:
    """A large upload that nobody takes is answered all the same."""
    # From Python 3.12 on, hypercorn does not stop while more than its queue holds was left unread.
    size = 50_000 if every_stack.server == "hypercorn" else 5_000_000
    with every_stack.proxying(f"http://127.0.0.1:{refusing_port()}") as port, raw_client(port) as client:
        with suppress(ConnectionError):  # the server does not wait for the rest
            client.send(post(b"x" * size))
        assert read_answer(client).status == 502


def test_f1_an_unknown_host_is_a_502(stack: Stack) -> None:
    """An upstream whose name does not resolve is a 502, which does not tell the name."""
    with stack.proxying("http://no-such-host.invalid") as port:
        answer = ask(port, get(b"/path"))

    assert (answer.status, answer.complete) == (502, True)
    assert_generic(answer, "no-such-host")


def test_f1_a_failed_handshake_is_a_502(stack: Stack) -> None:
    """An upstream that does not speak TLS where it should is a 502."""

    def script(connection: Connection) -> None:
        connection.sock.recv(1)
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with scripted(script) as upstream, stack.proxying(f"https://127.0.0.1:{upstream.port}") as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (502, True)
    assert_generic(answer, "ssl", str(upstream.port))


def test_f2_a_connect_timeout_is_a_504(stack: Stack) -> None:
    """An upstream that does not take the connection in time is a 504."""
    settings = stack.settings(timeout=TimeoutSettings(connect=SHORT))
    with deaf_port() as deaf, stack.proxying(f"http://127.0.0.1:{deaf}", settings) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (504, True)
    assert_generic(answer, str(deaf))


def test_f3_a_read_timeout_is_a_504(every_stack: Stack) -> None:
    """An upstream that does not answer in time is a 504."""
    settings = every_stack.settings(timeout=TimeoutSettings(read=SHORT))
    with scripted(silent) as upstream, every_stack.proxying(upstream.url, settings) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (504, True)
    assert_generic(answer, str(upstream.port))


def test_f3_with_a_body(stack: Stack) -> None:
    """A request with a body whose answer does not come in time is a 504."""
    settings = stack.settings(timeout=TimeoutSettings(read=SHORT))
    with scripted(silent) as upstream, stack.proxying(upstream.url, settings) as port:
        assert ask(port, post(b"hello")).status == 504


def test_f3_frees_the_slot(stack: Stack) -> None:
    """After a timeout the upstream connection is closed and the only slot of the pool serves the next request."""
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number:
            connection.send(ok(b"second"))
        elif connection.wait_until_closed():
            closed.set()

    async def respond(request: Request) -> StreamingProxyResponse:
        timeout = TimeoutSettings(default=None, read=SHORT if request.url.path == "/hangs" else None)
        return StreamingProxyResponse(request, upstream.url, timeout=timeout)

    with scripted(script) as upstream, stack.routing(respond, one_slot(stack)) as port:
        assert ask(port, get(b"/hangs")).status == 504
        assert closed.wait(AT_ONCE)
        assert ask(port, get(b"/answers")).body == b"second"


def test_f5_a_full_pool_is_a_503(every_stack: Stack) -> None:
    """A request that finds no free connection in time is a 503 with Retry-After, and is not sent."""
    held, release = threading.Event(), threading.Event()
    seen = []

    def script(connection: Connection) -> None:
        seen.append(connection.read_request())
        held.set()
        release.wait(LIMIT)
        connection.send(ok(b"held"))

    settings = every_stack.settings(timeout=TimeoutSettings(pool=SHORT), limits=POOL_OF_ONE)
    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, settings) as port,
        raw_client(port) as holder,
    ):
        holder.send(get())
        assert held.wait(LIMIT)
        answer = ask(port, get())
        release.set()
        assert read_answer(holder).body == b"held"

    assert (answer.status, answer.complete) == (503, True)
    assert [value.isdigit() for value in answer.values(b"retry-after")] == [True]
    assert len(seen) == 1
    assert_generic(answer, str(upstream.port))


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    ],
    ids=["nothing", "half-a-head", "garbage", "two-lengths", "signed-length"],
)
def test_an_upstream_that_does_not_speak_http_is_a_502(stack: Stack, response: bytes) -> None:
    """An answer that is none is a 502."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(response)

    with scripted(script) as upstream, stack.proxying(upstream.url) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (502, True)
    assert_generic(answer, str(upstream.port))


def test_a_failed_request_is_not_sent_twice(stack: Stack) -> None:
    """A POST on a fresh connection that dies is not repeated."""
    seen = []

    def script(connection: Connection) -> None:
        seen.append(connection.read_request())

    with scripted(script) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, post(b"hello")).status == 502

    assert len(seen) == 1


def test_f8_an_error_to_head_has_no_body(stack: Stack) -> None:
    """A 502 to HEAD is one without a body, and the connection stays usable."""
    with stack.proxying(f"http://127.0.0.1:{refusing_port()}") as port, raw_client(port) as client:
        client.send(get(method=b"HEAD"))
        assert read_answer(client, to_head_request=True).status == 502
        client.send(get())
        assert read_answer(client).status == 502


def test_f8_errors_do_not_escape_the_response(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """A failed upstream is an answer, not an exception in the app; no log line has the request's credentials."""
    caplog.set_level("DEBUG")

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, f"http://127.0.0.1:{refusing_port()}")

    probe = AppProbe(app_of(respond, stack.settings()))
    with stack.serve(probe) as port:
        assert ask(port, get(b"/?key=secret", b"Authorization: Bearer secret", b"Cookie: a=secret")).status == 502

    assert probe.failures == []
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("fastapi_httpx_pool")]
    assert not any("secret" in line for line in ours)


def _timeouts() -> list[Any]:
    httpx2 = pytest.importorskip("httpx2") if SECOND_FAMILY == "httpx2" else httpx
    return [TimeoutSettings(read=SHORT), httpx.Timeout(5, read=SHORT), httpx2.Timeout(5, read=SHORT), SHORT]


@pytest.mark.parametrize("timeout", _timeouts(), ids=["settings", "httpx", "httpx2", "seconds"])
def test_timeout_of_the_route(stack: Stack, timeout: Any) -> None:
    """``timeout=`` is taken in every spelling, and wins over the client's."""
    settings = stack.settings(timeout=TimeoutSettings(default=None))
    with scripted(silent) as upstream, stack.proxying(upstream.url, settings, timeout=timeout) as port:
        assert ask(port, get()).status == 504


def test_no_timeout(stack: Stack) -> None:
    """``timeout=None`` is no limit, whatever the client's is."""
    asked, go_on = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        asked.set()
        go_on.wait(LIMIT)
        connection.send(ok(b"late"))

    settings = stack.settings(timeout=TimeoutSettings(read=0.05))
    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, settings, timeout=None) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        assert asked.wait(LIMIT)
        # Nothing comes for ten times as long as the client's own limit.
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(LIMIT)
        go_on.set()
        assert read_answer(client).body == b"late"


def test_total_timeout_before_the_answer(stack: Stack) -> None:
    """``TimeoutSettings(total=...)`` limits the whole exchange: before the answer it is a 504."""
    timeout = TimeoutSettings(default=None, total=SHORT)
    with scripted(silent) as upstream, stack.proxying(upstream.url, timeout=timeout) as port:
        assert ask(port, get()).status == 504


def test_total_timeout_in_the_body(stack: Stack) -> None:
    """``TimeoutSettings(total=...)`` limits the whole exchange: in the body it breaks the connection off."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert connection.wait_until_closed()

    def asking(limit: float) -> Answer:
        with stack.proxying(upstream.url, timeout=TimeoutSettings(default=None, total=limit)) as port:
            return ask(port, get())

    with scripted(script) as upstream:
        answer = begun_in_time(asking, SHORT)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


def test_a_read_timeout_in_the_body(every_stack: Stack) -> None:
    """A body that stalls beyond the read timeout breaks the connection off and closes the upstream's."""
    closed = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        if connection.wait_until_closed():
            closed.release()

    def asking(limit: float) -> Answer:
        settings = every_stack.settings(timeout=TimeoutSettings(default=None, read=limit))
        with every_stack.proxying(upstream.url, settings) as port:
            answer = ask(port, get())
            assert closed.acquire(timeout=AT_ONCE)
        return answer

    with scripted(script) as upstream:
        answer = begun_in_time(asking, SHORT)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_client_of_the_route(stack: Stack, family: str) -> None:
    """``client=`` is whose pool is used, of either family, made by this package or not; it is not closed."""
    module = pytest.importorskip(family)
    # Keeping no connection, it needs no closing in the server's loop.
    own = module.AsyncClient(trust_env=False, limits=module.Limits(max_keepalive_connections=0))
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, client=own) as port:
        assert ask(port, get()).status == 200
        assert ask(port, get()).status == 200
        assert not own.is_closed

    assert len(seen.heads) == 2


def test_named_client_of_the_route(stack: Stack) -> None:
    """A named client's timeout, pool and family are those of the request."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url, client=await named_client("other")(request))

    clients = {"other": stack.settings(timeout=TimeoutSettings(read=SHORT))}
    app = app_of(respond, stack.settings(), clients=clients)
    with scripted(silent) as upstream, stack.serve(app) as port:
        assert ask(port, get()).status == 504


def test_a_mock_transport_is_asked(stack: Stack) -> None:
    """A client over httpx's MockTransport, as users test with, answers; it sees the inbound request."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, headers=[("x-a", "1"), ("x-a", "2")], content=b"mocked")

    own = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    with stack.proxying("http://upstream.example", client=own) as port:
        answer = ask(port, get(b"/path?q=1", b"X-Sent: 1"))

    assert (answer.status, answer.body, answer.values(b"x-a")) == (201, b"mocked", [b"1", b"2"])
    assert str(seen[0].url) == "http://upstream.example/path?q=1"
    assert seen[0].headers["x-sent"] == "1"


def test_a_mock_transport_may_fail(stack: Stack) -> None:
    """What a user's transport raises of httpx's errors is mapped like the network's own."""
    failures = {
        "/connect": (httpx.ConnectError("secret"), 502),
        "/read": (httpx.ReadTimeout("secret"), 504),
        "/pool": (httpx.PoolTimeout("secret"), 503),
        "/protocol": (httpx.RemoteProtocolError("secret"), 502),
        "/write": (httpx.WriteTimeout("secret"), 504),
    }

    def handler(request: httpx.Request) -> httpx.Response:
        raise failures[request.url.path][0]

    own = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    with stack.proxying("http://upstream.example", client=own) as port:
        answers = {path: ask(port, get(path.encode())) for path in failures}

    assert {path: answer.status for path, answer in answers.items()} == {
        path: code for path, (_, code) in failures.items()
    }
    for answer in answers.values():
        assert_generic(answer, "secret")


def test_without_a_lifespan() -> None:
    """Without a client and without our lifespan it is ClientNotStarted, in the route."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "state": {},
    }
    with pytest.raises(ClientNotStarted):
        StreamingProxyResponse(Request(scope), "http://upstream.example/")


def test_the_clients_event_hooks_play_no_part(stack: Stack) -> None:
    """The client's event hooks are not run for what passes through."""
    calls = []

    async def hook(message: Any) -> None:
        calls.append(message)

    async def respond(request: Request) -> StreamingProxyResponse:
        client = await get_client(request)
        client.event_hooks = {"request": [hook], "response": [hook]}
        return StreamingProxyResponse(request, upstream.url)

    with scripted(answering(ok())) as upstream, stack.routing(respond) as port:
        assert ask(port, get()).status == 200

    assert calls == []
