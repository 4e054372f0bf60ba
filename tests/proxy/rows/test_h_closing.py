"""Row H5, the end: codes and reasons both ways, who is lost, what is counted, and what happens when the server goes down."""

import select
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest

from fastapi_httpx_pool import LimitSettings, ReverseProxy
from tests.support.answers import ask, get
from tests.support.asgi import LifespanDriver, lifespan_driver
from tests.support.asgi_websocket import WebSocketDriver, serving_websocket
from tests.support.proxies import POOL_OF_ONE, WEBSOCKET_DOORS, WEBSOCKET_SERVERS, impatient, proxied, settings_of
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.upstream import ok
from tests.support.websocket_pairs import open_pair, wait_for
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    SOON,
    TEXT,
    End,
    Handed,
    Pair,
    asking,
    closing,
    exchange,
    frame,
    handed,
    opened,
    part,
)

every_server = pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
every_door = pytest.mark.parametrize("door", WEBSOCKET_DOORS)

LONG_REASON = "é" * 61 + "!"
"""123 bytes, the most that a close frame has room for."""

CODES = [
    (1000, "bye"),
    (1000, ""),
    (1001, "going"),
    (1002, ""),
    (1003, ""),
    (1007, ""),
    (1008, "policy"),
    (1009, ""),
    (1010, ""),
    (1011, "oh"),
    (1012, "restart"),
    (1013, "later"),
    (1014, "bad gateway"),
    (3000, "registered"),
    (4000, LONG_REASON),
    (4999, "ü€𝄞"),
]
EVERYWHERE = [(1000, "bye"), (1011, ""), (4000, LONG_REASON)]

SPEAKING = ("sansio", "legacy", "wsproto")
"""Servers that tell an app both code and reason of a client's; granian tells the code alone, hypercorn nothing."""

PLACES = [
    *(("sansio", code, reason) for code, reason in CODES),
    *((server, code, reason) for server in WEBSOCKET_SERVERS[1:] for code, reason in EVERYWHERE),
]


# Codes and reasons.


@pytest.mark.parametrize(("server", "code", "reason"), PLACES)
def test_h5_the_upstream_closes(server: str, code: int, reason: str) -> None:
    """What the upstream says at the end is what the client is told; then both connections end."""
    with open_pair(server) as pair:
        pair.upstream.text("last")
        pair.upstream.close(code, reason)
        assert pair.upstream.told() == (code, reason)
        pair.upstream.hang_up()
        assert pair.client.message() == (TEXT, b"last")
        assert pair.client.agree() == (code, reason)
        assert pair.client.ended()


@every_server
def test_h5_the_upstream_closes_without_a_code(server: str) -> None:
    """A close frame without a code becomes 1000, because an app cannot send one without."""
    with open_pair(server) as pair:
        pair.upstream.close()
        assert pair.upstream.told()[0] in {None, 1000}
        pair.upstream.hang_up()
        assert pair.client.agree() == (1000, "")
        assert pair.client.ended()


def upstream_is_told(server: str, code: int, reason: str) -> tuple[int, str]:
    """Return what reaches the upstream of a client's code and reason, through what the server tells."""
    if server == "hypercorn":
        return (1001, "")
    if server == "granian":
        return (code, "")
    # Of itself going down, a server says the same.
    return (1001, "") if code == 1012 else (code, reason)


@pytest.mark.parametrize(("server", "code", "reason"), PLACES)
def test_h5_the_client_closes(server: str, code: int, reason: str) -> None:
    """What the client says at the end is what the upstream is told, as far as the server tells it; then both connections end."""
    with open_pair(server) as pair:
        pair.client.text("last")
        assert pair.upstream.message() == (TEXT, b"last")
        pair.client.close(code, reason)
        end(pair)
        assert pair.upstream.agree() == upstream_is_told(server, code, reason)
        pair.upstream.hang_up()


def end(pair: Pair) -> None:
    """Leave as a client does that has closed: when the server has answered, or at once if it waits for the app."""
    if pair.client.sock in select.select([pair.client.sock, pair.upstream.sock], [], [], SOON)[0]:
        pair.client.told()
        pair.client.hang_up()


@every_server
def test_h5_the_client_closes_without_a_code(server: str) -> None:
    """A close frame without a code goes upstream without one."""
    with open_pair(server) as pair:
        pair.client.close()
        end(pair)
        assert pair.upstream.agree() == ((1001, "") if server == "hypercorn" else (None, ""))
        pair.upstream.hang_up()


def test_h5_the_client_closes_behind_a_message() -> None:
    """What is sent before a close frame arrives before it."""
    with open_pair() as pair:
        pair.client.send_raw(
            b"".join(pair.client.made(BINARY, bytes((number,)) * 1000) for number in range(50))
            + pair.client.made(CLOSE, closing(4321, "enough"))
        )
        for number in range(50):
            assert pair.upstream.message() == (BINARY, bytes((number,)) * 1000)
        assert pair.upstream.agree() == (4321, "enough")
        pair.upstream.hang_up()


@every_server
def test_h5_the_upstream_closes_behind_messages(server: str) -> None:
    """All that the upstream has sent before its close frame arrives, and nothing that comes behind it."""
    with open_pair(server) as pair:
        messages = b"".join(frame(BINARY, bytes((number,)) * 1000) for number in range(50))
        pair.upstream.send_raw(messages + frame(CLOSE, closing(4321, "enough")) + frame(TEXT, b"too late"))
        for number in range(50):
            assert pair.client.message() == (BINARY, bytes((number,)) * 1000)
        assert pair.client.agree() == (4321, "enough")
        assert pair.client.ended()


def test_h5_both_close() -> None:
    """Both sides may say goodbye at the same time: each gets a close frame, and the connections end."""
    with open_pair() as pair:
        pair.client.close(4001)
        pair.upstream.close(4002)
        assert pair.client.told()[0] in {4001, 4002}
        assert pair.upstream.told()[0] in {4001, 4002}
        pair.upstream.hang_up()
        assert pair.client.ended()


# Who is lost.

LOSSES: dict[str, Callable[[End], None]] = {"fin": End.hang_up, "reset": End.reset}


def half_a_message(end: End) -> None:
    """Send the beginning of a frame."""
    end.send_raw(end.made(TEXT, b"hello world")[:-4])


@every_server
@pytest.mark.parametrize("in_a_message", [False, True], ids=["between-messages", "in-a-message"])
@pytest.mark.parametrize("leave", LOSSES)
def test_h5_the_upstream_is_lost(server: str, leave: str, in_a_message: bool) -> None:
    """The client is told at once that its WebSocket has failed (1011), and gets no part of what was not complete."""
    with open_pair(server) as pair:
        pair.upstream.text("last")
        assert pair.client.message() == (TEXT, b"last")
        if in_a_message:
            half_a_message(pair.upstream)
        LOSSES[leave](pair.upstream)
        assert pair.client.agree()[0] == 1011
        assert pair.client.ended()


@every_server
@pytest.mark.parametrize("in_a_message", [False, True], ids=["between-messages", "in-a-message"])
@pytest.mark.parametrize("leave", LOSSES)
def test_h5_the_client_is_lost(server: str, leave: str, in_a_message: bool) -> None:
    """
    The upstream is told at once, and gets no part of what was not complete.

    It is told to go away (1001), or nothing: some servers say the same of a client that is lost and of
    one that gives no code.
    """
    with open_pair(server) as pair:
        pair.client.text("last")
        assert pair.upstream.message() == (TEXT, b"last")
        if in_a_message:
            half_a_message(pair.client)
        LOSSES[leave](pair.client)
        assert pair.upstream.told() in [(1001, ""), (None, "")]
        pair.upstream.hang_up()


@pytest.mark.parametrize("server", ["legacy", "hypercorn"])
def test_h5_a_lost_client_is_gone_away(server: str) -> None:
    """Where the server says that the client was lost (1006), the upstream is told 1001."""
    with open_pair(server) as pair:
        pair.client.reset()
        assert pair.upstream.agree() == (1001, "")
        pair.upstream.hang_up()


@every_server
def test_h5_the_connection_is_closed_without_the_upstreams_help(server: str) -> None:
    """An upstream that does not answer a close frame loses its connection all the same, and the slot is free."""
    settings = settings_of(limits=POOL_OF_ONE, timeout={"default": None})
    with handed() as upstream, proxied(upstream.url, server, settings=settings) as port:
        with opened(port, upstream) as pair:
            pair.client.reset()
            assert [one.opcode for one in pair.upstream.ended_after()] == [CLOSE]
        with opened(port, upstream) as pair:
            exchange(pair)
            part(pair)


def send_for_long(end: End) -> None:
    """Send as much as is taken, for longer than anybody should take it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        end.binary(b"x" * 100_000)


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
def test_h5_a_client_that_is_lost_while_the_upstream_sends(server: str) -> None:
    """An upstream in full flow is stopped when its client is lost."""
    with open_pair(server) as pair:
        pair.upstream.binary(b"x" * 100_000)
        pair.client.read()
        pair.client.reset()
        with pytest.raises(OSError):
            send_for_long(pair.upstream)


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
def test_h5_an_upstream_that_is_lost_while_the_client_sends(server: str) -> None:
    """A client in full flow is told when its upstream is lost."""
    with open_pair(server) as pair:
        pair.client.binary(b"x" * 100_000)
        pair.upstream.message()
        pair.upstream.reset()
        assert pair.client.agree()[0] == 1011


@every_door
def test_h5_at_each_door(door: str) -> None:
    """At each door a WebSocket lives and ends alike."""
    target = b"/" if door == "alone" else b"/p/"
    with handed() as upstream, proxied(upstream.url, "sansio", door=door) as port:
        with opened(port, upstream, target) as pair:
            exchange(pair)
            pair.upstream.close(4000, "why")
            assert pair.client.agree() == (4000, "why")
            assert pair.upstream.told() == (4000, "why")
        with opened(port, upstream, target) as pair:
            pair.client.close(4001, "because")
            assert pair.upstream.agree() == (4001, "because")
        with opened(port, upstream, target) as pair:
            pair.upstream.reset()
            assert pair.client.agree()[0] == 1011
        with opened(port, upstream, target) as pair:
            pair.client.reset()
            assert pair.upstream.told()[0] in {None, 1001}


# What is counted.


@every_server
def test_h5_an_open_websocket_counts_as_active(server: str) -> None:
    """It is one of the pool's active connections as long as it is open, and then no connection and no task is left of it."""
    watch = ProxyWatch()
    with handed() as upstream, proxied(upstream.url, server, around=watch.around) as port:
        before = held_at(port)
        with opened(port, upstream) as pair, opened(port, upstream) as another:
            held = held_at(port)
            assert (held.active, held.idle) == (2, 0)
            exchange(pair)
            part(pair)
            wait_for(lambda: held_at(port).active == 1)
            another.upstream.reset()
            another.client.agree()
        wait_for(lambda: held_at(port).active == 0)
        wait_for(lambda: held_at(port).tasks == before.tasks)
        held = held_at(port)
        assert (held.idle, held.queued) == (0, 0)
        assert held.opened == held.closed == 2


def test_h5_websockets_and_requests_share_a_limit() -> None:
    """A request waits for the connection that a WebSocket has, and goes on when it is over."""
    settings = settings_of(limits=LimitSettings(max_connections=1), timeout={"pool": 30})
    watch = ProxyWatch()
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", settings=settings, on_request=impatient, around=watch.around) as port,
        opened(port, upstream) as pair,
    ):
        refused = ask(port, get(b"/impatient"))
        assert (refused.status, refused.values(b"retry-after")) == (503, [b"1"])
        with asking(port) as client:
            wait_for(lambda: held_at(port).queued == 1)
            part(pair)
            asked = upstream.asked()
            asked.answer(ok(b"refused"))
            assert client.read_head().startswith(b"HTTP/1.1 200 ")


def test_h5_a_connection_that_was_a_websocket_is_not_used_again() -> None:
    """After a WebSocket a request gets a connection of its own, however friendly the end was."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port:
        with opened(port, upstream) as pair:
            pair.upstream.close(1000)
            pair.upstream.told()
            pair.client.agree()
            assert pair.client.ended()
            answered = threading.Event()

            def answer() -> None:
                asked = upstream.asked()
                asked.answer(ok(b"new"))
                answered.set()

            thread = threading.Thread(target=answer)
            thread.start()
            assert ask(port, get()).body == b"new"
            thread.join(10)
        assert upstream.accepted == 2


# When the server goes down.


def skip_where_it_waits(server: str) -> None:
    """Skip a server that does not close its WebSockets when it is told to stop."""
    if server == "hypercorn" and sys.version_info >= (3, 12):
        pytest.skip("hypercorn awaits wait_closed() first, which since Python 3.12 waits for all connections")


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
@pytest.mark.parametrize("door", ["alone", "mounted"])
def test_h5_the_server_stops(server: str, door: str) -> None:
    """A server that stops takes its WebSockets with it: the upstream is told (1001), and everything ends in time."""
    skip_where_it_waits(server)
    with handed() as upstream, ExitStack() as stack:
        port = stack.enter_context(proxied(upstream.url, server, door=door))
        with opened(port, upstream, b"/" if door == "alone" else b"/p/") as pair:
            exchange(pair)
            began = time.monotonic()
            stopping = threading.Thread(target=stack.close)
            stopping.start()
            assert pair.upstream.agree()[0] == 1001
            pair.upstream.hang_up()
            frames = pair.client.ended_after()
            assert [one.opcode for one in frames] in ([CLOSE], [])
            pair.client.hang_up()
            stopping.join(20)
            assert not stopping.is_alive()
            assert time.monotonic() - began < 15


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
def test_h5_the_server_stops_and_nobody_answers(server: str) -> None:
    """Even if neither side answers a close frame, the server stops."""
    skip_where_it_waits(server)
    with handed() as upstream, ExitStack() as stack:
        port = stack.enter_context(proxied(upstream.url, server))
        with opened(port, upstream):
            stopping = threading.Thread(target=stack.close)
            stopping.start()
            stopping.join(25)
            assert not stopping.is_alive()


class Relayed(NamedTuple):
    """A WebSocket that is open through a proxy, with everything around it."""

    driver: LifespanDriver
    websocket: WebSocketDriver
    far: End
    upstream: Handed
    proxy: ReverseProxy


@asynccontextmanager
async def relayed(drain: float) -> AsyncIterator[Relayed]:
    """Open one for a block, in which the lifespan must end."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of(drain=drain))
        async with lifespan_driver(proxy) as driver:
            await driver.startup()
            async with serving_websocket(proxy, driver.scope) as websocket:
                far = await in_thread(lambda: upstream.asked().accept())
                assert (await websocket.sent_next())["type"] == "websocket.accept"
                yield Relayed(driver, websocket, far, upstream, proxy)
        assert driver.error is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_h5_both_sides_are_told_when_the_pool_closes() -> None:
    """When the lifespan ends, both sides are told to go away (1001) at once, and it waits for them; a handshake gets a 503."""
    async with relayed(drain=20) as (driver, websocket, far, upstream, proxy):
        async with anyio.create_task_group() as group:
            group.start_soon(driver.shutdown)
            told = await websocket.sent_next()
            assert (told["type"], told["code"]) == ("websocket.close", 1001)
            assert await in_thread(far.told) == (1001, "")
            async with serving_websocket(proxy, driver.scope) as late:
                start = await late.sent_next()
                assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
                assert (b"retry-after", b"1") in start["headers"]
            assert not websocket.returned.is_set()
            await in_thread(lambda: far.close(1001))
            await in_thread(far.hang_up)
            await websocket.returned.wait()
        assert websocket.error is None
    assert upstream.accepted == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_h5_the_pool_does_not_wait_for_ever() -> None:
    """An upstream that does not answer is broken off after the drain time."""
    async with relayed(drain=0.1) as (driver, websocket, far, *_):
        assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
        assert [one.opcode for one in await in_thread(far.ended_after)] == [CLOSE]
        await websocket.returned.wait()


async def in_thread(action: Callable[[], Any]) -> Any:
    """Wait for something that a socket does."""
    return await anyio.to_thread.run_sync(action)


# Log.


def test_h5_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A WebSocket that an upstream's failure ends is a warning in the log; a regular end is none."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port:
        with opened(port, upstream, b"/good?secret=1") as pair:
            part(pair)
        with opened(port, upstream, b"/bad?secret=1") as pair:
            pair.upstream.reset()
            assert pair.client.agree()[0] == 1011
            assert pair.client.ended()
    records = [record for record in caplog.records if record.name.startswith("fastapi_httpx_pool")]
    assert [record.levelname for record in records] == ["WARNING"]
    assert "/bad" in records[0].getMessage()
    assert "secret" not in records[0].getMessage()
