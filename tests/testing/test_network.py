"""Where the network is forbidden, only this machine can be connected to."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from fastapi_httpx_pool import ClientFactory, ClientSettings, StreamingProxyResponse, create_lifespan
from fastapi_httpx_pool.engine._connect import Connector
from fastapi_httpx_pool.testing import NetworkUsed, Upstream, forbid_network
from tests.support.families import FAMILIES, module_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    """Run on asyncio, where the package's own engine connects."""
    return "asyncio"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("url", ["http://192.0.2.1:81/", "http://nowhere.invalid:81/", "http://[2001:db8::1]:81/"])
async def test_other_machines(family: Any, url: str) -> None:
    """Literal addresses and names that cannot be looked up are refused with an error that says what to do."""

    async def ask() -> None:
        async with ClientFactory(ClientSettings(family=family, trust_env=False)) as factory:
            with pytest.raises(module_of(family).ConnectError, match="is not this machine; nothing was sent"):
                await factory.get().get(url)

    with pytest.raises(NetworkUsed) as used, forbid_network():
        await ask()
    host = url.removeprefix("http://").partition(":81")[0].strip("[]")
    assert f"  {host}:81, from " in str(used.value)
    assert f"{Path(__file__).name}:" in str(used.value)
    assert "in ask: await factory.get().get(url)" in str(used.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
async def test_this_machine(upstream: Upstream, host: str) -> None:
    """This machine can be connected to, by whatever name."""
    upstream.get("/x").respond(text="real")
    with forbid_network():
        async with ClientFactory(ClientSettings(trust_env=False)) as factory:
            if host == "127.9.9.9":  # nothing listens there, and that is what the error says
                with pytest.raises(module_of("httpx").ConnectError) as caught:
                    await factory.get().get(f"http://{host}:{upstream.port}/x")
                assert "not this machine" not in str(caught.value)
            else:
                assert (await factory.get().get(f"http://{host}:{upstream.port}/x")).text == "real"


def test_error_that_the_app_answers() -> None:
    """An app that makes an answer of the error does not hide it."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False)))

    @app.get("/")
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, "http://192.0.2.1/")

    with pytest.raises(NetworkUsed, match=r"192\.0\.2\.1:80"), forbid_network(), TestClient(app) as browser:
        assert browser.get("/").status_code == 502


def test_error_of_the_block() -> None:
    """What the block raises comes out, and everything is as it was before."""
    before = Connector._tcp_socket
    with pytest.raises(ZeroDivisionError), forbid_network():
        raise ZeroDivisionError
    assert Connector._tcp_socket is before
