"""What an upstream sets for one caller is never sent for another."""

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from fastapi_httpx_pool import ClientFactory, ClientSettings, StreamingProxyResponse, create_lifespan
from tests.support.families import FAMILIES, module_of
from tests.support.server import serving

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]

upstream_app = FastAPI()


@upstream_app.get("/login")
def login(user: str, response: Response) -> str:
    """Set a cookie for a user."""
    response.set_cookie("session", user)
    return user


@upstream_app.get("/moved")
def moved(user: str) -> Response:
    """Set a cookie and send on."""
    response = Response(status_code=307, headers={"location": "/whoami"})
    response.set_cookie("session", user)
    return response


@upstream_app.get("/whoami")
def whoami(request: Request) -> str:
    """Tell the cookie that came."""
    return request.headers.get("cookie", "nobody")


async def _get(client: Any, url: str) -> Any:
    return await client.get(url)


async def _send(client: Any, url: str) -> Any:
    return await client.send(client.build_request("GET", url))


async def _stream(client: Any, url: str) -> Any:
    async with client.stream("GET", url) as response:
        await response.aread()
        return response


async def _redirect(client: Any, url: str) -> Any:
    return await client.get(url.replace("/login", "/moved"), follow_redirects=True)


@pytest.mark.parametrize("way", [_get, _send, _stream, _redirect])
async def test_isolated(family: Any, way: Any) -> None:
    """Alice logs in; neither Bob's request nor her own next one carries her cookie."""
    with serving(upstream_app) as upstream:
        # A host name: http.cookiejar keeps no cookies for IP addresses, which would hide the fault.
        url = upstream.url.replace("127.0.0.1", "localhost")
        async with ClientFactory(ClientSettings(family=family)) as factory:
            client = factory.get()
            await way(client, f"{url}/login?user=alice")
            assert (await client.get(f"{url}/whoami")).json() == "nobody"
            assert not client.cookies


async def test_readable(family: Any) -> None:
    """A response's cookies can be read."""
    with serving(upstream_app) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        async with ClientFactory(ClientSettings(family=family)) as factory:
            response = await factory.get().get(f"{url}/login?user=alice")
            assert dict(response.cookies) == {"session": "alice"}


async def test_explicit(family: Any) -> None:
    """Cookies that the app gives are sent: with one request, or with all."""
    with serving(upstream_app) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost") + "/whoami"
        async with ClientFactory(ClientSettings(family=family)) as factory:
            client = factory.get()
            request = client.build_request("GET", url, cookies={"session": "one"})
            assert (await client.send(request)).json() == "session=one"
            assert (await client.get(url, headers={"Cookie": "session=two"})).json() == "session=two"
            client.cookies = {"app": "all"}
            assert (await client.get(url)).json() == "app=all"
            await client.get(url.replace("/whoami", "/login?user=alice"))
            assert (await client.get(url)).json() == "app=all"


async def test_shared(family: Any) -> None:
    """``cookies="shared"`` is httpx's jar."""
    with serving(upstream_app) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        async with ClientFactory(ClientSettings(family=family, cookies="shared")) as factory:
            client = factory.get()
            await client.get(f"{url}/login?user=alice")
            assert (await client.get(f"{url}/whoami")).json() == "session=alice"


async def test_proxied(family: Any) -> None:
    """Two browsers through the proxy: each sends and gets its own cookies only."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(family=family)))

    @app.get("/{path:path}")
    async def proxied(request: Request, path: str) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, f"{url}/{path}")

    with serving(upstream_app) as upstream, serving(app) as proxy:
        url = upstream.url.replace("127.0.0.1", "localhost")
        front = proxy.url.replace("127.0.0.1", "localhost")
        browser = module_of(family).AsyncClient
        async with browser(base_url=front) as alice, browser(base_url=front) as bob:
            await alice.get("/login?user=alice")
            assert (await bob.get("/whoami")).json() == "nobody"
            assert (await alice.get("/whoami")).json() == "session=alice"


async def test_a_bare_client_fails_this(family: Any) -> None:
    """The tests above can fail: a shared client of the family's own sends Alice's cookie for Bob."""
    with serving(upstream_app) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        async with module_of(family).AsyncClient() as client:
            await client.get(f"{url}/login?user=alice")
            assert (await client.get(f"{url}/whoami")).json() == "session=alice"
