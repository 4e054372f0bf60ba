"""What a route may ask of a WebSocket's proxy: what is refused at once, and where its wishes lead."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf, nan
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pydantic
import pytest
from fastapi import FastAPI, WebSocket

from fastapi_httpx_pool import (
    ClientDep,
    ClientFactory,
    ClientNotStarted,
    ProxyPolicy,
    ReverseProxy,
    TLSSettings,
    UnknownClient,
    create_lifespan,
    pool_statistics,
    proxy_websocket,
)
from tests.support.asgi import LIMIT, started
from tests.support.asgi_websocket import WebSocketDriver, serving_websocket
from tests.support.carriers import ASYNCIO, on_both_engines
from tests.support.families import FAMILIES, module_of
from tests.support.patience import with_patience
from tests.support.proxies import settings_of
from tests.support.tls import Authority
from tests.support.websocket_wire import TEXT, Asked, handed

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [pytest.param(ASYNCIO, id="asyncio")])

NOBODY = "http://127.0.0.1:9"

Call = Callable[[WebSocket], Awaitable[None]]


async def in_thread(action: Callable[[], Any]) -> Any:
    """Wait for something that a socket does."""
    return await anyio.to_thread.run_sync(action)


def serving_route(call: Call, **options: Any) -> Any:
    """Call a route with a WebSocket, for a block."""

    async def route(scope: Any, receive: Any, send: Any) -> None:
        await call(WebSocket(scope, receive, send))

    return serving_websocket(route, {}, **options)


@asynccontextmanager
async def led_to(upstream: Any, call: Call, **options: Any) -> AsyncIterator[tuple[WebSocketDriver, Asked]]:
    """Call a route with a WebSocket, for a block; give it, and what the upstream is asked."""
    async with serving_route(call, **options) as client:
        yield client, await in_thread(upstream.asked)


async def assert_refused(call: Call, error: type[Exception], text: str) -> None:
    """Check that a call raises before anything is said to anybody."""
    async with serving_route(call) as client:
        with anyio.fail_after(LIMIT):
            await client.returned.wait()
        assert client.nothing_more()
        with pytest.raises(error, match=text):
            raise client.error or AssertionError("nothing was raised")


# Policies.


LIMITS = ("websocket_max_message", "websocket_ping_interval", "websocket_ping_timeout", "websocket_idle")


@pytest.mark.parametrize("field", LIMITS)
def test_h6_limits_of_a_policy(field: str) -> None:
    """None is no limit, and a number is one, unless it makes no sense: that is told by its field."""
    in_bytes = field == "websocket_max_message"
    values: Any
    for values in ({field: None}, {field: 7}):
        assert getattr(ProxyPolicy(**values), field) == values[field]
    wanted = "bytes from 0" if in_bytes else "seconds above 0"
    for wrong in (-1,) if in_bytes else (-1, 0, inf, nan):
        values = {field: wrong}
        with pytest.raises(
            ValueError, match=f"^{field} is {wrong}; it must be a number of {wanted}, or None for no limit$"
        ):
            ProxyPolicy(**values)


# What is refused at once.


@pytest.fixture(name="pool")
async def _pool() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


BY_EITHER: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "client": ({"client": httpx}, TypeError, r"is not an httpx\.AsyncClient"),
    "no-client": ({"client": None}, ClientNotStarted, "lifespan"),
    "header": ({"headers": {"x": "a\r\nb"}}, ValueError, "has a line break or NUL"),
    "name": ({"headers": {"x y": "1"}}, ValueError, "'x y' is not a name that HTTP knows"),
    "timeout": ({"timeout": -1}, pydantic.ValidationError, "greater than or equal to 0"),
}

BY_THE_HELPER: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a-name": ({"client": "chat"}, TypeError, r"is not an httpx\.AsyncClient"),
    "hook": ({"on_request": "hook"}, TypeError, "on_request is 'hook', which cannot be called"),
    "policy": ({"policy": {"via": "edge"}}, TypeError, "is not a ProxyPolicy; write policy=ProxyPolicy"),
    "rewriting": (
        {"policy": ProxyPolicy(rewrite_cookies=True)},
        ValueError,
        r"so they work with ReverseProxy\(\.\.\.\)\.websocket\(websocket\), not with proxy_websocket\(websocket, url\)",
    ),
    "scheme": ({"url": "ftp://upstream.example/"}, ValueError, "'ftp://upstream.example/' is not an absolute URL"),
    "nearly": ({"url": "wsss://upstream.example/"}, ValueError, "is not an absolute URL"),
    "no-host": ({"url": "ws:///chat"}, ValueError, "names no host"),
    "path": ({"url": "/chat"}, ValueError, r"A path alone is enough if the client has a base_url"),
}

BY_THE_METHOD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown": ({"client": "chat"}, ClientNotStarted, "chat"),
    "upstream": ({"upstream": "upstream.example"}, ValueError, "http"),
    "user": ({"upstream": "http://user:pass@upstream.example"}, ValueError, "user"),
}


@on_asyncio
@pytest.mark.parametrize("case", [*BY_EITHER, *BY_THE_HELPER])
async def test_h8_what_the_helper_refuses(case: str, pool: httpx.AsyncClient) -> None:
    """What cannot be meant is an error of the route's, and the WebSocket is still its own."""
    options, error, text = {**BY_EITHER, **BY_THE_HELPER}[case]
    arguments = {"client": pool, "url": NOBODY, **options}
    await assert_refused(lambda websocket: proxy_websocket(websocket, **arguments), error, text)


@on_asyncio
@pytest.mark.parametrize("case", [*BY_EITHER, *BY_THE_METHOD])
async def test_h8_what_the_method_refuses(case: str, pool: httpx.AsyncClient) -> None:
    """Likewise."""
    options, error, text = {**BY_EITHER, **BY_THE_METHOD}[case]
    proxy = ReverseProxy(NOBODY, client=None if case == "no-client" else pool)
    await assert_refused(lambda websocket: proxy.websocket(websocket, **options), error, text)


@on_asyncio
@pytest.mark.parametrize("before", ["accept", "close", "receive"])
async def test_h8_too_late(before: str, pool: httpx.AsyncClient) -> None:
    """Who has accepted, closed or read before the upstream was asked is told what to remove."""
    proxy = ReverseProxy(NOBODY, client=pool)
    text = (
        "before the upstream was asked. Remove `await websocket.accept\\(\\)`: it is accepted when the upstream accepts"
    )
    for call in (proxy.websocket, lambda websocket: proxy_websocket(websocket, NOBODY, client=pool)):

        async def route(websocket: WebSocket, call: Call = call) -> None:
            await getattr(websocket, before)()
            with pytest.raises(RuntimeError, match=text):
                await call(websocket)

        async with serving_route(route) as client:
            with anyio.fail_after(LIMIT):
                await client.returned.wait()
            assert client.error is None


# Where it goes.


@on_both_engines
async def test_h8_a_path_under_the_clients_base(engine: Any) -> None:
    """``proxy_websocket`` takes a path where the client has a base, whose user information is nobody else's."""
    with handed() as upstream:
        base = upstream.url.replace("//", "//user:pass@") + "/v1/"
        async with ClientFactory(settings_of(engine=engine, base_url=base)) as factory:
            pool = factory.get()
            async with led_to(upstream, lambda websocket: proxy_websocket(websocket, "/chat?x=1", client=pool)) as (
                client,
                asked,
            ):
                assert asked.target == b"/v1/chat?x=1"
                assert asked.values(b"authorization") == []
                await assert_open(client, asked)


async def assert_open(client: WebSocketDriver, asked: Asked) -> None:
    """Accept a WebSocket, and check that a message comes through."""
    far = await in_thread(asked.accept)
    assert (await client.sent_next())["type"] == "websocket.accept"
    client.tell({"type": "websocket.receive", "text": "hello"})
    assert await in_thread(far.message) == (TEXT, b"hello")


@on_asyncio
@pytest.mark.parametrize("scheme", ["wss", "https", "WSS"])
async def test_h8_urls_over_tls(scheme: str, tmp_path: Path) -> None:
    """``wss`` and ``https`` are encrypted, and the certificate is checked."""
    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.certificate_of_its_own)
    with handed(authority.server()) as upstream:
        url = scheme + upstream.url.removeprefix("https") + "/chat"
        async with ClientFactory(settings_of(tls=TLSSettings(ca_file=tmp_path / "authority.pem"))) as factory:
            pool = factory.get()
            async with led_to(upstream, lambda websocket: proxy_websocket(websocket, url, client=pool)) as pair:
                await assert_open(*pair)
        async with (
            ClientFactory(settings_of()) as factory,
            serving_route(lambda websocket: proxy_websocket(websocket, url, client=factory.get())) as client,
        ):
            start = await client.sent_next()
            assert start["status"] == 502
            assert dict(start["headers"])[b"proxy-status"].endswith(b"; error=tls_certificate_error")


@on_asyncio
@pytest.mark.parametrize("family", FAMILIES)
async def test_h8_urls_of_a_family(family: str) -> None:
    """A URL may be an object of the client's family."""
    module = module_of(family)
    with handed() as upstream:
        url = module.URL(upstream.url.replace("http", "ws") + "/a%2Fb?x=1")
        async with ClientFactory(settings_of(family=family)) as factory:
            pool: Any = factory.get(None, object)
            async with led_to(upstream, lambda websocket: proxy_websocket(websocket, url, client=pool)) as pair:
                assert pair[1].target == b"/a%2Fb?x=1"
                await assert_open(*pair)


@on_asyncio
async def test_h8_a_path_that_leads_elsewhere(pool: httpx.AsyncClient) -> None:
    """A URL that was joined from something of the client's and would leave its place is the client's fault: 400."""
    url = NOBODY + "/rooms/../admin"
    async with serving_route(lambda websocket: proxy_websocket(websocket, url, client=pool)) as client:
        assert (await client.sent_next())["status"] == 400


@on_asyncio
async def test_h8_clients_of_ones_own() -> None:
    """One WebSocket may take another client than the proxy has, by its name in the app, or itself."""
    with handed() as upstream:
        app = FastAPI(lifespan=create_lifespan(settings_of(), clients={"chat": settings_of()}))
        proxy = ReverseProxy(upstream.url, client="nobody")

        @app.websocket("/{name}")
        async def route(websocket: WebSocket, name: str, client: ClientDep) -> None:
            await proxy.websocket(websocket, client=client if name == "default" else name)

        async with started(app) as lifespan:
            for name in ("chat", "default"):
                async with serving_websocket(app, lifespan.scope, path=f"/{name}") as client:
                    await assert_open(client, await in_thread(upstream.asked))
                    pools = {key: pool_statistics(pool).active for key, pool in pools_in(lifespan.scope)}
                    assert pools == {"default": int(name == "default"), "chat": int(name == "chat")}
            async with serving_websocket(app, lifespan.scope, path="/other") as client:
                with anyio.fail_after(LIMIT):
                    await client.returned.wait()
                assert isinstance(client.error, UnknownClient)


def pools_in(scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the names and the clients in an app's state."""
    for value in scope["state"].values():
        name = getattr(value, "pool_name", None)
        if name is not None:
            yield name, value


@on_both_engines
@with_patience(0.1)
async def test_h8_a_timeout_of_ones_own(engine: Any, limit: float) -> None:
    """``timeout`` is for the handshake: 504. What is said later may take its time."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))
        async with started(proxy):
            async with serving_route(lambda websocket: proxy.websocket(websocket, timeout=limit)) as client:
                await in_thread(upstream.asked)
                assert (await client.sent_next())["status"] == 504
            async with led_to(upstream, lambda websocket: proxy.websocket(websocket, timeout=limit)) as (client, asked):
                far = await in_thread(asked.accept)
                await client.sent_next()
                await anyio.sleep(2 * limit)
                far.text("late")
                assert await client.sent_next() == {"type": "websocket.send", "text": "late"}


@on_asyncio
async def test_h8_headers_of_ones_own() -> None:
    """Headers stand in the place of the client's and of the policy's; what makes the handshake is not theirs to say."""
    given = {"Origin": "https://ours.example", "cookie": None, "sec-websocket-key": "x", "upgrade": "foo"}
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(), policy=ProxyPolicy(request_headers={"origin": "no"}))
        lines = ((b"origin", b"https://theirs.example"), (b"cookie", b"a=1"), (b"sec-websocket-key", b"theirs"))
        async with (
            started(proxy),
            led_to(upstream, lambda websocket: proxy.websocket(websocket, headers=given), headers=lines) as (
                client,
                asked,
            ),
        ):
            assert asked.values(b"origin") == [b"https://ours.example"]
            assert asked.values(b"cookie") == []
            assert asked.values(b"upgrade") == [b"websocket"]
            [key] = asked.values(b"sec-websocket-key")
            assert key not in (b"x", b"theirs")
            await assert_open(client, asked)
