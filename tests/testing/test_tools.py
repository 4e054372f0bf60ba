"""
A user's test file for each tool: what it mocks or records, on injected clients and on proxied routes.

Each is run as a user's own, by a pytest that has loaded all plugins that are installed.
"""

from typing import Any

import fastapi.testclient
import pytest
import vcr  # type: ignore[import-untyped]

import fastapi_httpx_pool.testing
from fastapi_httpx_pool.transports import family_named
from tests.support.families import FAMILIES, needs_httpx2

pytest_plugins = ["pytester"]

FAMILY_NAMES: tuple[Any, ...] = FAMILIES
PRELOADED = (fastapi.testclient, fastapi_httpx_pool.testing, vcr, *(family_named(name).core for name in FAMILY_NAMES))
"""pytester forgets what its runs import, and they would import these again, each time."""

APP = """
import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from fastapi_httpx_pool import ClientSettings, ReverseProxy, StreamingProxyResponse, create_lifespan, get_client

API = "http://api.test/items"


def make_app(family="httpx", url=API):
    app = FastAPI(lifespan=create_lifespan(ClientSettings(family=family, trust_env=False)))

    @app.api_route("/injected", methods=["GET", "POST"])
    async def injected(request: Request, client: Annotated[Any, Depends(get_client)]) -> str:
        answer = await client.request(request.method, url, content=await request.body())
        return f"{answer.status_code} {answer.text}"

    @app.api_route("/proxied", methods=["GET", "POST"])
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, url)

    app.mount("/mounted", ReverseProxy(url.rpartition("/")[0]))
    return app
"""

RESPX = """
import httpx
import pytest
import respx
from fastapi.testclient import TestClient
from users_items import API, make_app

app = make_app()

def check(router):
    route = router.post(API).respond(201, text="mocked")
    with TestClient(app) as browser:
        assert browser.post("/injected", content=b"one").json() == "201 mocked"
        assert browser.post("/proxied", content=b"two").text == "mocked"
        assert browser.post("/mounted/items", content=b"three").status_code == 201
    assert [call.request.content for call in route.calls] == [b"one", b"two", b"three"]

@respx.mock
def test_decorator():
    check(respx.mock)

def test_fixture(respx_mock):
    check(respx_mock)

@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_both_levels(using, lifespan_client):
    if using == "httpx":
        with respx.mock(using=using) as router, pytest.raises(respx.models.AllMockedAssertionError):
            with TestClient(app) as browser:
                browser.get("/injected")
    else:
        with respx.mock(using=using) as router:
            check(router)

@respx.mock
def test_error():
    respx.get(API).mock(side_effect=httpx.ReadTimeout)
    with TestClient(app) as browser, pytest.raises(httpx.ReadTimeout):
        assert browser.get("/proxied").status_code == 504
        browser.get("/injected")

@pytest.mark.anyio
@respx.mock
async def test_lifespan_client(lifespan_client):
    respx.get(API).respond(text="mocked")
    async with lifespan_client(app) as browser:
        assert (await browser.get("/proxied")).text == "mocked"

@respx.mock
def test_pass_through(upstream):
    upstream.get("/items").respond(text="real")
    respx.route(host=upstream.host).pass_through()
    with TestClient(make_app(url=f"{upstream.url}/items")) as browser:
        assert browser.get("/injected").json() == "200 real"
        assert browser.get("/proxied").text == "real"

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

PYTEST_HTTPX = """
import httpx
import pytest
from fastapi.testclient import TestClient
from users_items import API, make_app

app = make_app()

def test_mocked(httpx_mock):
    httpx_mock.add_response(url=API, method="POST", status_code=201, text="mocked", is_reusable=True)
    with TestClient(app) as browser:
        assert browser.post("/injected", content=b"one").json() == "201 mocked"
        assert browser.post("/proxied", content=b"two").text == "mocked"
        assert browser.post("/mounted/items", content=b"three").status_code == 201
    assert [request.content for request in httpx_mock.get_requests()] == [b"one", b"two", b"three"]

def test_error(httpx_mock):
    httpx_mock.add_exception(httpx.ReadTimeout("slow"), is_reusable=True)
    with TestClient(app) as browser, pytest.raises(httpx.ReadTimeout):
        assert browser.get("/proxied").status_code == 504
        browser.get("/injected")

@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host == "api.test")
def test_real(httpx_mock, upstream):
    upstream.get("/items").respond(text="real")
    with TestClient(make_app(url=f"{upstream.url}/items")) as browser:
        assert browser.get("/injected").json() == "200 real"
        assert browser.get("/proxied").text == "real"
"""

VCRPY = """
import pytest
import vcr
from fastapi.testclient import TestClient
from fastapi_httpx_pool.testing import Upstream
from users_items import make_app

def ask(app):
    with TestClient(app) as browser:
        return [
            browser.get("/injected").json(),
            browser.get("/proxied").text,
            browser.post("/mounted/items", content=b"sent").text,
        ]

@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_and_replayed(tmp_path, family):
    cassette = str(tmp_path / "cassette.yaml")
    with Upstream() as upstream:
        upstream.get("/items").respond(text="real")
        upstream.post("/items").respond(201, json={"a": 1})
        app = make_app(family, f"{upstream.url}/items")
        with vcr.use_cassette(cassette) as recorded:
            first = ask(app)
        assert len(upstream.requests) == recorded.play_count + 3
    with vcr.use_cassette(cassette, record_mode="none", allow_playback_repeats=True) as replayed:
        assert ask(app) == first
    assert replayed.play_count == 3
    assert first == ["200 real", "real", '{"a": 1}']
"""

PYTEST_HTTPX2 = """
import httpx2
import pytest
from fastapi.testclient import TestClient
from users_items import API, make_app

app = make_app("httpx2")

def test_mocked(httpx2_mock):
    route = httpx2_mock.post(API).respond(201, text="mocked")
    with TestClient(app) as browser:
        assert browser.post("/injected", content=b"one").json() == "201 mocked"
        assert browser.post("/proxied", content=b"two").text == "mocked"
        assert browser.post("/mounted/items", content=b"three").status_code == 201
    assert [call.request.content for call in route.calls] == [b"one", b"two", b"three"]

def test_error(httpx2_mock):
    httpx2_mock.get(API).mock(side_effect=httpx2.ReadTimeout("slow"))
    with TestClient(app) as browser, pytest.raises(httpx2.ReadTimeout):
        assert browser.get("/proxied").status_code == 504
        browser.get("/injected")

def test_beside_httpx(httpx2_mock, respx_mock):
    httpx2_mock.get(API).respond(text="for httpx2")
    respx_mock.get(API).respond(text="for httpx")
    for family in ("httpx", "httpx2"):
        with TestClient(make_app(family)) as browser:
            assert browser.get("/proxied").text == f"for {family}"
"""

OVERRIDES = """
import importlib

import pytest
from fastapi.testclient import TestClient
from fastapi_httpx_pool import get_client
from users_items import make_app

@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param

def client_of(family):
    module = importlib.import_module(family)
    return module.AsyncClient(transport=module.MockTransport(lambda request: module.Response(203, text="mocked")))

def test_dependency_overrides(family):
    app = make_app(family)
    app.dependency_overrides[get_client] = lambda: client_of(family)
    assert TestClient(app).get("/injected").json() == "203 mocked"

def test_client_override(family, client_override):
    app = make_app(family)
    with client_override(app, client_of(family)):
        browser = TestClient(app)
        assert browser.get("/injected").json() == "203 mocked"
        assert browser.get("/proxied").text == "mocked"
        assert browser.get("/mounted/items").text == "mocked"

def test_upstream(family, upstream, client_override):
    upstream.route(path="/items").respond(text="real")
    app = make_app(family)
    with TestClient(app) as browser, client_override(app, upstream):
        assert browser.get("/injected").json() == "200 real"
        assert browser.get("/proxied").text == "real"
        assert browser.get("/mounted/items").text == "real"
"""

USERS_FILES = [
    pytest.param(RESPX, 7, id="respx"),
    pytest.param(PYTEST_HTTPX, 3, id="pytest-httpx"),
    pytest.param(VCRPY, len(FAMILIES), id="vcrpy"),
    pytest.param(PYTEST_HTTPX2, 3, id="pytest-httpx2", marks=needs_httpx2),
    pytest.param(OVERRIDES, 3 * len(FAMILIES), id="overrides"),
]


@pytest.mark.parametrize(("file", "passed"), USERS_FILES)
def test_users_file(pytester: pytest.Pytester, file: str, passed: int) -> None:
    """The tool does on both kinds of route what it does elsewhere, with the guards on and warnings as errors."""
    pytester.makepyfile(users_items=APP, test_items=f"FAMILIES = {FAMILIES!r}\n{file}")
    pytester.makeini(
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        httpx_pool_leak_guard = true
        httpx_pool_network_guard = true
        filterwarnings =
            error
            ignore:Using `httpx` with `starlette.testclient`
        """
    )
    pytester.syspathinsert()
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=passed)
