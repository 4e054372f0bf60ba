"""How many requests a client is given at once: what its pool can carry, as far as that can be known."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings, LimitSettings, TimeoutSettings, TLSSettings, fan_out
from fastapi_httpx_pool.fanout._slots import Bounds, bounds_for
from fastapi_httpx_pool.transports import capacity_of
from tests.support.carriers import ASYNCIO, on_both_engines
from tests.support.families import FAMILIES, module_of
from tests.support.fanned import Waves
from tests.support.http2_server import serving_http2
from tests.support.upstream import LIMIT, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]

asyncio_only = pytest.mark.parametrize("anyio_backend", [ASYNCIO], ids=["asyncio"])


@asynccontextmanager
async def _client(family: Any, **settings: Any) -> AsyncIterator[Any]:
    async with ClientFactory(ClientSettings(family=family, trust_env=False, **settings)) as factory:
        yield factory.get()


@on_both_engines
@pytest.mark.parametrize(
    ("given", "default", "fifty"),
    [
        ((100, None), (75, None), (50, None)),
        ((20, None), (15, None), (20, None)),
        ((20, 5), (15, 3), (20, 5)),
        ((2, 1), (1, 1), (2, 1)),
        ((1, None), (1, None), (1, None)),
        ((None, 4), (75, 3), (50, 4)),
    ],
)
async def test_clients_of_ours(
    family: str, engine: Any, given: Any, default: tuple[int, int | None], fifty: tuple[int, int | None]
) -> None:
    """By default three quarters of the pool, and of a host's share; a limit of 50 is as much of it as there is."""
    limits = LimitSettings(max_connections=given[0], max_connections_per_host=given[1])
    async with _client(family, engine=engine, limits=limits) as client:
        assert bounds_for(client, None) == (*default, False)
        assert bounds_for(client, 50) == (*fifty, False)


@asyncio_only
async def test_clients_of_others(family: str) -> None:
    """A client that somebody made has a pool of the same kind; one without a readable limit counts as one of 100."""
    module = module_of(family)
    transport_class: Any = import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport
    small, large = module.Limits(max_connections=8), module.Limits(max_connections=40)
    mounted = {"http://a.example": module.AsyncHTTPTransport(limits=small), "http://b.example": None}
    for arguments, expected in (
        ({}, Bounds(75, None, queues=False)),
        ({"limits": module.Limits()}, Bounds(75, None, queues=False)),
        ({"limits": large}, Bounds(30, None, queues=False)),
        ({"limits": large, "mounts": mounted}, Bounds(6, None, queues=False)),
        ({"transport": module.MockTransport(lambda request: module.Response(200))}, Bounds(75, None, queues=False)),
        ({"transport": transport_class(limits=small)}, Bounds(6, None, queues=False)),
        ({"transport": transport_class(limits=small, max_connections_per_host=2)}, Bounds(6, 1, queues=False)),
    ):
        async with module.AsyncClient(trust_env=False, **arguments) as client:
            assert bounds_for(client, None) == expected


@asyncio_only
async def test_over_a_transport_of_somebodys_own(family: str) -> None:
    """A fan-out works over any transport."""
    module = module_of(family)
    transport = module.MockTransport(lambda request: module.Response(200, text=request.url.path))
    async with module.AsyncClient(transport=transport) as client:
        responses = await fan_out(client, ["http://a/1", "http://a/2"], limit=1000)

    assert [response.text for response in responses] == ["/1", "/2"]


ONE = LimitSettings(max_connections=1, max_keepalive_connections=1)


@asyncio_only
async def test_not_shared_after_all(family: str) -> None:
    """Where a client with HTTP/2 meets a server without, those that wait in the pool for their siblings do not time out."""
    timeout = TimeoutSettings(default=LIMIT, pool=0.001)
    with scripted(Waves(1)) as upstream:
        async with _client(family, http2=True, limits=ONE, timeout=timeout) as client:
            request = module_of(family).Request("GET", upstream.url)
            assert len(await fan_out(client, [*[upstream.url] * 9, request], limit=10)) == 10


@asyncio_only
async def test_shared_connections(family: str, tmp_path: Path) -> None:
    """Over HTTP/2 a limit beyond the connections is kept to."""
    with serving_http2(tmp_path) as url:
        tls = TLSSettings(ca_file=tmp_path / "ca.pem")
        async with _client(family, http2=True, limits=ONE, timeout=LIMIT, tls=tls) as client:
            assert capacity_of(client).shared
            assert bounds_for(client, 20) == Bounds(20, None, queues=True)
            responses = await fan_out(client, [*[url] * 20, "http://a\nb"], limit=20, return_exceptions=True)

    assert [response.text for response in responses[:20]] == ["2"] * 20
    assert isinstance(responses[20], module_of(family).InvalidURL)
