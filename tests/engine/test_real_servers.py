"""The engine and servers as they are in use: uvicorn with either parser, hypercorn, nginx."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastapi_httpx_pool.engine import Engine, Limits
from fastapi_httpx_pool.exceptions import RemoteProtocolError
from fastapi_httpx_pool.messages import Header, Response, Timeouts
from tests.support.engines import LIMIT, assert_quiet, both_loops, fetch, read, request_to, running
from tests.support.hypercorn_server import serving_hypercorn
from tests.support.nginx_server import needs_nginx, serving_nginx
from tests.support.server import serving

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 4 * 1024 * 8  # 8 MiB
TIMEOUTS = Timeouts(connect=LIMIT, read=LIMIT, write=LIMIT, pool=LIMIT, total=2 * LIMIT)


async def send(engine: Engine, url: str, target: bytes, **request: Any) -> tuple[Response, bytes]:
    """Send a request, and return its response and the body of it."""
    response = await engine(request_to(url, target, timeouts=TIMEOUTS, **request))
    return response, await read(response)


def values(response: Response, name: bytes) -> list[bytes]:
    """Return the values of a header's lines."""
    return [value for key, value in response.headers if key.lower() == name]


async def pieces(body: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    """Give a body in pieces."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


# Python's servers.


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer in as many ways as there are paths."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    status, headers, body = await _answer(path, receive)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for chunk in body:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if path == "/break":
        raise RuntimeError(path)
    await send({"type": "http.response.body", "body": b""})


async def _answer(path: str, receive: Any) -> tuple[int, list[Header], list[bytes]]:
    status, headers, body = 200, [], []
    if path == "/length":
        headers, body = [(b"content-length", b"5"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")], [b"hello"]
    elif path == "/chunks":
        body = [b"%d;" % number for number in range(100)]
    elif path == "/large":
        headers, body = [(b"content-length", b"%d" % len(LARGE))], [LARGE]
    elif path == "/close":
        headers, body = [(b"connection", b"close"), (b"content-length", b"3")], [b"bye"]
    elif path == "/refuse":
        status, headers, body = 413, [(b"content-length", b"8"), (b"connection", b"close")], [b"too much"]
    elif path == "/echo":
        body = [chunk async for chunk in _received(receive)]
    elif path == "/break":
        headers, body = [(b"content-length", b"10")], [b"half"]
    else:
        status = int(path.removeprefix("/"))
    return status, headers, body


async def _received(receive: Any) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        yield message["body"]
        more = message["more_body"]


@contextmanager
def _uvicorn(parser: Any) -> Iterator[str]:
    with serving(app, http=parser) as running_server:
        yield running_server.url


@contextmanager
def _hypercorn() -> Iterator[str]:
    with serving_hypercorn(app) as port:
        yield f"http://127.0.0.1:{port}"


SERVERS: dict[str, Callable[[], Any]] = {
    "uvicorn-h11": lambda: _uvicorn("h11"),
    "uvicorn-httptools": lambda: _uvicorn("httptools"),
    "hypercorn": _hypercorn,
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a server, and give its URL."""
    with SERVERS[request.param]() as url:
        yield url


@both_loops
async def test_python_server_answers(server: str) -> None:
    """All kinds of responses come over one connection, one after the other."""
    async with running() as engine:
        response, body = await send(engine, server, b"/length")
        assert (response.status, body, response.extensions["http_version"]) == (200, b"hello", b"HTTP/1.1")
        assert values(response, b"set-cookie") == [b"a=1", b"b=2"]
        response, body = await send(engine, server, b"/length", method=b"HEAD")
        assert (values(response, b"content-length"), body) == ([b"5"], b"")
        response, body = await send(engine, server, b"/chunks")
        assert values(response, b"transfer-encoding") == [b"chunked"]
        assert body == b"".join(b"%d;" % number for number in range(100))
        for status in (204, 304, 404, 500):
            response, body = await send(engine, server, b"/%d" % status)
            assert (response.status, body) == (status, b"")
        _, body = await send(engine, server, b"/large")
        assert body == LARGE
        response, body = await send(engine, server, b"/length")
        assert body == b"hello"
        found = engine.statistics().origins[server]
        assert (found.opened, found.requests, found.failures) == (1, 9, {})
        assert_quiet(engine)


@both_loops
async def test_python_server_takes_a_body(server: str) -> None:
    """Bodies small and large, of known length and in chunks, arrive as they were sent."""
    async with running() as engine:
        for body in (b"", b"hello", LARGE):
            assert (await send(engine, server, b"/echo", method=b"POST", body=body))[1] == body
        for body in (b"", b"hello", LARGE):
            assert (await send(engine, server, b"/echo", method=b"PUT", body=pieces(body)))[1] == body
        assert engine.statistics().origins[server].opened == 1
        assert_quiet(engine)


async def test_python_server_says_continue(server: str) -> None:
    """A body is sent when the server says that it wants it."""
    headers: list[Header] = [(b"Expect", b"100-continue")]
    said: list[int] = []
    async with running() as engine:
        for _ in range(2):
            _, body = await send(
                engine,
                server,
                b"/echo",
                method=b"POST",
                headers=headers,
                body=b"hello",
                extensions={"informational": lambda status, _: said.append(status)},
            )
            assert body == b"hello"
    assert said == [100, 100]


@both_loops
async def test_python_server_closes(server: str) -> None:
    """``Connection: close`` is heeded, and the next request has a new connection."""
    async with running() as engine:
        for opened in (1, 2):
            assert (await send(engine, server, b"/close"))[1] == b"bye"
            assert engine.statistics().origins[server].opened == opened
            assert engine.statistics().idle == 0


@both_loops
async def test_python_server_refuses_a_body(server: str, request: pytest.FixtureRequest) -> None:
    """A refusal comes through although the body has not been sent to its end; the next request is not affected."""
    # From Python 3.12 on, hypercorn does not stop while more than its queue holds was left unread.
    size = 50_000 if request.node.callspec.params["server"] == "hypercorn" else len(LARGE)
    async with running() as engine:
        response, body = await send(engine, server, b"/refuse", method=b"POST", body=pieces(LARGE[:size]))
        assert (response.status, body) == (413, b"too much")
        assert (await send(engine, server, b"/length"))[1] == b"hello"
        assert_quiet(engine)


async def test_python_server_breaks_off(server: str) -> None:
    """A body that the server does not finish is an error, and the connection is not used again."""
    async with running() as engine:
        with pytest.raises(RemoteProtocolError, match="without sending complete message body"):
            await send(engine, server, b"/break")
        assert (await send(engine, server, b"/length"))[1] == b"hello"
        assert engine.statistics().origins[server].opened == 2


@both_loops
async def test_python_server_with_many_callers(server: str) -> None:
    """Many requests at a time share a few connections, and each has its own answer."""

    async def one(number: int) -> bool:
        body = b"%d" % number * 1000
        return (await send(engine, server, b"/echo", method=b"POST", body=body))[1] == body

    async with running(Limits(max_connections=5, max_idle=5)) as engine:
        assert all(await asyncio.gather(*[one(number) for number in range(100)]))
        assert engine.statistics().origins[server].opened <= 5
        assert_quiet(engine)


# nginx.

NGINX = """
    keepalive_requests 3;
    root {folder}/files;
    client_max_body_size 10m;
    location /hello {{ return 200 "hello"; }}
    location /empty {{ return 204; }}
    location /moved {{ return 301 /hello; }}
    location /zipped/ {{ gzip on; gzip_min_length 1; gzip_types text/plain; gzip_http_version 1.1; }}
    location /upload/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
    location /small/ {{ client_max_body_size 1k; dav_methods PUT; }}
    location /last {{ keepalive_timeout 0; return 200 "bye"; }}
    location /hint {{ keepalive_timeout 75s 1s; return 200 "hint"; }}
    location /proxied/ {{ proxy_pass {upstream}/; proxy_http_version 1.1; proxy_request_buffering off; }}
"""

TEXT = b"a line that is worth to be compressed, and another, and another, and another\n" * 1000


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run nginx, in front of uvicorn; give its URL and its folder."""
    folder = tmp_path_factory.mktemp("nginx")
    for name in ("files", "files/zipped", "files/upload", "files/small"):
        (folder / name).mkdir()
    for name in ("files/text.txt", "files/zipped/text.txt"):
        (folder / name).write_bytes(TEXT)
    with serving(app) as upstream, serving_nginx(folder, NGINX.format(folder=folder, upstream=upstream.url)) as port:
        yield f"http://127.0.0.1:{port}", folder


@needs_nginx
@both_loops
async def test_nginx_answers(nginx: tuple[str, Path]) -> None:
    """Files, redirects, nothing at all, the head alone, and what has not changed: each response ends where it should."""
    url, _ = nginx
    async with running() as engine:
        response, body = await send(engine, url, b"/text.txt")
        assert (response.status, body) == (200, TEXT)
        (tag,) = values(response, b"etag")
        response, body = await send(engine, url, b"/text.txt", method=b"HEAD")
        assert (response.status, values(response, b"content-length"), body) == (200, [b"%d" % len(TEXT)], b"")
        response, body = await send(engine, url, b"/text.txt", headers=[(b"If-None-Match", tag)])
        assert (response.status, body) == (304, b"")
        response, body = await send(engine, url, b"/text.txt", headers=[(b"Range", b"bytes=2-5")])
        assert (response.status, body) == (206, TEXT[2:6])
        assert (await send(engine, url, b"/empty"))[0].status == 204
        response, _ = await send(engine, url, b"/moved")
        assert (response.status, values(response, b"location")) == (301, [url.encode() + b"/hello"])
        assert (await send(engine, url, b"/none"))[0].status == 404
        assert engine.statistics().origins[url].failures == {}
        assert_quiet(engine)


@needs_nginx
@both_loops
async def test_nginx_compresses(nginx: tuple[str, Path]) -> None:
    """A compressed body comes in chunks and is passed on as it is; the connection is used again."""
    url, _ = nginx
    async with running() as engine:
        for _ in range(3):
            response, body = await send(engine, url, b"/zipped/text.txt", headers=[(b"Accept-Encoding", b"gzip")])
            assert values(response, b"content-encoding") == [b"gzip"]
            assert values(response, b"transfer-encoding") == [b"chunked"]
            assert gzip.decompress(body) == TEXT
            assert response.extensions["trailers"] == []
        assert engine.statistics().origins[url].opened == 1


@needs_nginx
@both_loops
async def test_nginx_limits_requests_per_connection(nginx: tuple[str, Path]) -> None:
    """A server that closes each connection after three requests is nobody's trouble."""
    url, _ = nginx
    async with running() as engine:
        for _ in range(10):
            assert (await send(engine, url, b"/hello"))[1] == b"hello"
        found = engine.statistics().origins[url]
        assert (found.opened, found.reused, found.retried, found.failures) == (4, 6, 0, {})
        assert (await send(engine, url, b"/last"))[1] == b"bye"
        assert engine.statistics().idle == 0


@needs_nginx
async def test_f7_nginx_says_how_long_it_waits(nginx: tuple[str, Path]) -> None:
    """A connection that nginx will close in a second is not kept."""
    url, _ = nginx
    async with running() as engine:
        response, body = await send(engine, url, b"/hint")
        assert (values(response, b"keep-alive"), body) == ([b"timeout=1"], b"hint")
        assert engine.statistics().idle == 0


@needs_nginx
@both_loops
@pytest.mark.parametrize("expect", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_nginx_takes_a_large_upload(nginx: tuple[str, Path], chunked: bool, expect: bool) -> None:
    """8 MiB arrive as they were sent, of known length and in chunks, with "100 Continue" and without."""
    url, folder = nginx
    said: list[int] = []
    async with running() as engine:
        for status in (201, 204):
            response, _ = await send(
                engine,
                url,
                b"/upload/large",
                method=b"PUT",
                headers=[(b"Expect", b"100-continue")] if expect else [],
                body=pieces(LARGE) if chunked else LARGE,
                extensions={"informational": lambda status, _: said.append(status)},
            )
            assert response.status == status
            assert (folder / "files/upload/large").read_bytes() == LARGE
        assert said == [100] * 2 * expect
        assert (await send(engine, url, b"/upload/large", method=b"DELETE"))[0].status == 204
        assert engine.statistics().origins[url].opened == 1
        assert_quiet(engine)


@needs_nginx
@both_loops
@pytest.mark.parametrize("expect", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_i2_nginx_refuses_an_upload(nginx: tuple[str, Path], chunked: bool, expect: bool) -> None:
    """What nginx says about a body that is too large for it comes through, and the upload stops."""
    url, folder = nginx
    async with running() as engine:
        response, body = await send(
            engine,
            url,
            b"/small/file",
            method=b"PUT",
            headers=[(b"Expect", b"100-continue")] if expect else [],
            body=pieces(LARGE) if chunked else LARGE,
        )
        assert response.status == 413
        assert b"413 Request Entity Too Large" in body
        assert not (folder / "files/small/file").exists()
        assert (await send(engine, url, b"/hello"))[1] == b"hello"
        assert_quiet(engine)


@needs_nginx
@both_loops
async def test_nginx_in_front_of_uvicorn(nginx: tuple[str, Path]) -> None:
    """What another server answers through nginx comes through: chunks, large bodies, and one that breaks off."""
    url, _ = nginx
    async with running() as engine:
        assert (await send(engine, url, b"/proxied/chunks"))[1].startswith(b"0;1;2;")
        assert (await send(engine, url, b"/proxied/large"))[1] == LARGE
        assert (await send(engine, url, b"/proxied/echo", method=b"POST", body=pieces(LARGE)))[1] == LARGE
        with pytest.raises(RemoteProtocolError, match="without sending complete message body"):
            await send(engine, url, b"/proxied/break")
        assert await fetch(engine, url, target=b"/hello") == b"hello"
        assert_quiet(engine)
