"""Table 1I: whose pool carries what is sent on, and what one request may have otherwise; and users' own tools."""

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import respx
from fastapi import Depends, FastAPI, Header, Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from fastapi_httpx_pool import (
    ClientDep,
    ClientMiddleware,
    ClientNotStarted,
    ClientSettings,
    ReverseProxy,
    TimeoutSettings,
    TLSSettings,
    UnknownClient,
    create_lifespan,
    get_client,
    named_client,
    pool_statistics,
)
from fastapi_httpx_pool.proxy import ProxyRequest
from tests.support.answers import ask, get, post, read_answer, read_chunk
from tests.support.asgi import LIMIT as ASGI_LIMIT, get as asgi_get, lifespan_driver, started
from tests.support.families import FAMILIES, module_of
from tests.support.http2_server import serving_http2
from tests.support.proxies import DOORS, EVERY_SERVER, UVICORN, proxied, serving_by, settings_of
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.raw_client import headers_of, raw_client
from tests.support.recording import RecordingUpstream
from tests.support.stages import AT_ONCE, BEGUN, STAGES, HangingUpstream
from tests.support.trio_server import serving_trio
from tests.support.uploads import LAST_CHUNK, announcing, chunk
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted
from tests.support.watched import Watched

every_server = pytest.mark.parametrize("server", EVERY_SERVER)
uvicorn = pytest.mark.parametrize("server", UVICORN)
every_door = pytest.mark.parametrize("door", DOORS)
of_both_families = pytest.mark.parametrize("family", FAMILIES)


def at(door: str, path: bytes = b"") -> bytes:
    """Return the target that reaches a path under the upstream's root."""
    return (b"/" if door == "alone" else b"/p/") + path


# I1: whose client


@every_server
def test_i1_alone_it_opens_a_client_and_closes_it(server: str) -> None:
    """Under a server of its own it keeps connections from request to request, and closes them when the server ends."""
    watched = Watched(answering(ok()))
    with scripted(watched) as upstream:
        with proxied(upstream.url, server) as port:
            assert [ask(port, get()).body for _ in range(3)] == [b"ok"] * 3
            assert (watched.accepted, watched.open) == (1, 1)
        assert watched.none_open_now()


@uvicorn
def test_i1_alone_it_can_be_served_again(server: str) -> None:
    """Each server that serves it gives it a client of its own."""
    watched = Watched(answering(ok()))
    with scripted(watched) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        for _ in range(2):
            with serving_by(server, proxy) as port:
                assert ask(port, get()).body == b"ok"
        assert watched.accepted == 2
        assert watched.none_open_now()


@every_server
def test_i1_alone_its_settings_are_its_clients(server: str) -> None:
    """Settings go to the client that it opens: here a time limit."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=settings_of(timeout=TimeoutSettings(read=0.05))) as port,
    ):
        assert ask(port, get()).status == 504


def counts(app: FastAPI) -> None:
    """Add a route that tells how many connections each client of the app's has made."""

    @app.get("/opened")
    async def opened(request: Request) -> dict[str, int]:
        clients = {
            name: request.state._state[name] for name in ("client", "client_other") if name in request.state._state
        }
        found = {name: pool_statistics(client).origins.values() for name, client in clients.items()}
        return {name: sum(origin.opened for origin in origins) for name, origins in found.items()}


def opened_at(port: int) -> Any:
    """Ask that route."""
    return httpx.get(f"http://127.0.0.1:{port}/opened", trust_env=False).json()


@uvicorn
@pytest.mark.parametrize("opener", ["lifespan", "middleware"])
@pytest.mark.parametrize("name", [None, "other"])
def test_i1_mounted_it_uses_a_client_of_the_apps(server: str, opener: str, name: str | None) -> None:
    """The app's default client carries what is sent on, or the named one; whoever opened it closes it."""
    clients = {"other": settings_of()}
    app = FastAPI(lifespan=create_lifespan(settings_of(), clients=clients) if opener == "lifespan" else None)
    if opener == "middleware":
        app.add_middleware(ClientMiddleware, settings_of(), clients=clients)
    counts(app)
    watched = Watched(answering(ok()))
    with scripted(watched) as upstream:
        app.mount("/p", ReverseProxy(upstream.url, client=name))
        with serving_by(server, app) as port:
            assert [ask(port, get(b"/p/")).body for _ in range(3)] == [b"ok"] * 3
            assert opened_at(port) == (
                {"client": 1, "client_other": 0} if name is None else {"client": 0, "client_other": 1}
            )
        assert watched.none_open_now()


@every_server
@of_both_families
@pytest.mark.parametrize("door", ["alone", "mounted", "route"])
def test_i1_a_client_that_is_given_stays_open(server: str, family: str, door: str) -> None:
    """A client of somebody else's is used, and neither opened nor closed, be it of either family."""
    module = module_of(family)
    asked = []

    def answer(request: Any) -> Any:
        asked.append(str(request.url))
        return module.Response(203, text="from the given client")

    client = module.AsyncClient(transport=module.MockTransport(answer))
    proxy = ReverseProxy("http://api.test/base", client=client)
    with serving_by(server, app_at(door, proxy)) as port:
        found = ask(port, get(at(door, b"x?y=1")))
        assert (found.status, found.body) == (203, b"from the given client")
    assert asked == ["http://api.test/base/x?y=1"]
    assert not client.is_closed
    asyncio.run(client.aclose())


def app_at(door: str, proxy: ReverseProxy, **options: Any) -> Any:
    """Return a proxy behind one of its doors, in an app without any lifespan of ours."""
    if door == "alone":
        return proxy
    app = FastAPI(openapi_url=None, **options)
    if door == "mounted":
        app.mount("/p", proxy)
    else:

        @app.api_route("/p{path:path}", methods=["GET", "POST"])
        async def respond(request: Request) -> Response:
            return proxy.response(request, prefix="/p")

    return app


@uvicorn
@of_both_families
def test_i1_a_client_that_is_given_keeps_its_connections(server: str, family: str) -> None:
    """A real client of somebody else's carries requests through its own pool, and still works when the server has ended."""
    module = module_of(family)
    client = module.AsyncClient(trust_env=False, limits=module.Limits(max_keepalive_connections=0))
    with scripted(answering(ok())) as upstream:
        with serving_by(server, ReverseProxy(upstream.url, client=client)) as port:
            assert ask(port, get()).body == b"ok"

        async def use() -> str:
            async with client:
                return str((await client.get(upstream.url)).text)

        assert not client.is_closed
        assert asyncio.run(use()) == "ok"


@uvicorn
@pytest.mark.parametrize("door", ["mounted", "route"])
@pytest.mark.parametrize(
    ("name", "error"), [(None, ClientNotStarted), ("other", ClientNotStarted)], ids=["default", "named"]
)
def test_i1_without_any_client(server: str, door: str, name: str | None, error: type[Exception]) -> None:
    """In an app where nobody opened a client, a request is the app's own error, and its text says what to do."""
    watch = ProxyWatch()
    app = watch.around(app_at(door, ReverseProxy("http://api.test", client=name)))
    with serving_by(server, app) as port:
        assert ask(port, get(at(door))).status == 500
        watch.wait_for_end()

    (failure,) = watch.failures
    assert isinstance(failure, error)
    assert "create_lifespan" in str(failure)


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_i1_without_the_client_of_that_name(door: str) -> None:
    """A name that no client has is the app's own error, which tells the names that there are."""
    watch = ProxyWatch()
    lifespan = create_lifespan(settings_of(), clients={"other": settings_of()})
    app = watch.around(app_at(door, ReverseProxy("http://api.test", client="anther"), lifespan=lifespan))
    with serving_by("httptools", app) as port:
        assert ask(port, get(at(door))).status == 500
        watch.wait_for_end()

    (failure,) = watch.failures
    assert isinstance(failure, UnknownClient)
    assert "'other'" in str(failure)


@pytest.mark.anyio
async def test_i1_alone_without_a_lifespan() -> None:
    """Alone, but called by something that runs no lifespan, it says who opens no client."""
    with pytest.raises(ClientNotStarted, match="runs no lifespan"):
        await asgi_get(ReverseProxy("http://api.test"))


@pytest.mark.anyio
async def test_i1_a_mounted_one_with_settings_says_whose_client_counts() -> None:
    """Settings of its own where only an app's client can be used are told of by the error."""
    with pytest.raises(ClientNotStarted) as caught:
        await asgi_get(app_at("mounted", ReverseProxy("http://api.test", settings=settings_of())), "/p/")
    assert "alone under a server" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("api.test",), ValueError, "http"),
        (("ftp://api.test/",), ValueError, "http"),
        (("http://user:secret@api.test/",), ValueError, "user"),
        (("http://api.test/a/../b",), ValueError, r"\.\."),
    ],
)
def test_i1_an_upstream_that_is_none(arguments: tuple[str], error: type[Exception], text: str) -> None:
    """A URL that cannot be a base is refused when the proxy is made, without telling secrets."""
    with pytest.raises(error, match=text) as caught:
        ReverseProxy(*arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"client": httpx.Client},
        {"client": 5},
        {"client": "name", "settings": settings_of()},
        {"settings": {"trust_env": False}},
        {"on_request": "me"},
        {"policy": {"via": None}},
    ],
    ids="-".join,
)
def test_i1_options_that_are_none(options: dict[str, Any]) -> None:
    """What is not what it should be is refused when the proxy is made."""
    with pytest.raises(TypeError):
        ReverseProxy("http://api.test", **options)


def test_i1_a_timeout_that_is_none() -> None:
    """So is a time that cannot be one."""
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ReverseProxy("http://api.test", timeout=-1)


@pytest.mark.anyio
async def test_i1_what_fails_to_open_is_told_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that cannot be opened, for a setting in the environment, keeps the server from starting."""
    monkeypatch.setenv("HTTPX_POOL_DRAIN", "never")
    async with lifespan_driver(ReverseProxy("http://api.test")) as driver:
        answer = await driver.startup()
        await driver.returned.wait()

    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "HTTPX_POOL_DRAIN" in answer["message"]
    assert isinstance(driver.error, ValueError)


# I6: what one request has otherwise


def tenant_of(x_tenant: Annotated[str, Header()]) -> str:
    """Return the tenant that a request is for."""
    return x_tenant


@uvicorn
def test_i6_an_upstream_from_a_dependency(server: str) -> None:
    """A dependency chooses the upstream for each request; the base path and the prefix stay what they are."""
    seen = {"red": RecordingUpstream(ok(b"red")), "blue": RecordingUpstream(ok(b"blue"))}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(scripted(script)).url for name, script in seen.items()}

        def upstream_of(tenant: Annotated[str, Depends(tenant_of)]) -> str:
            return f"{urls[tenant]}/of/{tenant}?by=dependency"

        app = FastAPI(lifespan=create_lifespan(settings_of()))
        proxy = ReverseProxy("http://nowhere.test/")

        @app.api_route("/t/{path:path}", methods=["GET", "POST"])
        async def respond(request: Request, upstream: Annotated[str, Depends(upstream_of)]) -> Response:
            return proxy.response(request, prefix="/t", upstream=upstream)

        port = stack.enter_context(serving_by(server, app))
        assert ask(port, get(b"/t/a%2Fb?x=1", b"X-Tenant: red")).body == b"red"
        assert ask(port, post(b"hello", b"X-Tenant: blue", target=b"/t/")).body == b"blue"
        assert ask(port, get(b"/t/%2e%2e/c", b"X-Tenant: red")).status == 400
        assert ask(port, get(b"/t/")).status == 422

        # The app's tests replace the dependency as any other.
        app.dependency_overrides[upstream_of] = lambda: urls["blue"]
        assert ask(port, get(b"/t/c", b"X-Tenant: red")).body == b"blue"

    assert seen["red"].targets == [b"/of/red/a%2Fb?by=dependency&x=1"]
    assert seen["blue"].targets == [b"/of/blue/?by=dependency", b"/c"]
    assert seen["blue"].bodies == [b"hello", b""]
    hosts = [url.removeprefix("http://").encode() for url in urls.values()]
    assert [seen[name].values(b"host") for name in urls] == [[host] for host in hosts]


def overriding(
    upstream: str, of: Callable[..., dict[str, Any]], settings: ClientSettings | None = None, **proxy: Any
) -> FastAPI:
    """Return an app with a plain route, and one whose dependency says what its requests have otherwise."""
    app = FastAPI(lifespan=create_lifespan(settings or settings_of(), clients={"other": settings_of()}))
    counts(app)
    rules = ReverseProxy(upstream, **proxy)

    @app.api_route("/plain", methods=["GET", "POST"])
    async def plain(request: Request) -> Response:
        return rules.response(request)

    @app.api_route("/other", methods=["GET", "POST"])
    async def other(request: Request, options: Annotated[dict[str, Any], Depends(of)]) -> Response:
        return rules.response(request, **options)

    return app


@uvicorn
def test_i6_a_timeout_from_a_dependency(server: str) -> None:
    """A time limit counts for one request; others keep the proxy's, and the proxy's counts before the client's."""

    def script(connection: Connection) -> None:
        while head := connection.read_request()[0]:
            if b" /plain " in head:
                time.sleep(0.2)
                connection.send(ok())
            else:
                connection.wait_until_closed()
                return

    hasty = settings_of(timeout=TimeoutSettings(read=0.05))
    with (
        scripted(script) as upstream,
        serving_by(server, overriding(upstream.url, lambda: {"timeout": 0.05}, hasty, timeout=LIMIT)) as port,
    ):
        assert ask(port, get(b"/other")).status == 504
        assert ask(port, get(b"/plain")).status == 200


@uvicorn
def test_i6_headers_and_a_method_from_a_dependency(server: str) -> None:
    """Headers stand in the place of the client's, None removes one, and a method replaces the client's."""
    seen = RecordingUpstream()

    def options(authorization: Annotated[str, Header()]) -> dict[str, Any]:
        return {"method": "PUT", "headers": {"x-user": authorization.removeprefix("Bearer "), "authorization": None}}

    lines = (b"Authorization: Bearer me", b"X-User: somebody else", b"x-user: and another")
    with scripted(seen) as upstream, serving_by(server, overriding(upstream.url, options)) as port:
        assert ask(port, post(b"hello", *lines, target=b"/other")).status == 200
        assert ask(port, post(b"hello", *lines, target=b"/plain")).status == 200

    assert seen.methods == [b"PUT", b"POST"]
    assert [seen.values(b"x-user", index) for index in range(2)] == [[b"me"], [b"somebody else", b"and another"]]
    assert [seen.values(b"authorization", index) for index in range(2)] == [[], [b"Bearer me"]]
    assert seen.bodies == [b"hello", b"hello"]


@uvicorn
def test_i6_a_path_from_a_dependency(server: str) -> None:
    """A path is taken octet by octet and stays under the base; the query is the request's."""
    seen = RecordingUpstream()

    def options(x_path: Annotated[str, Header()]) -> dict[str, Any]:
        return {"path": x_path}

    with scripted(seen) as upstream, serving_by(server, overriding(upstream.url + "/base", options)) as port:
        for path in (b"/a%2Fb", b"c//d", b"/e;f=1"):
            assert ask(port, get(b"/other?x=%20", b"X-Path: " + path)).status == 200
        for path in (b"/../secret", b"%2e%2e/secret", b"/a/..%5csecret"):
            assert ask(port, get(b"/other", b"X-Path: " + path)).status == 400

    assert seen.targets == [b"/base/a%2Fb?x=%20", b"/base/c//d?x=%20", b"/base/e;f=1?x=%20"]


@uvicorn
@pytest.mark.parametrize("how", ["name", "object"])
def test_i6_a_client_from_a_dependency(server: str, how: str) -> None:
    """A client counts for one request, by its name or itself, as a dependency gives it."""

    def by_name() -> dict[str, Any]:
        return {"client": "other"}

    def itself(client: Annotated[Any, Depends(named_client("other"))]) -> dict[str, Any]:
        return {"client": client}

    of = by_name if how == "name" else itself
    with scripted(answering(ok())) as upstream, serving_by(server, overriding(upstream.url, of)) as port:
        for _ in range(2):
            assert ask(port, get(b"/other")).status == 200
        assert opened_at(port) == {"client": 0, "client_other": 1}
        assert ask(port, get(b"/plain")).status == 200
        assert opened_at(port) == {"client": 1, "client_other": 1}


@uvicorn
def test_i6_a_background_task_from_a_dependency(server: str) -> None:
    """A background task runs when the client has its answer."""
    ran = threading.Event()
    of = lambda: {"background": BackgroundTask(ran.set)}  # noqa: E731 -- as short as a user's
    with scripted(answering(ok())) as upstream, serving_by(server, overriding(upstream.url, of)) as port:
        assert ask(port, get(b"/plain")).status == 200
        assert not ran.is_set()
        assert ask(port, get(b"/other")).status == 200
        assert ran.wait(LIMIT)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"upstream": "ftp://api.test"}, ValueError),
        ({"upstream": "http://me:secret@api.test"}, ValueError),
        ({"method": "GE T"}, ValueError),
        ({"headers": {"x": "a\r\nb: c"}}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"client": 5}, TypeError),
        ({"client": "nobody"}, UnknownClient),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_i6_what_no_request_can_have(options: dict[str, Any], error: type[Exception]) -> None:
    """What cannot be is the route's own error, before anything is sent."""
    watch = ProxyWatch()
    with scripted(RecordingUpstream()) as upstream:
        with serving_by("httptools", watch.around(overriding(upstream.url, lambda: options))) as port:
            assert ask(port, get(b"/other")).status == 500
            watch.wait_for_end()
        accepted = upstream.accepted

    (failure,) = watch.failures
    assert isinstance(failure, error)
    assert "secret" not in str(failure)
    assert accepted == 0


def test_i6_something_else_than_a_request() -> None:
    """What is not a request is told at once."""
    with pytest.raises(TypeError, match="not a Request"):
        ReverseProxy("http://api.test").response("/path")  # type: ignore[arg-type]  # what the test is about


# I7: upstreams that speak HTTP/2, through httpcore


class Http2App:
    """An app to be served over HTTP/2: what it is sent, it keeps; what it does depends on the path."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        self.scopes.append(scope)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/endless":
            await self._stream(receive, send)
            return
        if scope["path"] == "/broken":
            raise RuntimeError("out of order")
        said = f"{scope['method']} {scope['raw_path'].decode()} HTTP/{scope['http_version']} {len(body)}".encode()
        lines = [(b"content-length", b"%d" % len(said)), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await send({"type": "http.response.start", "status": 201, "headers": lines})
        await send({"type": "http.response.body", "body": said})

    async def _stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


def http2_settings(folder: Path, **options: Any) -> ClientSettings:
    """Return settings of a client that speaks HTTP/2 with an upstream whose authority's certificate is in the folder."""
    return settings_of(http2=True, tls=TLSSettings(ca_file=folder / "ca.pem"), **options)


@uvicorn
@of_both_families
def test_i7_an_http2_upstream(server: str, family: str, tmp_path: Path) -> None:
    """Requests of HTTP/1.1 clients are served by an upstream of HTTP/2; many over one connection."""
    app = Http2App()
    with (
        serving_http2(tmp_path, app) as url,
        proxied(url, server, settings=http2_settings(tmp_path, family=family)) as port,
        raw_client(port) as client,
    ):
        client.send(
            get(b"/a%2Fb?x=1", b"Connection: keep-alive, x-hop", b"X-Hop: 1", b"TE: trailers", b"Cookie: c=1; d=2")
        )
        answer = read_answer(client)
        assert (answer.status, answer.body) == (201, b"GET /a%2Fb HTTP/2 0")
        assert answer.values(b"set-cookie") == [b"a=1", b"b=2"]
        client.send(post(b"x" * 200_000))
        assert read_answer(client).body == b"POST / HTTP/2 200000"
        client.send(announcing(None) + chunk(b"hel") + chunk(b"lo") + LAST_CHUNK)
        assert read_answer(client).body == b"POST / HTTP/2 5"

    assert len({scope["client"] for scope in app.scopes}) == 1
    assert app.scopes[0]["query_string"] == b"x=1"


@uvicorn
def test_a15_what_only_http1_has_does_not_reach_http2(server: str, tmp_path: Path) -> None:
    """Fields that RFC 9113 forbids, section 8.2.2, are not sent; the authority is the upstream's."""
    app = Http2App()
    lines = (
        b"Connection: keep-alive, x-hop",
        b"Keep-Alive: 5",
        b"X-Hop: 1",
        b"Proxy-Connection: close",
        b"HTTP2-Settings: AA",
    )
    with (
        serving_http2(tmp_path, app) as url,
        proxied(url, server, settings=http2_settings(tmp_path)) as port,
    ):
        assert ask(port, announcing(None, *lines, b"X-Kept: yes") + LAST_CHUNK).status == 201

    (scope,) = app.scopes
    names = [name for name, _ in scope["headers"]]
    assert b"x-kept" in names
    assert not {
        b"connection",
        b"keep-alive",
        b"x-hop",
        b"proxy-connection",
        b"http2-settings",
        b"transfer-encoding",
    } & set(names)
    # Hypercorn makes of :authority a Host line.
    assert [value for name, value in scope["headers"] if name in (b"host", b":authority")] == [
        url.removeprefix("https://").encode()
    ]


@uvicorn
def test_i7_a_client_that_leaves(server: str, tmp_path: Path) -> None:
    """A client that leaves ends its exchange, and the connection goes on serving others; httpcore resets no stream."""
    app, watch = Http2App(), ProxyWatch()
    with (
        serving_http2(tmp_path, app) as url,
        proxied(url, server, settings=http2_settings(tmp_path), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get(b"/endless"))
            client.read_until(b"begun")
        watch.wait_for_end()
        assert held_at(port).active == 0
        assert ask(port, get()).status == 201

    assert len({scope["client"] for scope in app.scopes}) == 1


@uvicorn
def test_i7_many_streams_at_once(server: str, tmp_path: Path) -> None:
    """Requests that are under way at once share the connection."""
    app = Http2App()
    with (
        serving_http2(tmp_path, app) as url,
        proxied(url, server, settings=http2_settings(tmp_path)) as port,
        ExitStack() as stack,
    ):
        ask(port, get())
        clients = [stack.enter_context(raw_client(port)) for _ in range(5)]
        for client in clients:
            client.send(get(b"/endless"))
        for client in clients:
            assert client.read_until(b"begun").endswith(b"begun")

    assert len({scope["client"] for scope in app.scopes}) == 1


@uvicorn
def test_i7_an_upstream_that_fails(server: str, tmp_path: Path) -> None:
    """An answer that does not come is an error of the upstream's, and the next request is served."""
    with (
        serving_http2(tmp_path, Http2App()) as url,
        proxied(url, server, settings=http2_settings(tmp_path)) as port,
    ):
        assert ask(port, get(b"/broken")).status in (500, 502)
        assert ask(port, get()).status == 201


@uvicorn
def test_i7_an_upstream_that_says_goodbye(server: str, tmp_path: Path) -> None:
    """Behind a GOAWAY there is a new connection; httpcore gives up what is under way when it comes."""
    app = Http2App()
    with (
        serving_http2(tmp_path, app, keep_alive_max_requests=1) as url,
        proxied(url, server, settings=http2_settings(tmp_path)) as port,
    ):
        statuses = [ask(port, get()).status for _ in range(4)]

    assert set(statuses) <= {201, 502}
    assert (201, 201) in pairwise(statuses) or (502, 201) in pairwise(statuses)
    assert (502, 502) not in pairwise(statuses)
    assert len({scope["client"] for scope in app.scopes}) > 1


# I8: Unix domain sockets


@pytest.fixture(name="socket_path")
def _socket_path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are too long for a socket's address
        yield f"{folder}/s"


@uvicorn
@every_door
@pytest.mark.parametrize("engine", ["native", "httpcore"])
def test_i8_a_unix_domain_socket(server: str, door: str, engine: Any, socket_path: str) -> None:
    """An upstream at a Unix domain socket is served as any other; its URL says what its Host is."""
    seen = RecordingUpstream()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        with (
            scripted(seen, listener=listener),
            proxied(
                "http://api.internal/base", server, door=door, settings=settings_of(uds=socket_path, engine=engine)
            ) as port,
        ):
            assert ask(port, get(at(door, b"a%2Fb?x=1"))).body == b"ok"
            assert ask(port, post(b"hello", target=at(door))).body == b"ok"

    assert seen.targets == [b"/base/a%2Fb?x=1", b"/base/"]
    assert seen.values(b"host") == [b"api.internal"]
    assert seen.bodies == [b"", b"hello"]


def test_i8_a_socket_that_is_not_there(socket_path: str) -> None:
    """Nobody at the socket is a failure to connect, which does not tell the path."""
    with proxied("http://api.internal", settings=settings_of(uds=socket_path)) as port:
        answer = ask(port, get())
    assert answer.status == 502
    assert socket_path.encode() not in answer.head + answer.body


# I9: a hook that answers


def refuse(request: ProxyRequest) -> Response:
    """Answer at once."""
    return JSONResponse({"no": request.url.partition("?")[0].rpartition("/")[2]}, 403, {"x-hook": "yes"})


async def refuse_in_a_while(request: ProxyRequest) -> Response:
    """Answer after a turn of the loop."""
    await anyio.lowlevel.checkpoint()
    return refuse(request)


@every_server
@pytest.mark.parametrize("hook", [refuse, refuse_in_a_while])
def test_i9_a_hook_answers(server: str, hook: Any) -> None:
    """What ``on_request`` returns goes to the client, and nothing upstream."""
    with scripted(RecordingUpstream()) as upstream, proxied(upstream.url, server, on_request=hook) as port:
        answer = ask(port, get(b"/secret?key=1"))
        accepted = upstream.accepted

    assert (answer.status, answer.body, answer.complete) == (403, b'{"no":"secret"}', True)
    assert answer.values(b"x-hook") == [b"yes"]
    assert answer.values(b"proxy-status") == []
    assert accepted == 0


@every_door
def test_i9_behind_every_door(door: str) -> None:
    """A hook answers wherever the proxy is."""
    with proxied("http://api.test", door=door, on_request=refuse) as port:
        assert ask(port, get(at(door, b"x"))).body == b'{"no":"x"}'
        assert ask(port, get(at(door, b"x"), method=b"HEAD")).status == 403


@every_server
def test_i9_a_hook_answers_an_upload(server: str) -> None:
    """A hook that answers before the body has come does not wait for it, and needs no upstream."""
    with proxied("http://api.test", server, on_request=refuse) as port, raw_client(port) as client:
        client.send(announcing(10) + b"hello")
        assert read_answer(client).status == 403


@uvicorn
def test_i9_a_hook_answers_in_a_stream(server: str) -> None:
    """A hook's answer may be a stream, and may have a background task."""
    ran = threading.Event()

    async def pieces() -> Any:
        for word in (b"one", b"two"):
            yield word

    def answer(request: ProxyRequest) -> Response:
        return StreamingResponse(pieces(), background=BackgroundTask(ran.set))

    with proxied("http://api.test", server, on_request=answer) as port, raw_client(port) as client:
        client.send(get())
        client.read_head()
        assert [read_chunk(client) for _ in range(3)] == [b"one", b"two", b""]
        assert ran.wait(LIMIT)


@uvicorn
def test_i9_a_hook_answers_some(server: str) -> None:
    """A hook that returns nothing, or its request, lets it pass; it may send it elsewhere."""
    seen = RecordingUpstream()

    async def hook(request: ProxyRequest) -> ProxyRequest | Response | None:
        if request.inbound.headers.get("authorization") is None:
            return PlainTextResponse("who?", 401)
        if request.url.endswith("/moved"):
            request.url = request.url.removesuffix("/moved") + "/to?here=1"
            request.method = "PUT"
            return request
        request.headers["x-hook"] = "seen"
        return None

    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, on_request=hook) as port:
        assert ask(port, get(b"/a")).status == 401
        assert ask(port, get(b"/a", b"Authorization: me")).status == 200
        assert ask(port, post(b"hello", b"Authorization: me", target=b"/moved")).status == 200

    assert seen.targets == [b"/base/a", b"/base/to?here=1"]
    assert seen.methods == [b"GET", b"PUT"]
    assert [seen.values(b"x-hook", index) for index in range(2)] == [[b"seen"], []]
    assert seen.bodies == [b"", b"hello"]


@uvicorn
@pytest.mark.parametrize("hook", ["on_request", "on_response", "on_failure"])
def test_i9_a_client_leaves_while_a_hook_thinks(server: str, hook: str) -> None:
    """A hook that takes its time is given up when the client leaves, and nothing is left in use."""
    asked, watch = threading.Event(), ProxyWatch()

    async def thinks(*arguments: Any) -> None:
        asked.set()
        await anyio.sleep_forever()

    script = (lambda connection: None) if hook == "on_failure" else answering(ok())
    options = {hook: thinks}
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, around=watch.around, **options) as port,  # type: ignore[arg-type]  # hooks
    ):
        with raw_client(port) as client:
            client.send(get())
            assert asked.wait(LIMIT)
        watch.wait_for_end()
        assert held_at(port).active == 0

    assert watch.failures == []


# I10, shutdown


class Unfinished:
    """A script whose answers have begun, and end when they may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.closed = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while connection.read_request()[0]:
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"begun"))
            self.begun.set()
            if not self.may_end.wait(LIMIT):
                return
            connection.send(chunk(b"ended") + LAST_CHUNK)
        self.closed.set()


@uvicorn
@every_door
def test_i10_what_is_under_way_comes_to_its_end(server: str, door: str) -> None:
    """A server that is told to stop lets a stream end first; then it is gone, and so are the pool's connections."""
    script = Unfinished()
    with scripted(script) as upstream, ExitStack() as stack:
        port = stack.enter_context(proxied(upstream.url, server, door=door))
        with raw_client(port) as client:
            client.send(get(at(door)))
            client.read_until(b"begun\r\n")
            stopping = threading.Thread(target=stack.close)
            stopping.start()
            wait_until_nobody_listens(port)
            script.may_end.set()
            assert [read_chunk(client) for _ in range(2)] == [b"ended", b""]
            stopping.join(LIMIT)
            assert not stopping.is_alive()
            assert script.closed.wait(LIMIT)


def wait_until_nobody_listens(port: int) -> None:
    """Wait until a server that is being stopped takes no more connections; without making one."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return
    raise AssertionError("the server goes on listening")


@pytest.mark.anyio
async def test_i10_streams_drain() -> None:
    """When its lifespan ends, it waits for what is under way and takes nothing new: 503, with Retry-After."""
    script = Unfinished()
    with scripted(script) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(drain=ASGI_LIMIT))
        answers: list[httpx.Response] = []
        async with lifespan_driver(proxy) as driver:
            await driver.startup()

            async def fetch() -> None:
                answers.append(await asgi_get(proxy))

            async def stop() -> None:
                assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
                answers.append(httpx.Response(599))

            async with anyio.create_task_group() as group:
                group.start_soon(fetch)
                assert await anyio.to_thread.run_sync(script.begun.wait, LIMIT)
                group.start_soon(stop)
                await anyio.wait_all_tasks_blocked()
                refused = await asgi_get(proxy)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "destination_unavailable" in refused.headers["proxy-status"]
                assert answers == []
                script.may_end.set()

    assert [answer.status_code for answer in answers] == [200, 599]
    assert answers[0].text == "begunended"
    assert driver.error is None


@pytest.mark.anyio
async def test_i10_streams_that_do_not_end_are_broken_off() -> None:
    """After ``drain`` seconds what is still under way is broken off, so that the server can stop."""
    script = Unfinished()
    with scripted(script) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(drain=0.05))
        errors: list[Exception] = []
        async with lifespan_driver(proxy) as driver:
            await driver.startup()

            async def fetch() -> None:
                try:
                    await asgi_get(proxy)
                except Exception as exc:  # noqa: BLE001 -- looked at below
                    errors.append(exc)

            async with anyio.create_task_group() as group:
                group.start_soon(fetch)
                assert await anyio.to_thread.run_sync(script.begun.wait, LIMIT)
                assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
        script.may_end.set()

    assert [type(error).__name__ for error in errors] == ["UpstreamAborted"]
    assert driver.error is None


# Users' own tools


@respx.mock
@every_door
def test_respx_answers_for_a_proxy(door: str) -> None:
    """``@respx.mock`` answers what is sent on, behind every door; it sees method, URL, headers and body."""
    route = respx.mock.post("http://api.test/base/a%2Fb", params={"x": "1"}).respond(
        201, text="mocked", headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")]
    )
    with proxied("http://api.test/base", door=door) as port:
        answer = ask(port, post(b"hello", b"X-Client: yes", target=at(door, b"a%2Fb?x=1")))

    assert (answer.status, answer.body) == (201, b"mocked")
    assert answer.values(b"set-cookie") == [b"a=1", b"b=2"]
    (call,) = route.calls
    assert (call.request.content, call.request.headers["x-client"]) == (b"hello", "yes")
    assert call.request.headers["x-forwarded-for"] == "127.0.0.1"


@respx.mock
@pytest.mark.parametrize(
    ("error", "status"),
    [(httpx.ConnectError, 502), (httpx.ConnectTimeout, 504), (httpx.ReadTimeout, 504), (httpx.PoolTimeout, 503)],
)
def test_respx_errors_are_failures(error: type[Exception], status: int) -> None:
    """A mock's error is answered as the real one would be."""
    respx.mock.get("http://api.test/").mock(side_effect=error)
    with proxied("http://api.test") as port:
        assert ask(port, get()).status == status


def test_pytest_httpx_answers_for_a_proxy(httpx_mock: Any) -> None:
    """So does pytest-httpx."""
    httpx_mock.add_response(url="http://api.test/x?y=1", method="POST", match_content=b"two", json={"n": 2})
    with proxied("http://api.test") as port:
        assert ask(port, post(b"two", target=b"/x?y=1")).body == b'{"n":2}'


@uvicorn
@of_both_families
def test_a_mock_transport_sees_what_is_streamed(server: str, family: str) -> None:
    """A client over MockTransport gets the body of an upload, and what it streams arrives in pieces."""
    module = module_of(family)

    class Pieces(module.AsyncByteStream):  # type: ignore[misc, name-defined]  # of either family
        async def __aiter__(self) -> Any:
            yield b"one"
            yield b"two"

    async def answer(request: Any) -> Any:
        return module.Response(200, headers={"x-length": str(len(await request.aread()))}, stream=Pieces())

    client = module.AsyncClient(transport=module.MockTransport(answer))
    with serving_by(server, ReverseProxy("http://api.test", client=client)) as port, raw_client(port) as browser:
        browser.send(announcing(None) + chunk(b"hel") + chunk(b"lo") + LAST_CHUNK)
        assert dict(headers_of(browser.read_head()))[b"x-length"] == b"5"
        assert [read_chunk(browser) for _ in range(3)] == [b"one", b"two", b""]


def test_a_mock_transport_in_an_override() -> None:
    """A route that passes on the client it is given is mocked by an override of the dependency."""
    app = FastAPI()
    proxy = ReverseProxy("http://api.test/base")

    @app.get("/p")
    async def respond(request: Request, client: ClientDep) -> Response:
        return proxy.response(request, prefix="/p", client=client)

    mocked = httpx.MockTransport(lambda request: httpx.Response(203, text=str(request.url)))
    app.dependency_overrides[get_client] = lambda: httpx.AsyncClient(transport=mocked)
    with serving_by("httptools", app) as port:
        answer = ask(port, get(b"/p?x=1"))
    assert (answer.status, answer.body) == (203, b"http://api.test/base?x=1")


@every_server
@of_both_families
def test_through_httpcore(server: str, family: str) -> None:
    """With ``engine="httpcore"`` requests go up and answers come down as ever; nothing is left in use."""
    seen, watch = RecordingUpstream(ok(b"hello", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Odd: \xe9")), ProxyWatch()
    with (
        scripted(seen) as upstream,
        proxied(
            upstream.url, server, settings=settings_of(engine="httpcore", family=family), around=watch.around
        ) as port,
    ):
        for request in (
            get(b"/a%2Fb/;c?x=%20&&=", b"X-Odd: \xe9"),
            post(b"hello"),
            announcing(None) + chunk(b"hello") + LAST_CHUNK,
        ):
            answer = ask(port, request)
            assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
            assert answer.values(b"set-cookie") == [b"a=1", b"b=2"]
            assert answer.values(b"x-odd") == [b"\xe9"]
        watch.wait_for_end(3)
        assert held_at(port).active == 0

    assert seen.targets[0] == b"/a%2Fb/;c?x=%20&&="
    assert seen.values(b"x-odd") == [b"\xe9"]
    assert seen.bodies[1:] == [b"hello", chunk(b"hello") + LAST_CHUNK]


@uvicorn
def test_through_httpcore_a_client_that_leaves(server: str) -> None:
    """With ``engine="httpcore"`` a client that leaves frees the upstream, too."""
    script, watch = Unfinished(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=settings_of(engine="httpcore"), around=watch.around) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            client.read_until(b"begun\r\n")
        watch.wait_for_end()
        held = held_at(port)
        script.may_end.set()

    assert (held.active, held.idle, held.queued) == (0, 0, 0)


# trio


@pytest.mark.anyio
async def test_on_every_event_loop(anyio_backend: Any) -> None:
    """It serves in asyncio, in uvloop and in trio: bodies both ways, errors, and the client closed at the end."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with started(proxy), asgi_client(proxy) as client:
            assert (await client.get("/a?x=1")).text == "ok"
            assert (await client.post("/b", content=b"hello")).text == "ok"
    assert seen.targets == [b"/a?x=1", b"/b"]
    assert seen.bodies == [b"", b"hello"]


def asgi_client(app: Any) -> httpx.AsyncClient:
    """Return a client that calls an app."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_under_hypercorns_trio_worker() -> None:
    """So it does under a server that runs trio: bodies both ways, and what is not to be sent on."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, serving_trio(ReverseProxy(upstream.url, settings=settings_of())) as port:
        assert ask(port, post(b"hello", target=b"/a%2Fb?x=1")).body == b"ok"
        assert ask(port, announcing(None) + chunk(b"hello") + LAST_CHUNK).body == b"ok"
        assert ask(port, get(b"/../x")).status == 400

    assert seen.targets == [b"/a%2Fb?x=1", b"/"]
    assert seen.bodies == [b"hello", chunk(b"hello") + LAST_CHUNK]


@pytest.mark.parametrize("stage", STAGES)
def test_under_hypercorns_trio_worker_a_client_leaves(stage: str) -> None:
    """There, too, a client that leaves frees the upstream, at every stage."""
    script, settings = HangingUpstream(STAGES[stage]), settings_of(timeout=TimeoutSettings(default=None))
    with scripted(script) as upstream, serving_trio(ReverseProxy(upstream.url, settings=settings)) as port:
        with raw_client(port) as client:
            client.send(get())
            assert script.hanging.wait(LIMIT)
            if stage in BEGUN:
                assert client.read_head().startswith(b"HTTP/1.1 200")
        assert script.closed.wait(AT_ONCE)
        assert ask(port, get()).body == b"next"
