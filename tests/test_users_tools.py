"""
A user's own test file: the usual tools mock what the app sends, on injected clients and proxied routes.

The app runs under a real server and is asked with urllib, which no mock touches.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
import respx
from asgi_lifespan import LifespanManager
from fastapi import Depends, FastAPI, Request

from fastapi_httpx_pool import (
    ClientDep,
    ClientFactory,
    ClientSettings,
    StreamingProxyResponse,
    create_lifespan,
    get_client,
    named_client,
)

from .support.families import FAMILIES, module_of, needs_httpx2
from .support.server import serving
from .support.upstream import Upstream, answering, ok, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.httpx_pool(leak_guard=True, network_guard=True)]

LIMIT = 30.0

API = "http://api.test/items"
"""Where the mocked requests go; no such host exists."""


class Browser:
    """Asks the app and returns status and body."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        """Send a GET, or a POST if there is data."""
        # An opener without proxies, as the environment of the machine is not the test's.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + path, data, LIMIT) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read()


def make_app(family: Any = "httpx", upstream: str = API) -> FastAPI:
    """Return an app with the routes that the tests mock: ``/injected`` and ``/proxied``."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(family=family)))

    @app.api_route("/injected", methods=["GET", "POST"])
    async def injected(request: Request, client: ClientDep) -> dict[str, Any]:
        try:
            answer = await client.request(request.method, upstream, content=await request.body())
        except (ValueError, module_of(family).HTTPError) as exc:
            return {"error": type(exc).__name__, "text": str(exc)}
        return {"status": answer.status_code, "text": answer.text, "header": answer.headers.get("x-mocked")}

    @app.api_route("/proxied", methods=["GET", "POST"])
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream)

    return app


@pytest.fixture(name="browser")
def _browser() -> Iterator[Browser]:
    with serving(make_app()) as server:
        yield Browser(server.url)


@pytest.fixture(name="browser2")
def _browser2() -> Iterator[Browser]:
    with serving(make_app("httpx2")) as server:
        yield Browser(server.url)


# respx


def check_with_respx(browser: Browser, router: Any) -> None:
    """Ask both routes of a mocked app: answers, headers, request bodies and statuses."""
    route = router.post(API).respond(201, text="mocked", headers={"x-mocked": "yes"})
    status, body = browser.ask("/injected", b"one")
    assert json.loads(body) == {"status": 201, "text": "mocked", "header": "yes"}
    assert browser.ask("/proxied", b"two") == (201, b"mocked")
    assert status == 200
    assert [call.request.content for call in route.calls] == [b"one", b"two"]
    assert [str(call.request.url) for call in route.calls] == [API, API]


@respx.mock
def test_respx_decorator(browser: Browser) -> None:
    """@respx.mock answers for the injected client and for the proxied route."""
    check_with_respx(browser, respx.mock)


def test_respx_fixture(browser: Browser, respx_mock: respx.MockRouter) -> None:
    """So does the respx_mock fixture."""
    check_with_respx(browser, respx_mock)


@pytest.mark.respx(base_url="http://api.test", assert_all_called=False)
def test_respx_marker(browser: Browser, respx_mock: respx.MockRouter) -> None:
    """And the fixture with options."""
    respx_mock.get("/items").respond(text="based")
    respx_mock.get("/other").respond(text="never called")
    assert browser.ask("/proxied") == (200, b"based")


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx_at_both_levels(browser: Browser, using: str) -> None:
    """Whichever level respx patches, both kinds of route are mocked."""
    with respx.mock(using=using) as router:
        check_with_respx(browser, router)


@pytest.mark.respx(assert_all_mocked=True)
def test_respx_unmocked_request_fails(browser: Browser, respx_mock: respx.MockRouter) -> None:
    """A request that no route of the mock matches does not reach the network."""
    with scripted(answering(ok())) as upstream, serving(make_app(upstream=upstream.url)) as server:
        assert Browser(server.url).ask("/injected")[0] == 500
        assert upstream.accepted == 0


def test_respx_pass_through() -> None:
    """respx's pass_through() sends the real request, through the pool, on both kinds of route."""
    with (
        scripted(answering(ok(b"real"))) as upstream,
        serving(make_app(upstream=upstream.url)) as server,
        respx.mock() as router,
    ):
        route = router.route(host=upstream.host).pass_through()
        assert json.loads(Browser(server.url).ask("/injected")[1])["text"] == "real"
        assert Browser(server.url).ask("/proxied") == (200, b"real")
        assert route.called


def test_real_requests_after_the_mock() -> None:
    """When the mock has ended, the same running app sends real requests again."""
    with scripted(answering(ok(b"real"))) as upstream, serving(make_app(upstream=upstream.url)) as server:
        browser = Browser(server.url)
        with respx.mock() as router:
            router.get(upstream.url).respond(text="mocked")
            assert browser.ask("/proxied") == (200, b"mocked")
            assert upstream.accepted == 0
        assert browser.ask("/proxied") == (200, b"real")
        assert json.loads(browser.ask("/injected")[1])["text"] == "real"
        assert upstream.accepted == 1


@respx.mock
@pytest.mark.parametrize(
    ("error", "status"),
    [(httpx.ConnectError, 502), (httpx.ConnectTimeout, 504), (httpx.ReadTimeout, 504), (httpx.PoolTimeout, 503)],
)
def test_respx_errors(browser: Browser, error: type[httpx.TransportError], status: int) -> None:
    """An error of a mock reaches the injected client as itself, and the proxied route as its status."""
    respx.mock.get(API).mock(side_effect=error)
    assert json.loads(browser.ask("/injected")[1])["error"] == error.__name__
    assert browser.ask("/proxied")[0] == status


class Custom(httpx.ReadError):
    """A subclass of a user's own."""


def _request() -> httpx.Request:
    return httpx.Request("GET", API)


ERRORS = [
    httpx.ConnectError("refused", request=_request()),
    httpx.ReadTimeout("slow", request=_request()),
    httpx.RemoteProtocolError("odd"),
    httpx.TransportError("bare"),
    Custom("mine"),
    httpx.TooManyRedirects("round and round"),
    ValueError("not httpx's"),
]


@respx.mock
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_respx_error_is_the_same_object(error: Exception) -> None:
    """What a mock raises comes out of the client as the very object."""
    respx.mock.get(API).mock(side_effect=error)
    async with ClientFactory() as factory:
        with pytest.raises(type(error)) as caught:
            await factory.get().get(API)
    assert caught.value is error


# pytest-httpx


def test_pytest_httpx(browser: Browser, httpx_mock: Any) -> None:
    """httpx_mock answers for both kinds of route and shows requests with their content."""
    httpx_mock.add_response(url=API, method="POST", status_code=201, text="mocked", headers={"x-mocked": "yes"})
    httpx_mock.add_response(url=API, method="POST", match_content=b"two", json={"n": 2})
    assert json.loads(browser.ask("/injected", b"one")[1]) == {"status": 201, "text": "mocked", "header": "yes"}
    assert browser.ask("/proxied", b"two") == (200, b'{"n":2}')
    assert [request.content for request in httpx_mock.get_requests()] == [b"one", b"two"]


def test_pytest_httpx_iterator_stream(browser: Browser, httpx_mock: Any) -> None:
    """A mocked stream comes through both kinds of route."""
    pytest_httpx = pytest.importorskip("pytest_httpx")
    for _ in range(2):
        httpx_mock.add_response(stream=pytest_httpx.IteratorStream([b"part 1, ", b"part 2"]))
    assert json.loads(browser.ask("/injected")[1])["text"] == "part 1, part 2"
    assert browser.ask("/proxied") == (200, b"part 1, part 2")


def test_pytest_httpx_exception(browser: Browser, httpx_mock: Any) -> None:
    """add_exception() reaches both kinds of route."""
    httpx_mock.add_exception(httpx.ReadTimeout("too slow"), is_reusable=True)
    assert json.loads(browser.ask("/injected")[1]) == {"error": "ReadTimeout", "text": "too slow"}
    assert browser.ask("/proxied")[0] == 504


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_pytest_httpx_error_is_the_same_object(httpx_mock: Any, error: Exception) -> None:
    """What add_exception() was given comes out of the client as the very object."""
    httpx_mock.add_exception(error)
    async with ClientFactory() as factory:
        with pytest.raises(type(error)) as caught:
            await factory.get().get(API)
    assert caught.value is error


@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host == "api.test")
async def test_pytest_httpx_should_mock(httpx_mock: Any) -> None:
    """Requests that should not be mocked go to the real server."""
    httpx_mock.add_response(text="mocked")
    with scripted(answering(ok(b"real"))) as upstream:
        async with ClientFactory() as factory:
            assert (await factory.get().get(upstream.url)).text == "real"
            assert (await factory.get().get(API)).text == "mocked"


# pytest-httpx2


@needs_httpx2
def test_pytest_httpx2(browser2: Browser, httpx2_mock: Any) -> None:
    """httpx2_mock answers for both kinds of route of an app whose client is of that family."""
    check_with_respx(browser2, httpx2_mock)


@needs_httpx2
def test_respx_leaves_the_other_family_alone(httpx2_mock: Any, respx_mock: respx.MockRouter) -> None:
    """Mocks of both families at once: each answers only for clients of its own."""
    httpx2_mock.get(API).respond(text="for httpx2")
    respx_mock.get(API).respond(text="for httpx")
    for family in FAMILIES:
        with serving(make_app(family)) as server:
            assert Browser(server.url).ask("/proxied") == (200, f"for {family}".encode())
            assert json.loads(Browser(server.url).ask("/injected")[1])["text"] == f"for {family}"


@needs_httpx2
async def test_pytest_httpx2_error_is_the_same_object(httpx2_mock: Any) -> None:
    """What the mock raises comes out of an httpx2 client as the very object."""
    error = module_of("httpx2").ConnectTimeout("slow")
    httpx2_mock.get(API).mock(side_effect=error)
    async with ClientFactory(ClientSettings(family="httpx2")) as factory:
        with pytest.raises(type(error)) as caught:
            await factory.get().get(API)
    assert caught.value is error


# asgi-lifespan


@pytest.fixture(name="upstream")
def _upstream() -> Iterator[Upstream]:
    with scripted(answering(ok(b"real"))) as upstream:
        yield upstream


async def test_asgi_lifespan(upstream: Upstream) -> None:
    """With LifespanManager and ASGITransport, both kinds of route work without a server."""
    async with (
        LifespanManager(make_app(upstream=upstream.url)) as manager,
        httpx.AsyncClient(transport=httpx.ASGITransport(manager.app), base_url="http://app.test") as browser,
    ):
        assert (await browser.get("/injected")).json()["text"] == "real"
        assert (await browser.get("/proxied")).text == "real"
    assert upstream.accepted == 1


async def test_asgi_lifespan_with_respx(respx_mock: respx.MockRouter) -> None:
    """The two tools together: the app is asked for real, and what it sends is mocked."""
    respx_mock.get(API).respond(text="mocked")
    async with (
        LifespanManager(make_app()) as manager,
        httpx.AsyncClient(transport=httpx.ASGITransport(manager.app), base_url="http://app.test") as browser,
    ):
        assert (await browser.get("/proxied")).text == "mocked"
        assert (await browser.get("/injected")).json()["text"] == "mocked"


# Overrides with a MockTransport


def _answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(203, text=f"{request.method} {request.url} {request.content.decode()}")


def test_mock_transport_in_an_override() -> None:
    """A client over MockTransport in dependency_overrides serves the injected route."""
    app = make_app()
    app.dependency_overrides[get_client] = lambda: httpx.AsyncClient(transport=httpx.MockTransport(_answer))
    with serving(app) as server:
        answer = json.loads(Browser(server.url).ask("/injected", b"hi")[1])
    assert answer == {"status": 203, "text": f"POST {API} hi", "header": None}


@pytest.mark.parametrize("dependency", [get_client, named_client("mocked")])
def test_mock_transport_on_a_proxied_route(dependency: Any) -> None:
    """A proxied route that passes its injected client on sends through the override's transport."""
    app = FastAPI()

    @app.post("/proxied")
    async def proxied(request: Request, client: Annotated[Any, Depends(dependency)]) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, API, client=client)

    app.dependency_overrides[dependency] = lambda: httpx.AsyncClient(transport=httpx.MockTransport(_answer))
    with serving(app) as server:
        assert Browser(server.url).ask("/proxied", b"hi") == (203, f"POST {API} hi".encode())
