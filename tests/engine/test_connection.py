"""What happens on a connection before anybody has it, and while nobody looks."""

import asyncio
import contextlib
import ssl
import threading
from typing import Any

import pytest

from fastapi_httpx_pool.engine import ConnectOptions, Engine
from fastapi_httpx_pool.events import ConnectionClosed
from fastapi_httpx_pool.exceptions import ReadError, RemoteProtocolError
from tests.support.engines import (
    LIMIT,
    Events,
    assert_quiet,
    both_loops,
    fetch,
    pool_of,
    request_to,
    running,
    turn,
    until,
)
from tests.support.tls import Authority
from tests.support.upstream import Connection, answering, ok, scripted
from tests.support.watched import Held

pytestmark = [pytest.mark.anyio, both_loops]


class Pausing:
    """A ``trace`` that takes its time at one step: until the connection has been closed."""

    def __init__(self, step: str, until: Any) -> None:
        self._step = step
        self._until = until

    async def __call__(self, name: str, info: Any) -> None:
        """Take note of a step."""
        if name == self._step:
            await self._until()


def assert_balanced(engine: Engine, url: str) -> None:
    """Check that each connection that was opened is idle or closed."""
    found = engine.statistics().origins[url]
    assert found.opened == found.idle + sum(found.closed.values())


EARLY = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("said", [b"", EARLY], ids=["nothing", "early-answer"])
async def test_closed_before_the_request_is_written(said: bytes) -> None:
    """A new connection that is closed before there is a request on it is an error, not a wait."""
    events = Events()

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok())(connection)
        connection.send(said)

    async def until() -> None:
        await events.wait_for(ConnectionClosed)
        await turn(3)

    with scripted(script) as upstream:
        async with running(observer=events) as engine:
            trace = Pausing("http11.send_request_headers.started", until)
            # Where it is seen depends on the event loop.
            with pytest.raises(ReadError, match=r"before the request was sent|as soon as it was made"):
                await fetch(engine, upstream.url, extensions={"trace": trace})
            assert_quiet(engine)
            assert await fetch(engine, upstream.url) == b"ok"


@pytest.mark.parametrize("said", [b"", EARLY], ids=["nothing", "early-answer"])
async def test_closed_before_the_loop_has_it(said: bytes) -> None:
    """A server that is gone before the event loop has the socket has either answered or not."""
    hung_up = threading.Event()

    def script(connection: Connection) -> None:
        if connection.number:
            answering(ok())(connection)
        connection.send(said)
        connection.close()
        hung_up.set()

    async def until() -> None:
        assert await asyncio.to_thread(hung_up.wait, LIMIT)

    with scripted(script) as upstream:
        async with running() as engine:
            with contextlib.suppress(RemoteProtocolError, ReadError):
                trace = Pausing("connection.connect_tcp.complete", until)
                assert (said, await fetch(engine, upstream.url, extensions={"trace": trace})) == (EARLY, b"")
            assert_quiet(engine)
            assert_balanced(engine, upstream.url)
            assert await fetch(engine, upstream.url) == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("said", [b"", EARLY], ids=["nothing", "early-answer"])
async def test_closed_together_with_the_handshake(authority: Authority, said: bytes, version: ssl.TLSVersion) -> None:
    """What a TLS server says before it has been asked, or that it has gone, is an error and no response."""
    context = authority.server()

    def script(connection: Connection) -> None:
        if connection.number == 0:
            connection.send(said)
            connection.close()
        else:
            answering(ok())(connection)

    context.maximum_version = version
    with scripted(script, context) as upstream:
        async with running(options=ConnectOptions(ssl_context=authority.client())) as engine:
            with contextlib.suppress(RemoteProtocolError, ReadError):
                assert (said, await fetch(engine, upstream.url)) == (EARLY, b"")
            assert_quiet(engine)
            assert_balanced(engine, upstream.url)
            assert await fetch(engine, upstream.url) == b"ok"


async def test_idle_connection_dies_while_a_trace_is_told() -> None:
    """A reused connection that dies before the request is written is replaced like any other stale one."""
    hang_up = threading.Event()
    events = Events()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(ok(b"%d" % connection.number))
        hang_up.wait(LIMIT)
        connection.close()

    async def until() -> None:
        hang_up.set()
        await events.wait_for(ConnectionClosed)

    with scripted(script) as upstream:
        async with running(observer=events) as engine:
            assert await fetch(engine, upstream.url) == b"0"
            trace = Pausing("http11.send_request_headers.started", until)
            assert await fetch(engine, upstream.url, extensions={"trace": trace}) == b"1"
            assert engine.statistics().origins[upstream.url].retried == 1


async def test_lost_with_nothing_left_to_read() -> None:
    """A connection that breaks ends its exchange with the reason, if the peer said nothing before."""
    held = Held()
    with scripted(held) as upstream:
        async with running() as engine:
            sending = asyncio.ensure_future(fetch(engine, upstream.url))
            await held.arrived()
            (connection,) = pool_of(engine)._connections
            connection.connection_lost(OSError("the cable was cut"))
            with pytest.raises(ReadError, match="the cable was cut"):
                await sending
            assert_quiet(engine)
            held.release()


async def test_read_while_it_is_closing() -> None:
    """What has come of a response is read to its end, though the connection is just being lost."""
    with scripted(answering(ok(b"x" * 20_000_000))) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url))
            (connection,) = pool_of(engine)._connections
            await until(lambda: not connection._reading)
            connection.transport.abort()
            chunks = aiter(response.body)
            assert len(await anext(chunks)) > 65536
            with pytest.raises(RemoteProtocolError, match="without sending complete message body"):
                await anext(chunks)
            assert_quiet(engine)


async def test_bytes_while_it_is_closing() -> None:
    """More than is kept at a time is no reason to stop reading from a connection that is being lost."""
    with scripted(answering(ok(b"x" * 20_000_000)[:100])) as upstream:
        async with running() as engine:
            response = await engine(request_to(upstream.url))
            (connection,) = pool_of(engine)._connections
            connection.transport.abort()
            connection.data_received(b"x" * 1_000_000)
            chunks = aiter(response.body)
            assert len(await anext(chunks)) >= 1_000_000
            with pytest.raises(RemoteProtocolError, match="without sending complete message body"):
                await anext(chunks)
            assert_quiet(engine)


async def test_last_words(anyio_backend: Any) -> None:
    """A whole response that the kernel still holds when a send has failed is the answer."""
    held, answer = threading.Event(), threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        held.set()
        assert answer.wait(LIMIT)
        connection.send(ok(b"too much"))

    with scripted(script) as upstream:
        async with running() as engine:
            fetching = asyncio.ensure_future(fetch(engine, upstream.url))
            await until(held.is_set)
            (connection,) = pool_of(engine)._connections
            connection.transport.pause_reading()
            answer.set()
            await until(connection.is_readable)
            connection.connection_lost(BrokenPipeError("a send that failed"))
            assert await fetching == b"too much"
            assert_quiet(engine)
