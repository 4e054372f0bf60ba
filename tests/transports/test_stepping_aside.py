"""
Whoever puts something of their own before httpx's transport sees every request; the engine goes on when they leave.

Each test asks two clients: an ``AsyncClient`` over a bare ``PoolTransport``, and one of a
``ClientFactory``. Whatever a test has put in place is gone before the fixture ``asker`` is left, and
that makes sure that the engine carries requests again.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import httpx
import pytest
import respx
from respx.models import AllMockedAssertionError

from fastapi_httpx_pool import ClientFactory, ClientSettings
from fastapi_httpx_pool.engine import PoolStatistics
from fastapi_httpx_pool.messages import Origin, Request
from fastapi_httpx_pool.transports import handler_for
from tests.support.families import FAMILIES, module_of, needs_httpx2
from tests.support.upstream import Upstream, answering, ok, scripted

pytestmark = pytest.mark.anyio

API = "http://api.test/items"
"""Where the mocked requests go; no such host exists."""


@pytest.fixture
def anyio_backend() -> str:
    """Where the engine runs."""
    return "asyncio"


@pytest.fixture(name="family")
def _family() -> str:
    return "httpx"


class Asker:
    """Two clients of one family over engines, and an upstream for them."""

    def __init__(self, family: str, upstream: Upstream, clients: dict[str, Any]) -> None:
        self.family = family
        self.upstream = upstream
        self.clients = clients

    async def ask(self, url: str | None = None, **request: Any) -> set[tuple[int, str]]:
        """Send the same request with both clients, by default to the upstream; return the answers."""
        answers = set()
        for client in self.clients.values():
            response = await client.request(url=url or self.upstream.url, **{"method": "GET", **request})
            answers.add((response.status_code, response.text))
        return answers

    def carried(self) -> list[int]:
        """Return how many requests each engine has carried."""
        found = [transport_of(client).statistics() for client in self.clients.values()]
        return [requests_in(statistics) for statistics in found]


def transport_of(client: Any) -> Any:
    """Return what a client sends through."""
    return client._transport


def requests_in(statistics: PoolStatistics) -> int:
    """Return how many requests an engine has carried."""
    assert statistics.engine == "native"
    return sum(origin.requests for origin in statistics.origins.values())


@pytest.fixture(name="asker")
async def _asker(family: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asker]:
    transport = import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport(engine="native", trust_env=False)
    settings = ClientSettings(family=family, engine="native", trust_env=False)
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(scripted(answering(ok(b"real"))))
        bare = await stack.enter_async_context(module_of(family).AsyncClient(transport=transport))
        factory = await stack.enter_async_context(ClientFactory(settings))
        asker = Asker(family, upstream, {"bare": bare, "factory": factory.get()})
        yield asker
        monkeypatch.undo()  # what pytest-httpx has put in place with it
        before = asker.carried()
        assert await asker.ask() == {(200, "real")}
        assert asker.carried() == [count + 1 for count in before]
        assert transport.statistics().active == 0


async def test_nothing_to_step_aside_for(asker: Asker) -> None:
    """While nobody has put anything in place, the engine carries what is sent."""
    assert await asker.ask() == {(200, "real")}
    assert await asker.ask() == {(200, "real")}
    assert asker.carried() == [2, 2]
    assert asker.upstream.accepted == 2


# respx


async def test_respx_decorator(asker: Asker) -> None:
    """``@respx.mock`` answers, and the engine sees nothing of it until the decorated function has returned."""

    @respx.mock
    async def users_own() -> None:
        route = respx.post(API).respond(201, text="mocked")
        assert await asker.ask(API, method="POST", content=b"body") == {(201, "mocked")}
        assert [call.request.content for call in route.calls] == [b"body", b"body"]

    await users_own()
    assert asker.carried() == [0, 0]
    assert await asker.ask() == {(200, "real")}
    assert asker.carried() == [1, 1]


async def test_respx_fixture(asker: Asker, respx_mock: respx.MockRouter) -> None:
    """The ``respx_mock`` fixture answers, for the upstream's own address too."""
    respx_mock.get(asker.upstream.url).respond(text="mocked")
    assert await asker.ask() == {(200, "mocked")}
    assert asker.carried() == [0, 0]
    assert asker.upstream.accepted == 0


async def test_respx_using_httpx(asker: Asker) -> None:
    """So does respx where it replaces the clients' choice of a transport."""
    with respx.mock(using="httpx") as router:
        router.get(asker.upstream.url).respond(text="mocked")
        assert await asker.ask() == {(200, "mocked")}
    assert asker.carried() == [0, 0]
    assert asker.upstream.accepted == 0


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_respx_unmocked(asker: Asker, using: str) -> None:
    """What no route matches fails, and reaches no network."""
    with respx.mock(using=using, assert_all_called=False) as router:
        router.get(API).respond(text="mocked")
        for client in asker.clients.values():
            with pytest.raises(AllMockedAssertionError):
                await client.get(asker.upstream.url)
    assert asker.upstream.accepted == 0


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
async def test_respx_pass_through(asker: Asker, using: str) -> None:
    """``pass_through()`` sends the real request."""
    with respx.mock(using=using) as router:
        route = router.post(asker.upstream.url).pass_through()
        assert await asker.ask(method="POST", content=b"body") == {(200, "real")}
        assert route.called
    assert asker.upstream.accepted == 2


async def test_respx_side_effects(asker: Asker) -> None:
    """A side effect's error is the very object, and a function is asked."""
    error = httpx.ConnectError("no")
    with respx.mock() as router:
        router.get(API).mock(side_effect=error)
        router.put(API).mock(side_effect=lambda request: httpx.Response(202, text=request.headers["x-a"]))
        for client in asker.clients.values():
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(API)
            assert caught.value is error
        assert await asker.ask(API, method="PUT", headers={"X-A": "b"}) == {(202, "b")}
    assert asker.carried() == [0, 0]


async def test_respx_during_an_exchange(asker: Asker) -> None:
    """A response that the engine has begun is read to its end, whatever is mocked meanwhile."""
    for client in asker.clients.values():
        async with client.stream("GET", asker.upstream.url) as response:
            with respx.mock() as router:
                router.get(API).respond(text="mocked")
                assert (await client.get(API)).text == "mocked"
                assert await response.aread() == b"real"


# pytest-httpx and pytest-httpx2


async def test_pytest_httpx(asker: Asker, httpx_mock: Any) -> None:
    """``httpx_mock`` answers."""
    httpx_mock.add_response(url=asker.upstream.url, text="mocked", is_reusable=True)
    assert await asker.ask() == {(200, "mocked")}
    assert asker.carried() == [0, 0]
    assert asker.upstream.accepted == 0


@pytest.mark.httpx_mock(should_mock=lambda request: request.url.host == "api.test")
async def test_pytest_httpx_should_mock(asker: Asker, httpx_mock: Any) -> None:
    """What is not to be mocked is sent for real, and by the engine."""
    httpx_mock.add_response(url=API, text="mocked", is_reusable=True)
    assert await asker.ask(API) == {(200, "mocked")}
    assert await asker.ask(method="POST", content=b"body") == {(200, "real")}
    assert asker.carried() == [1, 1]


@needs_httpx2
@pytest.mark.parametrize("family", ["httpx2"])
async def test_pytest_httpx2(asker: Asker, httpx2_mock: Any) -> None:
    """``httpx2_mock`` answers."""
    httpx2_mock.get(asker.upstream.url).respond(text="mocked")
    assert await asker.ask() == {(200, "mocked")}
    assert asker.carried() == [0, 0]
    assert asker.upstream.accepted == 0


@needs_httpx2
@pytest.mark.parametrize("family", ["httpx2"])
async def test_pytest_httpx2_pass_through(asker: Asker, httpx2_mock: Any) -> None:
    """It lets through what it is told to."""
    httpx2_mock.get(asker.upstream.url).pass_through()
    assert await asker.ask() == {(200, "real")}


@needs_httpx2
async def test_the_other_familys_mock(asker: Asker, httpx2_mock: Any) -> None:
    """A mock of httpx2's says nothing about httpx's clients: the engine carries what they send."""
    assert await asker.ask() == {(200, "real")}
    assert asker.carried() == [1, 1]


# vcrpy


@pytest.mark.parametrize("family", FAMILIES)
async def test_vcrpy(asker: Asker, tmp_path: Any) -> None:
    """What is recorded is carried by the engine, and what is replayed comes from the cassette."""
    vcr = pytest.importorskip("vcr")
    cassette = str(tmp_path / "cassette.yaml")
    with vcr.use_cassette(cassette, record_mode="all") as recorded:
        assert await asker.ask(method="POST", content=b"body") == {(200, "real")}
    assert asker.carried() == [1, 1]
    assert [request.body for request in recorded.requests] == [b"body", b"body"]
    with vcr.use_cassette(cassette, record_mode="none") as replayed:
        assert await asker.ask(method="POST", content=b"body") == {(200, "real")}
        assert replayed.play_count == 2
        for client in asker.clients.values():
            with pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException):
                await client.get(asker.upstream.url)
    assert asker.carried() == [1, 1]


# OpenTelemetry


def _otel(family: str) -> tuple[Any, Any, Any]:
    """Return a family's instrumentor, a provider, and an exporter that keeps the spans."""
    of_httpx = pytest.importorskip("opentelemetry.instrumentation.httpx")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    instrumentor = getattr(of_httpx, f"{family.upper()}ClientInstrumentor", None)
    if instrumentor is None:
        pytest.skip(f"this release of OpenTelemetry does not know {family}")
    spans = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    return instrumentor(), provider, spans


OTHERWISE = {"http://127.0.0.1:9/": "ConnectError", "ftp://a.example/": "UnsupportedProtocol"}
"""URLs that nothing comes from, and the error that it is."""


@pytest.mark.parametrize("family", FAMILIES)
async def test_opentelemetry(asker: Asker) -> None:
    """While everything is instrumented, there is a span for each request, and the engine carries it."""
    instrumentor, provider, spans = _otel(asker.family)
    instrumentor.instrument(tracer_provider=provider)
    try:
        assert await asker.ask(method="POST", content=b"body") == {(200, "real")}
        names = [span.name for span in spans.get_finished_spans()]
        for url, error in OTHERWISE.items():
            for client in asker.clients.values():
                with pytest.raises(getattr(module_of(asker.family), error)):
                    await client.get(url)
    finally:
        instrumentor.uninstrument()
    assert names == ["POST", "POST"]
    assert asker.carried() == [2, 2]  # one of the errors is that of a connection
    assert await asker.ask() == {(200, "real")}
    assert len(spans.get_finished_spans()) == 6


@pytest.mark.parametrize("family", FAMILIES)
async def test_opentelemetry_first(asker: Asker) -> None:
    """So it is for a transport that was made when everything was instrumented already."""
    instrumentor, provider, spans = _otel(asker.family)
    instrumentor.instrument(tracer_provider=provider)
    try:
        settings = ClientSettings(family=asker.family, engine="native", trust_env=False)  # type: ignore[arg-type] # a name
        async with ClientFactory(settings) as factory:
            client = factory.get(None, module_of(asker.family).AsyncClient)
            assert (await client.get(asker.upstream.url)).text == "real"
            assert requests_in(factory.statistics()) == len(spans.get_finished_spans()) == 1
            instrumentor.uninstrument()
            assert (await client.get(asker.upstream.url)).text == "real"
            assert requests_in(factory.statistics()) == 2
    finally:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    assert len(spans.get_finished_spans()) == 1


@pytest.mark.parametrize("family", FAMILIES)
async def test_opentelemetry_of_one_client(asker: Asker) -> None:
    """An instrumented client has spans, on a proxy's way too, and the engine carries its requests."""
    instrumentor, provider, spans = _otel(asker.family)
    for client in asker.clients.values():
        instrumentor.instrument_client(client, tracer_provider=provider)
    try:
        assert await asker.ask() == {(200, "real")}
        assert asker.carried() == [1, 1]
        for client in asker.clients.values():
            origin = Origin(b"http", b"127.0.0.1", asker.upstream.port)
            response = await handler_for(client, asker.upstream.url)[0](
                Request(b"GET", origin, b"/", [(b"Host", b"x")])
            )
            assert [chunk async for chunk in response.body] == [b"real"]
            await response.aclose()
        assert asker.carried() == [2, 2]
        assert len(spans.get_finished_spans()) == 4
    finally:
        for client in asker.clients.values():
            instrumentor.uninstrument_client(client)
    assert await asker.ask() == {(200, "real")}
    assert len(spans.get_finished_spans()) == 4
