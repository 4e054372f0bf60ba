"""``on_response``: reads and changes the answer on its way, or puts another in its place."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from fastapi_httpx_pool import TimeoutSettings, UpstreamResponse
from tests.support.answers import Answer, ask, get, read_chunk
from tests.support.raw_client import raw_client
from tests.support.recording import AppProbe
from tests.support.stack import POOL_OF_ONE, Stack, app_of
from tests.support.stages import AT_ONCE, STAGES, HangingUpstream, one_slot, proxy_to
from tests.support.upstream import LIMIT, Connection, Script, answering, ok, scripted


def answered(stack: Stack, response: bytes, hook: Any, request: bytes = get()) -> Answer:
    """Return what the client gets of an upstream's answer that goes through a hook."""
    with scripted(answering(response)) as upstream, stack.proxying(upstream.url, on_response=hook) as port:
        return ask(port, request)


async def upper(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return the chunks in upper case."""
    async for chunk in chunks:
        yield chunk.upper()


def _change(response: UpstreamResponse) -> None:
    response.status_code = 299
    response.headers["x-hook"] = "1"
    del response.headers["x-gone"]


async def _change_later(response: UpstreamResponse) -> None:
    _change(response)


def _change_and_return(response: UpstreamResponse) -> UpstreamResponse:
    _change(response)
    return response


def _build_another(response: UpstreamResponse) -> UpstreamResponse:
    _change(response)
    return UpstreamResponse(response.status_code, list(response.headers.raw), response.body)


@pytest.mark.parametrize("hook", [_change, _change_later, _change_and_return, _build_another])
def test_a_hook_changes_status_and_headers(stack: Stack, hook: Any) -> None:
    """A sync or async hook changes status and headers; the body passes."""
    answer = answered(stack, ok(b"hello", b"X-Gone: 1", b"X-Kept: 1"), hook)

    assert (answer.status, answer.body, answer.complete) == (299, b"hello", True)
    assert (answer.values(b"x-hook"), answer.values(b"x-gone"), answer.values(b"x-kept")) == ([b"1"], [], [b"1"])


def test_a_hook_that_leaves_the_body_keeps_its_length(stack: Stack) -> None:
    """A hook that does not replace the body leaves its Content-Length."""
    answer = answered(stack, ok(b"hello"), _change)

    assert answer.values(b"content-length") == [b"5"]
    assert answer.values(b"transfer-encoding") == []


def test_a_hook_sees_no_hop_by_hop_headers(stack: Stack) -> None:
    """Hop-by-hop headers are gone when the hook looks; status and the others are there."""
    seen: list[Any] = []

    def hook(response: UpstreamResponse) -> None:
        seen.append((response.status_code, response.headers.items()))

    answered(stack, ok(b"hello", b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"X-Kept: 1"), hook)

    assert seen == [(200, [("content-length", "5"), ("x-kept", "1")])]


def test_a_hook_keeps_every_line_and_octet(stack: Stack) -> None:
    """A hook that changes one field leaves repeated lines and bytes beyond ASCII as they were."""
    response = ok(b"hello", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Bytes: " + bytes(range(0x80, 0x100)))
    answer = answered(stack, response, _change)

    assert answer.values(b"set-cookie") == [b"a=1", b"b=2"]
    assert answer.values(b"x-bytes") == [bytes(range(0x80, 0x100))]


def test_a_replaced_body_may_have_a_length_of_its_own(stack: Stack) -> None:
    """A hook that replaces the body and says its length is believed."""

    def hook(response: UpstreamResponse) -> None:
        response.body = doubled(response.body)
        response.headers["content-length"] = "10"

    async def doubled(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk + chunk

    answer = answered(stack, ok(b"hello"), hook)

    assert (answer.body, answer.values(b"content-length")) == (b"hellohello", [b"10"])


def test_a_replaced_body_loses_its_length(every_stack: Stack) -> None:
    """A generator around the body may change its length: the Content-Length goes, chunks come."""

    def hook(response: UpstreamResponse) -> None:
        response.body = twice(response.body)

    async def twice(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            yield b""  # must not end the body
            yield chunk.upper()

    answer = answered(every_stack, ok(b"hello"), hook)

    assert (answer.status, answer.body, answer.complete) == (200, b"helloHELLO", True)
    assert answer.values(b"content-length") == []
    assert answer.values(b"transfer-encoding") == [b"chunked"]


def test_a_rewritten_body_still_streams(stack: Stack) -> None:
    """Each chunk passes the generator when it comes."""
    steps = [threading.Event() for _ in range(2)]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        for step in steps:
            assert step.wait(LIMIT)
            connection.send(b"x")

    def hook(response: UpstreamResponse) -> None:
        response.body = upper(response.body)

    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, on_response=hook) as port,
        raw_client(port) as client,
    ):
        client.send(get())
        for step in steps:
            step.set()
            if step is steps[0]:
                client.read_head()
            assert read_chunk(client) == b"X"
        assert read_chunk(client) == b""


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
    ],
    ids=["head", "204", "304"],
)
def test_a_rewritten_body_where_none_belongs(every_stack: Stack, method: bytes, response: bytes) -> None:
    """A generator around the empty body of HEAD, 204 and 304 sends nothing, and the connection stays usable."""

    async def appended(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        yield b"appended"

    def hook(response: UpstreamResponse) -> None:
        response.body = appended(response.body)

    with (
        scripted(answering(response)) as upstream,
        every_stack.proxying(upstream.url, on_response=hook) as port,
        raw_client(port) as client,
    ):
        for _ in range(2):
            client.send(get(method=method))
            head = client.read_head()
            assert head.startswith(response[:12])


def test_a_hook_may_make_it_a_204(every_stack: Stack) -> None:
    """A hook that sets 204 on an answer with a body gives the client none, and the connection stays usable."""

    def hook(response: UpstreamResponse) -> None:
        response.status_code = 204

    with (
        scripted(answering(ok(b"hello"))) as upstream,
        every_stack.proxying(upstream.url, on_response=hook) as port,
        raw_client(port) as client,
    ):
        for _ in range(2):
            client.send(get())
            head = client.read_head()
            assert head.startswith(b"HTTP/1.1 204")
            assert b"content-length: 5" not in head.lower()


def _in_place(response: UpstreamResponse) -> JSONResponse:
    return JSONResponse({"was": response.status_code}, status_code=203, headers={"x-own": "1"})


async def _in_place_later(response: UpstreamResponse) -> JSONResponse:
    return _in_place(response)


def hanging(stage: str, closed: threading.Event) -> Script:
    """Return a script that hangs in its answer on the first connection, and answers on the others."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"next") if connection.number else STAGES[stage])
        if not connection.number and connection.wait_until_closed():
            closed.set()

    return script


@pytest.mark.parametrize("hook", [_in_place, _in_place_later])
@pytest.mark.parametrize("stage", ["in-a-silent-stream", "in-a-known-length", "between-chunks"])
def test_another_response_takes_the_place(every_stack: Stack, hook: Any, stage: str) -> None:
    """A Starlette response that the hook returns is sent instead, and the upstream's connection is closed."""
    closed = threading.Event()
    settings = one_slot(every_stack)
    with (
        scripted(hanging(stage, closed)) as upstream,
        every_stack.proxying(upstream.url, settings, on_response=hook) as port,
    ):
        answer = ask(port, get())
        assert closed.wait(AT_ONCE)
        assert ask(port, get()).body == b'{"was":200}'

    assert (answer.status, answer.body, answer.values(b"x-own")) == (203, b'{"was":200}', [b"1"])
    assert answer.values(b"content-type") == [b"application/json"]


def test_another_response_of_what_was_read(every_stack: Stack) -> None:
    """A hook may read the whole body and answer with something made of it."""

    async def hook(response: UpstreamResponse) -> PlainTextResponse:
        return PlainTextResponse(b"".join([chunk async for chunk in response.body]).upper())

    answer = answered(every_stack, ok(b"hello", b"X-Theirs: 1"), hook)

    assert (answer.status, answer.body, answer.values(b"content-length")) == (200, b"HELLO", [b"5"])
    assert answer.values(b"x-theirs") == []


def test_another_response_that_streams_the_body(stack: Stack) -> None:
    """A streaming response of the hook's may still draw on the upstream's body."""

    def hook(response: UpstreamResponse) -> StreamingResponse:
        return StreamingResponse(upper(response.body), media_type="text/plain")

    answer = answered(stack, ok(b"hello"), hook)

    assert (answer.status, answer.body, answer.complete) == (200, b"HELLO", True)


def _fail(response: UpstreamResponse) -> None:
    raise LookupError


async def _fail_later(response: UpstreamResponse) -> None:
    raise LookupError


@pytest.mark.parametrize("hook", [_fail, _fail_later])
@pytest.mark.parametrize("stage", ["in-a-silent-stream", "in-a-known-length"])
def test_a_hook_that_raises_is_a_500(every_stack: Stack, hook: Any, stage: str) -> None:
    """A hook's exception is the app's own: its handlers answer, and the upstream's connection is closed."""
    closed = threading.Event()
    with scripted(hanging(stage, closed)) as upstream:
        probe = AppProbe(app_of(proxy_to(upstream.url, on_response=hook), one_slot(every_stack)))
        with every_stack.serve(probe) as port:
            assert ask(port, get()).status == 500
            assert closed.wait(AT_ONCE)
            assert ask(port, get()).status == 500

    assert [type(failure) for failure in probe.failures] == [LookupError, LookupError]


def test_a_hook_may_raise_an_http_exception(stack: Stack) -> None:
    """An HTTPException in the hook is answered by FastAPI's handler."""

    def hook(response: UpstreamResponse) -> None:
        raise HTTPException(403, "not for you")

    answer = answered(stack, ok(b"hello", b"X-Theirs: 1"), hook)

    assert (answer.status, answer.body) == (403, b'{"detail":"not for you"}')
    assert answer.values(b"x-theirs") == []


def test_a_generator_that_raises_breaks_the_connection_off(every_stack: Stack) -> None:
    """An exception in the middle of the rewritten body breaks the client's connection off and closes the upstream's."""
    closed = threading.Event()

    async def failing(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            raise LookupError

    def hook(response: UpstreamResponse) -> None:
        response.body = failing(response.body)

    with (
        scripted(hanging("in-a-known-length", closed)) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack), on_response=hook) as port,
    ):
        answer = ask(port, get())
        assert closed.wait(AT_ONCE)

    assert (answer.status, answer.body, answer.complete) == (200, b"hello", False)


def test_a_generator_that_raises_at_once(every_stack: Stack) -> None:
    """An exception before the first chunk is a 500 or a broken connection, never a whole answer."""

    async def failing(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        raise LookupError
        yield b""

    def hook(response: UpstreamResponse) -> None:
        response.body = failing(response.body)

    answer = answered(every_stack, ok(b"hello"), hook)

    assert answer.status == 500 or not answer.complete


def test_a_generator_that_meets_a_truncated_upstream(every_stack: Stack) -> None:
    """The upstream's failure reaches the generator, and the client's connection is broken off all the same."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")

    def hook(response: UpstreamResponse) -> None:
        response.body = upper(response.body)

    with scripted(script) as upstream, every_stack.proxying(upstream.url, on_response=hook) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (200, False)


def test_a_generator_that_ends_early_ends_the_answer(every_stack: Stack) -> None:
    """A generator that has had enough ends the answer properly, and the upstream's connection is closed."""
    closed = threading.Event()

    async def first(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            return

    def hook(response: UpstreamResponse) -> None:
        response.body = first(response.body)

    with (
        scripted(hanging("between-chunks", closed)) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack), on_response=hook) as port,
    ):
        answer = ask(port, get())
        assert closed.wait(AT_ONCE)

    assert (answer.body, answer.complete) == (b"hello", True)


def test_a_body_of_the_hooks_own(every_stack: Stack) -> None:
    """A body that does not draw on the upstream's is sent, and the upstream's connection is closed."""
    closed = threading.Event()

    async def own() -> AsyncIterator[bytes]:
        yield b"own"

    def hook(response: UpstreamResponse) -> None:
        response.body = own()

    with (
        scripted(hanging("in-a-known-length", closed)) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack), on_response=hook) as port,
    ):
        answer = ask(port, get())
        assert closed.wait(AT_ONCE)

    assert (answer.body, answer.complete, answer.values(b"content-length")) == (b"own", True, [])


def test_a_generator_is_closed_when_the_client_leaves(every_stack: Stack) -> None:
    """A client that leaves ends the generator too: its ``finally`` runs, and the upstream's connection is closed."""
    script = HangingUpstream(STAGES["between-chunks"])
    ended = threading.Event()

    async def watched(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            ended.set()

    def hook(response: UpstreamResponse) -> None:
        response.body = watched(response.body)

    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack), on_response=hook) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            client.read_until(b"hello\r\n")
        assert script.closed.wait(AT_ONCE)
        assert ended.wait(AT_ONCE)


def test_a_client_that_leaves_while_the_hook_waits(every_stack: Stack) -> None:
    """A hook that reads a body which never ends is given up when the client leaves."""
    script = HangingUpstream(STAGES["between-chunks"])
    reading = threading.Event()

    async def hook(response: UpstreamResponse) -> None:
        async for _ in response.body:
            reading.set()

    with (
        scripted(script) as upstream,
        every_stack.proxying(upstream.url, one_slot(every_stack), on_response=hook) as port,
    ):
        with raw_client(port) as client:
            client.send(get())
            assert reading.wait(LIMIT)
        assert script.closed.wait(AT_ONCE)


def test_an_upstream_that_fails_while_the_hook_reads(every_stack: Stack) -> None:
    """An upstream that dies while the hook reads its body is a clean 502: nothing has been sent."""

    async def hook(response: UpstreamResponse) -> PlainTextResponse:
        return PlainTextResponse(b"".join([chunk async for chunk in response.body]))

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(STAGES["in-a-known-length"])

    with scripted(script) as upstream, every_stack.proxying(upstream.url, on_response=hook) as port:
        answer = ask(port, get())

    assert (answer.status, answer.complete) == (502, True)


def test_the_hook_does_not_see_our_own_errors(stack: Stack) -> None:
    """A hook is for the upstream's answers: a 504 of ours does not pass it."""
    calls: list[Any] = []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        stack.proxying(upstream.url, timeout=TimeoutSettings(read=0.2), on_response=calls.append) as port,
    ):
        assert ask(port, get()).status == 504

    assert calls == []


def test_a_hook_may_give_a_status_that_cannot_be_sent(every_stack: Stack) -> None:
    """A hook's status of 600 or more is an error that the client is told of."""

    def hook(response: UpstreamResponse) -> None:
        response.status_code = 700

    settings = every_stack.settings(limits=POOL_OF_ONE)
    with (
        scripted(answering(ok())) as upstream,
        every_stack.proxying(upstream.url, settings, on_response=hook) as port,
    ):
        assert ask(port, get()).status in {500, 502}


@pytest.mark.parametrize("value", ["1\r\nX-Injected: 1", "1\nX-Injected: 1", "1\x00"])
def test_a_hook_cannot_split_the_answer(every_stack: Stack, value: str) -> None:
    """A hook's value with CR, LF or NUL does not reach the client."""

    def hook(response: UpstreamResponse) -> None:
        response.headers["x-hook"] = value

    answer = answered(every_stack, ok(), hook)

    assert b"injected" not in answer.head.lower()
    assert b"\x00" not in answer.head
    assert answer.status in {0, 500, 502}
