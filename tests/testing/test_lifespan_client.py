"""``lifespan_client`` runs an app's lifespan as a server does, and calls the app with its state."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request

from fastapi_httpx_pool import ClientDep, ClientMiddleware, ClientNotStarted, StreamingProxyResponse, create_lifespan
from fastapi_httpx_pool.testing import Upstream, lifespan_client

pytestmark = pytest.mark.anyio


def app_with(upstream: Upstream, lifespan: Any = None) -> FastAPI:
    """Return an app with an injected and a proxied route."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/injected")
    async def injected(client: ClientDep) -> str:
        return (await client.get(f"{upstream.url}/x")).text

    @app.get("/proxied")
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, f"{upstream.url}/x")

    @app.get("/base")
    async def base(request: Request) -> str:
        return f"{request.url} {request.headers['x-mine']}"

    return app


@pytest.mark.parametrize("way", ["lifespan", "middleware"])
async def test_routes(upstream: Upstream, way: str) -> None:
    """Injected and proxied routes work in the block, and no longer after it."""
    upstream.get("/x").respond(text="real")
    app = app_with(upstream, create_lifespan() if way == "lifespan" else None)
    if way == "middleware":
        app.add_middleware(ClientMiddleware)
    async with lifespan_client(app) as browser:
        assert (await browser.get("/injected")).json() == "real"
        assert (await browser.get("/proxied")).text == "real"
    with pytest.raises(RuntimeError, match="closed"):
        await browser.get("/injected")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as bare:
        with pytest.raises(ClientNotStarted):
            await bare.get("/injected")


async def test_options(upstream: Upstream) -> None:
    """Base URL and options are the client's; what the app raises can be answered with 500."""
    app = app_with(upstream)
    headers = {"X-Mine": "yes"}
    async with lifespan_client(
        app, base_url="https://app.test", raise_app_exceptions=False, headers=headers
    ) as browser:
        assert (await browser.get("/base")).json() == "https://app.test/base yes"
        assert (await browser.get("/injected")).status_code == 500


async def test_left_in_another_task(upstream: Upstream) -> None:
    """It may be entered in one task and left in another one, as the fixtures of some plugins are."""
    app = app_with(upstream, create_lifespan())
    upstream.get("/x").respond(text="real")
    stack = AsyncExitStack()
    found: list[Any] = []

    async def enter() -> None:
        browser = await stack.enter_async_context(lifespan_client(app))
        found.append((await browser.get("/injected")).json())

    for work in (enter, stack.aclose):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
    assert found == ["real"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_failing_lifespan(upstream: Upstream, phase: str) -> None:
    """What the lifespan raises is raised where the block begins or ends."""

    @asynccontextmanager
    async def failing(app: FastAPI) -> AsyncIterator[None]:
        if phase == "startup":
            raise LookupError("no database")
        yield
        raise LookupError("no database")

    entered = False
    with pytest.raises(LookupError, match="no database"):
        async with lifespan_client(app_with(upstream, failing)):
            entered = True
    assert entered == (phase == "shutdown")


async def test_failure_without_an_exception() -> None:
    """A failure that an app only tells of is raised with its message."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.raises(RuntimeError, match="the app's startup failed: no disk"):
        async with lifespan_client(app):
            pass


async def test_app_without_a_lifespan() -> None:
    """An app that knows no lifespan is called all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 203, "headers": []})
        await send({"type": "http.response.body"})

    async with lifespan_client(app) as browser:
        assert (await browser.get("/")).status_code == 203


async def test_failing_block(upstream: Upstream) -> None:
    """An error of the block's own comes out, and the lifespan has been left."""
    lifespan = create_lifespan()

    async def fail() -> None:
        async with lifespan_client(app_with(upstream, lifespan)):
            assert lifespan.factory.get() is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(ClientNotStarted):
        _ = lifespan.factory
