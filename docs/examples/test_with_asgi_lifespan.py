"""The test is asynchronous: asgi-lifespan runs the lifespan, httpx calls the app."""

import httpx
import pytest
import respx
from asgi_lifespan import LifespanManager
from zen import app


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio; the marker below is anyio's pytest plugin, which FastAPI brings along."""
    return "asyncio"


@pytest.mark.anyio
async def test_zen(respx_mock: respx.MockRouter) -> None:
    """The route returns what GitHub says."""
    respx_mock.get("https://api.github.com/zen").respond(text="Keep it simple.")

    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(manager.app)  # manager.app passes the lifespan's state on
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
            response = await browser.get("/zen")

    assert response.json() == "Keep it simple."
