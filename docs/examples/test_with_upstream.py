"""The upstream is a real server on 127.0.0.1: its answers are good, late, broken, or missing."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from fastapi.testclient import TestClient
from zen import app

from fastapi_httpx_pool import UpstreamAborted
from fastapi_httpx_pool.testing import Upstream

Override = Callable[..., AbstractContextManager[None]]


def test_zen(upstream: Upstream, client_override: Override) -> None:
    """The route returns what the upstream says, and asks for it in the right way."""
    upstream.get("/zen").respond(text="Keep it simple.")

    with TestClient(app) as browser, client_override(app, upstream):
        assert browser.get("/zen").json() == "Keep it simple."

    (request,) = upstream.requests
    assert request.headers["host"] == "api.github.com"


def test_page(upstream: Upstream, client_override: Override) -> None:
    """The proxied route passes the upstream's status and headers on."""
    upstream.get("/").respond(418, text="short and stout", headers={"X-Pot": "tea"})

    with TestClient(app) as browser, client_override(app, upstream):
        answer = browser.get("/page")

    assert (answer.status_code, answer.text, answer.headers["x-pot"]) == (418, "short and stout", "tea")


def test_bad_days(upstream: Upstream, client_override: Override) -> None:
    """What cannot be had from the upstream is told with the right status."""
    upstream.get("/").reset().reset(after=b"HTTP/1.1 200 OK\r\nContent-").raw(b"SMTP ready\r\n\r\n")

    with TestClient(app) as browser, client_override(app, upstream):
        assert [browser.get("/page").status_code for _ in range(3)] == [502, 502, 502]


def test_half_an_answer(upstream: Upstream, client_override: Override) -> None:
    """An answer that breaks off in the middle breaks off for the browser, too."""
    upstream.get("/").respond(text="half of the page and the rest", reset_after=16)

    with TestClient(app) as browser, client_override(app, upstream), pytest.raises(UpstreamAborted):
        browser.get("/page")
