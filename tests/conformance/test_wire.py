"""The two ends of the wire: what they read, what they say when nothing comes, and how an end is told from another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fastapi_httpx_pool.conformance._kit import (
    Client,
    Message,
    NotMet,
    Response,
    Seen,
    TookTooLong,
    Upstream,
    UpstreamConnection,
    Wire,
    answering,
    authority,
    chunked,
    expect,
    ok,
    shown,
)
from tests.support.conformance import listening

SOON = 0.05
"""Seconds after which what cannot come is not waited for any longer."""


@asynccontextmanager
async def wires(limit: float = 10) -> AsyncIterator[tuple[Client, Wire]]:
    """Give both ends of a connection."""
    accepted: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(Wire(reader, writer, limit))
        await done.wait()

    async with listening(serve) as (_, port):
        client = Client(*await asyncio.open_connection("127.0.0.1", port), limit)
        try:
            yield client, await accepted
        finally:
            client.close()
            done.set()


async def read(data: bytes, method: bytes = b"GET", *, reset: bool = False) -> Response:
    """Return what a client makes of these bytes, behind which the connection ends."""
    async with wires() as (client, other):
        await other.send(data)
        if reset:
            head = await client.response_head()
            other.reset()
            await client.rest(head, method)
            return head
        other.close()
        return await client.response(method)


@pytest.mark.asyncio
async def test_reading_in_pieces() -> None:
    """Up to a mark, so many bytes, what there is, and the rest; what is left over comes next."""
    async with wires() as (client, other):
        assert await other.send(b"head\r\n12345678")
        assert await client.read_until(b"\r\n") == b"head\r\n"
        assert await client.read_exactly(3) == b"123"
        assert await client.read(most=2) == b"45"
        assert await client.read() == b"678"
        await other.send(b"rest")
        other.close_sending()
        assert await client.read_to_end() == b"rest"
        assert (client.ended, await client.read()) == ("closed", b"")


@pytest.mark.asyncio
async def test_reading_less() -> None:
    """Where the other side closes before, all that has come is given."""
    async with wires() as (client, other):
        await other.send(b"12")
        other.close()
        assert await client.read_until(b"\r\n") == b"12"
        assert await client.read_exactly(1) == b""


@pytest.mark.asyncio
async def test_nothing_comes() -> None:
    """It is told after the limit, and what had come is not lost."""
    async with wires() as (client, other):
        await other.send(b"12")
        with pytest.raises(TookTooLong, match=r"^nothing came within 0\.05 s$"):
            await client.read_exactly(3, within=SOON)
        assert not await client.closed(within=SOON)
        await other.send(b"3")
        assert await client.read_exactly(3) == b"123"
        other.close()
        assert await client.closed()


@pytest.mark.asyncio
async def test_a_reset_is_no_end() -> None:
    """The two are told apart, and sending then is no error."""
    async with wires() as (client, other):
        other.reset()
        assert await client.read() == b""
        assert client.ended == "reset"
        await client.send(b"x")
        assert not await client.send(b"x")
        client.close_sending()
        client.reset()


@pytest.mark.asyncio
async def test_sent_is_what_the_kernel_has() -> None:
    """A peer that reads nothing takes only so much."""
    async with wires() as (client, _):
        assert not await client.send(b"x" * 50_000_000, within=SOON)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (ok(b"hello"), b"hello"),
        (ok(b""), b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"he", b"llo"), b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    ],
)
async def test_a_whole_response(data: bytes, body: bytes) -> None:
    """It ends where its framing says."""
    response = await read(data)

    assert (response.body, response.complete) == (body, True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhelloX",
        b"5\r\nhelloXX0\r\n\r\n",
        b"x\r\n",
        b"5",
        b"",
    ],
)
async def test_broken_chunks(body: bytes) -> None:
    """Without their end, or with something else between them, a body is not complete."""
    response = await read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    assert not response.complete
    assert str(response) == '"HTTP/1.1 200 OK", broken off'


@pytest.mark.asyncio
async def test_a_body_that_is_cut_off() -> None:
    """By its length, or by a reset where the end of the connection would be its end."""
    assert not (await read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")).complete
    assert not (await read(b"HTTP/1.0 200 OK\r\n\r\n", reset=True)).complete


@pytest.mark.asyncio
async def test_answers_without_a_body() -> None:
    """To HEAD, and after a switch of protocols."""
    response = await read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD")
    assert (response.length, response.complete) == (5, True)

    switched = await read(b"HTTP/1.1 101 Switching Protocols\r\n\r\nother")
    assert (switched.status, switched.body) == (101, b"")


@pytest.mark.asyncio
async def test_interim_responses_and_trailers() -> None:
    """They are kept apart from the final head."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await read(hints + hints + head + chunked(b"hello", trailers=[b"X-Sum: 1"]))

    assert [(each.status, each.values(b"link")) for each in response.interim] == [(103, [b"a"])] * 2
    assert (response.status, response.version, response.trailers) == (200, b"HTTP/1.1", [(b"X-Sum", b"1")])


@pytest.mark.asyncio
@pytest.mark.parametrize("data", [b"", b"garbage\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 2xx\r\n\r\n"])
async def test_no_response(data: bytes) -> None:
    """What is none has the status 0."""
    response = await read(data)

    assert (response.status, response.complete) == (0, False)


def test_a_message_is_taken_apart() -> None:
    """Names in any case, values in their order, members without what is around them."""
    message = Message(b"GET / HTTP/1.1\r\nX-A:  1\t\r\nno line\r\nx-a: B,, c\r\nContent-Length: +2\r\n\r\n")

    assert message.lines[:2] == [(b"X-A", b"1"), (b"x-a", b"B,, c")]
    assert message.names == {b"x-a", b"content-length"}
    assert (message.values(b"X-a"), message.tokens(b"x-A")) == ([b"1", b"B,, c"], [b"1", b"b", b"c"])
    assert (message.length, message.chunked) == (None, False)


def test_texts() -> None:
    """They can be read in any terminal."""
    assert shown(b"a'b\r\n\xe9\"") == "a'b\\r\\n\\xe9\""
    assert shown(b"a" * 61) == "a" * 60 + "..."
    assert str(Response(b"")) == "no response: the connection was closed"
    assert str(Response(ok(), complete=True)) == '"HTTP/1.1 200 OK"'
    assert (authority("::1", 80), authority("a", 80)) == ("[::1]:80", "a:80")


def test_expectations() -> None:
    """What is not met says what was seen; also that nothing was."""
    expect(1, "one")
    with pytest.raises(NotMet, match=r"^none$"):
        expect([], "none")
    with pytest.raises(NotMet, match=r"^nothing arrived at the upstream, and the client got no response"):
        _ = Seen(Response(b""), []).request


@asynccontextmanager
async def upstreams(limit: float = 10) -> AsyncIterator[tuple[Upstream, Client]]:
    """Give an upstream and a connection to it."""
    upstream = Upstream(limit)
    await upstream.start("127.0.0.1", 0)
    host, _, port = upstream.address.decode().rpartition(":")
    client = Client(*await asyncio.open_connection(host, int(port)), limit)
    try:
        yield upstream, client
    finally:
        client.close()
        await upstream.stop()


GET = b"GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.asyncio
async def test_an_upstream_keeps_what_it_is_sent() -> None:
    """Requests follow each other on a connection; a body is read by its framing."""
    async with upstreams() as (upstream, client):
        await client.send(GET)
        assert (await client.response()).body == b"ok"
        upstream.answer_with(ok(b"two"))
        await client.send(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello"))
        assert (await client.response()).body == b"two"

        first, second = upstream.requests
        assert (first.method, first.target, first.version) == (b"GET", b"/a%2Fb", b"HTTP/1.1")
        assert (second.connection, second.turn, second.body, second.complete) == (0, 1, b"hello", True)
        assert (await upstream.request(1)) is second
        assert upstream.accepted == 1


@pytest.mark.asyncio
async def test_a_request_that_does_not_come() -> None:
    """It is waited for so long; one that comes ends the wait."""
    async with upstreams() as (upstream, client):
        with pytest.raises(TookTooLong, match=r"^no request arrived at the upstream within"):
            await upstream.request(within=SOON)
        waiting = asyncio.create_task(upstream.request())
        await asyncio.sleep(0)
        await client.send(GET)
        assert (await waiting).method == b"GET"


@pytest.mark.asyncio
async def test_a_body_that_is_not_read_ends_the_connection() -> None:
    """For nobody could tell it from the next request."""
    async with upstreams() as (upstream, client):

        async def hasty(connection: UpstreamConnection) -> None:
            await connection.send(ok())

        upstream.answer_with(hasty)
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
        assert (await client.response()).complete
        assert await client.closed()


@pytest.mark.asyncio
async def test_a_new_row_forgets_the_old_one() -> None:
    """What was still being answered is broken off; an idle connection stays; scripts and errors are gone."""
    async with upstreams() as (upstream, client):
        started = asyncio.Event()

        async def never(connection: UpstreamConnection) -> None:
            started.set()
            await asyncio.Event().wait()

        host, _, port = upstream.address.decode().rpartition(":")
        other = Client(*await asyncio.open_connection(host, int(port)), 10)
        await other.send(GET)
        assert (await other.response()).complete
        upstream.answer_with(never)
        await client.send(GET)
        await started.wait()
        await upstream.begin_row()

        assert await client.closed()
        assert client.ended == "reset"
        assert upstream.requests == []
        await other.send(GET)
        assert (await other.response()).body == b"ok"
        other.close()


@pytest.mark.asyncio
async def test_what_a_script_raises_is_the_rows() -> None:
    """It is raised when the row asks for it."""
    async with upstreams() as (upstream, client):

        async def failing(connection: UpstreamConnection) -> None:
            expect(connection.request.method == b"POST", "no POST")

        upstream.answer_with(failing)
        await client.send(GET)
        assert await client.closed()
        with pytest.raises(NotMet, match=r"^no POST$"):
            upstream.raise_errors()


@pytest.mark.asyncio
async def test_stopping_what_was_not_started() -> None:
    """Is nothing."""
    upstream = Upstream(1)
    upstream.answer_with(answering(ok()))
    await upstream.stop()
    assert upstream.accepted == 0
