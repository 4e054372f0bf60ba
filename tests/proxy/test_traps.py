"""What a route can walk into with a proxy response, and what becomes of it."""

import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Form, Request
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from fastapi_httpx_pool import (
    ClientFactory,
    ClientSettings,
    PoolTransport,
    ReverseProxy,
    StreamingProxyResponse,
    TimeoutSettings,
    UpstreamResponse,
    create_lifespan,
)
from tests.support.answers import ask, get, post
from tests.support.patience import with_patience
from tests.support.raw_client import raw_client
from tests.support.recording import RecordingUpstream
from tests.support.server import serving
from tests.support.stack import Stack, app_of
from tests.support.stages import AT_ONCE, one_slot, proxy_to
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted


@pytest.mark.parametrize("path", ["/shop%2F.evil.example/x", "/shop%5c.evil.example/x", "/shop%2f:8080/x"])
def test_g7_a_path_does_not_reach_into_the_host(stack: Stack, path: str) -> None:
    """A base without its slash, joined with a client's path, is refused before a proxy or resolver sees it."""
    forward_proxy = RecordingUpstream()

    async def respond(request: Request) -> StreamingProxyResponse:
        rest = request.scope["raw_path"].decode("ascii").removeprefix("/shop")
        return StreamingProxyResponse(request, "http://api.example" + rest)

    with scripted(forward_proxy) as upstream:
        app = app_of(respond, stack.settings(proxy=upstream.url))
        with stack.serve(app) as port:
            assert ask(port, get(path.encode())).status == 400
            assert ask(port, get(b"/shop/fine")).status == 200

    assert forward_proxy.targets == [b"http://api.example/fine"]


@pytest.mark.parametrize(
    "options",
    [{"headers": {"x-v": "a\r\nX-Evil: 1"}}, {"headers": {"x v": "a"}}, {"method": "GET / HTTP/1.1\r\nX-Evil: 1"}],
    ids=["value", "name", "method"],
)
def test_a11_a_routes_own_mistake_is_told_to_the_route(stack: Stack, options: Any) -> None:
    """A header or method that would split the request is a ValueError in the constructor, over HTTP/2 too."""
    raised: list[ValueError] = []
    seen = RecordingUpstream()

    async def respond(request: Request) -> Any:
        try:
            return StreamingProxyResponse(request, upstream.url, **options)
        except ValueError as exc:
            raised.append(exc)
            return "told"

    with scripted(seen) as upstream, stack.routing(respond) as port:
        assert ask(port, get()).body == b'"told"'

    assert len(raised) == 1
    assert seen.heads == []


def test_headers_can_be_removed(stack: Stack) -> None:
    """``None`` sends none of that name: a request to somebody else's server takes no credentials along."""
    seen = RecordingUpstream()
    headers = {"cookie": None, "Authorization": None, "x-more": "1"}
    with scripted(seen) as upstream, stack.proxying(upstream.url, headers=headers) as port:
        ask(port, get(b"/", b"Cookie: session=1", b"Authorization: Basic eDp5", b"X-Other: 1"))

    assert not {b"cookie", b"authorization"} & seen.names()
    assert (seen.values(b"x-more"), seen.values(b"x-other")) == ([b"1"], [b"1"])


@pytest.mark.parametrize("target", [b"/a%09b", b"/a%7Fb", b"/" + b"x" * 30000], ids=["tab", "delete", "long"])
def test_c1_odd_targets_pass(stack: Stack, target: bytes) -> None:
    """Targets that URL objects refuse or tidy up reach the upstream as they came."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, get(target)).status == 200

    assert seen.targets == [target]


@pytest.mark.anyio
async def test_c2_raw_octets_in_a_query_are_encoded() -> None:
    """A query with octets that no request line may have (HTTP/2 allows them) goes out encoded."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        async with ClientFactory() as factory:
            scope = {
                "type": "http",
                "method": "GET",
                "scheme": "http",
                "http_version": "2",
                "path": "/",
                "query_string": b"q=\xc3\xa9 x",
                "headers": [],
            }
            response = StreamingProxyResponse(Request(scope, _end_of_request), upstream.url, client=factory.get())
            await response(scope, _end_of_request, _nowhere)

    assert seen.targets == [b"/?q=%C3%A9%20x"]


async def _end_of_request() -> dict[str, Any]:
    await anyio.lowlevel.checkpoint()
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(message: Any) -> None:
    pass


def test_e3_a_head_request_does_not_drain_the_answer(stack: Stack) -> None:
    """HEAD relayed as GET is answered at once, and the upstream's endless body is broken off."""
    closed = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent")
        if connection.wait_until_closed():
            closed.set()

    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, one_slot(stack), method="GET") as port,
        raw_client(port) as client,
    ):
        client.send(get(method=b"HEAD"))
        assert client.read_head().startswith(b"HTTP/1.1 200")
        assert closed.wait(AT_ONCE)


@with_patience(0.3)
def test_no_limit_is_none_for_the_total_too(stack: Stack, limit: float) -> None:
    """``timeout=None`` lifts the client's total; without it the total counts."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        head, _ = connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if head.startswith(b"GET /long"):
            assert go_on.wait(LIMIT)
        else:
            connection.wait_until_closed()
            go_on.set()
        connection.send(b"0\r\n\r\n")

    async def respond(request: Request) -> StreamingProxyResponse:
        options: Any = {"timeout": None} if request.url.path == "/long" else {}
        return StreamingProxyResponse(request, upstream.url + request.url.path, **options)

    settings = stack.settings(timeout=TimeoutSettings(total=limit))
    with scripted(script) as upstream, stack.routing(respond, settings) as port, raw_client(port) as patient:
        patient.send(get(b"/long"))
        assert patient.read_head().startswith(b"HTTP/1.1 200")
        short = ask(port, get(b"/short"))
        assert short.status == 504 or not short.complete
        assert patient.read_until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")


def test_f19_the_log_cannot_be_forged(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    """A line break in a URL makes no second line in the log."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, "http://api.example/" + request.query_params["path"])

    with stack.routing(respond) as port:
        assert ask(port, get(b"/?path=a%0AFORGED/../x")).status == 400

    assert "FORGED" in caplog.text
    assert "\nFORGED" not in caplog.text


@pytest.mark.parametrize("url", ["ftp://user:s3cret@h/?token=s3cret", "//user:s3cret@h/?token=s3cret"])
@pytest.mark.anyio
async def test_a_refused_url_keeps_its_secrets(url: str) -> None:
    """The error about a wrong URL shows neither password nor query."""
    async with ClientFactory() as factory:
        request = Request({"type": "http", "method": "GET", "headers": []})
        with pytest.raises(ValueError, match="absolute URL") as raised:
            StreamingProxyResponse(request, url, client=factory.get())

    assert "s3cret" not in str(raised.value)


def test_a_form_leaves_nothing_to_send_on() -> None:
    """A route that declared a form is told why its body cannot be sent on, and what to do."""
    app = FastAPI(lifespan=create_lifespan())
    raised: list[RuntimeError] = []

    @app.post("/")
    async def form(request: Request, field: Annotated[str, Form()]) -> str:
        with pytest.raises(RuntimeError, match=r"await request\.body\(\)") as caught:
            StreamingProxyResponse(request, "http://api.example/")
        raised.append(caught.value)
        return field

    with serving(app) as server:
        body = post(b"field=x", b"Content-Type: application/x-www-form-urlencoded")
        assert ask(server.port, body).body == b'"x"'

    assert len(raised) == 1


def test_a_transport_of_the_users_own_sees_proxied_requests() -> None:
    """A subclass of PoolTransport, or one that was instrumented, is not gone around."""
    seen: list[str] = []

    class Noting(PoolTransport):
        async def handle_async_request(self, request: Any) -> Any:
            seen.append(request.url.path)
            return await super().handle_async_request(request)

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url + request.url.path, client=client)

    with scripted(answering(ok())) as upstream:
        # Keeping no connection, these clients need no closing in the loop of a server.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = httpx.AsyncClient(transport=Noting(limits=limits))
        with serving(app_of(respond, ClientSettings())) as server:
            assert ask(server.port, get(b"/subclass")).status == 200
        client = httpx.AsyncClient(transport=PoolTransport(limits=limits))
        plain = client._transport.handle_async_request

        async def instrumented(request: Any) -> Any:
            seen.append(request.url.path)
            return await plain(request)

        client._transport.handle_async_request = instrumented  # type: ignore[method-assign] # as instrumentation does
        with serving(app_of(proxy_to(upstream.url, client=client), ClientSettings())) as server:
            assert ask(server.port, get(b"/instance")).status == 200

    assert seen == ["/subclass", "/instance"]


def test_from_response_of_a_head_request(stack: Stack) -> None:
    """The length that a HEAD tells is passed on, though the response has been read."""

    async def respond(request: Request) -> StreamingProxyResponse:
        async with httpx.AsyncClient() as client:
            return StreamingProxyResponse.from_response(await client.head(upstream.url))

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    with scripted(answering(head)) as upstream, stack.routing(respond) as port:
        answer = ask(port, get(method=b"HEAD"))

    assert answer.values(b"content-length") == [b"5"]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    ],
    ids=["chunked", "length"],
)
def test_e5_truncation_shows_through_http_middleware(stack: Stack, head: bytes) -> None:
    """Starlette's ``@app.middleware("http")`` ends broken answers cleanly; ours stays broken."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(head)

    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    with scripted(script) as upstream:
        app = app_of(proxy_to(upstream.url), stack.settings())
        app.middleware("http")(passing)
        with stack.serve(app) as port:
            answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"abc", False)


async def _passing(request: Request, call_next: Any) -> Any:
    return await call_next(request)


async def _breaking(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        raise ValueError("the hook's")


def _break(response: UpstreamResponse) -> None:
    response.body = _breaking(response.body)


LAYERS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "http": [(BaseHTTPMiddleware, {"dispatch": _passing})],
    "http twice": [(BaseHTTPMiddleware, {"dispatch": _passing})] * 2,
    "gzip in http": [(GZipMiddleware, {}), (BaseHTTPMiddleware, {"dispatch": _passing})],
    "http in gzip": [(BaseHTTPMiddleware, {"dispatch": _passing}), (GZipMiddleware, {})],
    "cors": [(CORSMiddleware, {"allow_origins": ["*"]})],
}
"""Middleware, the innermost first."""


@pytest.mark.parametrize("accepted", [b"identity", b"gzip"])
@pytest.mark.parametrize("broken_by", ["upstream", "hook"])
@pytest.mark.parametrize("layers", LAYERS)
def test_e5_truncation_shows_through_layers(layers: str, broken_by: str, accepted: bytes) -> None:
    """Whatever stands around the proxy, and whoever breaks the answer off: it does not look whole."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        if broken_by == "hook":
            connection.wait_until_closed()

    app = FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False)))
    for layer, options in LAYERS[layers]:
        app.add_middleware(layer, **options)
    with scripted(script) as upstream:
        app.mount("/p", ReverseProxy(upstream.url, on_response=_break if broken_by == "hook" else None))
        with serving(app) as running:
            answer = ask(running.port, get(b"/p/", b"Accept-Encoding: " + accepted, b"Origin: http://other.example"))

    assert (answer.status, answer.complete) == (200, False)


def test_f10_a_client_that_leaves_through_http_middleware(stack: Stack) -> None:
    """Middleware that counts on an answer gets 499 for a client that has left, and raises nothing."""
    arrived, seen = threading.Event(), list[Any]()
    done = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        arrived.set()
        connection.wait_until_closed()

    async def noting(request: Request, call_next: Any) -> Any:
        try:
            response = await call_next(request)
            seen.append(response.status_code)
        except BaseException as exc:
            seen.append(exc)
            raise
        finally:
            done.set()
        return response

    with scripted(script) as upstream:
        app = app_of(proxy_to(upstream.url), one_slot(stack))
        app.middleware("http")(noting)
        with stack.serve(app) as port:
            with raw_client(port) as client:
                client.send(get())
                assert arrived.wait(LIMIT)
            assert done.wait(AT_ONCE)

    assert seen == [499]
