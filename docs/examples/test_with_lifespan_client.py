"""The tests are asynchronous, and so is the fixture that holds the running app."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager

import httpx
import pytest
from zen import app

from fastapi_httpx_pool.testing import Upstream


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio; the marker below is anyio's pytest plugin, which FastAPI brings along."""
    return "asyncio"


@pytest.fixture(name="browser")
async def _browser(
    lifespan_client: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]],
    client_override: Callable[..., AbstractContextManager[None]],
    upstream: Upstream,
) -> AsyncIterator[httpx.AsyncClient]:
    async with lifespan_client(app) as browser:
        with client_override(app, upstream):
            yield browser


@pytest.mark.anyio
async def test_zen(browser: httpx.AsyncClient, upstream: Upstream) -> None:
    """The route returns what the upstream says."""
    upstream.get("/zen").respond(text="Keep it simple.")

    assert (await browser.get("/zen")).json() == "Keep it simple."
