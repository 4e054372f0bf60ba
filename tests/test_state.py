"""The keys of the lifespan state: which client lies where, and who may put it there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientMiddleware,
    ClientSettings,
    StateKeyConflict,
    create_lifespan,
    get_client,
    named_client,
)

from .support.asgi import get, lifespan_driver, started

anyio_test = pytest.mark.anyio


def names_under(*keys: str) -> Any:
    """Return a route that tells which pooled client lies under each key of the request's state."""

    async def route(request: Request) -> dict[str, str | None]:
        return {key: getattr(getattr(request.state, key, None), "pool_name", None) for key in keys}

    return route


def test_default_and_named_clients_lie_side_by_side() -> None:
    """The default client is request.state.client, the one named "github" request.state.client_github."""
    app = FastAPI(lifespan=create_lifespan(clients={"github": ClientSettings()}))
    app.get("/")(names_under("client", "client_github", "client_other"))
    with TestClient(app) as browser:
        assert browser.get("/").json() == {"client": "default", "client_github": "github", "client_other": None}


@pytest.mark.parametrize("face", ["lifespan", "middleware"])
def test_state_key_moves_all_clients(face: str) -> None:
    """With state_key="http" they are request.state.http and request.state.http_github, and found there."""
    arguments: Any = {"clients": {"github": ClientSettings()}, "state_key": "http"}
    app = FastAPI(lifespan=create_lifespan(**arguments)) if face == "lifespan" else FastAPI()
    if face == "middleware":
        app.add_middleware(ClientMiddleware, **arguments)
    app.get("/")(names_under("http", "http_github", "client"))

    @app.get("/found")
    async def found(request: Request) -> list[str]:
        return [repr(await get_client(request)), repr(await named_client("github")(request))]

    with TestClient(app) as browser:
        assert browser.get("/").json() == {"http": "default", "http_github": "github", "client": None}
        default, github = browser.get("/found").json()
    assert "'default'" in default
    assert "'github'" in github


@pytest.mark.parametrize("key", ["", "two words", "1st", "client-x"])
def test_state_key_must_be_an_identifier(key: str) -> None:
    """A key that could not be written as request.state.<key> is refused at once, by both faces."""
    with pytest.raises(ValueError, match="is not an identifier"):
        create_lifespan(state_key=key)
    with pytest.raises(ValueError, match="is not an identifier"):
        ClientMiddleware(FastAPI(), state_key=key)


@asynccontextmanager
async def claiming(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Yield a state with a key of ours and an object of one's own."""
    yield {"client": "mine"}


@anyio_test
@pytest.mark.parametrize("face", ["lifespan", "middleware"])
async def test_foreign_object_under_our_key_fails_the_start(face: str) -> None:
    """An own lifespan that yields "client" conflicts: start-up fails with the key and the way out."""
    app = FastAPI(lifespan=create_lifespan(lifespan=claiming) if face == "lifespan" else claiming)
    if face == "middleware":
        app.add_middleware(ClientMiddleware)
    async with lifespan_driver(app) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert isinstance(driver.error, StateKeyConflict)
    assert "state_key='http'" in str(driver.error)
    assert driver.sent == ["lifespan.startup.failed"]


@anyio_test
async def test_bare_app_that_takes_our_key_fails_the_start() -> None:
    """An ASGI app that overwrites our key in the lifespan state is told so, by a failed start-up."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["state"]["client"] = "mine"
        await send({"type": "lifespan.startup.complete"})
        await receive()

    async with lifespan_driver(ClientMiddleware(bare)) as driver:
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "'client'" in answer["message"]


@anyio_test
async def test_server_state_that_has_our_key_already_fails_the_start() -> None:
    """A key that an outer layer has put into the state is not overwritten: start-up fails and says so."""
    async with lifespan_driver(ClientMiddleware(FastAPI())) as driver:
        driver.scope["state"]["client"] = "somebody's"
        answer = await driver.startup()
        await driver.returned.wait()
    assert answer is not None
    assert answer["type"] == "lifespan.startup.failed"
    assert "'client'" in answer["message"]


def test_state_key_resolves_the_conflict() -> None:
    """The way out that the conflict's text names works: both objects are there."""
    app = FastAPI(lifespan=create_lifespan(lifespan=claiming, state_key="http"))

    @app.get("/")
    async def route(request: Request) -> list[str]:
        return [request.state.client, (await get_client(request)).__class__.__name__]

    with TestClient(app) as browser:
        assert browser.get("/").json() == ["mine", "Client"]


@anyio_test
async def test_inner_owner_counts() -> None:
    """With a middleware around a lifespan of ours, a request gets the lifespan's client."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(base_url="http://inner")))
    app.add_middleware(ClientMiddleware, ClientSettings(base_url="http://outer"))

    @app.get("/")
    async def route(request: Request) -> str:
        return str((await get_client(request)).base_url)

    async with started(app) as driver:
        assert (await get(app, state=driver.scope["state"])).json() == "http://inner"


@anyio_test
async def test_inner_owner_counts_under_another_key_too() -> None:
    """An inner owner's default key is found even if the outer owner has moved its own."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(base_url="http://inner"), clients={"x": ClientSettings()}))
    app.add_middleware(ClientMiddleware, ClientSettings(base_url="http://outer"), state_key="http")

    @app.get("/")
    async def route(request: Request) -> list[str]:
        return [str((await get_client(request)).base_url), repr(await named_client("x")(request))]

    async with started(app) as driver:
        base_url, named = (await get(app, state=driver.scope["state"])).json()
    assert base_url == "http://inner"
    assert "'x'" in named


def test_routers_of_one_app_bring_their_own_named_clients() -> None:
    """Lifespans of ours on an app and its router merge: both named clients are found."""
    router = APIRouter(lifespan=create_lifespan(clients={"of_router": ClientSettings()}))
    router.get("/")(names_under("client_of_app", "client_of_router"))
    app = FastAPI(lifespan=create_lifespan(clients={"of_app": ClientSettings()}))
    app.include_router(router)
    with TestClient(app) as browser:
        assert browser.get("/").json() == {"client_of_app": "of_app", "client_of_router": "of_router"}
