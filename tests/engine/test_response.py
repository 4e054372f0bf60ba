"""Reading responses: early release, back-pressure, ends good and bad (checklist A, D, E)."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Limits
from fastapi_httpx_pool.events import ConnectionClosed
from fastapi_httpx_pool.exceptions import ReadError, RemoteProtocolError
from fastapi_httpx_pool.messages import Response
from tests.support.bodies import PIECE, TIGHT, reached, tighten
from tests.support.engines import (
    LIMIT,
    Events,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    read,
    running,
    turn,
    unread,
    until,
)
from tests.support.tls import Authority
from tests.support.upstream import Connection, Script, answering, ok, scripted
from tests.support.watched import Watched

pytestmark = pytest.mark.anyio

LARGE = PIECE * 256
"""4 MiB: more than all buffers on the way."""
BOUND = 1024 * 1024
"""Bytes of a response that may be on their way to nobody, if the kernels hold little."""
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def saying(*said: bytes, then: str = "wait") -> Script:
    """Return a script that reads a head, sends pieces, each in a segment of its own, and waits, closes or resets."""

    def script(connection: Connection) -> None:
        if not connection.read_head():
            return
        for data in said:
            connection.send(data)
        if then == "reset":
            connection.reset()
        elif then == "wait":
            connection.wait_until_closed()

    return script


class Stepwise:
    """A script that sends the next piece when the test says so, and ends in one of several ways."""

    def __init__(self, *pieces: bytes, then: str = "wait") -> None:
        self._pieces = pieces
        self._then = then
        self._steps = threading.Semaphore(0)

    def step(self) -> None:
        """Send the next piece; behind the last one, end."""
        self._steps.release()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection; any but the first answers properly."""
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        connection.read_head()
        for piece in self._pieces:
            self._steps.acquire(timeout=LIMIT)
            connection.send(piece)
        if self._then == "wait":
            connection.wait_until_closed()
            return
        self._steps.acquire(timeout=LIMIT)
        if self._then == "reset":
            connection.reset()


async def next_of(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the next chunk; what can be made a task."""
    return await anext(chunks)


class TestEarlyRelease:
    """A connection is free with the last byte of its response, whoever reads that and when."""

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(ok(b"small"), id="length"),
            pytest.param(CHUNKED + b"5\r\nsmall\r\n0\r\n\r\n", id="chunked"),
            pytest.param(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nsmall", id="1.0"),
        ],
    )
    @both_loops
    async def test_an_unread_response_holds_nothing(self, answer: bytes) -> None:
        """A small response has its connection idle when it is there; it can be read later."""
        with scripted(answering(answer)) as upstream:
            async with running(Limits(max_connections=1)) as engine:
                responses = []
                for _ in range(3):
                    responses.append(await unread(engine, upstream.url))
                    assert_quiet(engine)
                    assert engine.statistics().idle == 1
                assert [await read(response) for response in responses] == [b"small"] * 3
                assert engine.statistics().origins[upstream.url].reused == 2
            assert upstream.accepted == 1

    async def test_bodiless_responses(self) -> None:
        """Likewise where there is nothing to read."""
        with scripted(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                assert engine.statistics().idle == 1
                assert await read(response) == b""
        with scripted(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url, method=b"HEAD")
                assert engine.statistics().idle == 1
                assert await read(response) == b""

    @both_loops
    async def test_a_slow_reader_holds_nothing(self) -> None:
        """Who reads the beginning and takes a break finds the rest later; others have the connection meanwhile."""
        body = PIECE * 3  # less than what may wait
        script = Stepwise(ok(body)[:30], ok(body)[30:])
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                waiting = asyncio.create_task(unread(engine, upstream.url))
                script.step()
                response = await waiting
                await until(lambda: engine.statistics().idle)
                script.step()
                assert await read(response) == body
                await response.aclose()
                assert_quiet(engine)

    @both_loops
    async def test_the_end_comes_while_nobody_reads(self) -> None:
        """The end of a body gives the connection back in the callback that it comes in."""
        script, events = Stepwise(CHUNKED + b"5\r\nhello\r\n", b"0\r\n\r\n"), Events()
        with scripted(script) as upstream:
            async with running(observer=events) as engine:
                script.step()
                response = await unread(engine, upstream.url)
                assert engine.statistics().active == 1
                script.step()
                await until(lambda: engine.statistics().idle)
                assert await read(response) == b"hello"
                assert not events.of(ConnectionClosed)


class TestBackPressure:
    """What arrives and is not read is bounded, and the peer has to wait."""

    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    @both_loops
    async def test_e4_the_peer_waits(self, *, secure: bool) -> None:
        """The upstream gets stuck when the kernels' buffers are full, and goes on when the body is read."""
        sent = 0
        stuck, go_on = threading.Event(), threading.Event()

        def script(connection: Connection) -> None:
            nonlocal sent
            connection.read_head()
            tighten(connection)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
            connection.sock.settimeout(0.2)
            view = memoryview(LARGE)
            try:
                while sent < len(LARGE):
                    sent += connection.sock.send(view[sent : sent + 8192])
            except (TimeoutError, ssl.SSLWantWriteError):
                stuck.set()
                go_on.wait(LIMIT)
            connection.sock.settimeout(LIMIT)
            while sent < len(LARGE):
                sent += connection.sock.send(view[sent : sent + 8192])
            connection.wait_until_closed()

        authority = Authority()
        options = replace(TIGHT, ssl_context=authority.client())
        with scripted(script, authority.server() if secure else None) as upstream:
            async with running(options=options) as engine:
                response = await unread(engine, upstream.url)
                await reached(stuck)
                assert sent <= BOUND
                assert engine.statistics().active == 1
                go_on.set()
                chunks = aiter(response.body)
                first = await anext(chunks)
                assert len(first) <= 64 * 1024 + 256 * 1024
                assert first + await read(response) == LARGE
                assert_quiet(engine)
                assert engine.statistics().idle == 1

    @both_loops
    async def test_e4_all_along(self) -> None:
        """A reader that takes its time after each chunk never finds more than the bound."""
        with scripted(answering(ok(LARGE))) as upstream:
            async with running(options=TIGHT) as engine:
                response = await unread(engine, upstream.url)
                total = 0
                async for chunk in response.body:
                    assert len(chunk) <= 64 * 1024 + 256 * 1024
                    total += len(chunk)
                    await turn(3)
                assert total == len(LARGE)
                await response.aclose()

    async def test_e6_a_paused_connection_is_closed_with_its_response(self) -> None:
        """A connection that is not being read from is never left behind."""
        script = Watched(answering(ok(LARGE), times=1))
        with scripted(script) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                (connection,) = pool_of(engine)._connections
                await until(lambda: not connection._reading)
                assert next(iter(pool_of(engine)._exchanges)).described == "response never closed"
                await response.aclose()
                assert_quiet(engine)
                assert engine.statistics().idle == 0
                assert await script.none_open()

    async def test_e6_paused_and_complete(self) -> None:
        """A connection that was stopped from reading reads again before it is used again."""
        script = Stepwise(ok(LARGE)[:100_000], ok(LARGE)[100_000:])
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                (connection,) = pool_of(engine)._connections
                await until(lambda: not connection._reading)
                script.step()
                assert await read(response) == LARGE
                assert connection._reading
                assert engine.statistics().idle == 1

    async def test_e6_paused_and_lost(self) -> None:
        """What waits to be read can be read although the connection has gone."""
        with scripted(answering(ok(LARGE), times=1)) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                (connection,) = pool_of(engine)._connections
                await until(lambda: not connection._reading)
                await engine.aclose()
                chunks = aiter(response.body)
                first = await anext(chunks)
                assert first == LARGE[: len(first)]
                with pytest.raises(ReadError, match="the pool was closed"):
                    await anext(chunks)

    async def test_e3_what_comes_together_is_given_together(self) -> None:
        """Pieces that wait are joined, and none of them is empty."""
        script = Stepwise(CHUNKED, b"1\r\na\r\n" * 1000, b"0\r\n\r\n")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                script.step()
                script.step()
                await until(lambda: engine.statistics().idle)
                assert [chunk async for chunk in response.body] == [b"a" * 1000]
                await response.aclose()


class TestClosing:
    """``aclose`` at any time, by anybody."""

    @pytest.mark.parametrize("read_some", [False, True])
    @both_loops
    async def test_a9_before_the_end(self, *, read_some: bool) -> None:
        """The connection is closed, its place free at once, without waiting for anybody."""
        script, events = Watched(saying(ok(LARGE)[:1000])), Events()
        with scripted(script) as upstream:
            async with running(Limits(max_connections=1), observer=events) as engine:
                response = await unread(engine, upstream.url)
                if read_some:
                    assert await anext(aiter(response.body))
                with pytest.raises(StopIteration):
                    response.body.aclose().send(None)  # without a turn of the loop
                assert_quiet(engine)
                assert [event.reason for event in events.of(ConnectionClosed)] == ["abandoned"]
                assert await script.none_open()
                with pytest.raises(ReadError, match="the response was closed before it had been read"):
                    await anext(aiter(response.body))

    async def test_a9_unread_but_complete(self) -> None:
        """A complete response that is closed unread is not mistaken for an empty one; its connection stays."""
        with scripted(answering(ok(b"small"))) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                await response.aclose()
                assert engine.statistics().idle == 1
                with pytest.raises(ReadError, match="the response was closed before it had been read"):
                    await anext(aiter(response.body))

    async def test_a10_twice_and_after_the_end(self) -> None:
        """Closing again does nothing, and neither does closing what has been read."""
        with scripted(answering(ok(b"small"))) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                assert b"".join([chunk async for chunk in response.body]) == b"small"
                for _ in range(3):
                    await response.aclose()
                    assert engine.statistics().idle == 1
                with pytest.raises(StopAsyncIteration):
                    await anext(aiter(response.body))
                other = await unread(engine, upstream.url)  # on the same connection
                await response.aclose()
                assert await read(other) == b"small"

    async def test_a10_twice_before_the_end(self) -> None:
        """The second closing of an early one does not touch what others do meanwhile."""
        script = Stepwise(CHUNKED)
        with scripted(script) as upstream:
            async with running(Limits(max_connections=1)) as engine:
                script.step()
                response = await unread(engine, upstream.url)
                await response.aclose()
                other = await unread(engine, upstream.url)
                await response.aclose()
                assert engine.statistics().idle == 1
                assert await read(other) == b"next"

    @both_loops
    async def test_a10_while_somebody_reads(self) -> None:
        """A reader is told when another task closes the response."""
        with scripted(saying(CHUNKED, b"5\r\nhello\r\n")) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                chunks = aiter(response.body)
                received = await anext(chunks)
                reading = asyncio.create_task(next_of(chunks))
                await until(lambda: next(iter(pool_of(engine)._exchanges))._waiting is not None)
                closing = asyncio.create_task(response.aclose())
                with pytest.raises(ReadError, match="the response was closed before it had been read"):
                    await reading
                await closing
                assert received == b"hello"
                assert_quiet(engine)

    async def test_two_readers(self) -> None:
        """The second of two concurrent readers is told; the first goes on."""
        script = Stepwise(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                first = asyncio.create_task(read(response))
                await until(lambda: next(iter(pool_of(engine)._exchanges))._waiting is not None)
                with pytest.raises(RuntimeError, match="two tasks read the same response; it comes only once"):
                    await anext(aiter(response.body))
                script.step()
                assert await first == b"hello"
                assert engine.statistics().idle == 1

    async def test_a11_the_body_is_a_plain_iterator(self) -> None:
        """It is its own iterator: nothing has to be finalized by the loop."""
        with scripted(answering(ok())) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                chunks: object = aiter(response.body)
                assert chunks is response.body
                assert not hasattr(response.body, "athrow")
                assert await read(response) == b"ok"

    @both_loops
    async def test_cancelled_reader(self) -> None:
        """A reader who is cancelled can read on; what comes meanwhile is kept."""
        script = Stepwise(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(aiter(response.body)), 0.02)
                script.step()
                assert await read(response) == b"hello"
                assert_quiet(engine)


class TestEnds:
    """How a body ends, and how it does not."""

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    @both_loops
    async def test_e2_with_the_connection(self, head: bytes, *, secure: bool) -> None:
        """A body without any framing is complete when the server closes."""
        authority = Authority()
        script = saying(head + b"hello ", b"world", then="close")
        with scripted(script, authority.server() if secure else None) as upstream:
            async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
                assert await fetch(engine, upstream.url) == b"hello world"
                assert_quiet(engine)
                assert engine.statistics().idle == 0

    async def test_e2_empty(self) -> None:
        """Also one of nothing."""
        with scripted(saying(b"HTTP/1.1 200 OK\r\n\r\n", then="close")) as upstream:
            async with running() as engine:
                assert await fetch(engine, upstream.url) == b""
                assert_quiet(engine)

    @both_loops
    async def test_e2_reset_is_no_end(self) -> None:
        """A reset is not."""
        script = Stepwise(b"HTTP/1.1 200 OK\r\n\r\nhello", then="reset")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                chunks = aiter(response.body)
                assert await anext(chunks) == b"hello"
                script.step()
                with pytest.raises(ReadError):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)

    @pytest.mark.parametrize(
        ("said", "text"),
        [
            pytest.param(b"", "Server disconnected without sending a response.", id="nothing"),
            pytest.param(b"HTTP/1.1 200 OK\r\nConte", "before the end of the response's head", id="head"),
            pytest.param(
                b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
                r"^peer closed connection without sending complete message body \(received 5 bytes, expected 10\)$",
                id="length",
            ),
            pytest.param(
                CHUNKED + b"5\r\nhello\r\n",
                r"^peer closed connection without sending complete message body \(incomplete chunked read\)$",
                id="chunked",
            ),
            pytest.param(
                CHUNKED + b"5\r\nhel",
                r"^peer closed connection without sending complete message body \(incomplete chunked read\)$",
                id="in a chunk",
            ),
            pytest.param(
                CHUNKED + b"5\r\nhello\r\n0\r\nTrail: er",
                r"^peer closed connection without sending complete message body \(incomplete chunked read\)$",
                id="in the trailers",
            ),
        ],
    )
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    @both_loops
    async def test_b_truncated(self, said: bytes, text: str, *, secure: bool) -> None:
        """What ends too early is an error, after what has come."""
        authority = Authority()
        chunks: list[bytes] = []
        with scripted(saying(said, then="close"), authority.server() if secure else None) as upstream:
            async with running(options=ConnectOptions(ssl_context=authority.client()), retry=False) as engine:
                with pytest.raises(RemoteProtocolError, match=text):
                    await read_into(chunks, await unread(engine, upstream.url))
                assert b"".join(chunks) == said.partition(b"hel")[1] + said.partition(b"hel")[2].partition(b"\r")[0]
                assert_quiet(engine)
                (origin,) = engine.statistics().origins.values()
                assert origin.closed == {"peer": 1}

    @both_loops
    async def test_b_reset_in_the_body(self) -> None:
        """After a reset, first what has come, then the error; and the error again, whoever asks."""
        script = Stepwise(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", then="reset")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                script.step()
                await until(lambda: not engine.statistics().active)
                chunks = aiter(response.body)
                assert await anext(chunks) == b"hello"
                with pytest.raises(ReadError) as raised:
                    await anext(chunks)
                assert isinstance(raised.value.__cause__, ConnectionResetError)
                for _ in range(2):
                    with pytest.raises(ReadError, match="the response broke off before"):
                        await anext(chunks)
                await response.aclose()
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].failures == {"peer": 1}

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nConte"], ids=["nothing", "head"])
    async def test_b_reset_before_the_head(self, said: bytes) -> None:
        """A reset before the head is there is raised at once."""
        script = Stepwise(said, then="reset") if said else Stepwise(then="reset")
        with scripted(script) as upstream:
            async with running(retry=False) as engine:
                script.step()
                script.step()
                with pytest.raises(ReadError):
                    await unread(engine, upstream.url)
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].failures == {"ReadError": 1}

    @both_loops
    async def test_b_garbage_in_the_body(self) -> None:
        """A body that is not framed as it says breaks off."""
        script = Stepwise(CHUNKED + b"5\r\nhello\r\n", b"nonsense\r\n")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                chunks = aiter(response.body)
                assert await anext(chunks) == b"hello"
                script.step()
                with pytest.raises(RemoteProtocolError, match="it came in b'nonsense"):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"protocol error": 1}

    async def test_closed_by_the_peer_after_the_end(self) -> None:
        """What happens to the connection after the last byte is not the response's business."""
        with scripted(answering(ok(b"small"), times=1)) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                await until(lambda: not engine.statistics().idle)
                assert await read(response) == b"small"

    async def test_e5_tiny_chunks(self) -> None:
        """A hundred thousand chunks of a byte each are just as many bytes."""
        count = 100_000
        with scripted(saying(CHUNKED + b"1\r\na\r\n" * count + b"0\r\n\r\n")) as upstream:
            async with running() as engine:
                assert await fetch(engine, upstream.url) == b"a" * count
                assert_quiet(engine)

    async def test_e7_compressed(self) -> None:
        """A compressed body is passed on as it is."""
        with scripted(answering(ok(b"\x1f\x8b\x08", b"Content-Encoding: gzip"))) as upstream:
            async with running() as engine:
                assert await fetch(engine, upstream.url) == b"\x1f\x8b\x08"


async def read_into(chunks: list[bytes], response: Response) -> None:
    """Read a body, and keep what there is of it."""
    try:
        async for chunk in response.body:
            chunks.append(chunk)  # noqa: PERF401 -- it may end with an error
    finally:
        await response.aclose()


class TestHead:
    """What comes before and behind a body."""

    async def test_a3_extensions(self) -> None:
        """The version, the reason as sent, and a look at the connection."""
        with scripted(answering(b"HTTP/1.0 200 \xe9t\xe9\r\nContent-Length: 0\r\n\r\n", times=1)) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url)
                assert response.extensions["http_version"] == b"HTTP/1.0"
                assert response.extensions["reason_phrase"] == b"\xe9t\xe9"
                assert "trailers" not in response.extensions
                assert await read(response) == b""

    @both_loops
    async def test_a3_network_stream(self) -> None:
        """A response tells about its connection; it gives nothing to read from."""
        authority = Authority()
        with scripted(answering(ok()), authority.server()) as upstream:
            async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
                response = await unread(engine, upstream.url)
                stream = response.extensions["network_stream"]
                assert stream.get_extra_info("server_addr") == ("127.0.0.1", upstream.port)
                assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
                assert stream.get_extra_info("socket").getpeername() == ("127.0.0.1", upstream.port)
                assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
                assert stream.get_extra_info("is_readable") in {False, True}
                assert stream.get_extra_info("anything else") is None
                assert not hasattr(stream, "read")
                assert await read(response) == b"ok"

    async def test_a3_is_readable(self) -> None:
        """``is_readable`` tells that something has come, or that nothing will."""
        script = Stepwise(ok())
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                stream = response.extensions["network_stream"]
                assert stream.get_extra_info("is_readable") is False
                script.step()
                await engine.aclose()
                assert stream.get_extra_info("is_readable") is True
                assert await read(response) == b"ok"

    async def test_d12_trailers(self) -> None:
        """Trailers are there when the body has ended, and are no headers."""
        script = Stepwise(CHUNKED + b"5\r\nhello\r\n", b"0\r\nX-Sum: 1\r\nx-sum: 2 \r\n\r\n")
        with scripted(script) as upstream:
            async with running() as engine:
                script.step()
                response = await unread(engine, upstream.url)
                assert response.extensions["trailers"] == []
                script.step()
                assert await read(response) == b"hello"
                assert response.extensions["trailers"] == [(b"X-Sum", b"1"), (b"x-sum", b"2")]
                assert response.headers == [(b"Transfer-Encoding", b"chunked")]
                assert engine.statistics().idle == 1

    @pytest.mark.parametrize("pieces", [1, 3])
    @both_loops
    async def test_d1_informational(self, pieces: int) -> None:
        """Informational responses are told of in their order, and have no part in the final one."""
        parts = [
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
            ok(b"final", b"X-Final: 1"),
        ]
        script = saying(*(parts if pieces == 3 else [b"".join(parts)]))
        told: list[tuple[int, list[tuple[bytes, bytes]]]] = []

        def tell(status: int, headers: list[tuple[bytes, bytes]]) -> None:
            told.append((status, headers))

        with scripted(script) as upstream:
            async with running() as engine:
                response = await unread(engine, upstream.url, extensions={"informational": tell})
                assert response.status == 200
                assert response.headers == [(b"Content-Length", b"5"), (b"X-Final", b"1")]
                assert await read(response) == b"final"
        assert told == [(103, [(b"Link", b"</a>"), (b"Link", b"</b>")]), (102, [])]

    async def test_d1_informational_that_nobody_listens_to(self) -> None:
        """Without a listener they are skipped."""
        with scripted(saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ok())) as upstream:
            async with running() as engine:
                assert await fetch(engine, upstream.url) == b"ok"
                assert engine.statistics().idle == 1

    @both_loops
    async def test_listener_that_raises(self) -> None:
        """What the application's listener raises comes out where the response is awaited."""

        def tell(status: int, headers: object) -> None:
            raise ZeroDivisionError

        with scripted(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n")) as upstream:
            async with running() as engine:
                with pytest.raises(ZeroDivisionError):
                    await unread(engine, upstream.url, extensions={"informational": tell})
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"callback failed": 1}

    async def test_listener_that_closes_the_engine(self) -> None:
        """The first of two errors counts."""

        def tell(status: int, headers: object) -> None:
            engine.close()
            raise ZeroDivisionError

        with scripted(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n")) as upstream:
            async with running() as engine:
                with pytest.raises(ReadError, match="the pool was closed"):
                    await unread(engine, upstream.url, extensions={"informational": tell})

    async def test_too_many_informational_responses(self) -> None:
        """Their number is limited."""
        with scripted(saying(b"HTTP/1.1 102 Processing\r\n\r\n" * 21 + ok())) as upstream:
            async with running() as engine:
                with pytest.raises(RemoteProtocolError, match="more than 20 informational"):
                    await unread(engine, upstream.url)
                assert_quiet(engine)


async def test_states_in_a_report() -> None:
    """An exchange says what it is doing, for whoever finds the pool full."""
    script = Stepwise(CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n")
    with scripted(script) as upstream:
        async with running() as engine:
            task = asyncio.create_task(unread(engine, upstream.url))
            await until(lambda: pool_of(engine)._exchanges if engine._pools else None)
            (exchange,) = pool_of(engine)._exchanges
            assert exchange.described == "connecting"
            await until(lambda: exchange.described != "connecting")
            assert exchange.described == "waiting for the response"
            script.step()
            response = await task
            assert exchange.described == "response not read"
            reading = asyncio.create_task(read(response))
            await until(lambda: exchange.described == "reading the response")
            script.step()
            script.step()
            assert await reading == b"hello"


@both_loops
async def test_a_body_that_is_there_is_taken_whole() -> None:
    """If all of it has come with the head, nobody has to ask for its end; before that, nothing is taken."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        go_on.wait(LIMIT)
        connection.send(b"0\r\n\r\n")
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with running() as engine:
            whole = await unread(engine, upstream.url)
            body: Any = whole.body
            assert (body.take_whole(), body.take_whole()) == (b"hello", b"")
            begun = await unread(engine, upstream.url)
            body = begun.body
            assert body.take_whole() == b""
            go_on.set()
            assert await read(begun) == b"hello"
            assert_quiet(engine)
