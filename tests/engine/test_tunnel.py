"""Connections that speak another protocol after a response: reading, writing, TLS, and their end (checklist L)."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastapi_httpx_pool.engine import Engine, Limits, Tunnel
from fastapi_httpx_pool.events import ConnectionClosed
from fastapi_httpx_pool.exceptions import (
    ConnectError,
    ConnectTimeout,
    PoolTimeout,
    ReadError,
    ReadTimeout,
    RemoteProtocolError,
    WriteError,
    WriteTimeout,
)
from fastapi_httpx_pool.messages import Response, Timeouts
from tests.support.bodies import PIECE, TIGHT, reached, tighten
from tests.support.engines import (
    LIMIT,
    Events,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    read,
    request_to,
    running,
    turn,
    until,
)
from tests.support.patience import with_patience
from tests.support.tls import Authority
from tests.support.upstream import Connection, Script, answering, ok, scripted
from tests.support.watched import Watched

pytestmark = [pytest.mark.anyio, both_loops]

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
OFFER = [(b"Connection", b"upgrade"), (b"Upgrade", b"echo")]
LARGE = PIECE * 256
"""4 MiB: more than all buffers on the way."""
BOUND = 1024 * 1024


async def open_tunnel(engine: Engine, url: str, **request: Any) -> tuple[Response, Tunnel]:
    """Switch protocols; return the response and what the connection has become."""
    async with asyncio.timeout(LIMIT):
        response = await engine(request_to(url, headers=OFFER, **request))
    assert response.status == 101
    tunnel = response.extensions["network_stream"]
    assert isinstance(tunnel, Tunnel)
    return response, tunnel


def after_switching(
    then: Callable[[Connection], object] = Connection.wait_until_closed, surplus: bytes = b""
) -> Script:
    """Return a script that switches protocols on its first connection, and answers on others."""

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok(b"next"))(connection)
            return
        head = connection.read_head()
        if head:
            connection.send((ESTABLISHED if head.startswith(b"CONNECT") else SWITCHING) + surplus)
            then(connection)

    return script


def echo(connection: Connection) -> None:
    """Send everything back."""
    while data := connection._recv():
        connection.send(data)


async def read_exactly(tunnel: Tunnel, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    async with asyncio.timeout(LIMIT):
        while len(data) < count:
            data += await tunnel.read(65536)
    return data


async def write_on(tunnel: Tunnel) -> None:
    """Write again and again."""
    for _ in range(100):
        await tunnel.write(PIECE)
        await turn()


class TestOpening:
    """What becomes a tunnel, and what does not."""

    async def test_l1_upgrade(self) -> None:
        """A 101 to a request that offered it; then bytes go both ways."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert (b"Upgrade", b"echo") in response.headers
                await tunnel.write(b"ping")
                assert await read_exactly(tunnel, 4) == b"ping"
                await response.aclose()
                assert_quiet(engine)

    @pytest.mark.parametrize("surplus", [b"first", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", PIECE * 20])
    async def test_l1_bytes_behind_the_head(self, surplus: bytes) -> None:
        """What came together with the head is what is read first, whatever it looks like."""
        with scripted(after_switching(echo, surplus)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert await read_exactly(tunnel, len(surplus)) == surplus
                await tunnel.write(b"ping")
                assert await read_exactly(tunnel, 4) == b"ping"
                await response.aclose()

    async def test_l3_connect(self) -> None:
        """A 2xx to CONNECT, with bytes behind it."""
        with scripted(after_switching(echo, b"hello")) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url, b"example.org:443", method=b"CONNECT"))
                assert response.status == 200
                tunnel = response.extensions["network_stream"]
                assert await read_exactly(tunnel, 5) == b"hello"
                await tunnel.write(b"ping")
                assert await read_exactly(tunnel, 4) == b"ping"
                await response.aclose()
                assert_quiet(engine)

    async def test_l3_refused(self) -> None:
        """Any other answer to CONNECT is a response like all others."""
        with scripted(answering(b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nwho?!")) as upstream:
            async with running() as engine:
                for _ in range(2):
                    response = await engine(request_to(upstream.url, b"example.org:443", method=b"CONNECT"))
                    assert response.status == 407
                    assert await read(response) == b"who?!"
                assert engine.statistics().idle == 1

    async def test_not_offered(self) -> None:
        """A 101 that nobody asked for is an error."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                with pytest.raises(RemoteProtocolError, match="did not offer"):
                    await engine(request_to(upstream.url))
                assert_quiet(engine)

    async def test_offer_that_is_declined(self) -> None:
        """A request may offer and get an ordinary response."""
        with scripted(answering(ok())) as upstream:
            async with running() as engine:
                response = await engine(request_to(upstream.url, headers=OFFER))
                assert not isinstance(response.extensions["network_stream"], Tunnel)
                assert await read(response) == b"ok"
                assert engine.statistics().idle == 1

    async def test_the_body_is_empty(self) -> None:
        """The response itself has no body."""
        with scripted(after_switching(echo, b"surplus")) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert [chunk async for chunk in response.body] == []
                assert await read_exactly(tunnel, 7) == b"surplus"
                await tunnel.aclose()

    async def test_extra_info(self) -> None:
        """It tells about the connection."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert tunnel.get_extra_info("server_addr") == ("127.0.0.1", upstream.port)
                assert tunnel.get_extra_info("client_addr")[0] == "127.0.0.1"
                assert tunnel.get_extra_info("ssl_object") is None
                assert tunnel.get_extra_info("is_readable") is False
                await response.aclose()
                assert tunnel.get_extra_info("is_readable") is True


class TestReading:
    """``read``."""

    async def test_l1_at_most(self) -> None:
        """No more bytes than asked for; the others stay."""
        with scripted(after_switching(surplus=b"0123456789")) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert [await tunnel.read(count) for count in (3, 1, 100)] == [b"012", b"3", b"456789"]
                await response.aclose()

    async def test_l1_end(self) -> None:
        """The peer's end is no bytes, after those that came before it, and again."""
        with scripted(after_switching(Connection.close, b"last")) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert [await tunnel.read(100) for _ in range(3)] == [b"last", b"", b""]
                await response.aclose()
                assert_quiet(engine)

    async def test_end_while_reading(self) -> None:
        """The end also reaches who waits for bytes."""
        go_on = threading.Event()
        with scripted(after_switching(lambda connection: go_on.wait(LIMIT))) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100))
                await turn(2)
                go_on.set()
                assert await reading == b""
                await response.aclose()

    @pytest.mark.parametrize("limit", [0, 1e-6, 0.05])
    async def test_limit(self, limit: float) -> None:
        """Nothing for so long is a ReadTimeout; the tunnel can be used on."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                with pytest.raises(ReadTimeout, match=f"nothing came for {limit:g} s"):
                    await tunnel.read(100, limit)
                await tunnel.write(b"ping")
                assert await tunnel.read(100, LIMIT) == b"ping"
                await response.aclose()

    async def test_data_that_is_there_beats_the_limit(self) -> None:
        """If the loop was busy for longer than the limit, what has come meanwhile counts."""
        sent = threading.Event()

        def then(connection: Connection) -> None:
            connection.read_exactly(1)
            connection.send(b"there")
            sent.set()
            connection.wait_until_closed()

        def keep_the_loop_busy() -> None:
            assert sent.wait(LIMIT)
            time.sleep(0.1)

        with scripted(after_switching(then)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100, 0.05))
                await turn(3)
                await tunnel.write(b"!")
                keep_the_loop_busy()
                assert await reading == b"there"
                await response.aclose()

    async def test_two_readers(self) -> None:
        """The second of two concurrent readers is told; the first goes on."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                first = asyncio.create_task(tunnel.read(100))
                await turn(2)
                with pytest.raises(RuntimeError, match="two tasks read from the same network stream"):
                    await tunnel.read(100)
                await tunnel.write(b"ping")
                assert await first == b"ping"
                await response.aclose()

    async def test_cancelled_reader(self) -> None:
        """A reader who is cancelled loses nothing."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100))
                await turn(2)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                await tunnel.write(b"ping")
                assert await read_exactly(tunnel, 4) == b"ping"
                await response.aclose()

    async def test_l1_back_pressure(self) -> None:
        """The peer has to wait while nobody reads, and all arrives in the end."""
        sent = 0
        stuck, go_on = threading.Event(), threading.Event()

        def then(connection: Connection) -> None:
            nonlocal sent
            tighten(connection)
            connection.sock.settimeout(0.1)
            view = memoryview(LARGE)
            try:
                while sent < len(LARGE):
                    sent += connection.sock.send(view[sent : sent + 8192])
            except TimeoutError:
                stuck.set()
                go_on.wait(LIMIT)
            connection.sock.settimeout(LIMIT)
            connection.send(LARGE[sent:])

        with scripted(after_switching(then)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                await reached(stuck)
                assert sent <= BOUND
                go_on.set()
                assert await read_exactly(tunnel, len(LARGE)) == LARGE
                assert await tunnel.read(1) == b""
                await response.aclose()


class TestWriting:
    """``write``."""

    async def test_nothing(self) -> None:
        """Writing nothing is nothing, also on a tunnel that is closed."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                await tunnel.write(b"")
                await response.aclose()
                await tunnel.write(b"")

    async def test_l1_back_pressure(self) -> None:
        """It waits until the peer takes what was written; two writers wait side by side, and a third gives up."""
        received = []
        go_on, done = threading.Event(), threading.Event()

        def then(connection: Connection) -> None:
            tighten(connection)
            go_on.wait(LIMIT)
            received.append(connection.read_exactly(3 * len(LARGE)))
            done.set()
            connection.wait_until_closed()

        with scripted(after_switching(then)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                writing = [asyncio.create_task(tunnel.write(LARGE)) for _ in range(3)]
                await turn(5)
                assert not any(task.done() for task in writing)
                writing[2].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing[2]
                go_on.set()
                async with asyncio.timeout(LIMIT):
                    await asyncio.gather(*writing[:2])
                await reached(done)
                assert received[0] == LARGE * 3
                await response.aclose()

    @pytest.mark.parametrize("limit", [1e-6, 0.05])
    async def test_limit(self, limit: float) -> None:
        """A peer that takes nothing for so long is a WriteTimeout."""
        with scripted(after_switching(lambda connection: go_on.wait(LIMIT))) as upstream:
            go_on = threading.Event()
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                with pytest.raises(WriteTimeout, match=f"the peer took nothing for {limit:g} s"):
                    await tunnel.write(LARGE, limit)
                await response.aclose()
                assert_quiet(engine)
            go_on.set()

    async def test_half_closed(self) -> None:
        """A peer that has said all may still listen, and it has to be waited for, too."""
        received = []
        go_on, done = threading.Event(), threading.Event()

        def then(connection: Connection) -> None:
            tighten(connection)
            connection.sock.shutdown(socket.SHUT_WR)
            go_on.wait(LIMIT)
            received.append(connection.read_exactly(len(LARGE)))
            done.set()

        with scripted(after_switching(then)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert await tunnel.read(1) == b""
                writing = asyncio.create_task(tunnel.write(LARGE))
                await turn(5)
                assert not writing.done()
                go_on.set()
                await writing
                await reached(done)
                assert received[0] == LARGE
                await response.aclose()
                assert_quiet(engine)

    async def test_both_ways_at_once(self) -> None:
        """Reading and writing do not wait for each other."""
        with scripted(after_switching(echo)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(read_exactly(tunnel, len(LARGE)))
                async with asyncio.timeout(LIMIT):
                    await tunnel.write(LARGE)
                    assert await reading == LARGE
                await response.aclose()


class TestEnd:
    """However it ends, its place in the pool is free then, and not before."""

    async def test_l2_holds_its_place(self) -> None:
        """While it is open, it counts; when it is closed, the next request is served."""
        script, events = Watched(after_switching()), Events()
        with scripted(script) as upstream:
            async with running(Limits(max_connections=1), observer=events) as engine:
                response, _ = await open_tunnel(engine, upstream.url)
                assert engine.statistics().active == 1
                with pytest.raises(PoolTimeout, match=r"\(a tunnel\)\. Most are open WebSockets"):
                    await fetch(engine, upstream.url, timeouts=Timeouts(pool=0.02))
                queued = asyncio.create_task(fetch(engine, upstream.url))
                await until(lambda: engine.statistics().queued)
                await response.aclose()
                assert await queued == b"next"
                assert [event.reason for event in events.of(ConnectionClosed)] == ["tunnel closed"]
                assert_quiet(engine)

    @pytest.mark.parametrize("by_response", [False, True])
    async def test_a10_closed_again_and_used_after(self, *, by_response: bool) -> None:
        """Closing twice is harmless; reading and writing on what is closed is an error, whatever was left."""
        with scripted(after_switching(surplus=b"never read")) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                for _ in range(2):
                    await (response if by_response else tunnel).aclose()
                    assert_quiet(engine)
                with pytest.raises(ReadError, match="the network stream was closed"):
                    await tunnel.read(100)
                with pytest.raises(WriteError, match="the network stream was closed"):
                    await tunnel.write(b"ping")
                await tunnel.aclose()
                await response.aclose()
                assert await fetch(engine, upstream.url) == b"next"

    async def test_closed_while_it_is_used(self) -> None:
        """Who waits in ``read`` or ``write`` is told that somebody has closed it."""
        with scripted(after_switching(lambda connection: go_on.wait(LIMIT))) as upstream:
            go_on = threading.Event()
            async with running(options=TIGHT) as engine:
                _, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100))
                writing = asyncio.create_task(tunnel.write(LARGE))
                await turn(5)
                tunnel.close()
                with pytest.raises(ReadError, match="closed"):
                    await reading
                with pytest.raises(WriteError, match="closed"):
                    await writing
                assert_quiet(engine)
            go_on.set()

    async def test_reset(self) -> None:
        """A reset reaches both, after what has come; the place is free without anybody's closing it."""
        go_on = threading.Event()

        def then(connection: Connection) -> None:
            go_on.wait(LIMIT)
            connection.reset()

        with scripted(after_switching(then, b"last")) as upstream:
            async with running(Limits(max_connections=1)) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                go_on.set()
                await until(lambda: not engine.statistics().active)
                assert_quiet(engine)
                assert await tunnel.read(100) == b"last"
                with pytest.raises(ReadError) as raised:
                    await tunnel.read(100)
                assert isinstance(raised.value.__cause__, ConnectionResetError)
                with pytest.raises(WriteError) as failed:
                    await tunnel.write(b"ping")
                assert isinstance(failed.value.__cause__, ConnectionResetError)
                assert await fetch(engine, upstream.url) == b"next"
                await response.aclose()
                assert_quiet(engine)
                assert engine.statistics().origins[upstream.url].closed == {"peer": 1}

    async def test_reset_while_it_is_used(self) -> None:
        """It also reaches who waits."""
        go_on = threading.Event()

        def then(connection: Connection) -> None:
            go_on.wait(LIMIT)
            connection.reset()

        with scripted(after_switching(then)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100))
                writing = asyncio.create_task(tunnel.write(LARGE))
                await turn(5)
                go_on.set()
                with pytest.raises(ReadError):
                    await reading
                with pytest.raises(WriteError):
                    await writing
                await response.aclose()
                assert_quiet(engine)

    async def test_writing_to_a_peer_that_left(self) -> None:
        """Writing on after the peer's end fails sooner or later, and frees the place."""
        with scripted(after_switching(Connection.close)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert await tunnel.read(100) == b""
                with pytest.raises(WriteError):
                    await write_on(tunnel)
                assert_quiet(engine)
                await response.aclose()
                assert_quiet(engine)

    async def test_engine_closes(self) -> None:
        """Closing the engine closes tunnels."""
        script = Watched(after_switching())
        with scripted(script) as upstream:
            async with running() as engine:
                _, tunnel = await open_tunnel(engine, upstream.url)
                reading = asyncio.create_task(tunnel.read(100))
                await turn(2)
                await engine.aclose()
                with pytest.raises(ReadError):
                    await reading
                assert await script.none_open()

    @with_patience(0.1)
    async def test_no_limits_of_the_exchange(self, limit: float) -> None:
        """A tunnel may stay open for longer than its request was allowed to take."""
        with scripted(after_switching(echo)) as upstream:
            async with running(Limits(idle_expiry=0.05, lifetime=0.05)) as engine:
                response, tunnel = await open_tunnel(engine, upstream.url, timeouts=Timeouts(read=limit, total=limit))
                await asyncio.sleep(2 * limit)
                await tunnel.write(b"ping")
                assert await read_exactly(tunnel, 4) == b"ping"
                await response.aclose()


def then_tls(context: ssl.SSLContext) -> Callable[[Connection], None]:
    """Return the part of a script that speaks TLS from here on, and echoes."""

    def then(connection: Connection) -> None:
        try:
            connection.sock = context.wrap_socket(connection.sock, server_side=True)
        except OSError:
            return
        with connection.sock:
            echo(connection)

    return then


class TestTls:
    """``start_tls``."""

    async def connect(self, engine: Engine, url: str) -> tuple[Response, Tunnel]:
        """Make a tunnel through a proxy."""
        response = await engine(request_to(url, b"example.org:443", method=b"CONNECT"))
        return response, response.extensions["network_stream"]

    async def test_l3_through_a_tunnel(self, authority: Authority) -> None:
        """TLS with whoever is at the other end; large bodies go both ways, with back-pressure."""
        with scripted(after_switching(then_tls(authority.server("example.org")))) as upstream:
            async with running() as engine:
                response, tunnel = await self.connect(engine, upstream.url)
                secure = await tunnel.start_tls(authority.client(), "example.org", LIMIT)
                assert secure.get_extra_info("ssl_object").version() == "TLSv1.3"
                reading = asyncio.create_task(read_exactly(secure, len(LARGE)))
                async with asyncio.timeout(LIMIT):
                    await secure.write(LARGE)
                    assert await reading == LARGE
                assert engine.statistics().active == 1
                await response.aclose()
                assert_quiet(engine)

    async def test_wrong_name(self, authority: Authority) -> None:
        """A certificate that is not the peer's is a ConnectError, and the end of the tunnel."""
        script = Watched(after_switching(then_tls(authority.server("other.example"))))
        with scripted(script) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                with pytest.raises(ConnectError, match=r"(?i)hostname mismatch") as raised:
                    await tunnel.start_tls(authority.client(), "example.org")
                assert isinstance(raised.value.__cause__, ssl.SSLError)
                assert_quiet(engine)

    async def test_limit(self, authority: Authority) -> None:
        """A handshake that takes too long is a ConnectTimeout."""
        with scripted(after_switching()) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                with pytest.raises(ConnectTimeout, match=r"^no TLS within 0\.05 s$"):
                    await tunnel.start_tls(authority.client(), "example.org", 0.05)
                assert_quiet(engine)

    @pytest.mark.parametrize("with_reset", [False, True], ids=["close", "reset"])
    async def test_peer_leaves(self, authority: Authority, *, with_reset: bool) -> None:
        """So is a peer that leaves instead."""

        def then(connection: Connection) -> None:
            connection.read_exactly(10)
            (Connection.reset if with_reset else Connection.close)(connection)

        with scripted(after_switching(then)) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                with pytest.raises(ConnectError):
                    await tunnel.start_tls(authority.client(), "example.org", LIMIT)
                assert_quiet(engine)

    async def test_cancelled(self, authority: Authority) -> None:
        """Cancelling it closes the tunnel."""
        script = Watched(after_switching())
        with scripted(script) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                task = asyncio.create_task(tunnel.start_tls(authority.client(), "example.org"))
                await turn(5)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert_quiet(engine)
                assert await script.none_open()

    async def test_bytes_before_tls(self, authority: Authority) -> None:
        """Bytes that came unencrypted never pass for encrypted ones."""
        with scripted(after_switching(surplus=b"injected")) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                with pytest.raises(ConnectError, match="the peer spoke before TLS began"):
                    await tunnel.start_tls(authority.client(), "example.org")
                assert_quiet(engine)

    async def test_closed_before_tls(self, authority: Authority) -> None:
        """There is no TLS with somebody who has left."""
        with scripted(after_switching(Connection.close)) as upstream:
            async with running() as engine:
                _, tunnel = await self.connect(engine, upstream.url)
                assert await tunnel.read(1) == b""
                with pytest.raises(ConnectError, match="the connection was closed before TLS began"):
                    await tunnel.start_tls(authority.client(), "example.org")
                assert_quiet(engine)


class TestBetween:
    """What comes after the head and before the tunnel is there, which a slow ``trace`` lets happen, is not lost."""

    async def slow(self, name: str, info: object) -> None:
        """Take one's time when the head is there."""
        if name == "http11.receive_response_headers.complete":
            self.at_head.set()
            await self.go_on.wait()

    def setup_method(self) -> None:
        """Prepare the meeting."""
        self.at_head = asyncio.Event()
        self.go_on = asyncio.Event()

    async def meet(self, engine: Engine, url: str, happened: Callable[[], object]) -> tuple[Response, Tunnel]:
        """Open a tunnel while something happens."""
        task = asyncio.create_task(open_tunnel(engine, url, extensions={"trace": self.slow}))
        await self.at_head.wait()
        await until(happened)
        self.go_on.set()
        return await task

    async def test_bytes(self) -> None:
        """Bytes are read first."""

        def then(connection: Connection) -> None:
            connection.send(b"later")
            connection.wait_until_closed()

        with scripted(after_switching(then, b"sooner ")) as upstream:
            async with running() as engine:
                response, tunnel = await self.meet(engine, upstream.url, lambda: _surplus(engine) == b"sooner later")
                assert await read_exactly(tunnel, 12) == b"sooner later"
                await response.aclose()
                assert_quiet(engine)

    async def test_many_bytes(self) -> None:
        """More bytes than may wait, wait at the peer's."""

        def then(connection: Connection) -> None:
            connection.send(LARGE)
            connection.wait_until_closed()

        def paused() -> bool:
            (connection,) = pool_of(engine)._connections
            return not connection._reading

        with scripted(after_switching(then)) as upstream:
            async with running(options=TIGHT) as engine:
                response, tunnel = await self.meet(engine, upstream.url, paused)
                assert len(tunnel._buffer) <= BOUND
                assert await read_exactly(tunnel, len(LARGE)) == LARGE
                await response.aclose()
                assert_quiet(engine)

    @pytest.mark.parametrize("how", [Connection.close, Connection.reset])
    async def test_end(self, how: Callable[[Connection], None]) -> None:
        """So is the end."""
        with scripted(after_switching(how, b"last")) as upstream:
            async with running() as engine:
                response, tunnel = await self.meet(engine, upstream.url, lambda: not pool_of(engine)._connections)
                assert await tunnel.read(100) == b"last"
                assert await tunnel.read(100) == b""
                with pytest.raises(WriteError):
                    await tunnel.write(b"ping")
                await response.aclose()
                assert_quiet(engine)


def _surplus(engine: Engine) -> bytes:
    (exchange,) = pool_of(engine)._exchanges
    return exchange.reader.surplus


class TestWordsInPassing:
    """A few bytes that wait for nobody: pongs, and goodbyes."""

    async def test_at_once(self) -> None:
        """If nothing waits to go out, they go out at once."""
        with scripted(after_switching(echo)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                await tunnel.write_soon(b"pong")
                assert await read_exactly(tunnel, 4) == b"pong"
                await response.aclose()

    async def test_the_last_one(self) -> None:
        """If something waits, they go out behind it, and only the last of them."""
        release, received = threading.Event(), list[bytes]()

        def read_late(connection: Connection) -> None:
            assert release.wait(LIMIT)
            received.append(connection.read_exactly(len(LARGE) + 4))
            connection.send(b"done")
            connection.wait_until_closed()

        with scripted(after_switching(read_late)) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                writing = asyncio.create_task(tunnel.write(LARGE))
                await turn()
                assert not tunnel.write_nowait(b"lost")
                for word in (b"one.", b"two.", b"last"):
                    await tunnel.write_soon(word)
                release.set()
                async with asyncio.timeout(LIMIT):
                    await writing
                assert await read_exactly(tunnel, 4) == b"done"
                assert received == [LARGE + b"last"]
                await response.aclose()


class TestDraining:
    """What a pool tells a tunnel that is open, or made, while the pool waits for the last exchanges."""

    async def test_told_or_not(self) -> None:
        """Who wants to know is told; for whoever does not, it waits in vain."""
        told: list[str] = []
        with scripted(after_switching()) as upstream:
            async with running() as engine:
                response, tunnel = await open_tunnel(engine, upstream.url)
                assert await engine.drain(0) == 1
                tunnel.on_drain = lambda: told.append("goodbye")
                assert await engine.drain(0) == 1
                assert told == ["goodbye"]
                await response.aclose()
                assert await engine.drain(0) == 0
