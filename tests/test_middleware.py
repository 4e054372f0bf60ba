"""ClientMiddleware: the same as the lifespan, around any ASGI app."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientMiddleware,
    ClientNotStarted,
    ClientSettings,
    FamilyNotInstalled,
    create_lifespan,
    get_client,
    named_client,
)

from .support.asgi import LifespanDriver, get, lifespan_driver, started
from .support.server import serving
from .support.starts import start
from .support.upstream import Upstream, answering, ok, scripted
from .support.watched import Watched

pytestmark = [pytest.mark.anyio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]


@pytest.fixture(name="watched")
def _watched() -> Watched:
    return Watched(answering(ok(b"hello")))


@pytest.fixture(name="upstream")
def _upstream(watched: Watched) -> Iterator[Upstream]:
    with scripted(watched) as upstream:
        yield upstream


def fetching(upstream: Upstream, **options: Any) -> FastAPI:
    """Return an app with a route that asks the upstream."""
    app = FastAPI(**options)

    @app.get("/")
    async def route(client: ClientDep) -> str:
        return (await client.get(upstream.url)).text

    return app


async def serve_bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer an HTTP request with what the default client is."""
    await PlainTextResponse(repr(await get_client(Request(scope))))(scope, receive, send)


# FastAPI


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_one_line_on_fastapi(http: Any, upstream: Upstream, watched: Watched) -> None:
    """app.add_middleware(ClientMiddleware) is enough under a real server; sockets close with it."""
    app = fetching(upstream)
    app.add_middleware(ClientMiddleware)
    with serving(app, http=http) as server:
        assert [httpx.get(server.url).json() for _ in range(3)] == ["hello"] * 3
    assert upstream.accepted == 1
    assert watched.none_open_now()


async def test_own_lifespan_is_untouched(upstream: Upstream) -> None:
    """The app's own lifespan runs while the clients are open, and its state reaches the routes."""
    journal: list[Any] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, str]]:
        journal.append("enter")
        yield {"db": "open"}
        journal.append((await clients[0].get(upstream.url)).text)

    app = fetching(upstream, lifespan=own)
    app.add_middleware(ClientMiddleware)
    clients: list[Any] = []

    @app.get("/state")
    async def route(request: Request) -> str:
        clients.append(request.state.client)
        return str(request.state.db)

    async with started(app) as driver:
        assert (await get(app, "/state", state=driver.scope["state"])).json() == "open"
        assert (await get(app, state=driver.scope["state"])).json() == "hello"
        assert journal == ["enter"]
    assert journal == ["enter", "hello"]
    assert clients[0].is_closed


async def test_event_handlers_still_run(upstream: Upstream) -> None:
    """Handlers of the deprecated on_event run in between."""
    app = fetching(upstream)
    app.add_middleware(ClientMiddleware)
    journal: list[str] = []
    with pytest.warns(DeprecationWarning, match="on_event is deprecated"):
        app.on_event("startup")(lambda: journal.append("startup"))
    with pytest.warns(DeprecationWarning, match="on_event is deprecated"):
        app.on_event("shutdown")(lambda: journal.append("shutdown"))
    async with started(app) as driver:
        assert (await get(app, state=driver.scope["state"])).json() == "hello"
        assert journal == ["startup"]
    assert journal == ["startup", "shutdown"]


def test_under_the_test_client(upstream: Upstream) -> None:
    """Under Starlette's TestClient it works like a lifespan."""
    app = fetching(upstream)
    app.add_middleware(ClientMiddleware)
    with TestClient(app) as browser:
        assert browser.get("/").json() == "hello"


def test_test_client_without_with_is_explained(upstream: Upstream) -> None:
    """Without `with` no lifespan runs, and the error says so."""
    app = fetching(upstream)
    app.add_middleware(ClientMiddleware)
    with pytest.raises(ClientNotStarted, match="enter `with TestClient"):
        TestClient(app).get("/")


async def test_settings_and_names_are_those_of_create_lifespan() -> None:
    """It takes the settings, the named clients and the key that create_lifespan takes."""
    app = FastAPI()
    app.add_middleware(
        ClientMiddleware,
        ClientSettings(base_url="http://default"),
        clients={"github": ClientSettings(base_url="http://github")},
    )

    @app.get("/")
    async def route(request: Request) -> list[str]:
        return [str((await get_client(request)).base_url), str((await named_client("github")(request)).base_url)]

    async with started(app) as driver:
        assert (await get(app, state=driver.scope["state"])).json() == ["http://default", "http://github"]


async def test_websocket_scope_gets_the_clients_too() -> None:
    """Every scope but the lifespan's has the clients in its state, also without a state of the server's."""
    seen: list[Any] = []

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        seen.append(scope["state"]["client"])

    app = ClientMiddleware(bare)
    async with started(app, state=False):
        await app({"type": "websocket"}, None, None)  # type: ignore[arg-type] # neither is called
        assert not seen[0].is_closed


# Apps that know no lifespan


async def _raises(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan here")
    await serve_bare(scope, receive, send)


async def _raises_after_startup_message(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        raise KeyError("path")
    await serve_bare(scope, receive, send)


async def _returns(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await serve_bare(scope, receive, send)


async def _asserts(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await serve_bare(scope, receive, send)


BARE = [_raises, _raises_after_startup_message, _returns, _asserts]


@pytest.mark.parametrize("bare", BARE)
@pytest.mark.parametrize("state", [True, False])
async def test_bare_app_that_knows_no_lifespan(bare: Any, state: bool) -> None:
    """The server is answered for it, with or without lifespan state; requests find the client."""
    app = ClientMiddleware(bare)
    async with started(app, state=state) as driver:
        answer = await get(app, state=driver.scope.get("state"))
        assert answer.text.startswith("<httpx.AsyncClient 'default' [open, engine: ")
    assert driver.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("bare", BARE)
def test_bare_app_under_a_real_server(bare: Any) -> None:
    """Under uvicorn with lifespan="on", such an app starts, serves with the client, and stops."""
    with serving(ClientMiddleware(bare)) as server:
        assert "open" in httpx.get(server.url).text


async def test_client_is_open_until_such_an_app_stops(upstream: Upstream, watched: Watched) -> None:
    """An app that returns from the lifespan at once keeps its client until the server stops."""
    app = ClientMiddleware(_returns)
    async with started(app) as driver:
        client = driver.scope["state"]["client"]
        assert (await client.get(upstream.url)).text == "hello"
    assert client.is_closed
    assert await watched.none_open()


async def test_app_that_answers_startup_and_returns() -> None:
    """Its shutdown is answered for it, when the server asks and not earlier."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    async with lifespan_driver(ClientMiddleware(bare)) as driver:
        await driver.startup()
        client = driver.scope["state"]["client"]
        assert driver.sent == ["lifespan.startup.complete"]
        assert not client.is_closed
        assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
        await driver.returned.wait()
    assert client.is_closed
    assert driver.error is None


async def test_app_that_takes_the_shutdown_and_returns() -> None:
    """An app that returns on shutdown without a word has it answered for it."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    async with started(ClientMiddleware(bare)) as driver:
        pass
    assert driver.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_no_client_after_the_end_without_state() -> None:
    """On a server without lifespan state, requests after the end find no client rather than a closed one."""
    app = ClientMiddleware(_asserts)
    async with started(app, state=False):
        assert "open" in (await get(app)).text
    with pytest.raises(ClientNotStarted):
        await get(app)


# Failures


@asynccontextmanager
async def _failing_start(app: Any) -> AsyncIterator[None]:
    raise OSError("no database")
    yield


@asynccontextmanager
async def _failing_stop(app: Any) -> AsyncIterator[None]:
    yield
    raise OSError("no goodbye")


def _note_client_at(driver: LifespanDriver, kind: str) -> list[bool]:
    """Note whether the client is closed at the moment a message is sent."""
    closed: list[bool] = []

    def on_send(sent: str) -> None:
        if sent == kind:
            closed.append(driver.scope["state"]["client"].is_closed)

    driver.on_send = on_send
    return closed


async def test_app_that_fails_at_start_up() -> None:
    """The server hears the app's own failure, after the clients have been closed."""
    app = FastAPI(lifespan=_failing_start)
    app.add_middleware(ClientMiddleware)
    async with lifespan_driver(app) as driver:
        closed = _note_client_at(driver, "lifespan.startup.failed")
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "no database" in answer["message"]
    assert isinstance(driver.error, OSError)
    assert closed == [True]
    assert driver.sent == ["lifespan.startup.failed"]


async def test_app_that_fails_at_shutdown() -> None:
    """The same at shutdown."""
    app = FastAPI(lifespan=_failing_stop)
    app.add_middleware(ClientMiddleware)
    async with lifespan_driver(app) as driver:
        closed = _note_client_at(driver, "lifespan.shutdown.failed")
        await driver.startup()
        answer = await driver.shutdown()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.shutdown.failed"
    assert "no goodbye" in answer["message"]
    assert isinstance(driver.error, OSError)
    assert closed == [True]


async def test_app_that_dies_between() -> None:
    """An app whose lifespan breaks off while it runs: its error goes to the server, the client is closed."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise OSError("the app's task died")

    async with lifespan_driver(ClientMiddleware(bare)) as driver:
        await driver.startup()
        client = driver.scope["state"]["client"]
        await driver.returned.wait()
    assert isinstance(driver.error, OSError)
    assert client.is_closed


async def test_shutdown_is_complete_when_the_clients_are_closed(upstream: Upstream, watched: Watched) -> None:
    """The app's word that shutdown is complete is held back until every socket is closed."""
    app = fetching(upstream)
    app.add_middleware(ClientMiddleware)
    async with lifespan_driver(app) as driver:
        closed = _note_client_at(driver, "lifespan.shutdown.complete")
        await driver.startup()
        assert (await get(app, state=driver.scope["state"])).json() == "hello"
        assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
        await driver.returned.wait()
    assert closed == [True]
    assert await watched.none_open()
    assert driver.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_bad_environment_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad variable is told to the server by name, and the app is never started."""
    monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONNECTIONS", "many")
    called: list[str] = []

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["type"])

    async with lifespan_driver(ClientMiddleware(bare)) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "HTTPX_POOL_LIMITS__MAX_CONNECTIONS" in answer["message"]
    assert driver.error is not None
    assert called == []


@pytest.fixture(name="without_httpx2")
def _without_httpx2(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes the import fail as if the package were missing.
    monkeypatch.setitem(sys.modules, "httpx2", None)
    from fastapi_httpx_pool.transports import _family  # noqa: PLC0415 -- its memory, not a name of this test

    monkeypatch.setattr(_family, "_families", {})


@pytest.mark.usefixtures("without_httpx2")
@pytest.mark.parametrize("face", ["lifespan", "middleware"])
async def test_family_that_is_not_installed_fails_the_start(face: str) -> None:
    """family="httpx2" without the package: the server hears what to install; those opened are closed."""
    arguments: Any = {"clients": {"new": ClientSettings(family="httpx2")}}
    app: Any = FastAPI(lifespan=create_lifespan(**arguments))
    if face == "middleware":
        app = ClientMiddleware(FastAPI(), **arguments)
    async with lifespan_driver(app) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "pip install 'fastapi-httpx-pool[httpx2]'" in answer["message"]
    assert isinstance(driver.error, FamilyNotInstalled)
    assert "client" not in driver.scope["state"]


@pytest.mark.parametrize("lifespan", ["on", "auto"])
def test_server_does_not_start_on_a_bad_environment(lifespan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server refuses to start, in its default lifespan mode too, and logs the variable."""
    monkeypatch.setenv("HTTPX_POOL_DRAIN", "-1")
    result = start(ClientMiddleware(_returns), lifespan=lifespan)
    assert not result.succeeded
    assert "HTTPX_POOL_DRAIN" in result.log


@pytest.mark.parametrize("lifespan", ["on", "auto"])
def test_server_does_not_start_when_the_app_fails(lifespan: Any) -> None:
    """A real server refuses to start an app whose own lifespan fails inside the middleware."""
    app = FastAPI(lifespan=_failing_start)
    app.add_middleware(ClientMiddleware)
    result = start(app, lifespan=lifespan)
    assert not result.succeeded
    assert "no database" in result.log


# Nested owners


async def test_nested_middlewares_and_lifespan_own_their_clients() -> None:
    """Three owners in each other: the innermost's client counts, named ones add up, all are closed."""
    lifespan = create_lifespan(clients={"a": ClientSettings()})
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(ClientMiddleware, clients={"b": ClientSettings()})
    outermost = ClientMiddleware(app, clients={"c": ClientSettings()})
    seen: list[Any] = []

    @app.get("/")
    async def route(request: Request) -> list[bool]:
        seen.extend([await get_client(request), *[await named_client(name)(request) for name in "abc"]])
        return [await get_client(request) is lifespan.factory.get()]

    async with started(outermost) as driver:
        assert (await get(outermost, state=driver.scope["state"])).json() == [True]
        assert [client.pool_name for client in seen] == ["default", "a", "b", "c"]
        assert not any(client.is_closed for client in seen)
    assert all(client.is_closed for client in seen)


async def test_nested_middlewares_without_state() -> None:
    """The innermost middleware's client counts on a server without lifespan state, too."""
    outer = ClientMiddleware(
        ClientMiddleware(_asserts_base_url, ClientSettings(base_url="http://inner")),
        ClientSettings(base_url="http://outer"),
    )
    async with started(outer, state=False):
        assert (await get(outer)).text == "http://inner"


async def _asserts_base_url(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await PlainTextResponse(str((await get_client(Request(scope))).base_url))(scope, receive, send)


async def test_one_middleware_started_twice() -> None:
    """A second start of the same middleware opens new clients."""
    app = ClientMiddleware(_asserts)
    clients = []
    for _ in range(2):
        async with started(app) as driver:
            clients.append(driver.scope["state"]["client"])
            assert not clients[-1].is_closed
    assert clients[0] is not clients[1]
    assert all(client.is_closed for client in clients)
