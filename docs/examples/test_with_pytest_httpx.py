"""The upstream is pytest-httpx's."""

import httpx
from fastapi.testclient import TestClient
from pytest_httpx import HTTPXMock
from zen import app


def test_zen(httpx_mock: HTTPXMock) -> None:
    """The route returns what GitHub says."""
    httpx_mock.add_response(url="https://api.github.com/zen", text="Keep it simple.")

    with TestClient(app) as browser:
        assert browser.get("/zen").json() == "Keep it simple."


def test_timeout(httpx_mock: HTTPXMock) -> None:
    """A timeout of the upstream's reaches the server as the exception that httpx raises."""
    httpx_mock.add_exception(httpx.ReadTimeout("too slow"))

    with TestClient(app, raise_server_exceptions=False) as browser:
        assert browser.get("/zen").status_code == 500
