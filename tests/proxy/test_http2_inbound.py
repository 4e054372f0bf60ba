"""Requests that come over HTTP/2, where a body needs no header and cookies may come in pieces."""

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from fastapi_httpx_pool import StreamingProxyResponse, create_lifespan
from fastapi_httpx_pool.proxy._headers import with_one_cookie_line
from tests.support.http2_client import Http2WebSocket
from tests.support.http2_server import serving_http2
from tests.support.proxies import proxied
from tests.support.upstream import Connection, ok, scripted
from tests.support.websocket_wire import TEXT, frame, handed


def _echo(connection: Connection) -> None:
    while True:
        head, body = connection.read_request()
        if not head:
            return
        connection.send(ok(json.dumps([head.decode("latin-1"), body.decode("latin-1")]).encode()))


@pytest.mark.parametrize(
    ("method", "body", "framing", "received"),
    [
        ("GET", None, "", ""),
        ("POST", b"hello", "content-length: 5", "hello"),
        ("POST", iter([b"hel", b"lo"]), "transfer-encoding: chunked", "hello"),
        ("DELETE", iter([]), "", ""),
    ],
    ids=["none", "length", "no-header", "empty"],
)
def test_bodies(tmp_path: Path, method: str, body: Any, framing: str, received: str) -> None:
    """A body goes on with its length, in chunks where none was told, and not at all where there is none."""
    app = FastAPI(lifespan=create_lifespan())

    @app.api_route("/", methods=["GET", "POST", "DELETE"])
    async def proxied(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url)

    with scripted(_echo) as upstream, serving_http2(tmp_path, app) as url:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with httpx.Client(http2=True, verify=context) as browser:
            answer = browser.request(method, url, content=body, headers={"cookie": "a=1"})
    assert answer.http_version == "HTTP/2"
    head, sent = answer.json()
    lines = head.lower().split("\r\n")
    assert [line for line in lines if line.startswith(("content-length", "transfer-encoding"))] == [framing] * bool(
        framing
    )
    assert "".join(sent.split("\r\n")[1::2] if "chunked" in framing else [sent]) == received
    assert "cookie: a=1" in lines
    assert lines[0] == f"{method.lower()} / http/1.1"


def test_pieces_of_a_cookie() -> None:
    """Pieces of a cookie are joined into one line for an HTTP/1.1 upstream."""
    inbound = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]

    assert with_one_cookie_line(inbound) == [(b"x", b"y"), (b"cookie", b"a=1; b=2")]
    assert with_one_cookie_line(inbound[1:2]) == [(b"x", b"y")]


def test_a_websocket_over_http2() -> None:
    """It is asked for with CONNECT (RFC 8441), and the upstream knows nothing of that."""
    with handed() as upstream, proxied(upstream.url, "hypercorn") as port:
        lines = ((b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"sec-websocket-protocol", b"x, y"))
        websocket = Http2WebSocket(port, b"/chat?x=1", *lines)
        asked = upstream.asked()
        far = asked.accept(b"Sec-WebSocket-Protocol: y", b"Set-Cookie: z=1")
        answer = websocket.answer()
        websocket.write(frame(TEXT, b"hi", mask=b"mask"))
        message = far.message()
        far.text("back")
        came = websocket.read()
        websocket.close()

    assert asked.head.startswith(b"GET /chat?x=1 HTTP/1.1\r\n")
    assert asked.values(b"cookie") == [b"a=1; b=2"]
    assert asked.values(b"via")[0].startswith(b"2 ")
    assert [value for name, value in answer if name in (b":status", b"sec-websocket-protocol", b"set-cookie")] == [
        b"200",
        b"y",
        b"z=1",
    ]
    assert message == (TEXT, b"hi")
    assert came == frame(TEXT, b"back")
