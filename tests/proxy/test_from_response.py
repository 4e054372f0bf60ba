"""``from_response``: a response that the route has opened itself goes to the client with the same guarantees."""

import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.background import BackgroundTask

from fastapi_httpx_pool import StreamingProxyResponse, UpstreamResponse, get_client
from tests.support.answers import ask, get, read_answer, read_chunk
from tests.support.raw_client import raw_client
from tests.support.recording import AppProbe
from tests.support.stack import POOL_OF_ONE, Respond, Stack, app_of
from tests.support.stages import AT_ONCE, STAGES, HangingUpstream, one_slot
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted

PACKED = gzip.compress(b"hello" * 100)


def opening(url: str, *, read: bool = False, method: str | None = None, **options: Any) -> Respond:
    """Return a route that opens a response with the app's client and hands it on."""

    async def respond(request: Request) -> StreamingProxyResponse:
        client = await get_client(request)
        response = await client.send(client.build_request(method or request.method, url), stream=True)
        if read:
            await response.aread()
        return StreamingProxyResponse.from_response(response, **options)

    return respond


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
@pytest.mark.parametrize("made", ["by-us", "by-the-family"])
def test_an_open_response_is_streamed(stack: Stack, family: str, made: str) -> None:
    """An open response of either family, from our client or a plain one, passes with status, fields and octets."""
    module = pytest.importorskip(family)
    # Keeping no connection, it needs no closing in the server's loop.
    plain = module.AsyncClient(trust_env=False, limits=module.Limits(max_keepalive_connections=0))

    async def respond(request: Request) -> StreamingProxyResponse:
        client = await get_client(request) if made == "by-us" else plain
        return StreamingProxyResponse.from_response(
            await client.send(client.build_request("GET", upstream.url), stream=True)
        )

    response = ok(
        PACKED, b"Content-Encoding: gzip", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Connection: X-Hop", b"X-Hop: 1"
    )
    response = response.replace(b"200 OK", b"203 Found It")
    with scripted(answering(response)) as upstream, stack.routing(respond, stack.settings(family=family)) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (203, PACKED, True)
    assert answer.values(b"content-length") == [b"%d" % len(PACKED)]
    assert answer.values(b"content-encoding") == [b"gzip"]
    assert answer.values(b"set-cookie") == [b"a=1", b"b=2"]
    assert answer.values(b"x-hop") == []


def test_it_streams(every_stack: Stack) -> None:
    """The head arrives before any chunk, and each chunk when it was sent."""
    steps = [threading.Event() for _ in range(2)]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for step in steps:
            assert step.wait(LIMIT)
            connection.send(b"data: 1\n\n")

    with (
        scripted(script) as upstream,
        every_stack.routing(opening(upstream.url)) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        assert client.read_head().startswith(b"HTTP/1.1 200")
        for step in steps:
            step.set()
            assert read_chunk(client) == b"data: 1\n\n"
        assert read_chunk(client) == b""


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_answer_for_head(every_stack: Stack, method: str) -> None:
    """For a HEAD the client gets the head and no body, whether the route asked by HEAD or by GET."""

    def script(connection: Connection) -> None:
        while (head := connection.read_request()[0]).endswith(b"\r\n\r\n"):
            connection.send(
                ok(b"hello") if head.startswith(b"GET") else b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
            )

    with (
        scripted(script) as upstream,
        every_stack.routing(opening(upstream.url, method=method)) as port,
        raw_client(port) as client,
    ):
        for _ in range(2):
            client.send(get(method=b"HEAD"))
            answer = read_answer(client, to_head_request=True)
            assert (answer.status, answer.values(b"content-length")) == (200, [b"5"])


def test_a_response_to_head_for_a_get(stack: Stack) -> None:
    """A response to the route's own HEAD does not leave a client that sent GET waiting for a body."""
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Here: 1\r\n\r\n"
    with scripted(answering(response)) as upstream, stack.routing(opening(upstream.url, method="HEAD")) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete, answer.values(b"x-here")) == (200, b"", True, [b"1"])


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body(every_stack: Stack, status: bytes) -> None:
    """A 204 and a 304 pass, and the client's connection stays usable."""
    response = b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n"
    with (
        scripted(answering(response)) as upstream,
        every_stack.routing(opening(upstream.url)) as port,
        raw_client(port) as client,
    ):
        for _ in range(2):
            client.send(get())
            assert read_answer(client).status == int(status[:3])


def test_a_response_that_was_read(stack: Stack) -> None:
    """A response whose body was read goes out from memory, decompressed, with the fields that fit that."""
    response = ok(PACKED, b"Content-Encoding: gzip", b"X-Kept: 1")
    with scripted(answering(response)) as upstream, stack.routing(opening(upstream.url, read=True)) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello" * 100, True)
    assert answer.values(b"content-encoding") == []
    assert answer.values(b"content-length") in ([], [b"500"])
    assert answer.values(b"x-kept") == [b"1"]


def test_a_response_that_was_read_chunked(stack: Stack) -> None:
    """A chunked response that was read goes out whole."""
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with scripted(answering(response)) as upstream, stack.routing(opening(upstream.url, read=True)) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)


def test_a_response_of_client_get(stack: Stack) -> None:
    """What ``client.get`` returns has been read already, and goes out from memory."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse.from_response(await (await get_client(request)).get(upstream.url))

    with scripted(answering(ok(b"hello"))) as upstream, stack.routing(respond) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_response_made_by_hand(stack: Stack, family: str) -> None:
    """A response that somebody built, as in a test, goes out."""
    module = pytest.importorskip(family)

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse.from_response(module.Response(201, headers={"x-a": "1"}, content=b"made"))

    with stack.routing(respond) as port:
        answer = ask(port, get())

    assert (answer.status, answer.body, answer.values(b"x-a")) == (201, b"made", [b"1"])


def test_a_response_made_by_hand_of_a_stream(stack: Stack) -> None:
    """A response that somebody built around an async generator streams it."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse.from_response(httpx.Response(200, content=chunks()))

    with stack.routing(respond) as port:
        answer = ask(port, get())

    assert (answer.body, answer.complete) == (b"onetwo", True)


def test_a_closed_response_is_refused(stack: Stack) -> None:
    """A response that was closed before it was read, as after ``async with client.stream(...)``, is a RuntimeError."""
    raised: list[BaseException] = []

    async def respond(request: Request) -> Any:
        async with (await get_client(request)).stream("GET", upstream.url) as response:
            pass
        try:
            return StreamingProxyResponse.from_response(response)
        except RuntimeError as exc:
            raised.append(exc)
            return {"refused": True}

    with scripted(answering(ok(b"x" * 100_000))) as upstream, stack.routing(respond) as port:
        assert ask(port, get()).body == b'{"refused":true}'

    assert len(raised) == 1


@pytest.mark.parametrize("thing", [None, b"bytes", {"status_code": 200}])
def test_something_else_is_refused(thing: Any) -> None:
    """What is no response of either family is a TypeError."""
    with pytest.raises(TypeError):
        StreamingProxyResponse.from_response(thing)


@pytest.mark.parametrize("stage", ["in-a-known-length", "in-a-silent-stream", "between-chunks"])
def test_a_client_that_leaves_frees_the_upstream(every_stack: Stack, stage: str) -> None:
    """A client that leaves closes the response, also in a silent stream, and frees the only slot."""
    script = HangingUpstream(STAGES[stage])
    with scripted(script) as upstream:
        probe = AppProbe(app_of(opening(upstream.url), one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            with raw_client(port) as client:
                client.send(get())
                client.read_head()
            assert script.closed.wait(AT_ONCE)
            assert probe.ended.acquire(timeout=AT_ONCE)
            assert ask(port, get()).body == b"next"

    assert probe.failures == []


def test_a_truncated_body_breaks_the_connection_off(every_stack: Stack) -> None:
    """An upstream that dies mid-stream never gives the client a body that looks whole; the only slot is free."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"next") if connection.number else STAGES["between-chunks"])

    settings = every_stack.settings(limits=POOL_OF_ONE)
    with scripted(script) as upstream, every_stack.routing(opening(upstream.url), settings) as port:
        assert not ask(port, get()).complete
        assert ask(port, get()).body == b"next"


def test_the_connection_is_used_again(stack: Stack) -> None:
    """A response that was streamed to its end leaves its connection to the next."""
    with scripted(answering(ok(b"hello"))) as upstream, stack.routing(opening(upstream.url)) as port:
        for _ in range(5):
            assert ask(port, get()).body == b"hello"
        accepted = upstream.accepted

    assert accepted == 1


def test_a_failure_before_the_body_is_a_clean_502(stack: Stack) -> None:
    """An upstream that dies between its head and its body is answered for with 502."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(STAGES["waiting-for-a-known-length"])

    with scripted(script) as upstream, stack.routing(opening(upstream.url)) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (502, True)


@pytest.mark.parametrize("read", [False, True], ids=["open", "read"])
def test_hook_headers_and_background(stack: Stack, read: bool) -> None:
    """The hook, headers and cookies set on the object, and the background task work as on any proxy response."""
    ran = threading.Event()

    async def upper(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk.upper()

    def hook(response: UpstreamResponse) -> None:
        response.status_code = 299
        response.body = upper(response.body)

    async def respond(request: Request) -> StreamingProxyResponse:
        options: Any = {"on_response": hook, "background": BackgroundTask(ran.set)}
        response: StreamingProxyResponse = await opening(upstream.url, read=read, **options)(request)
        response.set_cookie("ours", "1")
        return response

    with scripted(answering(ok(b"hello", b"Set-Cookie: theirs=1"))) as upstream, stack.routing(respond) as port:
        answer = ask(port, get())
        assert ran.wait(LIMIT)

    assert (answer.status, answer.body, answer.complete) == (299, b"HELLO", True)
    assert [cookie.split(b";")[0] for cookie in answer.values(b"set-cookie")] == [b"theirs=1", b"ours=1"]


def test_a_hook_that_raises_closes_the_upstream(stack: Stack) -> None:
    """A hook's exception is a 500 of the app's, and the response is closed."""
    script = HangingUpstream(STAGES["in-a-silent-stream"])

    def hook(response: UpstreamResponse) -> None:
        raise LookupError

    with scripted(script) as upstream, stack.routing(opening(upstream.url, on_response=hook), one_slot(stack)) as port:
        assert ask(port, get()).status == 500
        assert script.closed.wait(AT_ONCE)


def test_a_status_beyond_599_is_a_502(stack: Stack) -> None:
    """A status that no server can send on is a 502."""
    response = ok().replace(b"200 OK", b"888 X")
    with scripted(answering(response)) as upstream, stack.routing(opening(upstream.url)) as port:
        assert ask(port, get()).status == 502
