"""Tests of the tutorial's app, with respx in the place of the upstreams."""

from collections.abc import Iterator

import httpx
import pytest
import respx
from fastapi.testclient import TestClient
from tutorial import app


@pytest.fixture
def browser() -> Iterator[TestClient]:
    """Start the app; its lifespan opens the client."""
    with TestClient(app) as client:
        yield client


def test_zen(browser: TestClient, respx_mock: respx.MockRouter) -> None:
    """The route returns what GitHub says."""
    respx_mock.get("https://api.github.com/zen").respond(text="Keep it simple.")

    assert browser.get("/zen").json() == {"zen": "Keep it simple."}


def test_zen_when_github_is_down(browser: TestClient, respx_mock: respx.MockRouter) -> None:
    """The route answers 502 when GitHub cannot be reached."""
    respx_mock.get("https://api.github.com/zen").mock(side_effect=httpx.ConnectError("refused"))

    assert browser.get("/zen").status_code == 502


def test_page(browser: TestClient, respx_mock: respx.MockRouter) -> None:
    """The upstream's status, headers and body arrive."""
    respx_mock.get("https://www.example.com/").respond(203, html="<h1>hello</h1>")

    response = browser.get("/page")

    assert response.status_code == 203
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == "<h1>hello</h1>"


def test_loud(browser: TestClient, respx_mock: respx.MockRouter) -> None:
    """The body is changed on the way."""
    respx_mock.get("https://www.example.com/").respond(html="<h1>hello</h1>")

    response = browser.get("/loud")

    assert response.headers["x-volume"] == "loud"
    assert response.text == "<H1>HELLO</H1>"
