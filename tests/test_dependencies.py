"""get_client, named_client and ClientDep: one client in every place where a connection is."""

from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientNotStarted,
    ClientSettings,
    UnknownClient,
    create_lifespan,
    get_client,
    named_client,
)

from .support.families import module_of, needs_httpx2
from .support.upstream import Upstream, answering, ok, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]

GitHub = Annotated[httpx.AsyncClient, Depends(named_client("github"))]


@pytest.fixture(name="upstream")
def _upstream() -> Iterator[Upstream]:
    with scripted(answering(ok(b"hello"))) as upstream:
        yield upstream


@pytest.fixture(name="app")
def _app() -> FastAPI:
    return FastAPI(lifespan=create_lifespan(clients={"github": ClientSettings(base_url="http://github.test")}))


# Places


def test_http_route(app: FastAPI, upstream: Upstream) -> None:
    """ClientDep in an HTTP route is the app's client, and it works."""

    @app.get("/")
    async def route(client: ClientDep) -> str:
        return (await client.get(upstream.url)).text

    with TestClient(app) as browser:
        assert browser.get("/").json() == "hello"


def test_websocket_route(app: FastAPI, upstream: Upstream) -> None:
    """ClientDep and a named client work in a WebSocket route."""

    @app.websocket("/ws")
    async def route(websocket: WebSocket, client: ClientDep, github: GitHub) -> None:
        await websocket.accept()
        await websocket.send_text((await client.get(upstream.url)).text)
        await websocket.send_text(str(github.base_url))
        await websocket.close()

    with TestClient(app) as browser, browser.websocket_connect("/ws") as socket:
        assert socket.receive_text() == "hello"
        assert socket.receive_text() == "http://github.test"


def test_starlette_websocket_route(upstream: Upstream) -> None:
    """In a plain Starlette WebSocket endpoint, get_client(websocket) gives it."""
    app = FastAPI(lifespan=create_lifespan())

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text((await (await get_client(websocket)).get(upstream.url)).text)
        await websocket.close()

    app.router.add_websocket_route("/ws", endpoint)
    with TestClient(app) as browser, browser.websocket_connect("/ws") as socket:
        assert socket.receive_text() == "hello"


def test_sub_dependency_and_class(app: FastAPI, upstream: Upstream) -> None:
    """A sub-dependency, a class and a callable object as dependencies all get the same client."""

    async def greeting(client: ClientDep) -> str:
        return (await client.get(upstream.url)).text

    class Service:
        def __init__(self, client: ClientDep, github: GitHub) -> None:
            self.clients = (client, github)

    class Asking:
        def __call__(self, client: ClientDep) -> httpx.AsyncClient:
            return client

    @app.get("/")
    async def route(
        client: ClientDep,
        text: Annotated[str, Depends(greeting)],
        service: Annotated[Service, Depends()],
        asked: Annotated[Any, Depends(Asking())],
    ) -> list[Any]:
        return [text, service.clients[0] is client, asked is client, service.clients[1] is client]

    with TestClient(app) as browser:
        assert browser.get("/").json() == ["hello", True, True, False]


def test_router_and_app_dependencies(app: FastAPI) -> None:
    """Dependencies of a router and of the whole app get it too."""
    seen: list[object] = []

    async def of_router(client: ClientDep) -> None:
        seen.append(client)

    async def of_app(client: ClientDep) -> None:
        seen.append(client)

    router = APIRouter(dependencies=[Depends(of_router)])
    router.get("/")(lambda: "ok")
    app.include_router(router, dependencies=[Depends(of_app)])
    with TestClient(app) as browser:
        assert browser.get("/").json() == "ok"
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_generator_dependency_can_use_it_after_the_answer(app: FastAPI, upstream: Upstream) -> None:
    """The part behind `yield` of a dependency still has an open client."""
    texts: list[str] = []

    async def session(client: ClientDep) -> Any:
        yield
        texts.append((await client.get(upstream.url)).text)

    app.get("/", dependencies=[Depends(session)])(lambda: "ok")
    with TestClient(app) as browser:
        browser.get("/")
    assert texts == ["hello"]


def test_background_task(app: FastAPI, upstream: Upstream) -> None:
    """A background task that was given the client sends with it after the answer."""
    texts: list[str] = []

    async def report(client: httpx.AsyncClient) -> None:
        texts.append((await client.get(upstream.url)).text)

    @app.get("/")
    async def route(client: ClientDep, tasks: BackgroundTasks) -> str:
        tasks.add_task(report, client)
        return "accepted"

    with TestClient(app) as browser:
        assert browser.get("/").json() == "accepted"
    assert texts == ["hello"]


def test_sync_route_gets_the_object(app: FastAPI) -> None:
    """A `def` route gets the same client, to hand on; its methods stay asynchronous."""
    app.get("/")(lambda: "ok")

    @app.get("/sync")
    def route(client: ClientDep, request: Request) -> bool:
        return client is request.state.client

    with TestClient(app) as browser:
        assert browser.get("/sync").json() is True


def test_plain_starlette_endpoints(upstream: Upstream) -> None:
    """A function, an HTTPEndpoint class and a mounted app of plain Starlette await get_client(request)."""

    async def function(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await (await get_client(request)).get(upstream.url)).text)

    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> PlainTextResponse:
            return await function(request)

    inner = Starlette(routes=[Route("/", function)])
    routes = [Route("/function", function), Route("/class", Endpoint), Mount("/inner", inner)]
    with TestClient(Starlette(lifespan=create_lifespan(), routes=routes)) as browser:
        assert [browser.get(path).text for path in ("/function", "/class", "/inner/")] == ["hello"] * 3
    assert upstream.accepted == 1


def test_mounted_fastapi_app(app: FastAPI) -> None:
    """A mounted FastAPI app's routes get both clients of the outer app by dependency."""
    inner = FastAPI()

    @inner.get("/")
    async def route(client: ClientDep, github: GitHub) -> list[str]:
        return [repr(client), str(github.base_url)]

    app.mount("/inner", inner)
    with TestClient(app) as browser:
        default, base_url = browser.get("/inner/").json()
    assert "'default'" in default
    assert base_url == "http://github.test"


def test_dependencies_do_not_show_in_the_schema(app: FastAPI) -> None:
    """A client is no parameter of the API."""

    @app.get("/")
    async def route(client: ClientDep, github: GitHub) -> None:
        """Need both."""

    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


# Overrides


def _mocked(text: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, text=text)))


def test_overrides_of_both_dependencies(app: FastAPI) -> None:
    """dependency_overrides finds get_client and named_client("github"), with no lifespan at all."""

    @app.get("/")
    async def route(client: ClientDep, github: GitHub) -> list[str]:
        return [(await client.get("http://x.test")).text, (await github.get("http://x.test")).text]

    app.dependency_overrides[get_client] = lambda: _mocked("default")
    app.dependency_overrides[named_client("github")] = lambda: _mocked("github")
    assert TestClient(app).get("/").json() == ["default", "github"]


def test_override_in_a_websocket_route(app: FastAPI) -> None:
    """An override reaches WebSocket routes too."""

    @app.websocket("/ws")
    async def route(websocket: WebSocket, client: ClientDep) -> None:
        await websocket.accept()
        await websocket.send_text((await client.get("http://x.test")).text)
        await websocket.close()

    app.dependency_overrides[get_client] = lambda: _mocked("mocked")
    with TestClient(app).websocket_connect("/ws") as socket:
        assert socket.receive_text() == "mocked"


@needs_httpx2
def test_override_finds_the_typed_dependency(app: FastAPI) -> None:
    """The override of a name also counts where the route asks for the name with its class."""
    httpx2 = module_of("httpx2")

    @app.get("/")
    async def route(client: Annotated[Any, Depends(named_client("typed", httpx2.AsyncClient))]) -> str:
        return str(client)

    app.dependency_overrides[named_client("typed", httpx2.AsyncClient)] = lambda: "overridden"
    assert TestClient(app).get("/").json() == "overridden"


def test_same_name_gives_the_same_dependency() -> None:
    """The same arguments give the same object, however they are written; other names give others."""
    assert named_client("github") is named_client("github")
    assert named_client("github") is not named_client("gitlab")
    assert named_client("github", httpx.AsyncClient) is named_client("github", httpx.AsyncClient)


def test_keyword_gives_the_same_dependency() -> None:
    """named_client(name="github") is named_client("github"), or an override would miss the route."""
    assert named_client(name="github") is named_client("github")
    typed = named_client("github", httpx.AsyncClient)
    assert named_client("github", client_class=httpx.AsyncClient) is typed


# Errors


@needs_httpx2
def test_class_mismatch_is_explained() -> None:
    """A route that asks for the other family's class gets a TypeError with both and the setting."""
    httpx2 = module_of("httpx2")
    clients = {"new": ClientSettings(family="httpx2"), "old": ClientSettings()}
    app = FastAPI(lifespan=create_lifespan(clients=clients))

    @app.get("/right")
    async def right(client: Annotated[Any, Depends(named_client("new", httpx2.AsyncClient))]) -> str:
        return repr(client)

    @app.get("/wrong")
    async def wrong(client: Annotated[Any, Depends(named_client("old", httpx2.AsyncClient))]) -> None:
        """Never come here."""

    with TestClient(app) as browser:
        assert "<httpx2.AsyncClient 'new'" in browser.get("/right").json()
        with pytest.raises(TypeError, match=r"<httpx.AsyncClient 'old' .* is not a httpx2.AsyncClient.*family="):
            browser.get("/wrong")


@needs_httpx2
def test_default_client_of_the_other_family() -> None:
    """Annotated[httpx2.AsyncClient, Depends(get_client)] gets a default client of that family."""
    httpx2 = module_of("httpx2")
    app = FastAPI(lifespan=create_lifespan(ClientSettings(family="httpx2")))

    @app.get("/")
    async def route(client: Annotated[Any, Depends(get_client)]) -> bool:
        return isinstance(client, httpx2.AsyncClient) and not isinstance(client, httpx.AsyncClient)

    with TestClient(app) as browser:
        assert browser.get("/").json() is True


def test_unknown_name_lists_those_that_exist(app: FastAPI) -> None:
    """A name that nobody configured gives UnknownClient with the names that exist."""

    @app.get("/")
    async def route(client: Annotated[Any, Depends(named_client("gitlab"))]) -> None:
        """Never come here."""

    with TestClient(app) as browser, pytest.raises(UnknownClient, match=r"'gitlab'; named clients here: 'github'\."):
        browser.get("/")


@pytest.mark.parametrize(
    ("dependency", "missing"),
    [(get_client, "request.state.client"), (named_client("github"), "request.state.client_github")],
)
def test_test_client_without_with(app: FastAPI, dependency: Any, missing: str) -> None:
    """Without `with` no lifespan runs: the error names what is missing and both ways out."""

    @app.get("/")
    async def route(client: Annotated[Any, Depends(dependency)]) -> None:
        """Never come here."""

    with pytest.raises(ClientNotStarted) as caught:
        TestClient(app).get("/")
    text = str(caught.value)
    assert text.startswith(f"{missing} is missing")
    assert "enter `with TestClient(app)`" in text
    assert "create_lifespan()" in text


async def test_asgi_transport_runs_no_lifespan(app: FastAPI) -> None:
    """With httpx.ASGITransport alone the error points to asgi-lifespan and to overrides."""

    @app.get("/")
    async def route(client: ClientDep) -> None:
        """Never come here."""

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as browser:
        with pytest.raises(ClientNotStarted, match=r"LifespanManager.*dependency_overrides\[get_client\]"):
            await browser.get("/")


def test_websocket_without_lifespan(app: FastAPI) -> None:
    """A WebSocket route without a lifespan raises the same error."""

    @app.websocket("/ws")
    async def route(websocket: WebSocket, client: ClientDep) -> None:
        """Never come here."""

    with pytest.raises(ClientNotStarted), TestClient(app).websocket_connect("/ws"):
        pytest.fail("the route was entered")


@pytest.mark.anyio
async def test_any_connection_will_do() -> None:
    """get_client needs only a connection with a state: an app without any state raises ClientNotStarted."""
    with pytest.raises(ClientNotStarted):
        await get_client(HTTPConnection({"type": "http", "headers": []}))
    with pytest.raises(ClientNotStarted):
        await named_client("github")(HTTPConnection({"type": "websocket", "state": {"db": 1}}))
