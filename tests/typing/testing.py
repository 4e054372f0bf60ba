"""What a type checker makes of the test kit; checked, never run."""

from pathlib import Path
from typing import Any, assert_type

import httpx
import httpx2
from fastapi import FastAPI

from fastapi_httpx_pool.testing import (
    Reply,
    Route,
    Upstream,
    UpstreamConnection,
    UpstreamRequest,
    client_override,
    forbid_leaks,
    forbid_network,
    lifespan_client,
)


def answer(request: UpstreamRequest) -> Reply:
    """Be a handler."""
    assert_type(request.headers["accept"], str)
    assert_type(request.body, bytes)
    assert_type(request.json(), Any)
    return Reply(201, json={"path": request.path}, headers={"X-Connection": str(request.connection)})


def script(request: UpstreamRequest, connection: UpstreamConnection) -> None:
    """Be a script."""
    connection.send(b"HTTP/1.1 200 OK\r\n")
    connection.pause(0.1)
    connection.reset()


def connected(connection: UpstreamConnection) -> None:
    """Be the script of a whole connection."""
    assert_type(connection.read_request(), UpstreamRequest | None)
    assert_type(connection.read_until(b"\n"), bytes)
    assert_type(connection.wait_until_closed(), bool)


def scripted() -> None:
    """An upstream gives routes, which give themselves."""
    with Upstream(tls=True) as upstream:
        assert_type(upstream, Upstream)
        assert_type(upstream.url, str)
        assert_type(upstream.port, int)
        assert_type(upstream.ca_file, Path)
        assert_type(upstream.get("/x"), Route)
        assert_type(upstream.get("/x").respond(503).handle(answer).script(script).reset(), Route)
        upstream.on_connection(connected)
        assert_type(upstream.requests, list[UpstreamRequest])
        assert_type(upstream.wait_for_requests(2, seconds=1), list[UpstreamRequest])


async def called(app: FastAPI, upstream: Upstream) -> None:
    """Overrides take clients and transports of both families."""
    async with lifespan_client(app, base_url="https://app.test", follow_redirects=True) as browser:
        assert_type(browser, httpx.AsyncClient)
        with client_override(app, upstream), client_override(app, httpx.AsyncClient(), "github"):
            assert_type(await browser.get("/"), httpx.Response)
        with client_override(app, httpx2.AsyncHTTPTransport(), name="llm"), forbid_leaks(), forbid_network():
            pass
