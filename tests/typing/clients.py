"""What a type checker makes of the factory, the lifespan and the middleware; checked, never run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_type

import httpx
import httpx2
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

from fastapi_httpx_pool import ClientFactory, ClientLifespan, ClientMiddleware, ClientSettings, create_lifespan


async def script() -> None:
    """A factory gives itself, and its clients by name and class."""
    async with ClientFactory(ClientSettings(), {"llm": ClientSettings(family="httpx2")}) as factory:
        assert_type(factory, ClientFactory)
        assert_type(factory.names, tuple[str, ...])
        assert_type(factory.get(), httpx.AsyncClient)
        assert_type(factory.get(None), httpx.AsyncClient)
        assert_type(factory.get("x"), httpx.AsyncClient)
        assert_type(factory.get(name="x"), httpx.AsyncClient)
        assert_type(factory.get("x", httpx.AsyncClient), httpx.AsyncClient)
        assert_type(factory.get("llm", httpx2.AsyncClient), httpx2.AsyncClient)
        assert_type(factory.get(None, httpx2.AsyncClient), httpx2.AsyncClient)
        assert_type(factory.get("llm", client_class=httpx2.AsyncClient), httpx2.AsyncClient)
        assert_type(await factory.get().get("/"), httpx.Response)


@asynccontextmanager
async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    """Be an app's own lifespan."""
    yield {"db": "open"}


@asynccontextmanager
async def own_without_state(app: FastAPI) -> AsyncIterator[None]:
    """Be one that yields nothing."""
    yield


async def own_generator(app: FastAPI) -> AsyncIterator[None]:
    """Be one without the decorator."""
    yield


lifespan = create_lifespan(ClientSettings(), clients={"x": ClientSettings()}, lifespan=own, state_key="http")
assert_type(lifespan, ClientLifespan)
assert_type(lifespan.factory, ClientFactory)
assert_type(lifespan.factory.get("llm", httpx2.AsyncClient), httpx2.AsyncClient)

FastAPI(lifespan=create_lifespan())
FastAPI(lifespan=lifespan)
FastAPI(lifespan=create_lifespan(lifespan=own_without_state))
FastAPI(lifespan=create_lifespan(lifespan=own_generator))
Starlette(lifespan=create_lifespan())
APIRouter(lifespan=create_lifespan())

app = FastAPI()
app.add_middleware(ClientMiddleware)
app.add_middleware(ClientMiddleware, ClientSettings(), clients={"x": ClientSettings()}, state_key="http")
Starlette(middleware=[Middleware(ClientMiddleware)])
ClientMiddleware(app, ClientSettings())
