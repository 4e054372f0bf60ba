"""``allowed_addresses`` from the user's side: clients, redirects, proxies, mocks, trio and ``PoolTransport``."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import anyio
import pytest
import respx

from fastapi_httpx_pool import ClientFactory, ClientSettings
from fastapi_httpx_pool.exceptions import AddressForbidden
from fastapi_httpx_pool.transports._httpcore import seal
from tests.support.carriers import ASYNCIO, TRIO, UVLOOP
from tests.support.connecting import Names
from tests.support.families import FAMILIES, module_of
from tests.support.upstream import Upstream, answering, ok, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], ids=["asyncio", "uvloop"])

ONLY_ONE = ["127.0.0.1"]
"""127.0.0.2 is as near, and not allowed."""

NOBODY_CHECKS = "only this package's own engine can check"


@pytest.fixture
def anyio_backend() -> Any:
    """Run on asyncio, if nothing else is said."""
    return ASYNCIO


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Return the names that a test makes up."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


def transport_class(family: str) -> Any:
    """Return a family's ``PoolTransport``."""
    return import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport


@contextmanager
def neighbours(answer_of_one: bytes = b"") -> Iterator[tuple[Upstream, Upstream]]:
    """Run an upstream on 127.0.0.1, and one on 127.0.0.2 with the same port."""
    with ExitStack() as stack:
        listener = socket.create_server(("127.0.0.2", 0))
        port = listener.getsockname()[1]
        two = stack.enter_context(scripted(answering(ok(b"two")), listener=listener))
        moved = b"HTTP/1.1 302 Found\r\nLocation: http://evil.example:%d/\r\nContent-Length: 0\r\n\r\n" % port
        one = stack.enter_context(
            scripted(answering(answer_of_one or moved), listener=socket.create_server(("127.0.0.1", port)))
        )
        yield one, two


# What a client connects to.


@on_asyncio
async def test_dns_that_changes(family: Any, names: Names) -> None:
    """A name that was allowed when it was looked up first is checked again when it is looked up again."""
    names.know_in_turn("rebind.example", "127.0.0.1", "127.0.0.2")
    settings = ClientSettings(family=family, trust_env=False, allowed_addresses=ONLY_ONE)
    with neighbours(ok(b"one")) as (one, two):
        url = f"http://rebind.example:{one.port}/"
        async with ClientFactory(settings) as factory:
            assert (await factory.get().get(url, headers={"Connection": "close"})).text == "one"
            assert (await factory.get().get(url, headers={"Connection": "close"})).text == "one"
            assert names.count("rebind.example") == 1  # what was checked is what was connected to
        async with ClientFactory(settings) as factory:
            with pytest.raises(module_of(family).ConnectError, match=r"rebind\.example was not connected to") as raised:
                await factory.get().get(url)
            assert isinstance(raised.value.__cause__, AddressForbidden)
            assert raised.value.__cause__.addresses == ("127.0.0.2",)
    assert names.count("rebind.example") == 2
    assert (one.accepted, two.accepted) == (2, 0)


@on_asyncio
async def test_redirect(family: Any, names: Names) -> None:
    """A redirect to where the client must not go ends there."""
    names.know("evil.example", "127.0.0.2")
    settings = ClientSettings(family=family, trust_env=False, allowed_addresses=ONLY_ONE, follow_redirects=True)
    with neighbours() as (one, two):
        async with ClientFactory(settings) as factory:
            with pytest.raises(module_of(family).ConnectError, match=r"evil\.example was not connected to"):
                await factory.get().get(one.url)
    assert (one.accepted, two.accepted) == (1, 0)


async def test_public(family: Any) -> None:
    """With ``public``, this machine and its neighbours are out of reach."""
    with scripted(answering(ok())) as upstream:
        async with ClientFactory(ClientSettings(family=family, trust_env=False, allowed_addresses="public")) as factory:
            for url in (
                upstream.url,
                f"http://localhost:{upstream.port}",
                f"http://[::ffff:127.0.0.1]:{upstream.port}",
            ):
                with pytest.raises(module_of(family).ConnectError):
                    await factory.get().get(url)
    assert upstream.accepted == 0


# PoolTransport.


async def test_transport(family: Any) -> None:
    """``PoolTransport`` takes the same values; by default it connects to anything."""
    with neighbours(ok(b"one")) as (one, two):
        url = f"http://127.0.0.2:{two.port}"
        async with module_of(family).AsyncClient(transport=transport_class(family)()) as client:
            assert (await client.get(url)).text == "two"
        transport = transport_class(family)(allowed_addresses=ONLY_ONE)
        async with module_of(family).AsyncClient(transport=transport) as client:
            assert (await client.get(one.url)).text == "one"
            with pytest.raises(module_of(family).ConnectError):
                await client.get(url)
    assert two.accepted == 1


@pytest.mark.parametrize(
    "arguments",
    [{"http2": True}, {"http1": False, "http2": True}, {"proxy": "http://127.0.0.1:3128"}, {"engine": "httpcore"}],
    ids=["http2", "http2-only", "proxy", "engine"],
)
def test_transport_that_cannot_check(family: Any, arguments: Any) -> None:
    """What only httpcore can do is refused."""
    with pytest.raises(ValueError, match=r"own engine only: over HTTP/1\.1, on asyncio and without a forward proxy"):
        transport_class(family)(allowed_addresses="public", **arguments)


def test_transport_of_a_unix_socket(family: Any) -> None:
    """A socket of this machine has no address."""
    with pytest.raises(ValueError, match="uds excludes allowed addresses"):
        transport_class(family)(allowed_addresses="public", uds="/socket")


def test_transport_with_nonsense(family: Any) -> None:
    """What is no network is told."""
    with pytest.raises(ValueError, match="'inside' is not what addresses can be allowed by"):
        transport_class(family)(allowed_addresses=["inside"])


# Whom nobody can check.


@pytest.mark.parametrize("anyio_backend", [TRIO], ids=["trio"])
async def test_trio(family: Any) -> None:
    """On trio, where httpcore would carry the requests, no client is opened."""
    factory = ClientFactory(ClientSettings(family=family, trust_env=False, allowed_addresses="public"))
    with pytest.raises(ValueError, match="run asyncio instead of trio"):
        await factory.__aenter__()


def test_made_before_trio(family: Any) -> None:
    """A transport that was made before anybody knew that trio would run connects to nothing, allowed or not."""
    transport = transport_class(family)(allowed_addresses=ONLY_ONE)

    async def ask(url: str) -> None:
        async with module_of(family).AsyncClient(transport=transport) as client:
            with pytest.raises(module_of(family).ConnectError, match=NOBODY_CHECKS):
                await client.get(url)

    with scripted(answering(ok())) as upstream:
        anyio.run(ask, upstream.url, backend="trio")
    assert upstream.accepted == 0


@on_asyncio
async def test_proxy_of_the_environment(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What would go through a proxy of the environment is refused, and not sent past it either.

    What ``NO_PROXY`` excepts is sent and checked.
    """
    with scripted(answering(ok(b"proxied"))) as proxy, neighbours(ok(b"one")) as (one, two):
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with ClientFactory(ClientSettings(family=family, allowed_addresses=ONLY_ONE)) as factory:
            for scheme in ("http", "https"):
                with pytest.raises(module_of(family).ConnectError, match=rf"{NOBODY_CHECKS}.*trust_env=False"):
                    await factory.get().get(f"{scheme}://127.0.0.2:{two.port}")
            assert (await factory.get().get(one.url)).text == "one"
    assert (proxy.accepted, two.accepted) == (0, 0)


async def test_mocks(family: Any) -> None:
    """A mock answers as ever; what it lets through to the network is refused."""
    if family != "httpx":
        pytest.skip("respx is for httpx")
    with neighbours(ok(b"one")) as (one, _):
        async with ClientFactory(ClientSettings(family=family, trust_env=False, allowed_addresses=ONLY_ONE)) as factory:
            client = factory.get()
            with respx.mock(assert_all_called=False) as mock:
                mock.get("http://api.test/").respond(200, text="mocked")
                mock.get(one.url).pass_through()
                assert (await client.get("http://api.test/")).text == "mocked"
                with pytest.raises(module_of(family).ConnectError, match=NOBODY_CHECKS):
                    await client.get(one.url)
            assert (await client.get(one.url)).text == "one"


def test_unknown_release(family: Any) -> None:
    """A pool that cannot be kept from connecting is not used at all."""
    pool = transport_class(family)()._pool
    del pool._network_backend
    with pytest.raises(RuntimeError, match="cannot be kept from connecting"):
        seal(pool)
