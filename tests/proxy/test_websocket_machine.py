"""An open WebSocket, driven through ASGI by hand, on every engine and event loop: what no server and no client would show."""

import asyncio
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from fastapi_httpx_pool import (
    ClientFactory,
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    TLSSettings,
    create_lifespan,
    pool_statistics,
    proxy_websocket,
)
from fastapi_httpx_pool.proxy import _bridge
from fastapi_httpx_pool.proxy._handshake import Handshake
from tests.support.answers import read_answer
from tests.support.asgi import LIMIT, started
from tests.support.asgi_websocket import WebSocketDriver, serving_websocket
from tests.support.carriers import ASYNCIO, on_both_engines, on_both_engines_of_asyncio
from tests.support.families import FAMILIES, module_of
from tests.support.http2_server import serving_http2
from tests.support.patience import with_patience
from tests.support.proxies import proxied, settings_of
from tests.support.trio_server import serving_trio
from tests.support.uploads import chunk
from tests.support.websocket_pairs import wait_for
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    End,
    Handed,
    accepting,
    asking,
    exchange,
    frame,
    handed,
    opened,
    part,
)

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [pytest.param(ASYNCIO, id="asyncio")])

LARGE = bytes(range(256)) * 64 * 1024
"""16 MiB: more than all buffers on the way."""


CLOSED = RuntimeError("Unexpected ASGI message 'websocket.close', after sending 'websocket.close'.")
"""How uvicorn says that it has closed a WebSocket itself."""


async def in_thread(action: Callable[[], Any]) -> Any:
    """Wait for something that a socket does."""
    return await anyio.to_thread.run_sync(action)


async def accepted(client: WebSocketDriver, upstream: Handed) -> End:
    """Let the upstream accept a WebSocket that the client asks for; return the upstream's end."""
    far: End = await in_thread(lambda: upstream.asked().accept())
    assert (await client.sent_next())["type"] == "websocket.accept"
    return far


def app_at(door: str, url: str, engine: Any, policy: ProxyPolicy) -> Any:
    """Return what serves a proxy's WebSockets behind one of the doors: ``alone``, ``route`` or ``helper``."""
    settings = settings_of(engine=engine)
    if door == "alone":
        return ReverseProxy(url, settings=settings, policy=policy)
    app = FastAPI(lifespan=create_lifespan(settings), openapi_url=None)
    proxy = ReverseProxy(url, policy=policy)

    async def relay(websocket: WebSocket) -> None:
        await (proxy.websocket(websocket) if door == "route" else proxy_websocket(websocket, url, policy=policy))

    app.add_api_websocket_route("/", relay)
    return app


@asynccontextmanager
async def open_pair(
    engine: str = "native", *, door: str = "alone", **policy: Any
) -> AsyncIterator[tuple[WebSocketDriver, End]]:
    """Open a WebSocket for a block; the test is its client's server, and its upstream."""
    with handed() as upstream:
        app = app_at(door, upstream.url, engine, ProxyPolicy(**policy))
        async with started(app) as lifespan, serving_websocket(app, lifespan.scope) as client:
            far = await accepted(client, upstream)
            try:
                yield client, far
            finally:
                far.hang_up()


async def returned(client: WebSocketDriver) -> None:
    """Wait until the app has returned, without an error."""
    with anyio.fail_after(LIMIT):
        await client.returned.wait()
    assert client.error is None


def said(text: str) -> dict[str, Any]:
    """Return what a client says."""
    return {"type": "websocket.receive", "text": text}


def left(code: int, reason: str = "") -> dict[str, Any]:
    """Return what a server says of a client that has left."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def failing(kind: str, error: Exception, then: Callable[[], None] = lambda: None) -> Callable[[Any], Awaitable[None]]:
    """Return a server that cannot send messages of a kind; ``then`` is called before it says so."""

    async def on_send(message: Any) -> None:
        if message["type"] == kind:
            then()
            raise error

    return on_send


class Stuck:
    """A client that takes no message before the test lets it."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.release = anyio.Event()

    async def __call__(self, message: Any) -> None:
        """Take a message, in time."""
        if message["type"] == "websocket.send":
            self.reached.set()
            await self.release.wait()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the proxy's warnings so far."""
    found = [record for record in caplog.records if record.name == "fastapi_httpx_pool.proxy"]
    return [record.getMessage() for record in found if record.levelno >= logging.WARNING]


# On every engine, and in every event loop.


@on_both_engines
async def test_h5_messages_both_ways(engine: str) -> None:
    """Text and bytes pass as they are, in fragments towards an upstream if they are long, and put together from it."""
    async with open_pair(engine) as (client, far):
        client.tell(said("zur Sache: ä€🎉"))
        assert await in_thread(far.message) == (TEXT, "zur Sache: ä€🎉".encode())
        client.tell({"type": "websocket.receive", "bytes": LARGE[: 1 << 20]})
        found = await in_thread(far.frames)
        assert [len(one.payload) for one in found] == [256 * 1024] * 4
        assert b"".join(one.payload for one in found) == LARGE[: 1 << 20]
        far.text("hello")
        assert await client.sent_next() == {"type": "websocket.send", "text": "hello"}
        far.send(BINARY, b"a", fin=False)
        far.send(CONTINUATION, b"b", fin=False)
        far.send(CONTINUATION, b"c")
        assert await client.sent_next() == {"type": "websocket.send", "bytes": b"abc"}


@on_both_engines
async def test_h5_goodbyes_both_ways(engine: str) -> None:
    """Whoever closes, the other side is told with which code and why, and the connection is closed."""
    async with open_pair(engine) as (client, far):
        client.tell(left(4001, "done"))
        assert await in_thread(far.agree) == (4001, "done")
        assert not client.returned.is_set(), "the upstream hangs up first"
        far.hang_up()
        await returned(client)
        assert client.nothing_more()
    async with open_pair(engine) as (client, far):
        far.close(4002, "enough")
        assert await in_thread(far.told) == (4002, "enough")
        assert await client.sent_next() == {"type": "websocket.close", "code": 4002, "reason": "enough"}
        far.hang_up()
        await returned(client)


@on_both_engines
@pytest.mark.parametrize("leave", ["hang_up", "reset"])
async def test_h5_an_upstream_that_is_lost(engine: str, leave: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told (1011), and the log why."""
    async with open_pair(engine) as (client, far):
        getattr(far, leave)()
        told = await client.sent_next()
        assert (told["type"], told["code"], told["reason"]) == ("websocket.close", 1011, "")
        await returned(client)
    [warning] = warnings_in(caplog)
    assert ": response_body_broke, after the handshake: " in warning


@on_both_engines
@with_patience(0.2)
async def test_h6_an_upstream_that_is_silent(engine: str, caplog: pytest.LogCaptureFixture, limit: float) -> None:
    """It is pinged, and as soon as it says anything that is well; without a word it is dead (1011)."""
    caplog.clear()
    async with open_pair(engine, websocket_ping_interval=0.05, websocket_ping_timeout=limit) as (client, far):
        for answer in (PONG, TEXT):
            pinged = await in_thread(far.read)
            assert (pinged.opcode, pinged.payload) == (PING, b"")
            far.send(answer)
        assert await client.sent_next() == {"type": "websocket.send", "text": ""}
        assert (await in_thread(far.read)).opcode == PING
        assert await in_thread(far.agree) == (1011, "keepalive ping timeout")
        far.hang_up()
        assert (await client.sent_next())["code"] == 1011
        await returned(client)
    [warning] = warnings_in(caplog)
    assert warning.startswith("WebSocket http://127.0.0.1:")
    assert warning.endswith(": response_body_timeout, after the handshake: the upstream has not answered a ping")


@on_both_engines
async def test_h6_pings_while_the_upstream_takes_nothing(engine: str) -> None:
    """An upstream that does not read is listened to all the same; its pings wait for nothing, and are not in the way."""
    async with open_pair(engine) as (client, far):
        far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.tell({"type": "websocket.receive", "bytes": LARGE})
        client.tell(said("next"))
        for number in range(100):
            far.send(PING, b"%d" % number)
            far.text(str(number))
            assert await client.sent_next() == {"type": "websocket.send", "text": str(number)}
        found = await in_thread(lambda: until(far, b"next"))
        assert b"".join(payload for opcode, payload in found if opcode in (BINARY, CONTINUATION)) == LARGE
        pongs = [payload for opcode, payload in found if opcode == PONG]
        assert len(pongs) < 100, "nothing was in the way"
        assert set(pongs) <= {b"%d" % number for number in range(100)}
        far.send(PING, b"now")
        assert (await in_thread(far.read))[:2] == (PONG, b"now")


@on_both_engines
async def test_h6_very_many_pings_in_a_packet(engine: str) -> None:
    """An upstream may send thousands of frames at once; what comes after them is not lost, and pongs there are."""
    async with open_pair(engine) as (client, far):
        far.send_raw(far.made(PING) * 5000 + far.made(PING, b"last") + far.made(TEXT, b"after"))
        assert await client.sent_next() == {"type": "websocket.send", "text": "after"}
        client.tell(said("here"))
        found = await in_thread(lambda: until(far, b"here"))
        assert found[-2:] == [(PONG, b"last"), (TEXT, b"here")]


def until(far: End, text: bytes) -> list[tuple[int, bytes]]:
    """Return opcodes and payloads of the frames until a text comes."""
    found: list[tuple[int, bytes]] = []
    while not found or found[-1] != (TEXT, text):
        one = far.read()
        assert one is not None
        found.append((one.opcode, one.payload))
    return found


@on_both_engines
@pytest.mark.parametrize("both", [False, True], ids=["", "nor-does-the-client"])
async def test_h5_an_upstream_that_is_lost_while_it_takes_nothing(
    engine: str, both: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that cannot be sent on is the end (1011), whatever the other direction waits for."""
    async with open_pair(engine) as (client, far):
        if both:
            client.on_send = stuck = Stuck()
            far.text("not taken")
            await stuck.reached.wait()
        far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.tell({"type": "websocket.receive", "bytes": LARGE})
        assert (await in_thread(far.read)).opcode == BINARY
        far.reset()
        assert (await client.sent_next())["code"] == 1011
        await returned(client)
    [warning] = warnings_in(caplog)
    assert ": response_body_broke, after the handshake: " in warning


def test_h1_under_hypercorns_trio_worker() -> None:
    """So they do under a server that runs trio: messages, both closings, an upstream that is lost, and a refusal."""
    with handed() as upstream, serving_trio(ReverseProxy(upstream.url, settings=settings_of())) as port:
        with opened(port, upstream) as pair:
            exchange(pair)
            part(pair)
        with opened(port, upstream) as pair:
            pair.upstream.close(4001, "enough")
            assert pair.client.agree() == (4001, "enough")
            assert pair.upstream.told() == (4001, "enough")
        with opened(port, upstream) as pair:
            pair.upstream.reset()
            assert pair.client.agree() == (1011, "")
        with opened(port, upstream) as pair:
            pair.client.reset()
            assert pair.upstream.agree()[0] == 1001
        with asking(port) as client:
            upstream.asked().answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            answer = read_answer(client)
            assert (answer.status, answer.body) == (403, b"no")


# Clients that leave.


class Ready(asyncio.Future[None]):
    """What a socket always is that always has more: the task that awaits it is never seen waiting."""

    def __await__(self) -> Generator[Any]:
        self._asyncio_future_blocking = True
        yield self


class Endless:
    """A connection on which there is always one more message, but not for ever: a test has to be able to fail."""

    on_drain: Callable[[], None] | None = None
    draining = False

    def __init__(self) -> None:
        self.ready = Ready()
        self.ready.set_result(None)
        self.left = 10_000
        self.message = frame(TEXT, b"news")

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 -- httpcore's
        """Give a message, without a wait that anybody sees."""
        await self.ready
        self.left -= 1
        return self.message if self.left > 0 else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 -- likewise
        """Never be called."""
        raise AssertionError("there is always room")

    def write_nowait(self, buffer: bytes) -> bool:
        """Take everything."""
        return True

    write_soon = write


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_h5_a_client_that_leaves_an_upstream_that_never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """hypercorn takes messages for clients that are gone, so that nobody ever has to wait; it ends all the same."""
    monkeypatch.setattr(_bridge, "GOODBYE", 0)
    stream = Endless()

    async def receive() -> Any:
        return left(1001)

    async def send(message: Any) -> None:
        assert message["type"] == "websocket.send"

    bridge = _bridge.Bridge(receive, send, Handshake(None).protocol, stream, ProxyPolicy())
    assert (await bridge.run()).upstream == (1001, "")
    assert stream.left > 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_h5_an_upstream_that_leaves_a_client_that_never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a client that always has one more message keep it open."""
    monkeypatch.setattr(_bridge, "GOODBYE", 0)
    stream = Endless()
    stream.message = frame(CLOSE, (1000).to_bytes(2))
    count = 10_000

    async def receive() -> Any:
        nonlocal count
        await stream.ready
        count -= 1
        return said("more") if count > 0 else left(1001)

    async def send(message: Any) -> None:
        assert message["type"] == "websocket.close"

    ending = await _bridge.Bridge(receive, send, Handshake(None).protocol, stream, ProxyPolicy()).run()
    assert ending.client == (1000, "")
    assert count > 0


@on_both_engines
async def test_h5_what_a_client_says_when_it_leaves(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client whose own goodbye is still to be received when it takes no more is understood all the same."""
    async with open_pair(engine) as (client, far):
        client.on_send = failing("websocket.send", OSError("gone"), lambda: client.tell(left(3001, "bye")))
        far.text("hello?")
        assert await in_thread(far.agree) == (3001, "bye")
        far.hang_up()
        await returned(client)
        assert client.nothing_more()
    assert warnings_in(caplog) == []


@on_asyncio
@pytest.mark.parametrize("door", ["alone", "route", "helper"])
@pytest.mark.parametrize("error", [OSError("gone"), CLOSED, WebSocketDisconnect(1006)])
async def test_h5_how_servers_say_that_a_client_has_left(error: Exception, door: str) -> None:
    """However a server says it, and whoever is between, it is no error of the app's."""
    async with open_pair(door=door) as (client, far):
        client.on_send = failing("websocket.send", error, lambda: client.tell(left(3001, "bye")))
        far.text("hello?")
        assert await in_thread(far.agree) == (3001, "bye")
        far.hang_up()
        await returned(client)


@on_asyncio
@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.send", "websocket.close"])
async def test_h5_errors_of_servers(kind: str) -> None:
    """Whatever else a server raises is not for us to say; the upstream is let go all the same."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with started(proxy) as lifespan, serving_websocket(proxy, lifespan.scope) as client:
            client.on_send = failing(kind, RuntimeError("a bug"))
            asked = await in_thread(upstream.asked)
            far = asked.accept(and_send=frame(TEXT, b"hello") + frame(CLOSE))
            frames = await in_thread(far.ended_after)
            assert [one.opcode for one in frames] == ([] if kind == "websocket.accept" else [CLOSE])
            await client.returned.wait()
            assert "a bug" in "".join(traceback.format_exception(client.error))


@on_both_engines
async def test_h5_a_client_that_leaves_without_a_word(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing is heard of it, the upstream is told that it has gone away."""
    monkeypatch.setattr(_bridge, "GOODBYE", 0.05)
    async with open_pair(engine) as (client, far):
        client.on_send = failing("websocket.send", OSError("gone"))
        far.text("hello?")
        assert await in_thread(far.told) == (1001, "")
        far.hang_up()
        await returned(client)


@on_both_engines
async def test_h1_a_client_that_leaves_before_it_is_accepted(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    """While the upstream thinks about it, or when it has accepted: its connection is closed, and that is no warning."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))
        async with started(proxy) as lifespan:
            async with serving_websocket(proxy, lifespan.scope) as client:
                asked = await in_thread(upstream.asked)
                client.tell(left(1006))
                assert await in_thread(asked.was_let_go)
                await returned(client)
            async with serving_websocket(proxy, lifespan.scope) as client:
                client.on_send = failing("websocket.accept", OSError("gone"))
                asked = await in_thread(upstream.asked)
                asked.accept()
                assert await in_thread(asked.was_let_go)
                await returned(client)
                assert client.nothing_more()
    assert warnings_in(caplog) == []


@on_asyncio
@pytest.mark.parametrize("answers", [True, False])
async def test_h2_a_client_that_leaves_before_it_is_refused(answers: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody reads the refusal, and that is no warning."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with (
            started(proxy) as lifespan,
            serving_websocket(proxy, lifespan.scope, answers=answers) as client,
        ):
            kind = "websocket.http.response.start" if answers else "websocket.close"
            client.on_send = failing(kind, OSError("gone"))
            asked = await in_thread(upstream.asked)
            asked.answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            await returned(client)
    assert warnings_in(caplog) == []


@on_asyncio
async def test_h5_a_client_that_is_not_there_for_the_goodbye() -> None:
    """A client that cannot be told why it ends has left, and that is no error."""
    async with open_pair() as (client, far):
        client.on_send = failing("websocket.close", CLOSED)
        far.close(1000)
        await in_thread(far.told)
        far.hang_up()
        await returned(client)


@on_asyncio
async def test_h5_both_say_goodbye() -> None:
    """What a client says after the upstream's goodbye comes too late, and the upstream's code still reaches it."""
    async with open_pair() as (client, far):
        client.on_send = stuck = Stuck()
        far.send_raw(far.made(TEXT, b"last words") + far.made(CLOSE, (4003).to_bytes(2) + b"over"))
        await stuck.reached.wait()
        assert await in_thread(far.told) == (4003, "over")
        client.tell(said("wait!"))
        await anyio.wait_all_tasks_blocked()
        stuck.release.set()
        assert (await client.sent_next())["text"] == "last words"
        assert await client.sent_next() == {"type": "websocket.close", "code": 4003, "reason": "over"}
        far.sock.shutdown(socket.SHUT_WR)
        assert await in_thread(far.ended)
        await returned(client)


@on_asyncio
async def test_h5_a_client_that_closes_after_the_upstreams_goodbye() -> None:
    """Nobody has to be told anything then."""
    async with open_pair() as (client, far):
        client.on_send = stuck = Stuck()
        far.send_raw(far.made(TEXT, b"last words") + far.made(CLOSE, (4003).to_bytes(2)))
        await stuck.reached.wait()
        assert await in_thread(far.told) == (4003, "")
        client.tell(left(3001, "bye"))
        far.sock.shutdown(socket.SHUT_WR)
        assert await in_thread(far.ended)
        await returned(client)
        assert client.nothing_more()


@on_both_engines
async def test_h5_the_first_goodbye_counts(engine: str) -> None:
    """If both sides say goodbye at once, each is told what the other has said, or nothing; never two things."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))

        async def slowly(scope: Any, receive: Any, send: Any) -> None:
            async def send_in_any_case(message: Any) -> None:
                with anyio.CancelScope(shield=True):
                    await send(message)
                    if message["type"] == "websocket.send":
                        client.tell(left(3001, "bye"))
                        await anyio.wait_all_tasks_blocked()

            await proxy(scope, receive, send_in_any_case)

        async with started(proxy) as lifespan, serving_websocket(slowly, lifespan.scope) as client:
            far = await accepted(client, upstream)
            far.send_raw(far.made(TEXT, b"last words") + far.made(CLOSE, (4003).to_bytes(2)))
            assert (await client.sent_next())["text"] == "last words"
            assert await in_thread(far.told) == (4003, "")
            far.sock.shutdown(socket.SHUT_WR)
            assert await in_thread(far.ended)
            await returned(client)
            assert client.nothing_more()


@pytest.mark.parametrize("door", ["alone", "route"])
@on_both_engines_of_asyncio
async def test_h6_a_client_that_takes_nothing(engine: str, door: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is broken off after ``client_idle``, the upstream is told, and the log, too; other silence counts for nothing."""
    async with open_pair(engine, door=door, client_idle=0.2) as (client, far):
        far.text("one")
        assert (await client.sent_next())["text"] == "one"
        await anyio.sleep(0.3)  # of silence, which is no fault
        client.on_send = Stuck()
        far.text("two")
        assert await in_thread(far.told) == (1001, "")
        far.hang_up()
        await returned(client)
        assert client.nothing_more()
    [warning] = warnings_in(caplog)
    assert ": client_stalled, after the handshake: " in warning


@on_both_engines
@pytest.mark.parametrize("ping_timeout", [None, LIMIT])
@with_patience(0.4)
async def test_h6_idle_though_pinged(engine: str, ping_timeout: float | None, limit: float) -> None:
    """Pings are no messages: without any of those for ``websocket_idle``, both are told that it is idle (1001)."""
    policy: dict[str, Any] = {"websocket_ping_interval": 0.1, "websocket_ping_timeout": ping_timeout}
    async with open_pair(engine, websocket_idle=limit, **policy) as (client, far):
        client.tell(said("hello"))
        assert await in_thread(far.message) == (TEXT, b"hello")
        assert (await in_thread(far.read)).opcode == PING
        far.send(PONG)
        assert await in_thread(lambda: goodbye_after_pings(far)) == (1001, "idle")
        far.hang_up()
        assert await client.sent_next() == {"type": "websocket.close", "code": 1001, "reason": "idle"}
        await returned(client)


def goodbye_after_pings(far: End) -> tuple[int, str]:
    """Return code and reason of the close frame that comes after some pings, which are answered."""
    while (found := far.read()) is not None and found.opcode == PING:
        far.send(PONG)
    assert found is not None
    assert found.opcode == CLOSE
    return int.from_bytes(found.payload[:2]), found.payload[2:].decode()


@on_both_engines
@with_patience(0.3)
async def test_h6_a_message_keeps_it_open(engine: str, limit: float) -> None:
    """An upstream that answers no pings yet, and a client that speaks meanwhile: it is neither idle nor dead."""
    policy: dict[str, Any] = {"websocket_idle": limit, "websocket_ping_interval": limit / 3}
    async with open_pair(engine, **policy) as (client, far):
        assert (await in_thread(far.read)).opcode == PING
        await anyio.sleep(limit / 3)
        client.tell(said("one"))
        assert await in_thread(far.message) == (TEXT, b"one")
        await anyio.sleep(limit * 2 / 3)  # now it would be idle, but for the message
        far.text("two")
        assert (await client.sent_next())["text"] == "two"


@on_asyncio
@pytest.mark.parametrize("idle", [False, True])
@with_patience(0.2)
async def test_h6_no_pings(idle: bool, limit: float) -> None:
    """``websocket_ping_interval=None`` lets an upstream be silent for ever, or until ``websocket_idle`` ends it."""
    async with open_pair(websocket_idle=limit if idle else None, websocket_ping_interval=None) as (client, far):
        for number in range(3):
            await anyio.sleep(limit / 2)
            client.tell(said(str(number)))
            assert await in_thread(far.read) == (TEXT, str(number).encode(), True, 0)
        if not idle:
            client.tell(left(1000))
        assert await in_thread(far.agree) == ((1001, "idle") if idle else (1000, ""))


@pytest.mark.parametrize(
    ("server", "door"), [("sansio", "alone"), ("sansio", "route"), ("legacy", "alone"), ("wsproto", "helper")]
)
def test_h6_a_client_that_takes_nothing_is_broken_off(server: str, door: str, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn would wait for it for ever: its connection is reset, and the upstream's is free."""
    with (
        handed() as upstream,
        proxied(upstream.url, server, door=door, client_idle=0.3) as port,
        opened(port, upstream, b"/" if door == "alone" else b"/p/") as pair,
    ):
        message = pair.upstream.made(BINARY, LARGE[: 256 * 1024])
        pair.upstream.send_raw(message * 64)
        assert pair.upstream.told() == (1001, "")
        pair.upstream.hang_up()
        wait_for(lambda: bool(warnings_in(caplog)))
        assert len(pair.client._take(len(message) * 65)) % len(message), "the server has sent on"
    [warning] = warnings_in(caplog)
    assert warning.endswith(": client_stalled, after the handshake: the client has taken nothing for 0.3 s")


# Ends from outside.


async def keep(told: list[Any], message: Any) -> None:
    """Take what a client is told."""
    told.append(message)


@on_both_engines
async def test_h5_the_app_is_cancelled(engine: str) -> None:
    """A server that cancels an app whose WebSocket is open leaves it the time for a word to each side: 1001."""
    told: list[Any] = []
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))
        async with started(proxy) as lifespan:
            async with serving_websocket(proxy, lifespan.scope) as client:
                far = await accepted(client, upstream)
                client.on_send = partial(keep, told)
            assert client.returned.is_set()
            assert told == [{"type": "websocket.close", "code": 1001, "reason": ""}]
            assert [one.payload for one in await in_thread(far.ended_after)] == [(1001).to_bytes(2)]


@on_both_engines_of_asyncio
async def test_h5_the_apps_task_is_cancelled(engine: str) -> None:
    """So it does in the way of asyncio's own, in which one cancellation is all that comes; it goes on to the canceller."""
    tasks: list[asyncio.Task[None]] = []
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))

        async def in_a_task(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(asyncio.create_task(proxy(scope, receive, send)))
            with suppress(asyncio.CancelledError):
                await tasks[0]

        async with started(proxy) as lifespan, serving_websocket(in_a_task, lifespan.scope) as client:
            far = await accepted(client, upstream)
            client.on_send = failing("websocket.close", ZeroDivisionError("the server has failed as well"))
            tasks[0].cancel()
            assert [one.payload for one in await in_thread(far.ended_after)] == [(1001).to_bytes(2)]
            await returned(client)
            assert tasks[0].cancelled()


@on_asyncio
async def test_h5_the_pool_is_closed() -> None:
    """A factory that is left says 1001 to both sides of each WebSocket, and waits for no more than their answers."""
    with handed() as upstream:
        settings = settings_of(drain=LIMIT * 10)
        factory = ClientFactory(settings)
        await factory.__aenter__()
        pool = factory.get()
        proxy = ReverseProxy(upstream.url, client=pool)
        async with (
            serving_websocket(proxy, {}) as one,
            serving_websocket(proxy, {}) as other,
            anyio.create_task_group() as group,
        ):
            ends = [(client, await accepted(client, upstream)) for client in (one, other)]
            assert pool_statistics(pool).active == 2
            with anyio.fail_after(LIMIT):
                group.start_soon(factory.__aexit__, None, None, None)
                for client, far in ends:
                    assert await client.sent_next() == {"type": "websocket.close", "code": 1001, "reason": ""}
                    assert await in_thread(far.agree) == (1001, "")
                    far.hang_up()
                    await returned(client)
        found = pool_statistics(pool)
        assert (found.active, found.idle, found.queued) == (0, 0, 0)


@on_asyncio
async def test_h5_the_pool_is_closed_during_the_handshake() -> None:
    """A WebSocket that begins when the pool is being closed has its turn, and is told at once: 1001."""
    with handed() as upstream:
        factory = ClientFactory(settings_of(drain=LIMIT * 10))
        await factory.__aenter__()
        pool = factory.get()
        proxy = ReverseProxy(upstream.url, client=pool)
        async with serving_websocket(proxy, {}) as client, anyio.create_task_group() as group:
            asked = await in_thread(upstream.asked)
            with anyio.fail_after(LIMIT):
                group.start_soon(factory.__aexit__, None, None, None)
                await anyio.wait_all_tasks_blocked()
                far = await in_thread(asked.accept)
                assert (await client.sent_next())["type"] == "websocket.accept"
                assert await client.sent_next() == {"type": "websocket.close", "code": 1001, "reason": ""}
                assert await in_thread(far.agree) == (1001, "")
                far.hang_up()
                await returned(client)
        assert pool_statistics(pool).active == 0


# The switch.


@on_both_engines
async def test_h1_a_client_that_does_not_wait(engine: str) -> None:
    """What a client says before it is accepted, if a server lets it, is not taken for its leaving, nor lost."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(engine=engine))
        async with started(proxy) as lifespan, serving_websocket(proxy, lifespan.scope) as client:
            asked = await in_thread(upstream.asked)
            client.tell(said("one"))
            client.tell(said("two"))
            await anyio.sleep(0.1)  # until it is watched
            far = await in_thread(asked.accept)
            assert await in_thread(far.message) == (TEXT, b"one")
            assert await in_thread(far.message) == (TEXT, b"two")


@on_asyncio
async def test_h8_a_hook_cannot_accept(caplog: pytest.LogCaptureFixture) -> None:
    """A hook may answer with anything but a 101, which has failed then."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(), on_request=lambda request: Response(status_code=101))
        async with started(proxy) as lifespan, serving_websocket(proxy, lifespan.scope) as client:
            refusal = await client.sent_next()
            assert (refusal["type"], refusal["status"]) == ("websocket.http.response.start", 502)
        assert upstream.accepted == 0
    assert "only the upstream can accept a WebSocket; a hook can refuse it" in caplog.text


@on_asyncio
async def test_h5_a_reason_that_no_frame_can_hold() -> None:
    """A server that allows a client more than 123 bytes does not keep its goodbye from the upstream."""
    async with open_pair() as (client, far):
        client.tell(left(3001, "ü" * 100))
        assert await in_thread(far.agree) == (3001, "ü" * 61)
        far.hang_up()
        await returned(client)


@on_asyncio
async def test_h1_how_long_the_handshake_has_taken() -> None:
    """``server_timing`` is for a WebSocket's handshake, too; and it has a body no more than any 101."""
    with handed() as upstream:
        policy = ProxyPolicy(server_timing=True, via="edge", via_in_responses=True)
        proxy = ReverseProxy(upstream.url, settings=settings_of(), policy=policy)
        async with started(proxy) as lifespan, serving_websocket(proxy, lifespan.scope) as client:
            await in_thread(lambda: upstream.asked().accept(b"Content-Length: 0", b"X-Theirs: 1"))
            accept = await client.sent_next()
    names = [name for name, _ in accept["headers"]]
    assert names == [b"x-theirs", b"via", b"server-timing"]
    assert dict(accept["headers"])[b"via"] == b"1.1 edge"


def test_h1_an_upstream_that_speaks_http2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A client that has agreed on HTTP/2 cannot ask for a WebSocket: 502, whatever the answer is, and the log says what to do."""
    with serving_http2(tmp_path) as url:
        settings = settings_of(http2=True, tls=TLSSettings(ca_file=tmp_path / "ca.pem"))
        with proxied(url, "sansio", settings=settings) as port, asking(port) as client:
            answer = read_answer(client)
    assert answer.status == 502
    assert answer.values(b"proxy-status")[0].endswith(b"; error=http_protocol_error")
    [warning] = warnings_in(caplog)
    assert warning.endswith("in which there is no Upgrade; give the proxy a client without http2=True")


@on_asyncio
@pytest.mark.parametrize("family", FAMILIES)
async def test_h1_a_transport_that_is_no_connection(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """Behind an answer that a mock makes up there is nothing to speak through, so that it is a 502."""
    module = module_of(family)

    def answer(request: Any) -> Any:
        lines = {"upgrade": "websocket", "connection": "Upgrade"}
        key: str = request.headers["sec-websocket-key"]
        return module.Response(101, headers={**lines, "sec-websocket-accept": accepting(key.encode()).decode()})

    own = module.AsyncClient(transport=module.MockTransport(answer))
    proxy = ReverseProxy("http://upstream.example", client=own)
    async with serving_websocket(proxy, {}) as client:
        start = await client.sent_next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 502)
        await client.sent_next()
        await returned(client)
    await own.aclose()
    [warning] = warnings_in(caplog)
    assert warning.endswith("HandshakeFailed: the client's transport does not let anybody at its connections")


@on_asyncio
@pytest.mark.parametrize("joins", [False, True])
async def test_h2_lines_of_a_refusal(joins: bool) -> None:
    """Each line is a line; but for granian, which would end its process over two of one name, they are joined."""
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    if joins:
        extensions["http.response.pathsend"] = {}
    lines = b"Set-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nX-A: 2\r\n"
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with (
            started(proxy) as lifespan,
            serving_websocket(proxy, lifespan.scope, extensions=extensions) as client,
        ):
            asked = await in_thread(upstream.asked)
            asked.answer(b"HTTP/1.1 403 No\r\n" + lines + b"Content-Length: 2\r\n\r\nno")
            start = await client.sent_next()
            assert await client.sent_next() == {
                "type": "websocket.http.response.body",
                "body": b"no",
                "more_body": False,
            }
            await returned(client)
    length = (b"content-length", b"2")
    each = [(b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2"), (b"x-a", b"2"), length]
    assert start["headers"] == ([(b"set-cookie", b"a=1"), (b"x-a", b"1, 2"), length] if joins else each)


def test_h2_a_refusal_that_is_too_long(caplog: pytest.LogCaptureFixture) -> None:
    """One that does not fit into memory is a 502, and the log has the reason."""
    body = bytes(16 * 1024 * 1024 + 1)
    with handed() as upstream, proxied(upstream.url, "sansio") as port, asking(port) as client:
        asked = upstream.asked()
        asked.answer(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body))
        answer = read_answer(client)
        assert answer.status == 502
        assert asked.was_let_go()
    [warning] = warnings_in(caplog)
    assert ": response_too_large, answered with 502: " in warning
    assert warning.endswith(": the refusal of the WebSocket is longer than 16777216 bytes")


@on_asyncio
async def test_h3_subprotocols_without_their_line() -> None:
    """A server that tells the subprotocols, but keeps their line, is understood; and the choice is not repeated as a line."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with (
            started(proxy) as lifespan,
            serving_websocket(proxy, lifespan.scope, subprotocols=["v2.chat", "v1.chat"]) as client,
        ):
            asked = await in_thread(upstream.asked)
            assert asked.values(b"sec-websocket-protocol") == [b"v2.chat, v1.chat"]
            asked.accept(b"Sec-WebSocket-Protocol: v1.chat")
            assert await client.sent_next() == {"type": "websocket.accept", "subprotocol": "v1.chat", "headers": []}


@on_asyncio
@pytest.mark.parametrize("line", [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")])
async def test_g_a_handshake_with_a_body(line: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    """A server that lets it through leads nobody astray: it is a 400, and the upstream is not asked."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with started(proxy) as lifespan, serving_websocket(proxy, lifespan.scope, headers=(line,)) as client:
            assert (await client.sent_next())["status"] == 400
            await client.sent_next()
            await returned(client)
        assert upstream.accepted == 0
    [warning] = warnings_in(caplog)
    assert warning.endswith("the handshake of a WebSocket has a body")


@on_asyncio
async def test_h8_a_hook_leads_elsewhere() -> None:
    """``on_request`` may give a URL of scheme ``ws``, too; but a handshake stays a GET."""

    def elsewhere(request: ProxyRequest) -> None:
        request.url = upstream.url.replace("http", "ws") + "/there"
        if request.headers.get("x-method"):
            request.method = "POST"

    with handed() as upstream:
        proxy = ReverseProxy("http://127.0.0.1:9/here", settings=settings_of(), on_request=elsewhere)
        async with started(proxy) as lifespan:
            async with serving_websocket(proxy, lifespan.scope) as client:
                asked = await in_thread(upstream.asked)
                assert asked.target == b"/there"
                asked.accept()
                assert (await client.sent_next())["type"] == "websocket.accept"
            async with serving_websocket(proxy, lifespan.scope, headers=((b"x-method", b"1"),)) as client:
                start = await client.sent_next()
                assert start["status"] == 502
                assert dict(start["headers"])[b"proxy-status"].endswith(b"; error=proxy_internal_error")
        assert upstream.accepted == 1
