"""Sending bodies: framing, back-pressure, early answers, and all the ways in which sending ends (checklist C, I)."""

import asyncio
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine, _exchange
from fastapi_httpx_pool.engine._connection import Connection as EngineConnection
from fastapi_httpx_pool.events import ConnectionClosed
from fastapi_httpx_pool.exceptions import (
    LocalProtocolError,
    ReadError,
    RemoteProtocolError,
    TotalTimeout,
    WriteError,
    WriteTimeout,
)
from fastapi_httpx_pool.messages import Response, Timeouts
from tests.support.bodies import PIECE, TIGHT, Source, for_ever, reached, tighten
from tests.support.engines import (
    BACKENDS,
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
from tests.support.patience import with_patience
from tests.support.recording import RecordingUpstream
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = pytest.mark.anyio

LARGE = PIECE * 512
"""8 MiB: more than all buffers on the way."""
BOUND = 1024 * 1024
"""Bytes that may be on their way to an upstream that takes none, if its kernel and ours hold little."""
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"


async def send(engine: Engine, url: str, **request: Any) -> Response:
    """Send a POST, and return its response unread."""
    return await unread(engine, url, method=b"POST", **request)


async def post(engine: Engine, url: str, **request: Any) -> bytes:
    """Send a POST, and return the body of its response."""
    return await fetch(engine, url, method=b"POST", **request)


def connections_of(engine: Engine) -> set[EngineConnection]:
    """Return the engine's connections in this loop."""
    return pool_of(engine)._connections if engine._pools else set()


def unchunked(data: bytes) -> bytes:
    """Return the content of a chunked body that is complete."""
    content = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        content.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if not length:
            assert not data
            return b"".join(content)


class Digesting:
    """A script that answers each body of a declared length with its digest, holding none of it."""

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while head := connection.read_head():
            left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            digest = hashlib.sha256()
            while left:
                data = connection.read_exactly(min(left, 65536))
                assert data
                digest.update(data)
                left -= len(data)
            connection.send(ok(digest.hexdigest().encode()))


def digest_of(data: bytes) -> bytes:
    """Return what ``Digesting`` answers."""
    return hashlib.sha256(data).hexdigest().encode()


class Deaf:
    """A script that answers a head and never reads the body, until the test says so or its peer has gone."""

    def __init__(self, answer: bytes = b"") -> None:
        self._answer = answer
        self.answered = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection; any but the first answers properly."""
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        tighten(connection)
        connection.read_head()
        connection.send(self._answer)
        self.answered.set()
        while connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01":  # established
            time.sleep(0.002)


# C: framing.


class TestFraming:
    """What stands on the wire."""

    @pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 700_000, len(LARGE)])
    @both_loops
    async def test_c3_bytes_of_any_size(self, size: int) -> None:
        """A body in memory arrives whole, and the connection carries the next request."""
        body = LARGE[:size]
        with scripted(Digesting()) as upstream:
            async with running() as engine:
                for _ in range(2):
                    assert await post(engine, upstream.url, body=body) == digest_of(body)
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].reused == 1
            assert upstream.accepted == 1

    async def test_c3_bytes_over_tls(self) -> None:
        """Likewise where what is written has to be encrypted first."""
        authority = Authority()
        with scripted(Digesting(), authority.server()) as upstream:
            async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
                assert await post(engine, upstream.url, body=LARGE) == digest_of(LARGE)
                assert engine.statistics().idle == 1

    @pytest.mark.parametrize(("size", "writes"), [(1, 1), (64 * 1024, 1), (64 * 1024 + 1, 2), (700_000, 4)])
    async def test_c5_writes(self, monkeypatch: pytest.MonkeyPatch, size: int, writes: int) -> None:
        """A small body goes out together with the head, a larger one behind it in slices."""
        written: list[int] = []
        write = EngineConnection.write

        def noted(self: EngineConnection, data: bytes | memoryview) -> None:
            written.append(len(data))
            write(self, data)

        monkeypatch.setattr(EngineConnection, "write", noted)
        with scripted(Digesting()) as upstream:
            async with running() as engine:
                await post(engine, upstream.url, body=LARGE[:size])
        assert len(written) == writes
        assert max(written) <= 256 * 1024

    async def test_c5_head_that_fills_the_buffers(self) -> None:
        """A small body behind a large head may have to wait; it is whole in the end."""
        script, go_on = RecordingUpstream(), threading.Event()

        def slowly(connection: Connection) -> None:
            tighten(connection)
            go_on.wait(LIMIT)
            script(connection)

        body = LARGE[: 64 * 1024]
        with scripted(slowly) as upstream:
            async with running(options=TIGHT) as engine:
                headers = [(b"Cookie", b"c" * 64 * 1024 * 2)]
                task = asyncio.create_task(post(engine, upstream.url, headers=headers, body=body))
                await until(lambda: any(connection.write_paused for connection in connections_of(engine)))
                go_on.set()
                assert await task == b"ok"
                assert engine.statistics().idle == 1
        assert script.bodies == [body]

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            pytest.param(b"hello", b"5\r\nhello\r\n0\r\n\r\n", id="bytes"),
            pytest.param(b"", b"0\r\n\r\n", id="no bytes"),
            pytest.param(None, b"0\r\n\r\n", id="nothing"),
            pytest.param(
                [b"hello", b"", b"0123456789abcdef"], b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n", id="pieces"
            ),
            pytest.param([b"", b""], b"0\r\n\r\n", id="empty pieces"),
            pytest.param([], b"0\r\n\r\n", id="no pieces"),
        ],
    )
    async def test_c4_chunked(self, body: Any, expected: bytes) -> None:
        """Without a length a body goes out in chunks, and an empty piece does not end it."""
        script = RecordingUpstream()
        headers = [] if isinstance(body, list) else [(b"Transfer-Encoding", b"chunked")]
        with scripted(script) as upstream:
            async with running() as engine:
                for _ in range(2):
                    source = Source(body) if isinstance(body, list) else body
                    assert await post(engine, upstream.url, headers=headers, body=source) == b"ok"
                assert engine.statistics().idle == 1
        assert script.bodies == [expected] * 2
        assert script.values(b"content-length") == []

    async def test_c4_large_chunk(self) -> None:
        """A long body in memory is one chunk."""
        script = RecordingUpstream()
        body = LARGE[:1_000_000]
        with scripted(script) as upstream:
            async with running() as engine:
                await post(engine, upstream.url, headers=[(b"Transfer-Encoding", b"chunked")], body=body)
        assert unchunked(script.bodies[0]) == body

    @both_loops
    async def test_c3_pieces_of_declared_length(self) -> None:
        """Pieces whose length was declared go out as they are."""
        script = RecordingUpstream()
        with scripted(script) as upstream:
            async with running() as engine:
                for _ in range(2):
                    await post(engine, upstream.url, body=Source([b"he", b"", b"llo"]), length=5)
                assert engine.statistics().idle == 1
        assert script.bodies == [b"hello"] * 2

    async def test_c8_methods(self) -> None:
        """A GET and a DELETE may have a body, a POST none."""
        script = RecordingUpstream()
        with scripted(script) as upstream:
            async with running() as engine:
                await fetch(engine, upstream.url, body=b"got")
                await fetch(engine, upstream.url, method=b"DELETE", body=b"gone")
                await post(engine, upstream.url, body=b"")
        assert script.bodies == [b"got", b"gone", b""]
        assert [script.values(b"content-length", index) for index in range(3)] == [[b"3"], [b"4"], [b"0"]]

    async def test_any_iterable_will_do(self) -> None:
        """A body needs not be a generator, with an ``aclose``; nor is one that calls itself empty taken for none."""

        class Pieces:
            def __init__(self) -> None:
                self._pieces = iter((b"he", b"llo"))

            def __len__(self) -> int:
                return 0

            def __aiter__(self) -> AsyncIterator[bytes]:
                return self

            async def __anext__(self) -> bytes:
                for piece in self._pieces:
                    return piece
                raise StopAsyncIteration

        script = RecordingUpstream()
        with scripted(script) as upstream:
            async with running() as engine:
                await post(engine, upstream.url, body=Pieces(), length=5)
        assert script.bodies == [b"hello"]


class TestWrongLength:
    """A body that is not as long as declared never desynchronises a connection."""

    @pytest.mark.parametrize(
        ("pieces", "text"),
        [
            ([b"hello", b"!"], "Too much data for declared Content-Length"),
            ([b"hello!"], "Too much data for declared Content-Length"),
            ([b"hell"], "Too little data for declared Content-Length"),
            ([], "Too little data for declared Content-Length"),
        ],
    )
    @both_loops
    async def test_c3_pieces(self, pieces: list[bytes], text: str) -> None:
        """The connection is closed: what has gone out cannot be taken back."""
        source, events = Source(pieces), Events()
        with scripted(RecordingUpstream()) as upstream:
            async with running(observer=events) as engine:
                with pytest.raises(LocalProtocolError, match=text):
                    await post(engine, upstream.url, body=source, length=5)
                assert source.closed
                assert_quiet(engine)
                assert engine.statistics().idle == 0
                assert [event.reason for event in events.of(ConnectionClosed)] == ["body failed"]
                assert await fetch(engine, upstream.url) == b"ok"

    async def test_c3_never_too_much_on_the_wire(self) -> None:
        """Not a byte more than declared goes out."""
        seen = bytearray()

        def script(connection: Connection) -> None:
            connection.read_head()
            while data := connection.read_exactly(1):
                seen.extend(data)
            ended.set()

        ended = threading.Event()
        with scripted(script) as upstream:
            async with running() as engine:
                with pytest.raises(LocalProtocolError):
                    await post(engine, upstream.url, body=Source([b"hel", b"loGET / HTTP/1.1\r\n\r\n"]), length=5)
                await reached(ended)
        assert bytes(seen) == b"hel"

    @pytest.mark.parametrize(("body", "text"), [(b"hello!", "much"), (b"hell", "little"), (None, "little")])
    async def test_c3_bytes(self, body: bytes | None, text: str) -> None:
        """What is seen beforehand costs nothing: no byte is written, no connection taken."""
        with scripted(RecordingUpstream()) as upstream:
            async with running() as engine:
                assert await fetch(engine, upstream.url) == b"ok"
                with pytest.raises(LocalProtocolError, match=f"Too {text} data for declared Content-Length"):
                    await post(engine, upstream.url, body=body, length=5)
                assert engine.statistics().idle == 1
                assert await fetch(engine, upstream.url) == b"ok"
            assert upstream.accepted == 1


# I4: the body's own end.


class TestFailingBody:
    """Whatever a body does, its generator is closed before the caller goes on, and so is the connection."""

    @pytest.mark.parametrize("pieces", [[], [b"begun"]], ids=["at once", "in the middle"])
    @pytest.mark.parametrize("error", [ValueError("mine"), KeyError("x"), OSError("disk")], ids=repr)
    async def test_i4_raises(self, pieces: list[bytes], error: Exception) -> None:
        """Its exception comes out unchanged."""

        async def fail() -> None:
            raise error

        source = Source(pieces, fail)
        with scripted(Deaf()) as upstream:
            async with running() as engine:
                with pytest.raises(type(error)) as raised:
                    await post(engine, upstream.url, body=source)
                assert raised.value is error
                assert source.closed
                assert_quiet(engine)
                found = engine.statistics().origins[upstream.url]
                assert found.closed == {"body failed": 1}
                assert found.failures == {type(error).__name__: 1}
                assert await fetch(engine, upstream.url) == b"next"

    async def test_i4_raises_while_the_response_is_read(self) -> None:
        """If the answer had begun, reading it is what fails, and only after what has come."""
        go_on = asyncio.Event()

        async def fail() -> None:
            await go_on.wait()
            raise ZeroDivisionError

        with scripted(Deaf(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, body=Source([b"begun"], fail))
                chunks = aiter(response.body)
                assert await anext(chunks) == b"hello"
                go_on.set()
                with pytest.raises(ZeroDivisionError):
                    await anext(chunks)
                with pytest.raises(ReadError):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)

    async def test_i4_is_cancelled_from_within(self) -> None:
        """A body that cancels itself is no cancellation of the request."""

        async def cancel() -> None:
            raise asyncio.CancelledError

        with scripted(Deaf()) as upstream:
            async with running() as engine:
                with pytest.raises(WriteError, match="cancelled"):
                    await post(engine, upstream.url, body=Source([b"begun"], cancel))
                assert_quiet(engine)

    async def test_i4_is_no_bytes(self) -> None:
        """A piece that is no bytes raises what it raises, and nothing of it is sent."""
        with scripted(Deaf()) as upstream:
            async with running() as engine:
                with pytest.raises(TypeError):
                    await post(engine, upstream.url, body=Source(["text"]))  # type: ignore[list-item] # is what is tested
                assert_quiet(engine)

    @pytest.mark.parametrize(
        "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"], ids=["no head", "head"]
    )
    @both_loops
    async def test_i4_request_is_cancelled(self, answer: bytes) -> None:
        """Cancelling the request closes the generator, and waits for it."""

        async def then() -> None:
            waiting.set()
            await for_ever()

        async def call() -> None:
            response = await send(engine, upstream.url, body=source)
            await read(response)

        script, source, waiting = Deaf(answer), Source([b"begun"], then), asyncio.Event()
        with scripted(script) as upstream:
            async with running() as engine:
                task = asyncio.create_task(call())
                await waiting.wait()
                await reached(script.answered)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert source.closed
                assert isinstance(source.ended_by, asyncio.CancelledError)
                assert_quiet(engine)
                assert await fetch(engine, upstream.url) == b"next"

    async def test_cancelled_twice(self) -> None:
        """A second cancellation ends the waiting for the generator's own cleaning up; the books are right all the same."""
        cleaned, begun = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                begun.set()
                yield b"begun"
                await for_ever()
            finally:
                await cleaned.wait()

        with scripted(Deaf()) as upstream:
            async with running() as engine:
                task = asyncio.create_task(send(engine, upstream.url, body=body()))
                await begun.wait()
                await turn(3)
                task.cancel()
                await turn(3)
                assert not task.done()
                assert_quiet(engine)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                cleaned.set()
                await turn(3)
                assert_quiet(engine)

    async def test_engine_is_closed_by_the_body(self) -> None:
        """A body that ends after everything has ended does not mind."""

        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            engine.close()

        with scripted(Deaf()) as upstream:
            async with running() as engine:
                with pytest.raises(ReadError, match="closed"):
                    await send(engine, upstream.url, body=body())

    async def test_closing_the_response_closes_the_body(self) -> None:
        """Who closes the response early has the generator closed as well, when ``aclose`` returns."""
        source = Source([b"begun"], for_ever)
        with scripted(Deaf(ok(b"early"))) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, body=source)
                await response.aclose()
                assert source.closed
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"abandoned": 1}


# I1: back-pressure.


class TestBackPressure:
    """No more is asked for than the upstream takes."""

    @pytest.mark.parametrize("length", [None, 10**9], ids=["chunked", "declared"])
    @both_loops
    async def test_i1_pieces_wait(self, length: int | None) -> None:
        """A generator is not pulled while the upstream takes nothing; in the end that is a write timeout."""
        source = Source(itertools.repeat(PIECE))
        with scripted(Deaf()) as upstream:
            async with running(options=TIGHT) as engine:
                with pytest.raises(WriteTimeout, match=r"^the server took nothing for 0\.2 s$"):
                    await post(engine, upstream.url, body=source, length=length, timeouts=Timeouts(write=0.2))
                assert source.closed
                assert 0 < source.pulled <= BOUND
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"timeout": 1}
                assert await fetch(engine, upstream.url) == b"next"

    @both_loops
    async def test_i1_bytes_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bytes are handed over slice by slice, not all at once."""
        written = 0
        write = EngineConnection.write

        def noted(self: EngineConnection, data: bytes | memoryview) -> None:
            nonlocal written
            written += len(data)
            write(self, data)

        monkeypatch.setattr(EngineConnection, "write", noted)
        with scripted(Deaf()) as upstream:
            async with running(options=TIGHT) as engine:
                with pytest.raises(WriteTimeout):
                    await post(engine, upstream.url, body=LARGE, timeouts=Timeouts(write=0.2))
                assert_quiet(engine)
        assert 0 < written <= BOUND

    @both_loops
    async def test_i1_follows_the_upstream(self) -> None:
        """All along, the generator is only so far ahead of what the upstream has read, and all of it arrives."""
        taken = 0
        ahead = []

        def script(connection: Connection) -> None:
            nonlocal taken
            tighten(connection)
            connection.read_head()
            while taken < len(LARGE):
                data = connection.read_exactly(min(len(PIECE), len(LARGE) - taken))
                assert data
                taken += len(data)
            connection.send(ok())
            connection.wait_until_closed()

        def pieces() -> Iterator[bytes]:
            for number in range(len(LARGE) // len(PIECE)):
                ahead.append(number * len(PIECE) - taken)
                yield PIECE

        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                assert await post(engine, upstream.url, body=Source(pieces()), length=len(LARGE)) == b"ok"
                assert engine.statistics().idle == 1
        assert max(ahead) <= BOUND

    @pytest.mark.parametrize(
        ("kind", "anyio_backend"), [("bytes", BACKENDS[0]), ("pieces", BACKENDS[1])], ids=["bytes", "pieces-uvloop"]
    )
    @with_patience(0.3)
    async def test_slow_is_not_deaf(self, kind: str, limit: float) -> None:
        """An upstream that takes a little within each limit, though less than a buffer, is waited for."""
        size = 640 * 1024
        pauses = 8

        def script(connection: Connection) -> None:
            tighten(connection)
            connection.read_head()
            for _ in range(pauses):
                connection.read_exactly(size // pauses)
                time.sleep(limit / 4)
            connection.send(ok())

        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                body: Any = LARGE[:size] if kind == "bytes" else Source([LARGE[:size]])
                timeouts = Timeouts(write=limit)
                assert await post(engine, upstream.url, body=body, length=size, timeouts=timeouts) == b"ok"

    async def test_write_limit_of_next_to_nothing(self) -> None:
        """A millionth of a second is a limit too."""
        with scripted(Deaf()) as upstream:
            async with running(options=TIGHT) as engine:
                with pytest.raises(WriteTimeout, match="1e-06 s"):
                    await post(engine, upstream.url, body=LARGE, timeouts=Timeouts(write=1e-6))
                assert_quiet(engine)

    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @pytest.mark.parametrize("total", [1e-6, 0.1])
    async def test_total_limit_while_sending(self, kind: str, total: float) -> None:
        """The total limit also ends the waiting of an upload, on a connection that is there already."""
        body: Any = LARGE if kind == "bytes" else Source(itertools.repeat(PIECE))

        def script(connection: Connection) -> None:
            tighten(connection)
            answering(ok(), times=1)(connection)
            connection.read_head()
            stop.wait(LIMIT)

        stop = threading.Event()
        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                await fetch(engine, upstream.url)
                with pytest.raises(TotalTimeout):
                    await post(engine, upstream.url, body=body, timeouts=Timeouts(total=total))
                stop.set()
                assert_quiet(engine)


# I2, I3: early answers.


def bodies() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give bodies that would never have been sent whole."""
    yield "blocked", lambda: Source([b"begun"], for_ever)
    yield "endless", lambda: Source(itertools.repeat(PIECE))
    yield "in memory", lambda: LARGE


@pytest.mark.parametrize("make", [make for _, make in bodies()], ids=[name for name, _ in bodies()])
class TestRefusal:
    """A final answer of 400 or more ends the upload."""

    @both_loops
    async def test_i2_arrives_at_once(self, make: Callable[[], Any]) -> None:
        """It is there while the body is still being made, or cannot go out; the connection is not used again."""
        body, events = make(), Events()
        with scripted(Deaf(REFUSAL)) as upstream:
            async with running(options=TIGHT, observer=events) as engine:
                response = await send(engine, upstream.url, body=body)
                assert response.status == 413
                assert await read(response) == b"big"
                assert body is LARGE or body.is_over
                assert_quiet(engine)
                assert [event.reason for event in events.of(ConnectionClosed)] == ["not reusable"]
                assert await fetch(engine, upstream.url) == b"next"
            assert upstream.accepted == 2

    async def test_i2_body_of_the_refusal_follows_later(self, make: Callable[[], Any]) -> None:
        """The upload has stopped with the head; the body of the refusal may still take its time."""
        go_on = threading.Event()

        def script(connection: Connection) -> None:
            tighten(connection)
            connection.read_head()
            connection.send(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbig\r\n")
            go_on.wait(LIMIT)
            connection.send(b"5\r\nslow!\r\n0\r\n\r\n")
            connection.wait_until_closed()

        body = make()
        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                response = await send(engine, upstream.url, body=body)
                chunks = aiter(response.body)
                assert await anext(chunks) == b"big"
                if body is not LARGE:
                    async with asyncio.timeout(LIMIT):
                        while not body.is_over:
                            await turn()
                assert engine.statistics().active == 1
                go_on.set()
                assert await read(response) == b"slow!"
                assert_quiet(engine)
                assert engine.statistics().idle == 0

    @pytest.mark.parametrize("with_reset", [False, True], ids=["close", "reset"])
    @both_loops
    async def test_i3_is_delivered_before_the_connection_ends(
        self, make: Callable[[], Any], *, with_reset: bool
    ) -> None:
        """Closing with bytes unread resets a connection; what the server said before counts."""

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.send(REFUSAL)
            if with_reset:
                connection.reset()
            else:
                connection.close()

        with scripted(script) as upstream:
            async with running() as engine:
                for _ in range(10):
                    response = await send(engine, upstream.url, body=make())
                    assert (response.status, await read(response)) == (413, b"big")
                    assert_quiet(engine)


@both_loops
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize("looks", [True, False], ids=["in time", "too late"])
async def test_i3_refusal_that_the_loop_had_no_time_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, *, looks: bool
) -> None:
    """
    Whoever keeps the loop busy while the refusal comes and the connection ends gets the refusal all the same.

    The engine looks whether there is one before it writes; it may also come a moment later.
    """
    if not looks:
        monkeypatch.setattr(EngineConnection, "is_readable", lambda _: False)
    gone = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(REFUSAL)
        connection.close()
        gone.set()

    def keep_the_loop_busy() -> None:
        assert gone.wait(LIMIT)
        time.sleep(0.02)  # for the reset to arrive

    def pieces() -> Iterator[bytes]:
        yield PIECE
        keep_the_loop_busy()
        yield from (PIECE, PIECE, PIECE)

    with scripted(script) as upstream:
        async with running() as engine:
            if kind == "pieces":
                response = await send(engine, upstream.url, body=Source(pieces()))
            else:
                sending = asyncio.create_task(send(engine, upstream.url, body=LARGE))
                await until(lambda: engine.statistics().origins and engine.statistics().origins[upstream.url].opened)
                keep_the_loop_busy()
                response = await sending
            assert (response.status, await read(response)) == (413, b"big")
            assert_quiet(engine)


class TestEarlyAnswer:
    """Any other final answer is read while the upload goes on."""

    @both_loops
    async def test_i2_echo(self) -> None:
        """Request and response run side by side: each piece is only made when the last one has come back."""

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                size = connection.read_until(b"\r\n")
                data = connection.read_exactly(int(size, 16) + 2)
                connection.send(size + data)
                if data == b"\r\n":
                    break
            connection.wait_until_closed()

        returned: asyncio.Queue[bytes] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            for number in range(20):
                yield b"piece %d" % number
                assert await returned.get() == b"piece %d" % number

        with scripted(script) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, body=body())
                assert response.status == 200
                async with asyncio.timeout(LIMIT):
                    async for chunk in response.body:
                        returned.put_nowait(chunk)
                await response.aclose()
                assert_quiet(engine)
                assert engine.statistics().idle == 1

    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
    @both_loops
    async def test_i2_does_not_stop_the_upload(self, kind: str, *, secure: bool) -> None:
        """The response can be read at once, ends when the request has gone out, and all of that arrives."""
        go_on, all_read = threading.Event(), threading.Event()
        received = []

        def script(connection: Connection) -> None:
            tighten(connection)
            connection.read_head()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
            go_on.wait(LIMIT)
            received.append(connection.read_exactly(len(LARGE)))
            all_read.set()
            # Over TLS the end could overtake the word that the last byte has gone out.
            connection.wait_until_closed()

        authority = Authority()
        options = replace(TIGHT, ssl_context=authority.client())
        body: Any = LARGE if kind == "bytes" else Source(itertools.repeat(PIECE, len(LARGE) // len(PIECE)))
        with scripted(script, authority.server() if secure else None) as upstream:
            async with running(options=options) as engine:
                timeouts = Timeouts(write=LIMIT, read=LIMIT)
                response = await send(engine, upstream.url, body=body, length=len(LARGE), timeouts=timeouts)
                chunks = aiter(response.body)
                async with asyncio.timeout(LIMIT):
                    assert await anext(chunks) == b"early"
                    assert engine.statistics().active == 1
                    go_on.set()
                    with pytest.raises(StopAsyncIteration):
                        await anext(chunks)
                assert_quiet(engine)
                await response.aclose()
                await reached(all_read)
        assert received[0] == LARGE, "not all of it arrived"

    async def test_f11_answered_before_it_was_asked(self) -> None:
        """Who answers a request before its end may take the rest of it for another: the connection is not reused."""

        def script(connection: Connection) -> None:
            if connection.number:
                answering(ok(b"GOOD"))(connection)
                return
            connection.read_head()
            connection.send(ok(b"early"))
            answered.set()
            connection.read_until(b"0\r\n\r\n")
            connection.wait_until_closed()

        answered = threading.Event()
        with scripted(script) as upstream:
            async with running() as engine:
                body = Source([b"begun"], lambda: reached(answered))
                response = await send(engine, upstream.url, body=body)
                assert await read(response) == b"early"
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"not reusable": 1}
                assert await fetch(engine, upstream.url) == b"GOOD"

    async def test_f11_answered_after_the_last_byte(self) -> None:
        """But if all of it had gone out, it does not matter that the generator takes its time to end."""

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.read_exactly(5)
            connection.send(ok())
            answered.set()
            answering(ok(b"GOOD"))(connection)

        async def then() -> None:
            await reached(answered)
            await turn(3)

        answered = threading.Event()
        with scripted(script) as upstream:
            async with running() as engine:
                assert await post(engine, upstream.url, body=Source([b"hello"], then), length=5) == b"ok"
                assert engine.statistics().idle == 1
                assert await fetch(engine, upstream.url) == b"GOOD"
            assert upstream.accepted == 1

    @both_loops
    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @with_patience(0.2)
    async def test_i2_write_limit_after_the_answer(self, kind: str, limit: float) -> None:
        """If the rest of the request cannot go out in time, reading the response fails with that."""
        body: Any = LARGE if kind == "bytes" else Source(itertools.repeat(PIECE))
        with scripted(Deaf(ok(b"early"))) as upstream:
            async with running(options=TIGHT) as engine:
                response = await send(engine, upstream.url, body=body, timeouts=Timeouts(write=limit))
                assert response.status == 200
                chunks = aiter(response.body)
                assert await anext(chunks) == b"early"
                with pytest.raises(WriteTimeout):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)

    @pytest.mark.parametrize("which", ["write", "total"])
    @both_loops
    @with_patience(0.2)
    async def test_i2_limit_of_what_is_left_in_our_buffers(self, which: str, limit: float) -> None:
        """Also of the last bytes, which the engine has written and the peer has not taken."""
        size = 300 * 1024  # more than the kernels hold, and one piece
        with scripted(Deaf(ok(b"early"))) as upstream:
            async with running(options=TIGHT) as engine:
                body = Source([LARGE[:size]])
                timeouts = Timeouts(**{which: limit})
                response = await send(engine, upstream.url, body=body, length=size, timeouts=timeouts)
                chunks = aiter(response.body)
                assert await anext(chunks) == b"early"
                with pytest.raises((WriteTimeout, TotalTimeout)):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)

    async def test_i5_half_closed(self) -> None:
        """An upstream that has said all, and ended its side, may go on reading."""
        received: list[bytes] = []

        def script(connection: Connection) -> None:
            tighten(connection)
            connection.read_head()
            connection.send(ok(b"early"))
            connection.sock.shutdown(socket.SHUT_WR)
            half_closed.set()
            go_on.wait(LIMIT)
            received.append(connection.read_exactly(len(LARGE)))
            all_read.set()

        half_closed, go_on, all_read = threading.Event(), threading.Event(), threading.Event()
        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                response = await send(engine, upstream.url, body=LARGE)
                await reached(half_closed)
                go_on.set()
                assert await read(response) == b"early"
                assert_quiet(engine)
                assert engine.statistics().idle == 0
                await reached(all_read)
        assert received[0] == LARGE, "not all of it arrived"

    @pytest.mark.parametrize(
        ("answer", "with_reset"),
        [
            pytest.param(ok(b"early"), False, id="length-close"),
            pytest.param(ok(b"early"), True, id="length-reset"),
            pytest.param(b"HTTP/1.1 200 OK\r\n\r\nearly", False, id="end-close"),
        ],
    )
    @both_loops
    async def test_connection_ends_after_a_complete_answer(self, answer: bytes, *, with_reset: bool) -> None:
        """A complete answer is given, and then told that what it answered has not gone out whole."""
        arrived, closed = threading.Event(), threading.Event()

        def script(connection: Connection) -> None:
            connection.read_until(b"begun\r\n")
            connection.send(answer)
            arrived.wait(LIMIT)
            if with_reset:
                connection.reset()
            else:
                connection.close()
            closed.set()

        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            await reached(closed)
            async for piece in endless:
                yield piece

        endless = Source(itertools.repeat(PIECE))
        with scripted(script) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, body=body())
                assert response.status == 200
                chunks = aiter(response.body)
                async with asyncio.timeout(LIMIT):
                    assert await anext(chunks) == b"early"
                    arrived.set()
                    with pytest.raises(WriteError):
                        await anext(chunks)
                await response.aclose()
                assert endless.pulled < len(LARGE)
                assert_quiet(engine)
                assert engine.statistics().idle == 0

    async def test_connection_ends_before_all_of_it_has_gone_out(self) -> None:
        """That also counts if the engine had written all of it, but the peer has not got it."""
        arrived = threading.Event()

        def script(connection: Connection) -> None:
            tighten(connection)
            connection.read_head()
            connection.send(ok(b"early"))
            arrived.wait(LIMIT)
            connection.reset()

        size = 300 * 1024  # more than the kernels hold, and one piece
        with scripted(script) as upstream:
            async with running(options=TIGHT) as engine:
                response = await send(engine, upstream.url, body=Source([LARGE[:size]]), length=size)
                chunks = aiter(response.body)
                async with asyncio.timeout(LIMIT):
                    assert await anext(chunks) == b"early"
                    arrived.set()
                    with pytest.raises(WriteError):
                        await anext(chunks)
                await response.aclose()
                assert_quiet(engine)


class TestLostWhileSending:
    """The connection ends while the request is on its way."""

    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @both_loops
    async def test_reset(self, kind: str) -> None:
        """A reset is a ReadError, as in httpcore, which looks for an answer first."""
        source = Source(itertools.repeat(PIECE))

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.read_exactly(100_000)
            connection.reset()

        with scripted(script) as upstream:
            async with running() as engine:
                with pytest.raises(ReadError) as raised:
                    await post(engine, upstream.url, body=LARGE if kind == "bytes" else source)
                assert isinstance(raised.value.__cause__, OSError)
                assert source.closed or kind == "bytes"
                assert_quiet(engine)

    async def test_end_without_an_answer(self) -> None:
        """The end of the peer's side without an answer ends the upload."""

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.read_until(b"begun\r\n")
            connection.sock.shutdown(socket.SHUT_WR)
            connection.wait_until_closed()

        source = Source([b"begun"], for_ever)
        with scripted(script) as upstream:
            async with running() as engine:
                with pytest.raises(RemoteProtocolError, match="Server disconnected without sending a response"):
                    await post(engine, upstream.url, body=source)
                assert source.closed
                assert_quiet(engine)

    async def test_reset_in_the_middle_of_the_answer(self) -> None:
        """What has come of the answer is given, then the error."""

        def script(connection: Connection) -> None:
            connection.read_head()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            go_on.wait(LIMIT)
            connection.reset()

        go_on = threading.Event()
        with scripted(script) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, body=Source([b"begun"], for_ever))
                chunks = aiter(response.body)
                assert await anext(chunks) == b"hello"
                go_on.set()
                with pytest.raises(ReadError):
                    await anext(chunks)
                await response.aclose()
                assert_quiet(engine)


# C7: Expect: 100-continue.


EXPECT = [(b"Expect", b"100-continue")]


class Expected:
    """A script for a request that expects "100 Continue"."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.head_came = threading.Event()
        self.welcomed = threading.Event()
        self.go_on = threading.Event()
        self.received: list[bytes] = []
        self.head = b""

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        self.head = connection.read_head()
        self.head_came.set()
        self.go_on.wait(LIMIT)
        if self._first:
            self.welcomed.set()
            connection.send(self._first)
        if b" 100 " in self._first or not self._first:
            self.received.append(connection.read_exactly(5))
            connection.send(ok(b"done"))
        connection.wait_until_closed()


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
class TestExpect:
    """A body that waits to be welcome."""

    def body(self, kind: str) -> Any:
        """Return five bytes."""
        return b"hello" if kind == "bytes" else Source([b"hello"])

    @pytest.mark.parametrize(
        "first", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"]
    )
    @both_loops
    async def test_c7_is_sent_when_welcome(self, kind: str, first: bytes) -> None:
        """Nothing of the body is sent, or even made, before "100 Continue"; then it is, and the connection stays."""
        script, body = Expected(first), self.body(kind)
        with scripted(script) as upstream:
            async with running() as engine:
                task = asyncio.create_task(send(engine, upstream.url, headers=EXPECT, body=body, length=5))
                await reached(script.head_came)
                await turn(5)
                assert kind == "bytes" or not body.begun
                assert engine.statistics().origins[upstream.url].bytes_out == len(script.head)
                script.go_on.set()
                assert await read(await task) == b"done"
                assert_quiet(engine)
                assert engine.statistics().idle == 1
        assert script.received == [b"hello"]
        assert b"Expect: 100-continue\r\n" in script.head

    async def test_c7_is_sent_in_the_end(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """An upstream that has never heard of it gets the body after a while."""
        assert _exchange.CONTINUE == 1.0
        monkeypatch.setattr(_exchange, "CONTINUE", 0.05)
        script = Expected(b"")
        script.go_on.set()
        with scripted(script) as upstream:
            async with running() as engine:
                assert await post(engine, upstream.url, headers=EXPECT, body=self.body(kind), length=5) == b"done"
                assert engine.statistics().idle == 1
        assert script.received == [b"hello"]

    @pytest.mark.parametrize("status", [b"417 Expectation Failed", b"200 OK"])
    async def test_c7_is_not_sent_after_the_final_answer(self, kind: str, status: bytes) -> None:
        """The final answer instead: the body is not sent, so the connection is not reused."""
        script, body = Expected(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nover"), self.body(kind)
        script.go_on.set()
        with scripted(script) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, headers=EXPECT, body=body, length=5)
                assert await read(response) == b"over"
                assert kind == "bytes" or not body.begun
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"not reusable": 1}
                assert await fetch(engine, upstream.url) == b"next"

    async def test_c7_answer_comes_slowly(self, kind: str) -> None:
        """Also if the rest of the final answer takes its time."""
        script = Expected(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nov")
        script.go_on.set()
        with scripted(script) as upstream:
            async with running() as engine:
                response = await send(engine, upstream.url, headers=EXPECT, body=self.body(kind), length=5)
                assert await anext(aiter(response.body)) == b"ov"
                assert engine.statistics().active == 1
                await response.aclose()
                assert_quiet(engine)

    async def test_c7_connection_ends_instead(self, kind: str) -> None:
        """The end of the connection is an error like any other."""

        def script(connection: Connection) -> None:
            connection.read_head()

        with scripted(script) as upstream:
            async with running() as engine:
                with pytest.raises((RemoteProtocolError, ReadError)):
                    await post(engine, upstream.url, headers=EXPECT, body=self.body(kind), length=5)
                assert_quiet(engine)

    @pytest.mark.parametrize("total", [1e-6, 0.05])
    async def test_c7_total_limit(self, kind: str, total: float) -> None:
        """The total limit runs meanwhile."""
        script = Expected(b"")
        with scripted(script) as upstream:
            async with running() as engine:
                with pytest.raises(TotalTimeout):
                    await post(
                        engine,
                        upstream.url,
                        headers=EXPECT,
                        body=self.body(kind),
                        length=5,
                        timeouts=Timeouts(total=total),
                    )
                assert_quiet(engine)
                script.go_on.set()

    async def test_c7_cancelled(self, kind: str) -> None:
        """So does whoever is cancelled."""
        script, body = Expected(b""), self.body(kind)
        with scripted(script) as upstream:
            async with running() as engine:
                task = asyncio.create_task(send(engine, upstream.url, headers=EXPECT, body=body, length=5))
                await reached(script.head_came)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert_quiet(engine)
                assert kind == "bytes" or not body.begun
                script.go_on.set()
