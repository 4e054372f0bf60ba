"""create_lifespan: the clients live as long as the app, and the app's own lifespan runs inside."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientLifespan,
    ClientMiddleware,
    ClientNotStarted,
    ClientSettings,
    create_lifespan,
    get_client,
)

from .support.asgi import lifespan_driver, started
from .support.server import serving
from .support.starts import start
from .support.upstream import Upstream, answering, ok, scripted
from .support.watched import Held, Watched

pytestmark = [pytest.mark.anyio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]


@pytest.fixture(name="watched")
def _watched() -> Watched:
    return Watched(answering(ok(b"hello")))


@pytest.fixture(name="upstream")
def _upstream(watched: Watched) -> Iterator[Upstream]:
    with scripted(watched) as upstream:
        yield upstream


# Each kind of app


def _fastapi(lifespan: Any, endpoint: Any) -> Any:
    app = FastAPI(lifespan=lifespan)
    app.add_route("/", endpoint)
    return app


def _starlette(lifespan: Any, endpoint: Any) -> Any:
    return Starlette(lifespan=lifespan, routes=[Route("/", endpoint)])


def _router(lifespan: Any, endpoint: Any) -> Any:
    router = APIRouter(lifespan=lifespan)
    router.add_route("/", endpoint)
    app = FastAPI()
    app.include_router(router)
    return app


@pytest.mark.parametrize("make", [_fastapi, _starlette, _router])
def test_client_opens_and_closes_with_the_app(make: Any, upstream: Upstream, watched: Watched) -> None:
    """request.state.client works while the app runs; then it is closed, with every socket."""
    seen = []

    async def endpoint(request: Request) -> JSONResponse:
        seen.append(request.state.client)
        return JSONResponse((await request.state.client.get(upstream.url)).text)

    with TestClient(make(create_lifespan(), endpoint)) as browser:
        assert [browser.get("/").json(), browser.get("/").json()] == ["hello", "hello"]
        assert not seen[0].is_closed
    assert seen[0] is seen[1]
    assert seen[0].is_closed
    assert upstream.accepted == 1
    assert watched.none_open_now()


# The app's own lifespan, in each form


def _forms(journal: list[str]) -> dict[str, Callable[[Any], Any]]:
    async def async_generator(app: Any) -> AsyncIterator[dict[str, str]]:
        journal.append("enter")
        yield {"db": "open"}
        journal.append("leave")

    def generator(app: Any) -> Iterator[dict[str, str]]:
        journal.append("enter")
        yield {"db": "open"}
        journal.append("leave")

    class Manager:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __aenter__(self) -> dict[str, str]:
            journal.append("enter")
            return {"db": "open"}

        async def __aexit__(
            self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
        ) -> None:
            journal.append("leave")

    class Callable_:  # noqa: N801 -- an object that is called, not a name to remember
        def __call__(self, app: Any) -> Any:
            return Manager(app)

    async def with_argument(extra: str, app: Any) -> AsyncIterator[dict[str, str]]:
        journal.append("enter")
        yield {"db": extra}
        journal.append("leave")

    return {
        "asynccontextmanager": asynccontextmanager(async_generator),
        "async generator": async_generator,
        "generator": generator,
        "class": Manager,
        "callable object": Callable_(),
        "partial": functools.partial(asynccontextmanager(with_argument), "open"),
        "partial of a generator": functools.partial(with_argument, "open"),
    }


@pytest.mark.parametrize("form", list(_forms([])))
def test_own_lifespan_in_each_form(form: str) -> None:
    """Each form that FastAPI accepts is entered once and left once, and its state is merged with ours."""
    journal: list[str] = []
    app = FastAPI(lifespan=create_lifespan(lifespan=_forms(journal)[form]))

    @app.get("/")
    async def route(request: Request, client: ClientDep) -> list[Any]:
        return [request.state.db, request.state.client is client, journal]

    with TestClient(app) as browser:
        assert browser.get("/").json() == ["open", True, ["enter"]]
    assert journal == ["enter", "leave"]


async def test_own_lifespan_runs_while_the_clients_are_open(upstream: Upstream, watched: Watched) -> None:
    """It can use a client in both of its parts; the client closes after its last line."""
    texts: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        client = lifespan.factory.get()
        texts.append((await client.get(upstream.url)).text)
        yield
        texts.append((await client.get(upstream.url)).text)
        assert not client.is_closed

    lifespan = create_lifespan(lifespan=own)
    async with started(Starlette(lifespan=lifespan)) as driver:
        client = driver.scope["state"]["client"]
        assert texts == ["hello"]
    assert texts == ["hello", "hello"]
    assert client.is_closed
    assert await watched.none_open()


async def test_own_lifespan_may_yield_nothing() -> None:
    """One that yields None adds nothing to the state."""

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        yield

    async with started(FastAPI(lifespan=create_lifespan(lifespan=own))) as driver:
        assert [key for key in driver.scope["state"] if not key.startswith("fastapi_httpx_pool.")] == ["client"]


async def _never_enterable(app: Any) -> None:
    raise AssertionError("not run")


def _yielding(state: Any) -> Any:
    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[Any]:
        yield state

    return own


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("own", "text"),
    [
        (_yielding(["a", "list"]), r"own yielded \['a', 'list'\]; yield a mapping"),
        (_yielding(7), "own yielded 7; yield a mapping"),
        (_never_enterable, "_never_enterable gave <coroutine .* which cannot be entered.*@asynccontextmanager"),
        (lambda app: None, "gave None, which cannot be entered"),
        (functools.partial(_never_enterable), "_never_enterable.* gave <coroutine .* cannot be entered"),
    ],
)
async def test_unusable_own_lifespan_is_named(own: Any, text: str) -> None:
    """What cannot be entered, or yields no mapping, fails the start with its name and the right form."""
    lifespan = create_lifespan(lifespan=own)
    async with lifespan_driver(FastAPI(lifespan=lifespan)) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    with pytest.raises(TypeError, match=text):
        raise driver.error or AssertionError
    with pytest.raises(ClientNotStarted):
        _ = lifespan.factory


async def test_own_lifespan_must_take_the_app() -> None:
    """A result in the function's place fails the start with a TypeError."""
    async with lifespan_driver(FastAPI(lifespan=create_lifespan(lifespan=_yielding({})(None)))) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert isinstance(driver.error, TypeError)


@pytest.mark.parametrize("stage", ["startup", "shutdown"])
async def test_failure_of_the_own_lifespan_closes_everything(stage: str, upstream: Upstream, watched: Watched) -> None:
    """Whether it fails at start-up or at shutdown: the server is told, and every socket is closed."""
    clients = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        clients.append(lifespan.factory.get())
        await clients[0].get(upstream.url)
        if stage == "startup":
            raise OSError("no database")
        yield
        raise OSError("no database")

    lifespan = create_lifespan(lifespan=own)
    async with lifespan_driver(FastAPI(lifespan=lifespan)) as driver:
        answer = await driver.startup()
        if stage == "shutdown":
            answer = await driver.shutdown()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == f"lifespan.{stage}.failed"
    assert "no database" in answer["message"]
    assert isinstance(driver.error, OSError)
    assert clients[0].is_closed
    assert await watched.none_open()


def test_server_refuses_to_start_when_the_own_lifespan_fails() -> None:
    """A real server does not start an app whose own lifespan fails, and logs why."""

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    result = start(FastAPI(lifespan=create_lifespan(lifespan=own)))
    assert not result.succeeded
    assert "no database" in result.log


def test_under_a_real_server(upstream: Upstream, watched: Watched) -> None:
    """Under uvicorn, all requests share one connection, and it is closed when the server has stopped."""
    app = FastAPI(lifespan=create_lifespan())

    @app.get("/")
    async def route(client: ClientDep) -> str:
        return (await client.get(upstream.url)).text

    with serving(app) as server:
        for _ in range(3):
            assert httpx.get(server.url).json() == "hello"
    assert upstream.accepted == 1
    assert watched.none_open_now()


@pytest.mark.parametrize("face", ["lifespan", "middleware"])
def test_real_server_drains_what_a_task_has_in_flight(face: str) -> None:
    """A task of the app's own, which no server waits for, gets its answer while the server shuts down."""
    held, texts, tasks = Held(), list[str](), list[Any]()
    app = FastAPI(lifespan=create_lifespan() if face == "lifespan" else None)
    if face == "middleware":
        app.add_middleware(ClientMiddleware)

    async def send(client: httpx.AsyncClient, url: str) -> None:
        texts.append((await client.get(url)).text)

    @app.get("/")
    async def route(client: ClientDep) -> str:
        tasks.append(asyncio.create_task(send(client, upstream.url)))
        await held.arrived()
        return "accepted"

    watched = Watched(held)
    with scripted(watched) as upstream:
        with serving(app) as server:
            assert httpx.get(server.url).json() == "accepted"
            server.stop()
            held.release()
        assert texts == ["late"]
        assert watched.none_open_now()


# Several owners


class Opened:
    """Counts what lifespans open, through the clients that routes and states show."""

    def __init__(self) -> None:
        self.clients: list[Any] = []

    def own(self, lifespan: Callable[[], ClientLifespan]) -> Any:
        """Return an own lifespan that notes the client of the lifespan around it."""

        @asynccontextmanager
        async def own(app: Any) -> AsyncIterator[None]:
            client = lifespan().factory.get()
            self.clients.append(client)
            yield
            assert not client.is_closed

        return own


async def test_same_lifespan_on_app_and_router_opens_once() -> None:
    """One object on an app and two of its routers: opened once, its own lifespan entered once, closed once."""
    opened = Opened()
    lifespan = create_lifespan(lifespan=opened.own(lambda: lifespan))
    app = FastAPI(lifespan=lifespan)
    app.include_router(APIRouter(lifespan=lifespan))
    app.include_router(APIRouter(lifespan=lifespan))
    async with started(app) as driver:
        assert len(opened.clients) == 1
        assert driver.scope["state"]["client"] is opened.clients[0]
        assert not opened.clients[0].is_closed
    assert opened.clients[0].is_closed


async def test_two_lifespans_in_one_app_open_and_close_both() -> None:
    """Two objects on an app and its router have a client each, and each closes its own."""
    opened = Opened()
    outer = create_lifespan(lifespan=opened.own(lambda: outer))
    inner = create_lifespan(lifespan=opened.own(lambda: inner))
    app = FastAPI(lifespan=outer)
    app.include_router(APIRouter(lifespan=inner))
    async with started(app) as driver:
        assert len(opened.clients) == 2
        assert opened.clients[0] is not opened.clients[1]
        assert driver.scope["state"]["client"] in opened.clients
    assert [client.is_closed for client in opened.clients] == [True, True]


async def test_same_lifespan_in_two_running_apps() -> None:
    """One object in two apps: each has a client of its own, and closing one leaves the other open."""
    lifespan = create_lifespan()
    async with started(FastAPI(lifespan=lifespan)) as first:
        async with started(FastAPI(lifespan=lifespan)) as second:
            clients = [first.scope["state"]["client"], second.scope["state"]["client"]]
            assert clients[0] is not clients[1]
            assert lifespan.factory.get() is clients[1]
        assert [client.is_closed for client in clients] == [False, True]
        assert lifespan.factory.get() is clients[0]
    assert clients[0].is_closed


async def test_app_started_twice_has_new_clients() -> None:
    """An app that is started again opens new clients, and its first start's stay closed."""
    app = FastAPI(lifespan=create_lifespan())
    clients = []
    for _ in range(2):
        async with started(app) as driver:
            clients.append(driver.scope["state"]["client"])
            assert not clients[-1].is_closed
    assert clients[0] is not clients[1]
    assert [client.is_closed for client in clients] == [True, True]


def test_same_app_in_two_event_loops() -> None:
    """Two test clients around one app at once: a client for each loop, and both work."""
    app = FastAPI(lifespan=create_lifespan())

    @app.get("/")
    async def route(client: ClientDep) -> int:
        return id(client)

    with TestClient(app) as first, TestClient(app) as second:
        assert first.get("/").json() != second.get("/").json()


async def test_overlapping_starts_of_one_app_in_one_loop() -> None:
    """Of two starts of one app in one loop, the first to stop does not close the other's client."""
    app = FastAPI(lifespan=create_lifespan())
    async with lifespan_driver(app) as first, lifespan_driver(app) as second:
        await first.startup()
        await second.startup()
        await first.shutdown()
        client = second.scope["state"]["client"]
        assert not client.is_closed
        await second.shutdown()
        assert client.is_closed


# Mounted apps


def test_mounted_app_sees_the_parents_client(upstream: Upstream) -> None:
    """A mounted FastAPI app gets the client that the outermost app opened."""
    inner = FastAPI()

    @inner.get("/")
    async def route(client: ClientDep) -> str:
        return (await client.get(upstream.url)).text

    outer = FastAPI(lifespan=create_lifespan())
    outer.mount("/inner", inner)
    with TestClient(outer) as browser:
        assert browser.get("/inner/").json() == "hello"


def test_mounted_apps_own_lifespan_is_not_run() -> None:
    """Clients of a mounted app's own lifespan never open; the error says so and what to do."""

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(repr(await get_client(request)))

    inner = Starlette(lifespan=create_lifespan(), routes=[Route("/", endpoint)])
    outer = Starlette(routes=[Mount("/inner", inner)])
    with TestClient(outer) as browser, pytest.raises(ClientNotStarted) as caught:
        browser.get("/inner/")
    text = str(caught.value)
    assert "request.state.client is missing" in text
    assert "a mounted app's own lifespan is not run, so open the clients in the outermost app" in text
    assert "create_lifespan()" in text
    assert "with TestClient(app)" in text


# lifespan.factory


def test_factory_is_reachable_in_tests() -> None:
    """While an app runs, lifespan.factory.get() is the client that its routes get."""
    lifespan = create_lifespan(clients={"github": ClientSettings(base_url="https://api.github.test")})
    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def route(client: ClientDep) -> int:
        return id(client)

    with TestClient(app) as browser:
        assert browser.get("/").json() == id(lifespan.factory.get())
        assert lifespan.factory.get("github").base_url == "https://api.github.test"


def test_factory_before_and_after_is_an_error_that_helps() -> None:
    """Without a running app there is none, and the text says how to get one."""
    lifespan = create_lifespan()
    with pytest.raises(ClientNotStarted, match="factory is missing"):
        _ = lifespan.factory
    with TestClient(FastAPI(lifespan=lifespan)):
        assert repr(lifespan.factory) == "<ClientFactory [open: default]>"
    with pytest.raises(ClientNotStarted, match="with TestClient"):
        _ = lifespan.factory


# Settings from the environment


async def test_environment_is_read_when_the_app_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings, those of the environment at the start of the app count."""
    app = FastAPI(lifespan=create_lifespan())
    monkeypatch.setenv("HTTPX_POOL_BASE_URL", "http://from.environment")
    async with started(app) as driver:
        assert driver.scope["state"]["client"].base_url == "http://from.environment"


async def test_impossible_environment_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad variable fails the start of the app, and the server hears the variable's name."""
    monkeypatch.setenv("HTTPX_POOL_TIMEOUT__READ", "soon")
    async with lifespan_driver(FastAPI(lifespan=create_lifespan())) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "HTTPX_POOL_TIMEOUT__READ" in answer["message"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_lifespan(lambda app: None),  # type: ignore[arg-type] # what the test is about
        lambda: create_lifespan({"timeout": 5}),  # type: ignore[arg-type] # likewise
        lambda: create_lifespan(clients={"github": {}}),  # type: ignore[dict-item] # likewise
        lambda: create_lifespan(clients=["github"]),  # type: ignore[arg-type] # likewise
        lambda: create_lifespan(FastAPI()),  # type: ignore[arg-type] # likewise
    ],
    ids=["own-lifespan", "dict", "dict-of-dicts", "list", "without-parentheses"],
)
def test_wrong_arguments_are_told_at_once(make: Callable[[], object]) -> None:
    """Something else than settings is a TypeError where it is given, which says what to write."""
    with pytest.raises(TypeError, match="ClientSettings"):
        make()
