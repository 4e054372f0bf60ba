"""Request bodies: streamed, framed as they came, and never cut short in a way that looks whole."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Request
from pydantic import BaseModel

from fastapi_httpx_pool import StreamingProxyResponse, create_lifespan
from tests.support.answers import ask, get, post, read_answer
from tests.support.raw_client import raw_client
from tests.support.recording import RecordingUpstream
from tests.support.stack import Stack
from tests.support.stages import AT_ONCE
from tests.support.uploads import AbortedUpstream, SteppingUpstream, dechunked
from tests.support.upstream import LIMIT, Connection, scripted

FRAMING = {b"content-length", b"transfer-encoding"}
PADDED_JSON = b'{ "a" :  1.0,\r\n "b": "\xc3\xa9"  }\n'


def framing_of(seen: RecordingUpstream, index: int = 0) -> list[tuple[bytes, bytes]]:
    """Return the header lines that frame a request's body."""
    return [line for line in seen.headers(index) if line[0] in FRAMING]


def test_d1_a_known_length_is_streamed(every_stack: Stack) -> None:
    """The head goes up before any byte of the body, and each piece as it comes."""
    script = SteppingUpstream(b"one", b"two")
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get(b"/", b"Content-Length: 6", method=b"POST"))
        assert script.head.wait(LIMIT)
        client.send(b"one")
        assert script.arrived[0].wait(LIMIT)
        client.send(b"two")
        assert script.arrived[1].wait(LIMIT)
        assert read_answer(client).status == 200


def test_d1_chunks_are_streamed(every_stack: Stack) -> None:
    """Each chunk goes up as it comes, long before the last."""
    script = SteppingUpstream(b"one", b"two", b"0\r\n\r\n")
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
        client.send(b"3\r\none\r\n")
        assert script.arrived[0].wait(LIMIT)
        client.send(b"3\r\ntwo\r\n")
        assert script.arrived[1].wait(LIMIT)
        client.send(b"0\r\n\r\n")
        assert read_answer(client).status == 200


def test_d2_a_known_length_stays_one(stack: Stack) -> None:
    """A body with a Content-Length goes up with that and nothing else."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, post(b"hello")).status == 200

    assert framing_of(seen) == [(b"content-length", b"5")]
    assert seen.bodies == [b"hello"]


def test_d2_chunked_stays_chunked(every_stack: Stack) -> None:
    """A chunked body goes up chunked and nothing else."""
    seen = RecordingUpstream()
    request = get(b"/", b"Transfer-Encoding: chunked", method=b"PUT") + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port:
        assert ask(port, request).status == 200

    assert framing_of(seen) == [(b"transfer-encoding", b"chunked")]
    assert dechunked(seen.bodies[0]) == b"hello"


def test_d2_an_empty_body_stays_one(stack: Stack) -> None:
    """``Content-Length: 0`` stays, and a chunked body without data stays chunked or becomes it."""
    seen = RecordingUpstream()
    chunked = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n"
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        assert ask(port, post(b"")).status == 200
        assert ask(port, chunked).status == 200

    assert framing_of(seen, 0) == [(b"content-length", b"0")]
    assert framing_of(seen, 1) in ([(b"transfer-encoding", b"chunked")], [(b"content-length", b"0")])


def test_d3_no_body_stays_none(every_stack: Stack) -> None:
    """A request without a body goes up without a framing, whatever its method."""
    seen = RecordingUpstream()
    methods = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port:
        for method in methods:
            assert ask(port, get(method=method)).status == 200

    for index, method in enumerate(methods):
        assert framing_of(seen, index) in ([], [(b"content-length", b"0")]), method
        assert seen.bodies[index] == b"", method
    assert framing_of(seen, 0) == []


def test_d4_every_method_may_have_a_body(every_stack: Stack) -> None:
    """A body on GET, DELETE and OPTIONS arrives."""
    seen = RecordingUpstream()
    methods = [b"GET", b"DELETE", b"OPTIONS", b"PATCH"]
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port:
        for method in methods:
            assert ask(port, post(b"hello", method=method)).status == 200

    assert seen.bodies == [b"hello"] * 4
    assert [framing_of(seen, index) for index in range(4)] == [[(b"content-length", b"5")]] * 4


@pytest.mark.parametrize("leaving", ["close", "reset"])
def test_d5_an_aborted_upload_of_a_known_length_is_aborted(every_stack: Stack, leaving: str) -> None:
    """A client that leaves during its upload takes the upstream connection with it, short of the length."""
    script = AbortedUpstream(b"hello")
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get(b"/", b"Content-Length: 1000", method=b"POST") + b"hello")
        assert script.begun.wait(LIMIT)
        getattr(client, leaving)()
        assert script.ended.wait(AT_ONCE)

    assert script.rest == b""


@pytest.mark.parametrize("leaving", ["close", "reset"])
def test_d5_an_aborted_chunked_upload_is_aborted(every_stack: Stack, leaving: str) -> None:
    """A client that leaves between chunks takes the upstream connection with it, without a last chunk."""
    script = AbortedUpstream(b"hello")
    with scripted(script) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n")
        assert script.begun.wait(LIMIT)
        getattr(client, leaving)()
        assert script.ended.wait(AT_ONCE)

    assert script.rest in (b"", b"\r\n")


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("order", ["length-first", "chunked-first"])
def test_g1_never_two_framings(every_stack: Stack, order: str) -> None:
    """A request with Content-Length and Transfer-Encoding is refused, or goes up with one of them, as one request."""
    seen = RecordingUpstream()
    framing = [b"Content-Length: 4", b"Transfer-Encoding: chunked"]
    lines = framing if order == "length-first" else framing[::-1]
    request = get(b"/", *lines, method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n"
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port:
        answer = ask(port, request)

    if seen.heads:
        assert framing_of(seen) == [(b"transfer-encoding", b"chunked")]
        assert dechunked(seen.bodies[0]) == b"hello"
        assert len(seen.heads) == 1
    else:
        assert answer.status == 400


def test_g1_what_follows_the_last_chunk_is_no_second_request_upstream(every_stack: Stack) -> None:
    """A Content-Length that reaches beyond the chunks smuggles nothing into the upstream connection."""
    seen = RecordingUpstream()
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    length = b"Content-Length: %d" % len(chunks + SMUGGLED)
    request = get(b"/", length, b"Transfer-Encoding: chunked", method=b"POST") + chunks + SMUGGLED
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port:
        ask(port, request)

    for index, head in enumerate(seen.heads):
        assert len(framing_of(seen, index)) <= 1
        # The server may take it as a request of the client's own: then it is one to us as well.
        assert head.startswith((b"POST / ", b"GET /admin "))
        assert b"x-forwarded-for" in seen.names(index)


async def _read_whole(request: Request) -> None:
    assert await request.body() == PADDED_JSON


async def _read_json(request: Request) -> None:
    assert (await request.json())["a"] == 1


@pytest.mark.parametrize("read", [_read_whole, _read_json])
@pytest.mark.parametrize("framing", ["known-length", "chunked"])
def test_a_body_that_the_route_has_read_is_sent(
    stack: Stack, read: Callable[[Request], Awaitable[None]], framing: str
) -> None:
    """``await request.body()`` before the proxy response takes nothing from the upstream."""
    seen = RecordingUpstream()

    async def respond(request: Request) -> StreamingProxyResponse:
        await read(request)
        return StreamingProxyResponse(request, upstream.url)

    chunked = get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (
        len(PADDED_JSON),
        PADDED_JSON,
    )
    with scripted(seen) as upstream, stack.routing(respond) as port:
        assert ask(port, post(PADDED_JSON) if framing == "known-length" else chunked).status == 200

    assert len(framing_of(seen)) == 1
    assert (seen.bodies[0] if framing_of(seen)[0][0] == b"content-length" else dechunked(seen.bodies[0])) == PADDED_JSON


class Item(BaseModel):
    """A body model."""

    a: float
    b: str


def test_a_body_that_fastapi_has_parsed_is_sent_byte_for_byte(stack: Stack) -> None:
    """A route with a body model sends the client's octets, not a new serialisation."""
    seen = RecordingUpstream()
    app = FastAPI(lifespan=create_lifespan(stack.settings()))

    @app.post("/")
    async def respond(request: Request, item: Item) -> StreamingProxyResponse:
        assert item.b == "é"
        return StreamingProxyResponse(request, upstream.url)

    with scripted(seen) as upstream, stack.serve(app) as port:
        assert ask(port, post(PADDED_JSON, b"Content-Type: application/json")).status == 200

    assert seen.bodies == [PADDED_JSON]
    assert framing_of(seen) == [(b"content-length", b"%d" % len(PADDED_JSON))]
    assert seen.values(b"content-type") == [b"application/json"]


def test_a_raw_body_parameter_is_sent_byte_for_byte(stack: Stack) -> None:
    """A route with an untyped body parameter sends the client's octets."""
    seen = RecordingUpstream()
    app = FastAPI(lifespan=create_lifespan(stack.settings()))

    @app.post("/")
    async def respond(request: Request, data: Annotated[Any, Body()]) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url)

    with scripted(seen) as upstream, stack.serve(app) as port:
        assert ask(port, post(b"[1,  2]", b"Content-Type: application/json")).status == 200

    assert seen.bodies == [b"[1,  2]"]


def test_a_body_behind_a_base_http_middleware_is_sent(stack: Stack) -> None:
    """``@app.middleware("http")`` around the route changes nothing."""
    seen = RecordingUpstream()
    app = FastAPI(lifespan=create_lifespan(stack.settings()))

    @app.middleware("http")
    async def middleware(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-middleware"] = "1"
        return response

    @app.post("/")
    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, upstream.url)

    with scripted(seen) as upstream, stack.serve(app) as port:
        answer = ask(port, post(b"hello"))

    assert (answer.status, answer.body, answer.values(b"x-middleware")) == (200, b"ok", [b"1"])
    assert seen.bodies == [b"hello"]


def test_another_body_for_a_body_that_was_streamed_by_the_route_is_an_error(stack: Stack) -> None:
    """A body that the route has consumed piece by piece is gone: no upload that pretends to be whole is made."""
    seen = RecordingUpstream()

    async def respond(request: Request) -> StreamingProxyResponse:
        async for _ in request.stream():
            pass
        return StreamingProxyResponse(request, upstream.url)

    with scripted(seen) as upstream, stack.routing(respond) as port:
        answer = ask(port, post(b"hello"))

    assert answer.status >= 400
    assert seen.bodies in ([], [b""])


def test_a_method_of_the_routes_own_keeps_the_body(stack: Stack) -> None:
    """``method=`` does not touch the body."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, method="PUT") as port:
        assert ask(port, post(b"hello")).status == 200

    assert (seen.methods, seen.bodies) == ([b"PUT"], [b"hello"])


@pytest.mark.parametrize("framing", ["known-length", "chunked"])
def test_ten_megabytes_arrive_whole(every_stack: Stack, framing: str) -> None:
    """A large body arrives intact."""
    body = bytes(range(256)) * 4096 * 10
    seen = RecordingUpstream()
    with scripted(seen) as upstream, every_stack.proxying(upstream.url) as port, raw_client(port) as client:
        if framing == "known-length":
            client.send(post(body))
        else:
            client.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
            for start in range(0, len(body), 100_000):
                piece = body[start : start + 100_000]
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        assert read_answer(client).status == 200

    received = seen.bodies[0] if framing == "known-length" else dechunked(seen.bodies[0])
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


def test_an_upload_may_be_answered_early(stack: Stack) -> None:
    """An upstream that answers 413 with the upload half done, then closes, gives the client an answer and no hang."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.read_exactly(5)
        connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    with scripted(script) as upstream, stack.proxying(upstream.url) as port, raw_client(port) as client:
        client.send(post(b"hello" * 2))
        assert read_answer(client).status in {413, 502}
