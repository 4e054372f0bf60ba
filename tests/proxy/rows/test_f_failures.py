"""Table 1F: what fails is answered in the right words or broken off, and whoever leaves lets everybody else go on."""

import gzip
import itertools
import json
import logging
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse

from fastapi_httpx_pool import (
    ClientFactory,
    ClientSettings,
    ProxyFailure,
    ProxyRequest,
    ReverseProxy,
    StreamingProxyResponse,
    TimeoutSettings,
    UpstreamAborted,
    create_lifespan,
)
from fastapi_httpx_pool.exceptions import ConnectError
from fastapi_httpx_pool.proxy._watch import PATIENCE
from tests.support.answers import Answer, ask, begun_in_time, get, post, read_answer, read_chunk
from tests.support.back_pressure import MEGABYTE, Firehose, kernel_holds, stingy_client
from tests.support.bodies import tighten
from tests.support.connecting import Names
from tests.support.families import FAMILIES, module_of
from tests.support.patience import with_patience
from tests.support.ports import deaf_port, refusing_port
from tests.support.proxies import DOORS, EVERY_SERVER, POOL_OF_ONE, UVICORN, hasty, proxied, serving_by, settings_of
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.raw_client import RawClient, raw_client
from tests.support.recording import RecordingUpstream
from tests.support.stages import AT_ONCE, BEGUN, STAGES, HangingUpstream
from tests.support.tls import Authority
from tests.support.uploads import LAST_CHUNK, AbortedUpstream, announcing, chunk, piece
from tests.support.upstream import LIMIT, Connection, Script, answering, ok, saying, scripted, silent

uvicorns = pytest.mark.parametrize("server", UVICORN)
every_server = pytest.mark.parametrize("server", EVERY_SERVER)
every_door = pytest.mark.parametrize("door", DOORS)
everywhere = pytest.mark.parametrize(
    ("server", "door"), [*((server, "alone") for server in EVERY_SERVER), ("httptools", "mounted"), ("h11", "route")]
)

SHORT = 0.2
"""Seconds; the time limit of what is meant to run into one."""

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def at(door: str) -> bytes:
    """Return the target that reaches the upstream's root."""
    return b"/" if door == "alone" else b"/p/"


def patient(**seconds: float) -> ClientSettings:
    """Return settings of one slot and no time limits but these, so that only what is tested can end the waiting."""
    return settings_of(limits=POOL_OF_ONE, timeout=TimeoutSettings(default=None, **seconds))


def assert_failed(answer: Answer, status: int, error: bytes, *secrets: str) -> None:
    """Check one of the proxy's own answers: its status, its one word for the cause, and that it says no more (F8)."""
    assert (answer.status, answer.complete) == (status, True)
    assert json.loads(answer.body) == {"detail": HTTPStatus(status).phrase}
    assert answer.values(b"content-type") == [b"application/json"]
    assert [value.partition(b"; ")[2] for value in answer.values(b"proxy-status")] == [b"error=" + error]
    text = (answer.head + answer.body).lower()
    for secret in ("127.0.0.1", "errno", "exception", "traceback", "httpcore", *secrets):
        assert secret.encode() not in text, secret


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what this package has logged."""
    return [record for record in caplog.records if record.name.startswith("fastapi_httpx_pool")]


def refused() -> str:
    """Return the URL of a port at which nobody listens."""
    return f"http://127.0.0.1:{refusing_port()}"


# F1: no connection.


@every_server
def test_f1_a_refused_connection_is_a_502(server: str) -> None:
    """An upstream that refuses the connection is a 502."""
    with proxied(refused(), server) as port:
        assert_failed(ask(port, get()), 502, b"connection_refused")


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_f1_behind_the_other_doors(door: str) -> None:
    """Behind each door it is the same answer."""
    with proxied(refused(), door=door) as port:
        assert_failed(ask(port, get(b"/p/x")), 502, b"connection_refused")


@every_server
@pytest.mark.parametrize("length", [50_000, None], ids=["known-length", "chunked"])
def test_f1_with_a_body(server: str, length: int | None) -> None:
    """A body that nobody takes does not change the answer."""
    body = piece(b"x" * 50_000, length) + (LAST_CHUNK if length is None else b"")
    with proxied(refused(), server) as port:
        assert_failed(ask(port, announcing(length) + body), 502, b"connection_refused")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Return names that a test makes up."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.release()


@uvicorns
def test_f1_an_unknown_name_is_a_502(server: str, names: Names) -> None:
    """An upstream whose name has no address is a 502."""
    names.fail("unknown.example", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with proxied("http://unknown.example", server) as port:
        assert_failed(ask(port, get()), 502, b"dns_error", "unknown", "name or service")


@uvicorns
def test_f1_a_distrusted_certificate_is_a_502(server: str) -> None:
    """An upstream whose certificate nobody vouches for is a 502, and is not sent the request."""
    seen = RecordingUpstream()
    with scripted(seen, Authority().server()) as upstream, proxied(upstream.url, server) as port:
        assert_failed(ask(port, get()), 502, b"tls_certificate_error", "self")

    assert seen.heads == []


@uvicorns
def test_f1_an_upstream_without_tls_is_a_502(server: str) -> None:
    """An upstream that does not speak TLS where it should is a 502."""

    def script(connection: Connection) -> None:
        connection.sock.recv(1)
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.wait_until_closed()

    with scripted(script) as upstream, proxied(f"https://127.0.0.1:{upstream.port}", server) as port:
        assert_failed(ask(port, get()), 502, b"tls_protocol_error", "ssl", "wrong")


# F2, F3, F4: too late.


@every_server
def test_f2_a_connect_timeout_is_a_504(server: str) -> None:
    """An upstream that does not take the connection in time is a 504."""
    with deaf_port() as deaf, proxied(f"http://127.0.0.1:{deaf}", server, settings=patient(connect=SHORT)) as port:
        assert_failed(ask(port, get()), 504, b"connection_timeout", str(deaf))


@every_server
@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["bodiless", "with-a-body"])
def test_f3_a_head_that_does_not_come_is_a_504(server: str, request_of: Callable[[], bytes]) -> None:
    """An upstream that does not answer in time is a 504; its connection is closed, and the only slot free."""
    script, watch = HangingUpstream(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=hasty(read=SHORT), around=watch.around) as port,
    ):
        assert_failed(ask(port, request_of()), 504, b"connection_read_timeout")
        assert script.closed.wait(AT_ONCE)
        watch.wait_for_end()
        assert held_at(port).active == 0


@uvicorns
def test_f3_half_a_head_is_a_504(server: str) -> None:
    """An upstream that stops in the middle of its head is a 504."""
    with (
        scripted(saying(STAGES["half-a-head"], "wait_until_closed")) as upstream,
        proxied(upstream.url, server, settings=patient(read=SHORT)) as port,
    ):
        assert_failed(ask(port, get()), 504, b"connection_read_timeout")


@uvicorns
def test_f3_first_byte_limits_the_wait_for_the_head(server: str) -> None:
    """``first_byte`` is a limit where the client's timeouts are none."""
    with scripted(silent) as upstream, proxied(upstream.url, server, settings=patient(), first_byte=SHORT) as port:
        assert_failed(ask(port, get()), 504, b"connection_read_timeout")


@uvicorns
def test_f3_first_byte_may_be_longer_than_the_read_timeout(server: str) -> None:
    """``first_byte`` counts in the place of the read timeout, which is for the body's pieces again."""

    def script(connection: Connection) -> None:
        connection.read_request()
        time.sleep(1.5 * SHORT)
        connection.send(STAGES["between-chunks"])
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(read=SHORT), first_byte=30) as port,
    ):
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


@uvicorns
def test_f3_a_hook_may_give_one_request_another_limit(server: str) -> None:
    """The limit of one request is a hook's to say."""

    def on_request(request: ProxyRequest) -> None:
        request.timeouts = request.timeouts._replace(read=SHORT)

    with (
        scripted(silent) as upstream,
        proxied(upstream.url, server, settings=patient(), on_request=on_request) as port,
    ):
        assert_failed(ask(port, get()), 504, b"connection_read_timeout")


@every_server
@pytest.mark.parametrize("stage", ["in-a-known-length", "between-chunks"])
def test_f4_a_body_that_stalls_is_broken_off(server: str, stage: str) -> None:
    """A body that stalls for longer than the read timeout breaks the client off, and the upstream."""
    closed = threading.Semaphore(0)

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(STAGES[stage])
        if connection.wait_until_closed():
            closed.release()

    def asking(limit: float) -> Answer:
        with proxied(upstream.url, server, settings=patient(read=limit)) as port:
            answer = ask(port, get())
            assert closed.acquire(timeout=AT_ONCE)
        return answer

    with scripted(script) as upstream:
        answer = begun_in_time(asking, SHORT)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


@uvicorns
def test_f4_a_body_that_never_begins_is_a_504(server: str) -> None:
    """If nothing has been sent yet, a body that stalls is a 504."""
    with (
        scripted(saying(STAGES["waiting-for-a-known-length"], "wait_until_closed")) as upstream,
        proxied(upstream.url, server, settings=patient(read=SHORT)) as port,
    ):
        assert_failed(ask(port, get()), 504, b"connection_read_timeout")


@uvicorns
def test_f4_the_total_timeout_before_the_answer(server: str) -> None:
    """The limit of the whole exchange is a 504 of its own before the answer."""
    with scripted(silent) as upstream, proxied(upstream.url, server, settings=patient(total=SHORT)) as port:
        assert_failed(ask(port, get()), 504, b"http_response_timeout")


@uvicorns
@pytest.mark.parametrize("stage", ["between-chunks", "events"])
def test_f4_the_total_timeout_in_the_answer(server: str, stage: str) -> None:
    """The limit of the whole exchange breaks an answer off, be it server-sent events."""
    sent = STAGES["between-chunks"] if stage != "events" else EVENTS + chunk(b"hello")

    def asking(limit: float) -> Answer:
        with proxied(upstream.url, server, settings=patient(total=limit)) as port:
            return ask(port, get())

    with scripted(saying(sent, "wait_until_closed")) as upstream:
        answer = begun_in_time(asking, SHORT)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


# F5: no room.


class Occupied:
    """A script that takes a request and answers it when the test lets it."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.go_on = threading.Event()
        self.targets: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while (head := connection.read_request()[0]).endswith(b"\r\n\r\n"):
            self.targets.append(head.split(b" ")[1])
            self.taken.set()
            assert self.go_on.wait(LIMIT)
            connection.send(ok(b"held"))


@everywhere
def test_f5_a_full_pool_is_a_503(server: str, door: str) -> None:
    """A request that finds no free connection in time is a 503 that says when to come again, and is not sent."""
    script = Occupied()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, door=door, settings=patient(pool=SHORT)) as port,
        raw_client(port) as holder,
    ):
        holder.send(get(at(door) + b"held"))
        assert script.taken.wait(LIMIT)
        answer = ask(port, get(at(door) + b"queued"))
        script.go_on.set()
        assert read_answer(holder).body == b"held"

    assert_failed(answer, 503, b"connection_limit_reached")
    assert answer.values(b"retry-after") == [b"1"]
    assert script.targets == [b"/held"]


@uvicorns
def test_f5_nothing_else_asks_to_come_again(server: str) -> None:
    """Who comes again to an upstream that is not there is not helped."""
    with proxied(refused(), server) as port:
        assert ask(port, get()).values(b"retry-after") == []


def test_f5_a_closed_client_is_a_503() -> None:
    """A client that takes no new requests is a 503 that says when to come again."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await ReverseProxy("http://127.0.0.1", client=httpx.AsyncClient(verify=False))(scope, receive, send)
            return
        async with ClientFactory(settings_of()) as factory:
            client = factory.get()
        await ReverseProxy("http://127.0.0.1", client=client)(scope, receive, send)

    with serving_by("httptools", app) as port:
        answer = ask(port, get())

    assert_failed(answer, 503, b"destination_unavailable")
    assert answer.values(b"retry-after") == [b"1"]


# F6: no HTTP.


@every_server
@pytest.mark.parametrize(
    ("sent", "ending", "error"),
    [
        (b"", "close", b"http_response_incomplete"),
        (b"", "reset", b"http_response_incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", b"http_response_incomplete"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "wait_until_closed", b"http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX:\0\r\n\r\n", "wait_until_closed", b"http_protocol_error"),
    ],
    ids=["nothing", "a-reset", "half-a-head", "another-protocol", "a-nul"],
)
def test_f6_an_answer_that_is_none_is_a_502(server: str, sent: bytes, ending: str, error: bytes) -> None:
    """An upstream that hangs up, or answers what is not HTTP, is a 502."""
    with scripted(saying(sent, ending)) as upstream, proxied(upstream.url, server) as port:
        assert_failed(ask(port, get()), 502, error, "openssh")


@uvicorns
def test_f6_the_client_goes_on(server: str) -> None:
    """The client's connection is good for another request."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"fine") if connection.number else b"garbage\r\n\r\n")

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(get())
        assert_failed(read_answer(client), 502, b"http_protocol_error")
        client.send(get())
        assert read_answer(client).body == b"fine"


# F7: whose fault it is.


@every_server
def test_f7_a_body_too_large_is_the_clients_fault(server: str) -> None:
    """A body beyond the limit is a 413."""
    with scripted(RecordingUpstream()) as upstream, proxied(upstream.url, server, max_request_body=4) as port:
        assert_failed(ask(port, post(b"hello")), 413, b"http_request_error")


@every_server
def test_f7_a_stalled_body_is_the_clients_fault(server: str) -> None:
    """A body that does not come is a 408."""
    with (
        scripted(silent) as upstream,
        proxied(upstream.url, server, settings=patient(), client_idle=SHORT) as port,
    ):
        assert_failed(ask(port, announcing(10) + b"hello"), 408, b"http_request_error")


@uvicorns
def test_f7_a_bad_target_is_the_clients_fault(server: str) -> None:
    """A target that leads out of the base is a 400."""
    with scripted(silent) as upstream, proxied(upstream.url + "/base", server) as port:
        assert_failed(ask(port, get(b"/%2e%2e/secret")), 400, b"http_request_error", "secret")


@every_server
def test_f7_a_body_that_is_no_http_is_the_clients_fault(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A body whose chunks are none is not whole: the upstream sees no end of it, and is not to blame."""
    caplog.set_level("DEBUG")
    script, watch = AbortedUpstream(b"hello"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(None) + chunk(b"hello"))
        assert script.begun.wait(LIMIT)
        client.send(b"no chunk\r\nGET / HTTP/1.1\r\n\r\n")
        answer = read_answer(client)
        assert script.ended.wait(AT_ONCE)
        watch.wait_for_end()

    # Servers answer it themselves. granian says that the client has left, and still sends our 499.
    assert answer.status == (499 if server == "granian" else 400)
    assert script.rest in (b"", b"\r\n")
    assert watch.failures == []
    assert [record.levelname for record in ours(caplog)] == ["DEBUG"]


@every_server
def test_f7_an_upstream_that_breaks_an_upload_off_is_not_the_clients_fault(server: str) -> None:
    """An upstream that dies in the middle of an upload is a 502."""

    def script(connection: Connection) -> None:
        connection.read_until(b"hello")
        connection.reset()

    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert_failed(ask(port, announcing(None) + chunk(b"hello")), 502, b"connection_terminated")


@uvicorns
def test_f7_an_upstream_that_takes_no_more_is_not_the_clients_fault(server: str) -> None:
    """An upstream that stops taking an upload is a 504."""

    def script(connection: Connection) -> None:
        tighten(connection)
        connection.read_head()
        done.wait(LIMIT)

    done = threading.Event()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(write=SHORT)) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(1024 * MEGABYTE))
        send_until_it_is_answered(client, 1000 * MEGABYTE)
        answer = client.read_until(b"}")
        done.set()

    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"; error=connection_write_timeout\r\n" in answer


def send_until_it_is_answered(client: RawClient, limit: int) -> None:
    """Send as fast as it is taken, up to so many bytes, until there is something to read."""
    client.sock.setblocking(False)
    sent = 0
    with suppress(ConnectionError):
        while sent < limit:
            readable, writable, _ = select.select([client.sock], [client.sock], [], LIMIT)
            if readable or not writable:
                break
            sent += client.sock.send(bytes(65536))
    client.sock.settimeout(LIMIT)


# F8: what the client is told.


@every_server
def test_f8_an_error_to_head_has_no_body(server: str) -> None:
    """A 502 to HEAD is one without a body, and the connection stays usable."""
    with proxied(refused(), server) as port, raw_client(port) as client:
        for _ in range(2):
            client.send(get(method=b"HEAD"))
            answer = read_answer(client, to_head_request=True)
            assert answer.status == 502
            assert answer.values(b"proxy-status")


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({}, rb"proxy-[0-9a-f]{8}; error=connection_refused"),
        ({"via": "edge"}, rb"edge; error=connection_refused"),
        ({"via": "10-edge"}, rb'"10-edge"; error=connection_refused'),
        ({"via": None}, rb"proxy; error=connection_refused"),
    ],
    ids=["by-default", "named", "named-like-a-number", "without-a-name"],
)
def test_f8_proxy_status_has_our_name(policy: dict[str, Any], line: bytes) -> None:
    """``Proxy-Status`` says who has failed: by the name that ``Via`` has, or the package's."""
    with proxied(refused(), **policy) as port:
        (value,) = ask(port, get()).values(b"proxy-status")

    assert re.fullmatch(line, value)


def test_f8_proxy_status_may_be_left_out() -> None:
    """``proxy_status=False`` says nothing."""
    with proxied(refused(), proxy_status=False) as port:
        answer = ask(port, get())

    assert (answer.status, answer.values(b"proxy-status")) == (502, [])


@uvicorns
def test_f8_an_upstreams_own_error_is_the_upstreams(server: str) -> None:
    """A 502 that an upstream has answered with passes as it is: ours is only what we say."""
    response = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nProxy-Status: inner; error=dns_timeout\r\n\r\noops"
    with scripted(answering(response)) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body) == (502, b"oops")
    assert answer.values(b"proxy-status") == [b"inner; error=dns_timeout"]


class FailureHook:
    """An ``on_failure`` that keeps what it is told."""

    def __init__(self, response: Response | None = None) -> None:
        self._response = response
        self.told: list[tuple[ProxyRequest, ProxyFailure, Exception]] = []

    def __call__(self, request: ProxyRequest, failure: ProxyFailure, error: Exception) -> Response | None:
        """Take note."""
        self.told.append((request, failure, error))
        return self._response

    async def wait(self, request: ProxyRequest, failure: ProxyFailure, error: Exception) -> Response | None:
        """Be an asynchronous one."""
        return self(request, failure, error)


@everywhere
def test_f8_a_hook_is_told_and_may_answer(server: str, door: str) -> None:
    """``on_failure`` is told the request, the failure and the very error, and its answer is the answer."""
    hook, url = FailureHook(PlainTextResponse("instead", 203, {"x-by": "hook"})), refused()
    with proxied(url, server, door=door, on_failure=hook) as port:
        answer = ask(port, get(at(door) + b"path?q=1", b"X-Sent: 1", method=b"DELETE"))

    assert (answer.status, answer.body, answer.values(b"x-by")) == (203, b"instead", [b"hook"])
    assert answer.values(b"proxy-status") == []
    ((request, failure, error),) = hook.told
    assert (request.method, request.url, request.headers["x-sent"]) == ("DELETE", f"{url}/path?q=1", "1")
    assert request.inbound.headers["host"] == "front.example"
    assert failure is ProxyFailure.CONNECT_REFUSED
    assert isinstance(error, ConnectError)
    assert isinstance(error.__cause__, ConnectionRefusedError)


@uvicorns
@pytest.mark.parametrize("kind", ["async", "redirect", "stream"])
def test_f8_a_hook_of_any_kind(server: str, kind: str) -> None:
    """The hook may be an async one, and its answer any of Starlette's."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"str"
        yield b"eam"

    responses = {
        "async": PlainTextResponse("async"),
        "redirect": RedirectResponse("/elsewhere"),
        "stream": StreamingResponse(stream()),
    }
    hook = FailureHook(responses[kind])
    with proxied(refused(), server, on_failure=hook.wait if kind == "async" else hook) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (307 if kind == "redirect" else 200, True)
    assert answer.body == (b"" if kind == "redirect" else kind.encode())


@uvicorns
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_f8_a_hook_that_only_looks(server: str, kind: str) -> None:
    """A hook that returns nothing leaves the answer as it is."""
    hook = FailureHook()
    with proxied(refused(), server, on_failure=hook if kind == "sync" else hook.wait) as port:
        assert_failed(ask(port, get()), 502, b"connection_refused")

    assert len(hook.told) == 1


def test_f8_a_hook_of_a_streaming_proxy_response() -> None:
    """``StreamingProxyResponse`` has the hook, too."""
    hook = FailureHook(PlainTextResponse("instead"))

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, refused(), on_failure=hook)

    app = FastAPI(lifespan=create_lifespan(settings_of()))
    app.add_api_route("/", respond, response_model=None)
    with serving_by("httptools", app) as port:
        assert ask(port, get()).body == b"instead"

    assert [failure for _, failure, _ in hook.told] == [ProxyFailure.CONNECT_REFUSED]


@uvicorns
def test_f8_a_hook_is_told_of_what_was_not_sent(server: str) -> None:
    """The hook is told of a request that is refused before it is known where it would go."""
    hook = FailureHook()
    with proxied("http://127.0.0.1:1/base", server, on_failure=hook) as port:
        assert_failed(ask(port, get(b"/../x", b"X-Sent: 1")), 400, b"http_request_error")

    ((request, failure, _),) = hook.told
    assert (request.method, request.headers["x-sent"], failure) == ("GET", "1", ProxyFailure.TARGET_REFUSED)


@uvicorns
def test_f8_a_hook_is_not_told_when_it_is_too_late(server: str) -> None:
    """Once the answer has begun nobody can answer instead."""
    hook = FailureHook(PlainTextResponse("instead"))
    with scripted(saying(STAGES["between-chunks"])) as upstream, proxied(upstream.url, server, on_failure=hook) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)
    assert hook.told == []


@uvicorns
def test_f8_a_hook_is_not_told_of_who_left(server: str) -> None:
    """A client that has left is nobody's failure, and nobody to answer to."""
    hook, watch, script = FailureHook(PlainTextResponse("instead")), ProxyWatch(), HangingUpstream()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), on_failure=hook, around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            assert script.hanging.wait(LIMIT)
        watch.wait_for_end()

    assert hook.told == []


def raising(request: ProxyRequest, failure: ProxyFailure, error: Exception) -> None:
    """Be a hook that fails."""
    raise RuntimeError("the hook itself")


def misunderstanding(request: ProxyRequest, failure: ProxyFailure, error: Exception) -> Any:
    """Be a hook that returns what it must not."""
    return {"detail": "no response"}


@pytest.mark.parametrize(("hook", "text"), [(raising, "the hook itself"), (misunderstanding, "on_failure returned {")])
@every_door
def test_f8_a_hook_that_fails(door: str, hook: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that fails does not take the answer away; what it raised is in the log, with its traceback."""
    watch = ProxyWatch()
    with proxied(refused(), door=door, on_failure=hook, around=watch.around) as port:
        assert_failed(ask(port, get(at(door))), 502, b"connection_refused", "hook")

    assert watch.failures == []
    refusal, failed = ours(caplog)
    assert "connect_refused" in refusal.getMessage()
    assert "hook_failed" in failed.getMessage()
    assert failed.exc_info is not None
    assert str(failed.exc_info[1]).startswith(text)


def test_f8_a_hook_that_fails_for_a_route() -> None:
    """What the hook of a ``StreamingProxyResponse`` raises is for the app's own handlers."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, refused(), on_failure=raising)

    async def handle(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 599)

    app = FastAPI(lifespan=create_lifespan(settings_of()), exception_handlers={RuntimeError: handle})
    app.add_api_route("/", respond, response_model=None)
    with serving_by("httptools", app) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body) == (599, b"the hook itself")


# F9: who left.


@every_server
def test_f9_a_client_that_leaves_is_no_error(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves is no exception, no 5xx and one line for those who debug, with a 499."""
    caplog.set_level("DEBUG")
    script, watch = HangingUpstream(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get(b"/path?key=secret", b"Authorization: Bearer secret"))
            assert script.hanging.wait(LIMIT)
        watch.wait_for_end()

    assert (watch.failures, watch.statuses) == ([], [499])
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud == []
    (line,) = ours(caplog)
    assert line.levelname == "DEBUG"
    assert "499" in line.getMessage()
    assert "client_left" in line.getMessage()
    assert "secret" not in line.getMessage()


@uvicorns
def test_f9_a_client_that_leaves_in_the_answer(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves in the middle of its answer is recorded in the same way."""
    caplog.set_level("DEBUG")
    script, watch = HangingUpstream(STAGES["between-chunks"]), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            client.read_until(b"hello\r\n")
        watch.wait_for_end()

    assert (watch.failures, watch.statuses) == ([], [200])
    (line,) = ours(caplog)
    assert (line.levelname, "499" in line.getMessage()) == ("DEBUG", True)


@every_server
def test_f9_a_client_that_stays_is_not_taken_for_one_that_left(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that gets its whole answer has not left, however late the end of it comes."""
    caplog.set_level("DEBUG")
    read = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        assert read.wait(LIMIT)
        connection.send(b"hello")

    watch = ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        client.read_head()
        read.set()
        assert client.read_exactly(10) == b"hellohello"
        client.close()
        watch.wait_for_end()

    assert ours(caplog) == []


# F10, F11: whoever left frees the upstream.


@every_server
@pytest.mark.parametrize("stage", STAGES)
def test_f10_f11_a_client_that_leaves_frees_the_upstream(server: str, stage: str) -> None:
    """While an upstream is silent, at any stage, a client that leaves has its connection closed and its slot freed."""
    script, watch = HangingUpstream(STAGES[stage]), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            assert script.hanging.wait(LIMIT)
            if stage in BEGUN:
                assert client.read_head().startswith(b"HTTP/1.1 200")
        assert script.closed.wait(AT_ONCE)
        watch.wait_for_end()
        held = held_at(port)
        assert (held.active, held.idle, held.queued, held.opened, held.closed) == (0, 0, 0, 1, 1)
        assert ask(port, get()).body == b"next"

    assert watch.failures == []


@every_server
@pytest.mark.parametrize("stage", ["waiting-for-the-head", "in-a-silent-stream"])
def test_f10_f11_a_client_that_leaves_with_a_reset(server: str, stage: str) -> None:
    """A closed tab, or a crash, is noticed like a goodbye."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream, proxied(upstream.url, server, settings=patient()) as port:
        client = RawClient(port)
        client.send(get())
        assert script.hanging.wait(LIMIT)
        if stage in BEGUN:
            client.read_head()
        client.reset()
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


@uvicorns
@pytest.mark.parametrize("door", ["mounted", "route"])
@pytest.mark.parametrize("stage", ["waiting-for-the-head", "in-a-silent-stream"])
def test_f10_f11_behind_the_other_doors(server: str, door: str, stage: str) -> None:
    """Behind FastAPI a client that leaves is noticed as well."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream, proxied(upstream.url, server, door=door, settings=patient()) as port:
        with raw_client(port) as client:
            client.send(get(b"/p/x"))
            assert script.hanging.wait(LIMIT)
            if stage in BEGUN:
                client.read_head()
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get(b"/p/x")).body == b"next"


@uvicorns
@pytest.mark.parametrize("stage", ["waiting-for-the-head", "in-a-silent-stream"])
def test_f10_f11_behind_a_base_http_middleware(server: str, stage: str) -> None:
    """``@app.middleware("http")`` around a mounted proxy does not hide that the client has left."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream:
        app = FastAPI(lifespan=create_lifespan(patient()))

        @app.middleware("http")
        async def middleware(request: Request, call_next: Any) -> Any:
            return await call_next(request)

        app.mount("/p", ReverseProxy(upstream.url))
        with serving_by(server, app) as port:
            with raw_client(port) as client:
                client.send(get(b"/p/x"))
                assert script.hanging.wait(LIMIT)
                if stage in BEGUN:
                    client.read_head()
            assert script.closed.wait(AT_ONCE)
            assert ask(port, get(b"/p/x")).body == b"next"


@every_server
@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["bodiless", "with-a-body"])
def test_f10_a_client_that_leaves_the_queue(server: str, request_of: Callable[..., bytes]) -> None:
    """A client that leaves while it waits for the full pool is not sent upstream, and takes nobody's slot."""
    script, watch = Occupied(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as holder,
    ):
        holder.send(get(b"/held"))
        assert script.taken.wait(LIMIT)
        assert watch.begun.acquire(timeout=LIMIT)
        with raw_client(port) as queued:
            queued.send(request_of(target=b"/queued"))
            assert watch.begun.acquire(timeout=LIMIT)
        watch.wait_for_end()
        assert held_at(port).queued == 0
        script.go_on.set()
        assert read_answer(holder).body == b"held"
        assert ask(port, get(b"/next")).body == b"held"

    assert script.targets == [b"/held", b"/next"]


@every_server
@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["bodiless", "with-a-body"])
def test_f10_a_client_that_leaves_while_connecting(server: str, request_of: Callable[..., bytes]) -> None:
    """A client that leaves while the upstream does not take the connection ends the attempt, and frees the slot."""
    watch = ProxyWatch()
    with (
        deaf_port() as deaf,
        proxied(f"http://127.0.0.1:{deaf}", server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(request_of())
            assert watch.begun.acquire(timeout=LIMIT)
        watch.wait_for_end()
        held = held_at(port)

    assert (held.active, held.queued) == (0, 0)
    assert watch.statuses == [499]


@every_server
@pytest.mark.parametrize("length", [100, None], ids=["known-length", "chunked"])
def test_f10_a_client_that_leaves_its_upload(server: str, length: int | None) -> None:
    """A client that leaves in the middle of its upload frees the upstream, which sees no end of it."""
    script, watch = AbortedUpstream(b"hello"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(announcing(length) + piece(b"hello", length))
            assert script.begun.wait(LIMIT)
        assert script.ended.wait(AT_ONCE)
        watch.wait_for_end()
        assert ask(port, get()).body == b"next"

    assert script.rest in (b"", b"\r\n")
    assert watch.failures == []


@every_server
@pytest.mark.parametrize("length", [5, None], ids=["known-length", "chunked"])
def test_f10_a_client_that_leaves_after_its_upload(server: str, length: int | None) -> None:
    """A client that has sent its body and leaves before the head frees the upstream as well."""
    script = HangingUpstream()
    with scripted(script) as upstream, proxied(upstream.url, server, settings=patient()) as port:
        with raw_client(port) as client:
            client.send(announcing(length) + piece(b"hello", length) + (LAST_CHUNK if length is None else b""))
            assert script.hanging.wait(LIMIT)
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


@uvicorns
def test_f10_a_client_that_leaves_while_a_hook_runs(server: str) -> None:
    """A client that leaves while the application's hook waits for something ends the wait."""
    running, ended = threading.Event(), threading.Event()

    async def on_request(request: ProxyRequest) -> None:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, settings=patient(), on_request=on_request) as port:
        with raw_client(port) as client:
            client.send(get())
            assert running.wait(LIMIT)
        assert ended.wait(AT_ONCE)

    assert seen.heads == []


@uvicorns
def test_f10_a_client_that_leaves_while_the_failure_is_told(server: str) -> None:
    """A client that leaves while the hook for failures waits for something ends the wait, too."""
    running, ended = threading.Event(), threading.Event()

    async def on_failure(request: ProxyRequest, failure: ProxyFailure, error: Exception) -> None:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    watch = ProxyWatch()
    with proxied(refused(), server, on_failure=on_failure, around=watch.around) as port:
        with raw_client(port) as client:
            client.send(get())
            assert running.wait(LIMIT)
        assert ended.wait(AT_ONCE)
        watch.wait_for_end()

    assert (watch.failures, watch.statuses) == ([], [499])


@every_server
@pytest.mark.parametrize("length", [5, None], ids=["known-length", "chunked"])
def test_f10_a_client_that_leaves_late(server: str, length: int | None) -> None:
    """A client that leaves the queue when its body has long been there is noticed, too."""
    script, watch = Occupied(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as holder,
    ):
        holder.send(get(b"/held"))
        assert script.taken.wait(LIMIT)
        assert watch.begun.acquire(timeout=LIMIT)
        with raw_client(port) as queued:
            last = LAST_CHUNK if length is None else b""
            queued.send(announcing(length, target=b"/queued") + piece(b"hello", length) + last)
            assert watch.begun.acquire(timeout=LIMIT)
            time.sleep(4 * PATIENCE)  # until somebody watches
        watch.wait_for_end()
        script.go_on.set()
        assert read_answer(holder).body == b"held"

    assert script.targets == [b"/held"]
    assert watch.statuses == [499, 200]


@every_server
def test_f11_a_client_that_leaves_after_a_while(server: str) -> None:
    """A client that leaves a stream which has long been running is noticed, too."""

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number:
            connection.send(ok(b"next"))
            return
        connection.send(EVENTS)
        for _ in range(10):
            time.sleep(PATIENCE / 2)
            connection.send(chunk(b"data: 1\n\n"))
        if connection.wait_until_closed():
            closed.set()

    closed = threading.Event()
    with scripted(script) as upstream, proxied(upstream.url, server, settings=patient()) as port:
        with raw_client(port) as client:
            client.send(get())
            for _ in range(10):
                client.read_until(b"data: 1\n\n")
        assert closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"


@uvicorns
def test_f11_fifty_that_leave_do_no_harm(server: str) -> None:
    """After fifty clients that left at some stage, the only slot still serves."""
    answering_now, watch = threading.Event(), ProxyWatch()

    def script(connection: Connection) -> None:
        connection.read_request()
        if answering_now.is_set():
            connection.send(ok(b"next"))
        else:
            connection.send(STAGES["between-chunks"] if connection.number % 2 else b"")
            connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        clients = [RawClient(port) for _ in range(50)]
        for client in clients:
            client.send(get())
            assert watch.begun.acquire(timeout=LIMIT)
        for number, client in enumerate(clients):
            client.reset() if number % 2 else client.close()
        watch.wait_for_end(50)
        held = held_at(port)
        answering_now.set()
        assert ask(port, get()).body == b"next"

    assert (held.active, held.queued, watch.failures) == (0, 0, [])


# F12: upstreams that die.


@every_server
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_f12_an_upstream_that_dies_frees_the_slot(server: str, ending: str) -> None:
    """An upstream that dies in the middle breaks the client off and frees the only slot."""
    go_on, watch = threading.Event(), ProxyWatch()

    def script(connection: Connection) -> None:
        connection.read_request()
        if connection.number:
            connection.send(ok(b"next"))
            return
        connection.send(STAGES["between-chunks"])
        assert go_on.wait(LIMIT)
        getattr(connection, ending)()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            client.read_until(b"hello\r\n")
            go_on.set()
            assert client.read_to_end() == b""
        watch.wait_for_end()
        held = held_at(port)
        assert (held.active, held.idle, held.closed) == (0, 0, 1)
        assert ask(port, get()).body == b"next"

    assert [type(failure) for failure in watch.failures] == [UpstreamAborted]


# F13: slow clients.


def firehose(patience: float = 0.3) -> Firehose:
    """Return an upstream that pushes more than the kernel and the proxy may hold for a client that reads nothing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"
    return Firehose(kernel_holds(2) + MEGABYTE, head, patience=patience)


@every_server
def test_f13_a_slow_client_throttles_the_upstream(server: str) -> None:
    """An upstream cannot push more at a client that reads nothing than the kernel holds, and a megabyte."""
    script, watch = firehose(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around, client_idle=None) as port,
        stingy_client(port) as client,
    ):
        client.send(get())
        assert script.stalled.wait(LIMIT), f"{script.pushed} bytes were taken"
        client.reset()
        assert script.closed.wait(AT_ONCE)
        watch.wait_for_end()
        assert ask(port, get()).body == b"next"


@every_server
def test_f13_a_client_that_reads_nothing_is_broken_off(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that takes nothing for longer than ``client_idle`` frees the upstream, and gets no whole answer."""
    script, watch = firehose(LIMIT), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around, client_idle=SHORT) as port,
        stingy_client(port) as client,
    ):
        client.send(get())
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"
        watch.wait_for_end()  # although the client still takes nothing
        client.read_to_end()

    (line,) = ours(caplog)
    assert "client_stalled" in line.getMessage()


# F14: activity.


@uvicorns
@with_patience(0.3)
def test_f14_an_answer_that_goes_on_is_not_too_slow(server: str, limit: float) -> None:
    """The read timeout is for one silence, not for the whole answer."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(7):
            time.sleep(limit / 6)
            connection.send(chunk(b"x"))
        connection.send(LAST_CHUNK)

    with scripted(script) as upstream, proxied(upstream.url, server, settings=patient(read=limit)) as port:
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (b"x" * 7, True)


@uvicorns
@with_patience(0.3)
def test_f14_an_upload_that_goes_on_is_not_too_slow(server: str, limit: float) -> None:
    """While the client still sends, the upstream is not late with its answer."""
    seen = RecordingUpstream()
    with (
        scripted(seen) as upstream,
        proxied(upstream.url, server, settings=patient(read=limit, write=limit)) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(7))
        for _ in range(7):
            time.sleep(limit / 6)
            client.send(b"x")
        assert read_answer(client).status == 200

    assert seen.bodies == [b"x" * 7]


# F14, F15: server-sent events.


@every_server
@pytest.mark.parametrize(
    "head",
    [
        EVENTS,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    ],
    ids=["events", "chunked", "until-the-end", "http-1.0"],
)
def test_f15_a_head_of_unknown_length_goes_out_at_once(server: str, head: bytes) -> None:
    """The head of a stream goes out before there is any of its body, and then each piece as it comes."""
    is_chunked = b"chunked" in head
    steps = [threading.Event(), threading.Event()]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        for step, text in zip(steps, (b"data: 1\n\n", b"data: 2\n\n"), strict=True):
            assert step.wait(LIMIT)
            connection.send(chunk(text) if is_chunked else text)
        connection.send(LAST_CHUNK if is_chunked else b"")

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(get())
        assert client.read_head().startswith(b"HTTP/1.1 200")
        steps[0].set()
        assert read_chunk(client) == b"data: 1\n\n"
        steps[1].set()
        assert read_chunk(client) == b"data: 2\n\n"
        assert read_chunk(client) == b""


@uvicorns
@pytest.mark.parametrize("door", ["mounted", "route"])
def test_f15_behind_the_other_doors(server: str, door: str) -> None:
    """Behind FastAPI the head of a stream goes out at once, too."""
    with (
        scripted(saying(EVENTS, "wait_until_closed")) as upstream,
        proxied(upstream.url, server, door=door) as port,
        raw_client(port) as client,
    ):
        client.send(get(b"/p/x"))
        assert client.read_head().startswith(b"HTTP/1.1 200")


SILENCE = 0.1
"""Seconds; a limit that a stream exceeds."""


def eventually_an_event(head: bytes, silence: float = SILENCE) -> Script:
    """Return a script that is silent for longer than that before it sends an event and ends."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)
        time.sleep(2 * silence)
        connection.send(chunk(b"data: 1\n\n") + LAST_CHUNK)

    return script


@uvicorns
@pytest.mark.parametrize("kind", [b"text/event-stream", b"Text/Event-Stream; charset=utf-8"])
def test_f14_server_sent_events_may_be_silent(server: str, kind: bytes) -> None:
    """The read timeout is not for server-sent events."""
    script = eventually_an_event(EVENTS.replace(b"text/event-stream", kind))
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(read=SILENCE), first_byte=LIMIT) as port,
    ):
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (b"data: 1\n\n", True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/plain"], ids=["events", "text"])
@with_patience(0.15)
def test_f14_server_sent_events_may_be_silent_over_any_transport(family: str, kind: bytes, limit: float) -> None:
    """Nor is the read timeout if another transport than the engine carries the events."""
    module = module_of(family)
    own = module.AsyncClient(
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        timeout=module.Timeout(None, read=limit),
        limits=module.Limits(max_keepalive_connections=0),
    )
    script = eventually_an_event(EVENTS.replace(b"text/event-stream", kind), limit)
    with scripted(script) as upstream, serving_by("httptools", ReverseProxy(upstream.url, client=own)) as port:
        answer = ask(port, get())

    assert answer.status == 200
    assert answer.complete == (kind == b"text/event-stream")


@uvicorns
def test_f14_others_may_not(server: str) -> None:
    """Anything else is broken off."""
    script = saying(EVENTS.replace(b"text/event-stream", b"text/plain"), "wait_until_closed")
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(read=SILENCE), first_byte=LIMIT) as port,
    ):
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (b"", False)


@uvicorns
def test_f14_stream_idle_limits_the_silence_of_events(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """``stream_idle`` is a limit for the silence of events, and only of theirs."""
    other = eventually_an_event(EVENTS.replace(b"text/event-stream", b"text/plain"))

    def either(connection: Connection) -> None:
        if connection.number:
            other(connection)
            return
        connection.read_request()
        connection.send(EVENTS + chunk(b"data: 0\n\n"))
        connection.wait_until_closed()

    with (
        scripted(either) as upstream,
        proxied(upstream.url, server, settings=patient(), stream_idle=SILENCE) as port,
    ):
        events, text = ask(port, get()), ask(port, get())

    assert (events.body, events.complete) == (b"data: 0\n\n", False)
    assert (text.body, text.complete) == (b"data: 1\n\n", True)
    (line,) = ours(caplog)
    assert "response_body_timeout" in line.getMessage()


HEARTBEAT = b":\n\n"


@every_server
def test_f14_heartbeats_fill_the_silence_of_events(server: str) -> None:
    """``heartbeat`` sends comments while events are silent: before the first and between any two."""
    go_on = [threading.Event(), threading.Event()]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(EVENTS)
        for step in go_on:
            assert step.wait(LIMIT)
            connection.send(chunk(b"data: 1\n\n"))
        connection.send(LAST_CHUNK)

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, heartbeat=0.02) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        client.read_head()
        events = []
        for step in go_on:
            assert [read_chunk(client) for _ in range(2)] == [HEARTBEAT] * 2
            step.set()
            events.append(next(seen for seen in iter(partial(read_chunk, client), None) if seen != HEARTBEAT))
        end = next(seen for seen in iter(partial(read_chunk, client), None) if seen != HEARTBEAT)

    assert (events, end) == ([b"data: 1\n\n"] * 2, b"")


@uvicorns
@pytest.mark.parametrize(
    "parts",
    [
        (b"data: one\n\ndata: tw", b"o\n\n"),
        (b"data: one\n", b"\n"),
        (b"id: 1\r\ndata: one\r\n", b"\r\n"),
        (b"data: one\n\nd", b"ata: two\n\n"),
    ],
    ids=["in-a-line", "between-lines", "between-lines-of-crlf", "in-a-name"],
)
def test_f14_no_heartbeat_within_an_event(server: str, parts: tuple[bytes, bytes]) -> None:
    """No comment comes between the parts of one event, however long the silence in it is."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(EVENTS + chunk(parts[0]))
        time.sleep(0.1)
        connection.send(chunk(parts[1]))
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, heartbeat=0.02) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        client.read_head()
        seen = itertools.dropwhile(lambda seen: seen == HEARTBEAT, iter(partial(read_chunk, client), None))
        chunks = [next(seen)]
        while chunks[-1] != HEARTBEAT:
            chunks.append(next(seen))

    assert chunks[:2] == list(parts)
    assert set(chunks[2:]) == {HEARTBEAT}


@uvicorns
@pytest.mark.parametrize(
    "line",
    [b"Content-Type: text/plain", b"Content-Type: text/event-stream\r\nContent-Encoding: gzip", b"X-No-Type: 1"],
    ids=["no-events", "compressed", "no-type"],
)
def test_f14_no_heartbeat_in_anything_else(server: str, line: bytes) -> None:
    """What is not server-sent events in plain text is left as it is."""
    whole = gzip.compress(b"data: 1\n\n")

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + line + b"\r\n\r\n")
        time.sleep(0.1)
        connection.send(chunk(whole) + LAST_CHUNK)

    with scripted(script) as upstream, proxied(upstream.url, server, heartbeat=0.02) as port:
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (whole, True)


@uvicorns
def test_f14_no_heartbeat_in_a_known_length(server: str) -> None:
    """Events of a known length have no room for comments."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\ndata: 1\n\n")
        time.sleep(0.1)
        connection.send(b"data: 2\n\n")

    with scripted(script) as upstream, proxied(upstream.url, server, heartbeat=0.02) as port:
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)


@every_server
def test_f11_a_client_that_leaves_between_heartbeats(server: str) -> None:
    """A client that leaves a silent stream with heartbeats frees the upstream."""
    script, watch = HangingUpstream(EVENTS), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), heartbeat=0.02, around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            client.read_head()
            for _ in range(5):
                assert read_chunk(client) == HEARTBEAT
        assert script.closed.wait(AT_ONCE)
        watch.wait_for_end()
        assert ask(port, get()).body == b"next"

    assert watch.failures == []


@uvicorns
def test_f12_an_upstream_that_dies_between_heartbeats(server: str) -> None:
    """Heartbeats do not hide that the upstream has died."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(EVENTS)
        assert go_on.wait(LIMIT)
        connection.reset()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, heartbeat=0.02) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        client.read_head()
        assert read_chunk(client) == HEARTBEAT
        go_on.set()
        rest = client.read_to_end()

    assert not rest.endswith(b"0\r\n\r\n")
    assert rest == chunk(HEARTBEAT) * (len(rest) // len(chunk(HEARTBEAT)))


# F16, F17, F18: once, and only once.


class Stale:
    """A script whose first connection answers once and hangs up on the next request, and any other answers."""

    def __init__(self, ending: str = "close") -> None:
        self._ending = ending
        self.requests: list[tuple[bytes, bytes]] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        for turn in itertools.count():
            head, body = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            self.requests.append((head.split(b" ")[0], body))
            if turn and not connection.number:
                getattr(connection, self._ending)()
                return
            connection.send(ok(b"" if head.startswith(b"HEAD") else b"%d" % connection.number))


def ask_twice(port: int, request: bytes) -> Answer:
    """Warm a connection up, then send the request over it."""
    assert ask(port, get(b"/first")).status == 200
    return ask(port, request)


@uvicorns
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
def test_f16_a_stale_connection_is_replaced_for_the_idempotent(server: str, method: bytes, ending: str) -> None:
    """A reused connection that closes without a byte of an answer is tried again, once, over a new one."""
    script = Stale(ending)
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        answer = ask_twice(port, get(method=method))

    assert answer.status == 200
    assert [seen for seen, _ in script.requests] == [b"GET", method, method]


@uvicorns
@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"LOCK"])
def test_f16_never_for_others(server: str, method: bytes) -> None:
    """What might do harm twice is not sent twice."""
    script = Stale()
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert_failed(ask_twice(port, get(method=method)), 502, b"http_response_incomplete")

    assert [seen for seen, _ in script.requests] == [b"GET", method]


@uvicorns
@pytest.mark.parametrize("length", [5, None], ids=["known-length", "chunked"])
def test_f16_never_with_a_body_that_is_gone(server: str, length: int | None) -> None:
    """A body that has been streamed is not there any more to be sent again."""
    script = Stale()
    body = piece(b"hello", length) + (LAST_CHUNK if length is None else b"")
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert ask_twice(port, announcing(length, method=b"PUT") + body).status == 502

    assert [seen for seen, _ in script.requests] == [b"GET", b"PUT"]


@uvicorns
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_f16_never_on_a_fresh_connection(server: str, ending: str) -> None:
    """A connection that was made for this request has failed for good."""
    seen = []

    def script(connection: Connection) -> None:
        seen.append(connection.read_request())
        getattr(connection, ending)()

    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert_failed(ask(port, get()), 502, b"http_response_incomplete")

    assert len(seen) == 1


@uvicorns
def test_f16_never_twice(server: str) -> None:
    """The second attempt is the last one."""
    seen = []

    def script(connection: Connection) -> None:
        seen.append(connection.read_request()[0])
        if not connection.number:
            connection.send(ok())
            seen.append(connection.read_request()[0])

    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert ask_twice(port, get()).status == 502

    assert len(seen) == 3


@uvicorns
def test_f16_never_behind_the_first_byte(server: str) -> None:
    """An answer that has begun is the answer to this request, whatever becomes of it."""

    def script(connection: Connection) -> None:
        heads.append(connection.read_request()[0])
        connection.send(ok())
        heads.append(connection.read_request()[0])
        connection.send(b"HTTP/1.1 2")

    heads: list[bytes] = []
    with scripted(script) as upstream, proxied(upstream.url, server) as port:
        assert ask_twice(port, get()).status == 502

    assert len(heads) == 2


@uvicorns
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("request_of", [get, partial(post, b"hello")], ids=["get", "post"])
def test_f17_a_connection_that_closed_while_idle_is_replaced(
    server: str, ending: str, request_of: Callable[[], bytes]
) -> None:
    """An idle connection that the upstream has closed is not used for any request."""
    watch, seen = ProxyWatch(), []

    def script(connection: Connection) -> None:
        head, body = connection.read_request()
        seen.append((head.split(b" ")[0], body))
        connection.send(ok(b"%d" % connection.number))
        if not connection.number:
            go_on.wait(LIMIT)
        getattr(connection, ending)()

    go_on = threading.Event()
    with scripted(script) as upstream, proxied(upstream.url, server, around=watch.around) as port:
        assert ask(port, get()).body == b"0"
        watch.wait_for_end()
        go_on.set()
        end = time.monotonic() + LIMIT
        while held_at(port).idle:  # nobody tells of it
            assert time.monotonic() < end
        assert ask(port, request_of()).body == b"1"

    assert len(seen) == 2


@uvicorns
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_f18_an_error_of_the_upstreams_is_an_answer(server: str, status: int) -> None:
    """Whatever an upstream answers is passed on, once; its ``Retry-After`` is for the client."""
    seen = RecordingUpstream(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\nRetry-After: 1\r\n\r\nno" % status)
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.values(b"retry-after")) == (status, b"no", [b"1"])
    assert answer.values(b"proxy-status") == []
    assert len(seen.heads) == 1


@uvicorns
def test_f18_a_refused_connection_is_tried_once(server: str) -> None:
    """By default nobody connects twice."""
    attempts: list[str] = []

    def on_failure(request: ProxyRequest, failure: ProxyFailure, error: Exception) -> None:
        attempts.append(failure.label)

    with proxied(refused(), server, on_failure=on_failure) as port:
        assert ask(port, get()).status == 502

    assert attempts == ["connect_refused"]


# F19: the log.

SECRETS = (b"Authorization: Bearer secret", b"Cookie: session=secret", b"X-Api-Key: secret")

LOGGED: dict[str, tuple[Script, dict[str, Any], str]] = {
    "broken-head": (saying(b""), {}, "response_head_broke, answered with 502"),
    "invalid": (saying(b"SSH-2.0\r\n\r\n"), {}, "response_invalid, answered with 502"),
    "timeout": (silent, {"settings": patient(read=SHORT)}, "response_head_timeout, answered with 504"),
    "too-large": (answering(ok(b"hello")), {"max_response_body": 4}, "response_too_large, answered with 502"),
    "status": (
        answering(b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n"),
        {},
        "response_invalid, answered with 502",
    ),
    "broken-body": (saying(STAGES["between-chunks"]), {}, "response_body_broke, after the beginning of the answer"),
}


@uvicorns
@pytest.mark.parametrize("kind", LOGGED)
def test_f19_a_failure_is_one_line(server: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is one line: the method, the URL without its query, the failure, and why; and no secret."""
    caplog.set_level("DEBUG")
    script, options, expected = LOGGED[kind]
    watch = ProxyWatch()
    with scripted(script) as upstream, proxied(upstream.url, server, around=watch.around, **options) as port:
        ask(port, get(b"/path?key=secret", *SECRETS))
        watch.wait_for_end()

    (line,) = ours(caplog)
    text = line.getMessage()
    assert (line.name, line.levelname) == ("fastapi_httpx_pool.proxy", "WARNING")
    assert text.startswith(f"GET {upstream.url}/path: {expected}")
    assert "secret" not in text
    assert "\n" not in text
    assert line.exc_info is None


@uvicorns
def test_f19_no_connection_is_one_line(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is one line with the cause."""
    caplog.set_level("DEBUG")
    url = refused()
    with proxied(url + "/base", server) as port:
        ask(port, post(b"secret", *SECRETS, target=b"/path?key=secret"))

    (line,) = ours(caplog)
    assert line.getMessage().startswith(f"POST {url}/base/path: connect_refused, answered with 502: ConnectError: ")
    assert "Errno" in line.getMessage()
    assert "secret" not in line.getMessage()


@uvicorns
@pytest.mark.parametrize("target", [b"/../x?key=secret", b"/%zz?key=secret", b"/a\xff?key=secret\xff"])
def test_f19_a_refused_target_is_one_line(server: str, target: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A target that is not sent on is one line, without its query."""
    caplog.set_level("DEBUG")
    with scripted(silent) as upstream, proxied(upstream.url, server, settings=patient(read=SHORT)) as port:
        answer = ask(port, get(target, *SECRETS))

    assert answer.status in {400, 504}
    lines = [line.getMessage() for line in ours(caplog)]
    assert len(lines) == (1 if answer.values(b"proxy-status") else 0), "the server itself may have refused it"
    assert "secret" not in "".join(lines)


@uvicorns
def test_f19_a_line_cannot_be_forged(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """A line break in a path is not one in the log."""
    url = refused()
    with proxied(url, server) as port:
        ask(port, get(b"/a%0AWARNING%20forged%E2%80%A8%C2%85"))

    (line,) = ours(caplog)
    assert len(line.getMessage().splitlines()) == 1


@every_server
def test_f19_what_goes_well_is_no_line(server: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged of what went well, and nobody's logging is set up."""
    caplog.set_level("DEBUG")
    watch = ProxyWatch()
    with scripted(answering(ok())) as upstream, proxied(upstream.url, server, around=watch.around) as port:
        assert ask(port, get(b"/")).status == 200
        assert ask(port, post(b"hello")).status == 200
        watch.wait_for_end(2)

    assert ours(caplog) == []
    assert (
        logging.getLogger("fastapi_httpx_pool").handlers == logging.getLogger("fastapi_httpx_pool.proxy").handlers == []
    )


@uvicorns
def test_f19_a_trace_goes_on(server: str) -> None:
    """The trace context passes as it came, in one line."""
    traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get(b"/", b"Traceparent: " + traceparent, b"Tracestate: a=1")).status == 200

    assert seen.values(b"traceparent") == [traceparent]
    assert seen.values(b"tracestate") == [b"a=1"]
