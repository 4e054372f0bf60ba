"""The client, or only its transport, is another one for a block."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
from fastapi.testclient import TestClient
from zen import app

from fastapi_httpx_pool import get_client

Override = Callable[..., AbstractContextManager[None]]


def answer(request: httpx.Request) -> httpx.Response:
    """Stand in for all hosts."""
    return httpx.Response(200, text=f"You asked {request.url.host}.")


def test_transport(client_override: Override) -> None:
    """Another transport, with the settings of the app's own client."""
    with TestClient(app) as browser, client_override(app, httpx.MockTransport(answer)):
        assert browser.get("/zen").json() == "You asked api.github.com."
        assert browser.get("/page").text == "You asked www.example.com."


def test_client_without_a_lifespan(client_override: Override) -> None:
    """Another client; the app need not have opened any."""
    with client_override(app, httpx.AsyncClient(transport=httpx.MockTransport(answer))):
        assert TestClient(app).get("/page").text == "You asked www.example.com."


def test_dependency_overrides() -> None:
    """FastAPI's own way reaches the injected client only."""
    app.dependency_overrides[get_client] = lambda: httpx.AsyncClient(transport=httpx.MockTransport(answer))
    try:
        assert TestClient(app).get("/zen").json() == "You asked api.github.com."
    finally:
        app.dependency_overrides.clear()
