"""A client of the httpx2 family; the upstream is pytest-httpx2's."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_httpx_pool import ClientSettings, create_lifespan, named_client

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("pytest_httpx2")

app = FastAPI(lifespan=create_lifespan(clients={"llm": ClientSettings(family="httpx2")}))
LLM = Annotated[Any, Depends(named_client("llm", httpx2.AsyncClient))]


@app.get("/ask")
async def ask(client: LLM) -> str:
    """Ask the model."""
    response = await client.post("https://llm.example.com/v1/ask", json={"question": "Why?"})
    return str(response.json()["answer"])


def test_ask(httpx2_mock: Any) -> None:
    """The route returns the model's answer."""
    httpx2_mock.post("https://llm.example.com/v1/ask").respond(json={"answer": "Because."})

    with TestClient(app) as browser:
        assert browser.get("/ask").json() == "Because."
