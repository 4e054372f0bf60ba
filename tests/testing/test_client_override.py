"""For a block, an app uses another client or another transport, on every kind of route, running or not."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from fastapi_httpx_pool import (
    ClientDep,
    ClientMiddleware,
    ClientNotStarted,
    ClientSettings,
    ReverseProxy,
    StreamingProxyResponse,
    SyncClientDep,
    create_lifespan,
    get_client,
    named_client,
)
from fastapi_httpx_pool.testing import Upstream, client_override
from tests.support.families import FAMILIES, module_of, needs_httpx2

API = "http://api.test/items"
"""No such host exists."""


def router() -> APIRouter:
    """Return routes of every kind."""
    routes = APIRouter()

    @routes.get("/injected")
    async def injected(client: Annotated[Any, Depends(get_client)]) -> str:
        return str((await client.get(API)).text)

    @routes.get("/named")
    async def named(client: Annotated[Any, Depends(named_client("github"))]) -> str:
        return str((await client.get(API)).text)

    @routes.get("/sync")
    def sync(client: SyncClientDep) -> str:
        return client.get(API).text

    @routes.get("/proxied")
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, API)

    @routes.websocket("/ws")
    async def ws(websocket: WebSocket, client: ClientDep) -> None:
        await websocket.accept()
        await websocket.send_text((await client.get(API)).text)
        await websocket.close()

    routes.mount("/mounted", ReverseProxy("http://api.test"))
    return routes


def fastapi_app(family: Any = "httpx") -> FastAPI:
    """Return an app that opens its clients in its lifespan."""
    settings = ClientSettings(family=family, headers={"X-App": "yes"})
    app = FastAPI(lifespan=create_lifespan(settings, clients={"github": settings}))
    app.include_router(router())
    app.mount("/mounted", ReverseProxy("http://api.test"))
    return app


def middleware_app() -> FastAPI:
    """Return one that has them from a middleware, and does without a lifespan state."""
    app = FastAPI()
    app.include_router(router())
    app.mount("/mounted", ReverseProxy("http://api.test"))
    settings = ClientSettings(headers={"X-App": "yes"})
    app.add_middleware(ClientMiddleware, settings, clients={"github": settings})
    return app


def wrapped_app() -> Any:
    """Return one with the middleware around it, and another one around that."""
    app = FastAPI()
    app.include_router(router())
    app.mount("/mounted", ReverseProxy("http://api.test"))
    settings = ClientSettings(headers={"X-App": "yes"})
    return GZipMiddleware(ClientMiddleware(app, settings, clients={"github": settings}))


def mock(text: str, family: str = "httpx") -> Any:
    """Return a transport that answers with a text and what it was sent."""
    module = module_of(family)

    def answer(request: Any) -> Any:
        return module.Response(200, text=f"{text} {request.headers.get('x-app')}")

    return module.MockTransport(answer)


def is_unreachable(browser: Any, path: str) -> bool:
    """Whether a route fails, as it does without an override."""
    return bool(browser.get(path).status_code >= 500)


@pytest.mark.parametrize("make", [fastapi_app, middleware_app, wrapped_app])
def test_running_app(make: Any) -> None:
    """A transport takes the place of the client's own on every route of a running app, with the client's settings."""
    app = make()
    with TestClient(app, raise_server_exceptions=False) as browser:
        with client_override(app, mock("mocked")):
            assert browser.get("/injected").json() == "mocked yes"
            assert browser.get("/injected").json() == "mocked yes"
            assert browser.get("/sync").json() == "mocked yes"
            assert browser.get("/proxied").text == "mocked None"  # a proxied request has its own headers only
            assert browser.get("/mounted/x").text == "mocked None"
            with browser.websocket_connect("/ws") as websocket:
                assert websocket.receive_text() == "mocked yes"
            assert is_unreachable(browser, "/named")
        assert [is_unreachable(browser, path) for path in ("/injected", "/sync", "/proxied", "/mounted/x")] == [
            True
        ] * 4


@pytest.mark.parametrize("make", [fastapi_app, middleware_app, wrapped_app])
def test_named_client(make: Any) -> None:
    """A named client is replaced by its name, and only that one."""
    app = make()
    with TestClient(app, raise_server_exceptions=False) as browser, client_override(app, mock("mocked"), "github"):
        assert browser.get("/named").json() == "mocked yes"
        assert is_unreachable(browser, "/injected")


@pytest.mark.parametrize("name", [None, "github"])
def test_app_that_opened_no_client(name: str | None) -> None:
    """An override does without the lifespan; before and after it, the client is missing as before."""
    app = fastapi_app()
    path = "/injected" if name is None else "/named"
    browser = TestClient(app)
    for _ in range(2):
        with client_override(app, mock("mocked"), name):
            assert browser.get(path).json() == "mocked None"
        with pytest.raises(ClientNotStarted):
            browser.get(path)


def test_entered_before_the_lifespan() -> None:
    """The block may begin before the app starts, and the lifespan runs all the same."""
    app = fastapi_app()
    with client_override(app, mock("mocked")), TestClient(app) as browser:
        assert browser.get("/injected").json() == "mocked yes"


def test_another_client() -> None:
    """A client replaces the app's with all that is its own, and is not closed."""
    app = fastapi_app()
    client = httpx.AsyncClient(transport=mock("mine"), headers={"X-App": "own"})
    with TestClient(app) as browser, client_override(app, client):
        assert browser.get("/injected").json() == "mine own"
        assert browser.get("/proxied").text == "mine None"
    assert not client.is_closed


def test_overrides_within_overrides() -> None:
    """The innermost block counts, and each name has its own."""
    app = fastapi_app()
    with TestClient(app) as browser, client_override(app, mock("outer")), client_override(app, mock("it"), "github"):
        with client_override(app, mock("inner")):
            assert browser.get("/injected").json() == "inner yes"
        assert browser.get("/injected").json() == "outer yes"
        assert browser.get("/named").json() == "it yes"


@pytest.mark.parametrize(("name", "path"), [(None, "/injected"), ("github", "/named")])
@pytest.mark.parametrize("around", [lambda app: app, GZipMiddleware])
def test_dependency_overrides(name: str | None, path: str, around: Any) -> None:
    """An override of the dependency is put aside for the block, and back after it; others stay."""
    app = fastapi_app()
    outermost = around(app)
    other = httpx.AsyncClient(transport=mock("dependency"))
    app.dependency_overrides[get_client] = lambda: other
    app.dependency_overrides[named_client("github")] = lambda: other
    before = dict(app.dependency_overrides)
    with TestClient(outermost) as browser:
        with client_override(outermost, mock("mocked"), name):
            assert browser.get(path).json() == "mocked yes"
            assert browser.get("/named" if name is None else "/injected").json() == "dependency None"
        assert browser.get(path).json() == "dependency None"
    assert app.dependency_overrides == before


@needs_httpx2
def test_other_family() -> None:
    """The clients of httpx2 are replaced by its transports and clients."""
    app = fastapi_app("httpx2")
    with TestClient(app) as browser:
        with client_override(app, mock("mocked", "httpx2")):
            assert browser.get("/injected").json() == "mocked yes"
            assert browser.get("/proxied").text == "mocked None"
        with client_override(app, module_of("httpx2").AsyncClient(transport=mock("own", "httpx2"))):
            assert browser.get("/injected").json() == "own None"
        with client_override(app, mock("mocked")), pytest.raises(TypeError, match="take the transport from httpx2"):
            browser.get("/injected")


@contextmanager
def _standalone(**arguments: Any) -> Iterator[tuple[ReverseProxy, Any]]:
    proxy = ReverseProxy("http://api.test", **arguments)
    with TestClient(proxy) as browser:
        yield proxy, browser


def test_reverse_proxy_alone() -> None:
    """A proxy alone under a server sends through the override, and afterwards through its own client again."""
    with _standalone() as (proxy, browser):
        with client_override(proxy, mock("mocked")):
            with client_override(proxy, mock("inner")):
                assert browser.get("/x").text == "inner None"
            assert browser.get("/x").text == "mocked None"
        assert browser.get("/x").status_code == 502


def test_reverse_proxy_with_a_client_of_its_own() -> None:
    """So does one that was given a client, or that nobody opened one for."""
    given = httpx.AsyncClient(transport=mock("given"))
    with _standalone(client=given) as (proxy, browser), client_override(proxy, mock("mocked")):
        assert browser.get("/x").text == "mocked None"
    unopened = ReverseProxy("http://api.test")
    with client_override(unopened, mock("mocked")):
        assert TestClient(unopened).get("/x").text == "mocked None"


def test_plain_asgi_app() -> None:
    """An app of one's own with the middleware around it has a place for the override, too."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await StreamingProxyResponse(Request(scope, receive), API)(scope, receive, send)

    app = ClientMiddleware(inner)
    with TestClient(app) as browser, client_override(app, mock("mocked")):
        assert browser.get("/").text == "mocked None"


def test_starlette_and_mounts() -> None:
    """An override of the outer app reaches the apps that are mounted in it."""
    inner = FastAPI()
    inner.include_router(router())
    app = Starlette(routes=[Mount("/inner", inner)], lifespan=create_lifespan())
    with TestClient(app) as browser, client_override(app, mock("mocked")):
        assert browser.get("/inner/injected").json() == "mocked None"


def test_state_of_requests_stays_shared() -> None:
    """What a route puts into its request's state is seen by the middleware around it, as without the override."""
    app = fastapi_app()
    seen: list[object] = []

    @app.get("/state")
    async def state(request: Request) -> None:
        request.state.found = "by the route"

    async def look(request: Request, call_next: Any) -> Any:
        answer = await call_next(request)
        seen.append(request.state.found)
        return answer

    app.add_middleware(BaseHTTPMiddleware, dispatch=look)
    with TestClient(app) as browser, client_override(app, httpx.AsyncClient()):
        browser.get("/state")
    assert seen == ["by the route"]


@pytest.mark.parametrize("family", FAMILIES)
def test_upstream(upstream: Upstream, family: Any) -> None:
    """An upstream of the test's gets everything, whatever the URL says, through the app's own pool."""
    upstream.get("/items").respond(text="real")
    upstream.post("/mounted%2Fx").respond(text="proxied")
    app = fastapi_app(family)
    with TestClient(app) as browser, client_override(app, upstream):
        assert browser.get("/injected").json() == "real"
        assert browser.get("/proxied").text == "real"
        assert browser.post("/mounted/mounted%2Fx", content=b"body").text == "proxied"
    assert [request.headers["host"] for request in upstream.requests] == ["api.test"] * 3
    assert [request.connection for request in upstream.requests] == [0, 0, 0]
    assert (upstream.requests[0].headers["x-app"], upstream.requests[2].body) == ("yes", b"body")


def test_upstream_without_a_client(upstream: Upstream) -> None:
    """An upstream needs a client that the app has opened."""
    app = fastapi_app()
    with client_override(app, upstream), pytest.raises(ClientNotStarted, match="the test's upstream"):
        TestClient(app).get("/injected")


def test_blocks_that_overlap() -> None:
    """Blocks may be left in any order."""
    app = fastapi_app()
    first, second = client_override(app, mock("first")), client_override(app, mock("second"))
    with TestClient(app, raise_server_exceptions=False) as browser:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert is_unreachable(browser, "/injected")


@pytest.mark.parametrize("wrong", [httpx.Client(), lambda request: httpx.Response(200), httpx.MockTransport, None])
def test_neither_client_nor_transport(wrong: Any) -> None:
    """What is neither is refused, with a word on functions."""
    override: AbstractContextManager[None] = client_override(FastAPI(), wrong)
    with pytest.raises(TypeError, match=r"httpx\.MockTransport\(function\)"), override:
        pass


def test_app_without_a_place() -> None:
    """An app that nobody can reach into is refused, with what would do."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="the ClientMiddleware around an app"), client_override(bare, mock("x")):
        pass
