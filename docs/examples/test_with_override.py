"""The client is another one: neither the lifespan nor a mock is needed."""

import httpx
from fastapi.testclient import TestClient
from zen import app

from fastapi_httpx_pool import get_client


def answer(request: httpx.Request) -> httpx.Response:
    """Stand in for GitHub."""
    return httpx.Response(200, text=f"You asked {request.url.host}.")


def test_zen() -> None:
    """The route uses the client that it is given."""
    app.dependency_overrides[get_client] = lambda: httpx.AsyncClient(transport=httpx.MockTransport(answer))
    try:
        assert TestClient(app).get("/zen").json() == "You asked api.github.com."
    finally:
        app.dependency_overrides.clear()
