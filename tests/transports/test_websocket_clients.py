"""WebSockets of the users' own: ``client.websocket`` of httpx2, and httpx-ws for httpx, over our transports."""

import importlib
import queue
import socket
import ssl
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import pytest
import trustme
from fastapi import FastAPI, WebSocket
from httpx_ws import aconnect_ws
from websockets.sync.client import connect as connect_to_app
from websockets.sync.server import ServerConnection
from wsproto.utilities import LocalProtocolError

from fastapi_httpx_pool import ClientDep, ClientFactory, ClientSettings, LimitSettings, TLSSettings, create_lifespan
from fastapi_httpx_pool.transports import pool_statistics
from tests.support.patience import with_patience
from tests.support.server import serving
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted
from tests.support.watched import SOON, Held, Watched
from tests.support.websocket_clients import (
    echo,
    frame_of,
    on_every_stack,
    on_the_engine,
    read_frame,
    serving_websockets,
    switch,
)

pytestmark = pytest.mark.anyio

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Trusted(NamedTuple):
    """A server that a client with the right settings trusts."""

    server: ssl.SSLContext
    client: TLSSettings


@pytest.fixture(name="trusted")
def _trusted(tmp_path: Path) -> Trusted:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return Trusted(context, TLSSettings(ca_file=tmp_path / "ca.pem"))


def switch_and_repeat(connection: Connection) -> None:
    """Take a handshake, and give back one text."""
    switch(connection)
    connection.send(frame_of(*read_frame(connection)))
    connection.wait_until_closed()


def active(client: Any) -> int:
    """Return how many connections are in use."""
    return pool_statistics(client).active


# What is said.


@on_every_stack
async def test_messages(stack: Any) -> None:
    """Text, bytes and JSON go both ways, long ones and empty ones too."""
    with serving_websockets(echo) as server:
        async with stack.opened() as factory, stack.connect(factory.get(), server.url) as session:
            with anyio.fail_after(LIMIT):
                for text in ("hello", "", "ä€🎉", "x" * 60_000):
                    await session.send_text(text)
                    assert await session.receive_text() == text
                for data in (b"hello", b"", bytes(range(256)) * 200):
                    await session.send_bytes(data)
                    assert await session.receive_bytes() == data
                for mode in ("text", "binary"):
                    await session.send_json({"a": [1, None]}, mode)
                    assert await session.receive_json(mode=mode) == {"a": [1, None]}


@on_every_stack
async def test_first_words(stack: Any) -> None:
    """What a server says in one breath with its answer to the handshake is not lost, however much it is."""
    texts = [b"%d" % number * 10 for number in range(2000)]
    first = b"".join(frame_of(TEXT, text) for text in texts)

    def script(connection: Connection) -> None:
        switch(connection, first=first)
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with stack.opened() as factory, stack.connect(factory.get(), upstream.url) as session:
            with anyio.fail_after(LIMIT):
                assert [await session.receive_text() for _ in texts] == [text.decode() for text in texts]


@on_every_stack
async def test_many_at_once(stack: Any) -> None:
    """Each WebSocket is a connection of its own, and counts as one in use until it is closed."""
    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            client = factory.get()
            async with AsyncExitStack() as opened:
                sessions = [await opened.enter_async_context(stack.connect(client, server.url)) for _ in range(5)]
                assert active(client) == 5
                with anyio.fail_after(LIMIT):
                    for number, session in enumerate(sessions):
                        await session.send_text(str(number))
                    assert [await session.receive_text() for session in sessions] == ["0", "1", "2", "3", "4"]
            found = pool_statistics(client)
            assert (found.active, found.idle, found.queued) == (0, 0, 0)


@on_every_stack
async def test_ping(stack: Any) -> None:
    """A ping is answered, by either side."""

    def script(connection: ServerConnection) -> None:
        assert connection.ping().wait(LIMIT)
        connection.send("alive")
        echo(connection)

    with serving_websockets(script) as server:
        async with stack.opened() as factory, stack.connect(factory.get(), server.url) as session:
            with anyio.fail_after(LIMIT):
                assert await session.receive_text() == "alive"
                pong = await session.ping()
                await pong.wait()


@on_every_stack
async def test_keepalive(stack: Any) -> None:
    """A server that is silent is pinged, and stays connected while it answers."""

    def script(connection: Connection) -> None:
        switch(connection)
        for _ in range(3):
            opcode, data = read_frame(connection)
            assert opcode == PING
            connection.send(frame_of(PONG, data))
        connection.send(frame_of(TEXT, b"alive"))
        connection.wait_until_closed()

    with scripted(script) as upstream:
        options = {"keepalive_ping_interval_seconds": 0.02}
        async with stack.opened() as factory, stack.connect(factory.get(), upstream.url, **options) as session:
            with anyio.fail_after(LIMIT):
                assert await session.receive_text() == "alive"


@on_every_stack
async def test_keepalive_in_vain(stack: Any) -> None:
    """A server that does not answer pings is given up, and its place is free."""

    def script(connection: Connection) -> None:
        switch(connection)
        connection.wait_until_closed()

    watched = Watched(script)
    with scripted(watched) as upstream:
        async with stack.opened() as factory:
            client = factory.get()
            options = {"keepalive_ping_interval_seconds": 0.02, "keepalive_ping_timeout_seconds": 0.02}
            async with stack.connect(client, upstream.url, **options) as session:
                with anyio.fail_after(LIMIT), pytest.raises(stack.websockets.WebSocketNetworkError):
                    await session.receive()
            assert active(client) == 0
            assert await watched.none_open()


# The handshake.


@on_every_stack
async def test_handshake(stack: Any) -> None:
    """Headers, cookies, query and base URL are the client's and the call's, and the server's answer can be read."""

    def answer(connection: ServerConnection, request: Any, response: Any) -> None:
        response.headers["X-Answer"] = "yes"
        response.headers["Set-Cookie"] = "session=secret"

    with serving_websockets(echo, process_response=answer) as server:
        options = {"base_url": f"{server.http_url}/v1", "headers": {"X-App": "yes"}}
        async with stack.opened(**options) as factory:
            client = factory.get()
            arguments: dict[str, Any] = {"headers": {"X-Call": "yes"}, "params": {"room": "a b"}}
            async with stack.connect(client, "chat", **arguments, auth=("user", "pass")) as session:
                assert session.response.headers["x-answer"] == "yes"
            assert not client.cookies
            client.cookies.set("known", "1")
            async with stack.connect(client, "chat"):
                pass
        async with stack.opened(cookies="shared", **options) as factory:
            async with stack.connect(factory.get(), "chat"):
                pass
            assert factory.get().cookies["session"] == "secret"
    first, second = server.requests[:2]
    assert first.path in ("/v1/chat?room=a+b", "/v1/chat?room=a%20b")
    assert (first.headers["X-App"], first.headers["X-Call"]) == ("yes", "yes")
    assert first.headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert first.headers["Host"] == server.address
    assert "Cookie" not in first.headers
    assert second.headers["Cookie"] == "known=1"


@on_every_stack
async def test_subprotocols(stack: Any) -> None:
    """The server chooses among the subprotocols that are offered."""
    with serving_websockets(echo, subprotocols=["second", "first"]) as server:
        offered = ["first", "second"]
        async with (
            stack.opened() as factory,
            stack.connect(factory.get(), server.url, subprotocols=offered) as session,
        ):
            assert session.subprotocol == "second"
    assert server.requests[0].headers["Sec-WebSocket-Protocol"] == "first, second"


@on_every_stack
@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_tls(stack: Any, scheme: str, trusted: Trusted) -> None:
    """``wss://`` and ``https://`` are encrypted and checked, and leave nothing behind."""
    with serving_websockets(echo, trusted.server) as server:
        url = f"{scheme}://{server.address}"
        async with stack.opened() as factory:
            with pytest.raises(stack.module.ConnectError):
                async with stack.connect(factory.get(), url):
                    pytest.fail("a certificate of an unknown authority was taken")
            assert active(factory.get()) == 0
        async with stack.opened(tls=trusted.client) as factory:
            client = factory.get()
            async with stack.connect(client, url) as session:
                assert active(client) == 1
                with anyio.fail_after(LIMIT):
                    await session.send_text("x" * 50_000)
                    assert await session.receive_text() == "x" * 50_000
                await session.close(4000, "enough")
            assert active(client) == 0
        assert await server.ended() == (4000, "enough")


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: 2\r\n\r\nno"
REFUSALS = {"refused": (REFUSAL, 403), "not a WebSocket": (ok(), 200), "no body's end": (REFUSAL[:-2], 403)}


@on_every_stack
@pytest.mark.parametrize("case", REFUSALS)
async def test_refusals(stack: Any, case: str) -> None:
    """Any other answer than a 101 is an error that has the response, and keeps no connection in use."""
    answer, status = REFUSALS[case]
    with scripted(answering(answer)) as upstream:
        async with stack.opened(limits=LimitSettings(max_connections=1)) as factory:
            client = factory.get()
            for _ in range(2):
                with pytest.raises(stack.websockets.WebSocketUpgradeError) as raised:
                    async with stack.connect(client, upstream.url):
                        pytest.fail("it is no WebSocket")
                assert raised.value.response.status_code == status
                assert active(client) == 0


@on_every_stack
async def test_nobody_there(stack: Any) -> None:
    """A server that is not there, that says nothing or talks nonsense, is the error that it is for any request."""
    module = stack.module
    held = Held()
    with scripted(held) as silent, scripted(answering(b"SSH-2.0\r\n\r\n")) as nonsense:
        async with stack.opened() as factory:
            client = factory.get()
            for url, read, error in (
                ("ws://127.0.0.1:9/", LIMIT, module.ConnectError),
                (silent.url, 0.05, module.ReadTimeout),
                (nonsense.url, LIMIT, module.RemoteProtocolError),
            ):
                with pytest.raises(error):
                    async with stack.connect(client, url, timeout=module.Timeout(LIMIT, read=read)):
                        pytest.fail("there is no WebSocket")
                assert active(client) == 0
        held.release()


@on_every_stack
async def test_redirects(stack: Any) -> None:
    """A client that follows redirects follows them to a WebSocket too."""
    with serving_websockets(echo) as server:
        moved = b"HTTP/1.1 307 Moved\r\nLocation: %b/new\r\nContent-Length: 0\r\n\r\n" % server.http_url.encode()
        with scripted(answering(moved)) as upstream:
            async with (
                stack.opened(follow_redirects=True) as factory,
                stack.connect(factory.get(), upstream.url) as session,
            ):
                with anyio.fail_after(LIMIT):
                    await session.send_text("there?")
                    assert await session.receive_text() == "there?"
    assert server.requests[0].path == "/new"


@on_every_stack
async def test_event_hooks(stack: Any) -> None:
    """Hooks of the client see the handshake and its answer."""
    seen: list[Any] = []

    async def on_request(request: Any) -> None:
        seen.append(request.headers["upgrade"])

    async def on_response(response: Any) -> None:
        seen.append(response.status_code)

    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            client = factory.get()
            client.event_hooks = {"request": [on_request], "response": [on_response]}
            async with stack.connect(client, server.url) as session:
                with anyio.fail_after(LIMIT):
                    await session.send_text("a")
                    assert await session.receive_text() == "a"
    assert seen == ["websocket", 101]


# Its end.


@on_every_stack
async def test_the_server_closes(stack: Any) -> None:
    """The server's code and reason are the error's; without a code it is 1005."""

    def script(connection: Connection) -> None:
        head = switch(connection)
        connection.send(frame_of(CLOSE, b"" if b"/bare" in head else (4001).to_bytes(2) + "genug ä".encode()))
        connection.wait_until_closed()

    watched = Watched(script)
    with scripted(watched) as upstream:
        async with stack.opened() as factory:
            client = factory.get()
            for path, code, reason in (("/full", 4001, "genug ä"), ("/bare", 1005, "")):
                async with stack.connect(client, upstream.url + path) as session:
                    with anyio.fail_after(LIMIT), pytest.raises(stack.websockets.WebSocketDisconnect) as raised:
                        await session.receive()
                assert (raised.value.code, raised.value.reason) == (code, reason)
                assert active(client) == 0
        assert await watched.none_open()


@on_every_stack
async def test_the_client_closes(stack: Any) -> None:
    """The client's code and reason reach the server; the end of the block is 1000."""
    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            client = factory.get()
            async with stack.connect(client, server.url):
                pass
            assert await server.ended() == (1000, "")
            async with stack.connect(client, server.url) as session:
                await session.close(4002, "bye")
            assert active(client) == 0
            assert await server.ended() == (4002, "bye")


@on_every_stack
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_last_words(stack: Any, trusted: Trusted, *, encrypted: bool) -> None:
    """What was sent right before the end arrives, and the goodbye after it, though the server is slow to take it."""
    go_on = threading.Event()
    heard: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def script(connection: Connection) -> None:
        switch(connection)
        assert go_on.wait(LIMIT)
        count, last = 0, b""
        while data := connection.read_exactly(1):
            count, last = count + 1, (last + data)[-8:]
        heard.put((count, last))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with scripted(script, trusted.server if encrypted else None, listener=listener) as upstream:
            async with stack.opened(tls=trusted.client) as factory:
                async with stack.connect(factory.get(), upstream.url) as session:
                    sock = session.stream.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                    with anyio.fail_after(LIMIT):
                        async with anyio.create_task_group() as group:
                            group.start_soon(session.send_bytes, b"x" * 50_000)
                            await anyio.wait_all_tasks_blocked()
                            group.start_soon(session.close)
                            await anyio.wait_all_tasks_blocked()
                            go_on.set()
                count, last = await anyio.to_thread.run_sync(heard.get, True, LIMIT)
    assert count == 50_000 + 8 + 8  # each with its head, and the farewell
    assert last[0] & 0x0F == CLOSE


def _break_off(connection: Connection) -> None:
    connection.send(frame_of(TEXT, b"hello")[:-1])
    connection.close()


DEATHS = {"reset": Connection.reset, "no farewell": Connection.close, "mid-frame": _break_off}


@on_every_stack
@pytest.mark.parametrize("case", DEATHS)
async def test_the_server_dies(stack: Any, case: str) -> None:
    """A server that goes without a word is an error of the network, and nothing can be sent after it."""
    died = threading.Event()

    def script(connection: Connection) -> None:
        switch(connection)
        read_frame(connection)
        DEATHS[case](connection)
        died.set()

    with scripted(script) as upstream:
        async with stack.opened() as factory:
            client = factory.get()
            async with stack.connect(client, upstream.url) as session:
                await session.send_text("die")
                with anyio.fail_after(LIMIT), pytest.raises(stack.websockets.WebSocketNetworkError):
                    await session.receive()
                assert died.wait(LIMIT)
                with pytest.raises(LocalProtocolError):
                    await session.send_text("still there?")
            assert active(client) == 0


@on_every_stack
async def test_cancelled_handshakes(stack: Any) -> None:
    """Whoever is cancelled while the server thinks about it leaves nothing behind."""
    held = Held()
    watched = Watched(held)
    with scripted(watched) as upstream:
        async with stack.opened() as factory:
            client = factory.get()

            async def connect() -> None:
                async with stack.connect(client, upstream.url):
                    pytest.fail("nobody has answered")

            async with anyio.create_task_group() as group:
                group.start_soon(connect)
                await held.arrived()
                group.cancel_scope.cancel()
            assert active(client) == 0
            held.release()
            assert await watched.none_open()


@on_every_stack
async def test_cancelled_waits(stack: Any) -> None:
    """Whoever is cancelled while nothing comes says goodbye and leaves nothing behind."""
    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            client = factory.get()
            connected = anyio.Event()

            async def listen() -> None:
                async with stack.connect(client, server.url) as session:
                    connected.set()
                    await session.receive()

            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await connected.wait()
                assert active(client) == 1
                group.cancel_scope.cancel()
            assert active(client) == 0
            assert await server.ended() == (1000, "")


@on_every_stack
async def test_errors_in_the_block(stack: Any) -> None:
    """An error of the user's own closes the WebSocket, and comes out in a group."""
    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            client = factory.get()
            with pytest.raises(ExceptionGroup) as raised:
                async with stack.connect(client, server.url):
                    raise ZeroDivisionError
            assert raised.group_contains(ZeroDivisionError)
            assert active(client) == 0
            assert await server.ended() == (1000, "")


# Back-pressure.

MUCH = 64 * 1024 * 1024
"""Bytes that no buffer on the way can hold."""


@on_every_stack
async def test_nobody_receives(stack: Any) -> None:
    """While nobody receives, the server has to wait; then all of it comes."""
    stuck: queue.Queue[int] = queue.Queue()
    message = b"\x82\x7e" + (60_000).to_bytes(2) + b"x" * 60_000
    count = MUCH // 4 // 60_000

    def script(connection: Connection) -> None:
        switch(connection)
        sock = connection.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sock.settimeout(0.2)
        left = memoryview(message * count)
        while left:
            try:
                left = left[sock.send(left[:100_000]) :]
            except TimeoutError:
                stuck.put(len(message) * count - len(left))
                sock.settimeout(LIMIT)
        sock.settimeout(LIMIT)
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with stack.opened() as factory, stack.connect(factory.get(), upstream.url) as session:
            taken = await anyio.to_thread.run_sync(stuck.get, True, LIMIT)
            assert taken < MUCH // 8
            with anyio.fail_after(LIMIT):
                for _ in range(count):
                    assert len(await session.receive_bytes()) == 60_000


@on_every_stack
async def test_nobody_reads(stack: Any) -> None:
    """While the server takes nothing, sending waits."""
    go_on = threading.Event()

    def script(connection: Connection) -> None:
        switch(connection)
        assert go_on.wait(LIMIT)
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with stack.opened() as factory, stack.connect(factory.get(), upstream.url) as session:
            sent = 0
            with anyio.move_on_after(0.5) as scope:
                while sent < MUCH:
                    await session.send_bytes(b"x" * 1024 * 1024)
                    sent += 1024 * 1024
            go_on.set()
    assert scope.cancelled_caught
    assert sent < MUCH // 2


# The pool.


@on_every_stack
async def test_limits(stack: Any) -> None:
    """A WebSocket takes a place in the pool for as long as it is open; whoever waits for one gets it then."""
    timeout = stack.module.Timeout(LIMIT, pool=0.05)
    with serving_websockets(echo) as server, scripted(answering(ok())) as upstream:
        async with stack.opened(limits=LimitSettings(max_connections=1)) as factory:
            client = factory.get()
            answers: list[str] = []

            async def ask() -> None:
                answers.append((await client.get(upstream.url)).text)

            async with anyio.create_task_group() as group, stack.connect(client, server.url):
                with pytest.raises(stack.module.PoolTimeout):
                    await client.get(upstream.url, timeout=timeout)
                with pytest.raises(stack.module.PoolTimeout):
                    async with stack.connect(client, server.url, timeout=timeout):
                        pytest.fail("there is no room for another")
                group.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                assert (active(client), pool_statistics(client).queued) == (1, 1)
            assert answers == ["ok"]
            assert pool_statistics(client).queued == 0


@on_the_engine
async def test_a_full_pool_names_them(stack: Any) -> None:
    """The error about a full pool tells that a WebSocket has the place."""
    with serving_websockets(echo) as server:
        async with stack.opened(limits=LimitSettings(max_connections=1), timeout={"pool": 0.02}) as factory:
            client = factory.get()
            async with stack.connect(client, server.url):
                with pytest.raises(stack.module.PoolTimeout, match=r"GET ws://127\.0\.0\.1:\d+ for .* s \(a tunnel\)"):
                    await client.get(server.http_url)


@on_every_stack
async def test_connections_per_host(stack: Any) -> None:
    """WebSockets count among a host's connections."""
    limits = LimitSettings(max_connections_per_host=1)
    with serving_websockets(echo) as server:
        async with stack.opened(limits=limits, timeout={"pool": 0.05}) as factory:
            client = factory.get()
            for scheme in ("ws", "http"):
                url = f"{scheme}://{server.address}"
                async with stack.connect(client, url):
                    with pytest.raises(stack.module.PoolTimeout):
                        async with stack.connect(client, url):
                            pytest.fail("there is no room for another")
                async with stack.connect(client, url):
                    pass


@on_every_stack
async def test_connections_that_were_used_before(stack: Any) -> None:
    """A handshake may come on a connection that has carried requests; after it, it carries no more."""

    def script(connection: Connection) -> None:
        assert connection.read_head().startswith(b"GET /before ")
        connection.send(ok())
        switch(connection)
        assert read_frame(connection) == (TEXT, b"hello")
        connection.send(frame_of(TEXT, b"hello"))

    watched = Watched(script)
    with scripted(watched) as upstream:
        async with stack.opened() as factory:
            client = factory.get()
            for _ in range(2):
                assert (await client.get(f"{upstream.url}/before")).text == "ok"
                async with stack.connect(client, upstream.url) as session:
                    with anyio.fail_after(LIMIT):
                        await session.send_text("hello")
                        assert await session.receive_text() == "hello"
        assert watched.accepted == 2
        assert await watched.none_open()


@on_every_stack
async def test_closing_the_pool(stack: Any) -> None:
    """When the pool's time is over, open WebSockets are cut off: who waits gets an error, and nothing is left."""
    ended: list[str] = []
    with serving_websockets(echo) as server:
        async with anyio.create_task_group() as group, stack.opened(drain=0.05) as factory:
            client = factory.get()
            connected = anyio.Event()

            async def listen() -> None:
                async with stack.connect(client, server.url) as session:
                    connected.set()
                    with pytest.raises(stack.websockets.WebSocketNetworkError):
                        await session.receive()
                    ended.append("told")

            group.start_soon(listen)
            with anyio.fail_after(LIMIT):
                await connected.wait()
        assert ended == ["told"]
        assert active(client) == 0
        await server.ended()
        with pytest.raises(RuntimeError):
            async with stack.connect(client, server.url):
                pytest.fail("the pool is closed")


@on_every_stack
async def test_draining(stack: Any) -> None:
    """Within the drain time a WebSocket may come to its own end; nothing is cut off then."""
    heard: list[str] = []
    with serving_websockets(echo) as server:
        async with anyio.create_task_group() as group, stack.opened(drain=LIMIT) as factory:
            client = factory.get()
            connected, left = anyio.Event(), anyio.Event()

            async def talk() -> None:
                async with stack.connect(client, server.url) as session:
                    connected.set()
                    await left.wait()
                    await session.send_text("still here")
                    heard.append(await session.receive_text())

            group.start_soon(talk)
            await connected.wait()
            left.set()
        assert heard == ["still here"]
        assert await server.ended() == (1000, "")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@with_patience(0.4)
async def test_total_timeout(limit: float) -> None:
    """The total timeout is for the handshake; what is said afterwards takes as long as it takes."""
    with serving_websockets(echo) as server:
        async with AsyncExitStack() as opened:
            sessions: list[Any] = []
            for engine in ("native", "httpcore"):
                settings = ClientSettings(engine=engine, timeout={"total": limit})
                factory = await opened.enter_async_context(ClientFactory(settings))
                sessions.append(await opened.enter_async_context(aconnect_ws(server.url, factory.get())))
            await anyio.sleep(limit + 0.1)  # it is the time itself that is waited for
            with anyio.fail_after(LIMIT):
                for session in sessions:
                    await session.send_text("late")
                    assert await session.receive_text() == "late"


@on_the_engine
async def test_allowed_addresses(stack: Any) -> None:
    """A WebSocket too goes only where the client may connect to."""
    with serving_websockets(echo) as server:
        async with stack.opened(allowed_addresses="public") as factory:
            with pytest.raises(stack.module.ConnectError):
                async with stack.connect(factory.get(), server.url):
                    pytest.fail("it is not public")
    assert not server.requests


@on_every_stack
async def test_unix_domain_sockets(stack: Any, tmp_path: Path) -> None:
    """A WebSocket can be opened through a Unix domain socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        with scripted(switch_and_repeat, listener=listener):
            async with (
                stack.opened(uds=str(tmp_path / "socket")) as factory,
                stack.connect(factory.get(), "ws://unix.example/") as session,
            ):
                with anyio.fail_after(LIMIT):
                    await session.send_text("hello")
                    assert await session.receive_text() == "hello"


@on_every_stack
async def test_socks_proxies(stack: Any, trusted: Trusted) -> None:
    """Through a SOCKS proxy too, ``wss://`` is encrypted."""
    greeting: list[bytes] = []

    def script(connection: Connection) -> None:
        connection.read_exactly(3)  # version 5, one method: none
        connection.send(b"\x05\x00")
        connection.read_exactly(4 + 4 + 2)
        connection.send(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        greeting.append(connection.read_exactly(1))

    with scripted(script) as proxy:
        settings = {"engine": "auto", "proxy": proxy.url.replace("http:", "socks5:"), "tls": trusted.client}
        async with stack.opened(**settings) as factory:
            with pytest.raises(stack.module.TransportError):
                async with stack.connect(factory.get(), "wss://127.0.0.1:1/"):
                    pytest.fail("the proxy has hung up")
    assert greeting == [b"\x16"]  # a TLS handshake


@on_every_stack
async def test_forward_proxies(stack: Any, trusted: Trusted) -> None:
    """Through an HTTP proxy ``wss://`` goes in a tunnel."""

    def script(connection: Connection) -> None:
        assert connection.read_head().startswith(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        with trusted.server.wrap_socket(connection.sock, server_side=True) as connection.sock:
            switch_and_repeat(connection)

    with scripted(script) as proxy:
        async with (
            stack.opened(engine="auto", proxy=proxy.url, tls=trusted.client) as factory,
            stack.connect(factory.get(), "wss://127.0.0.1:1/") as session,
        ):
            with anyio.fail_after(LIMIT):
                await session.send_text("hello")
                assert await session.receive_text() == "hello"


# Other ways to open one.


@on_every_stack
async def test_bare_transports(stack: Any) -> None:
    """A client of the family's own with our transport does the same."""
    transports = importlib.import_module(f"fastapi_httpx_pool.transports.{stack.family}")
    with serving_websockets(echo) as server:
        transport = transports.PoolTransport(engine=stack.engine)
        async with stack.module.AsyncClient(transport=transport) as client:
            async with stack.connect(client, server.url) as session:
                assert active(client) == 1
                with anyio.fail_after(LIMIT):
                    await session.send_text("hello")
                    assert await session.receive_text() == "hello"
            assert active(client) == 0


@on_every_stack
async def test_their_client_class(stack: Any) -> None:
    """The class that keeps a client and its WebSockets' settings together takes ours."""

    class Service:
        def __init__(self, websockets: Any) -> None:
            self._websockets = websockets

        async def hello(self, url: str) -> str:
            async with self._websockets.connect(url) as session:
                await session.send_text("Hello!")
                text: str = await session.receive_text()
                return text

    with serving_websockets(echo) as server:
        async with stack.opened() as factory:
            service = Service(stack.websockets.AsyncWebSocketClient(factory.get()))
            with anyio.fail_after(LIMIT):
                assert await service.hello(server.url) == "Hello!"
            assert active(factory.get()) == 0


# In an app.


async def repeat(websocket: WebSocket) -> None:
    """Give back each text with an exclamation mark."""
    await websocket.accept(subprotocol="loud")
    try:
        async for text in websocket.iter_text():
            await websocket.send_text(f"{text}!")
    finally:
        websocket.app.state.ends.put("upstream")


def app_between(url: str) -> FastAPI:
    """Return an app whose route asks another server over a WebSocket for each that it serves."""
    app = FastAPI(lifespan=create_lifespan(ClientSettings(drain=SOON)))
    app.state.ends = queue.Queue()

    @app.websocket("/ask")
    async def ask(websocket: WebSocket, client: ClientDep) -> None:
        await websocket.accept()
        try:
            upstream: Any
            async with aconnect_ws(url, client, subprotocols=["loud"]) as upstream:
                async for question in websocket.iter_text():
                    await upstream.send_text(question)
                    await websocket.send_text(f"{upstream.subprotocol}: {await upstream.receive_text()}")
        finally:
            app.state.ends.put(active(client))

    return app


def test_in_a_route() -> None:
    """A route of the user's own talks to another server, as often as it is asked, and closes when its caller goes."""
    upstream_app = FastAPI(lifespan=create_lifespan())
    upstream_app.state.ends = queue.Queue()
    upstream_app.add_api_websocket_route("/repeat", repeat)
    with serving(upstream_app) as upstream:
        app = app_between(f"{upstream.url}/repeat")
        with serving(app) as running:
            url = f"ws://127.0.0.1:{running.port}/ask"
            for _ in range(3):
                with connect_to_app(url) as browser:
                    for text in ("one", "two"):
                        browser.send(text)
                        assert browser.recv(timeout=LIMIT) == f"loud: {text}!"
                assert upstream_app.state.ends.get(timeout=LIMIT) == "upstream"
                assert app.state.ends.get(timeout=LIMIT) == 0
            # The server's shutdown is the caller's going, too.
            with connect_to_app(url) as browser:
                browser.send("three")
                assert browser.recv(timeout=LIMIT) == "loud: three!"
                running.stop()
                assert app.state.ends.get(timeout=LIMIT) == 0
                assert upstream_app.state.ends.get(timeout=LIMIT) == "upstream"
