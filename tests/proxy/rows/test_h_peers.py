"""Table 1H with other people's clients and servers: websockets and aiohttp on both sides of the proxy."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.support.patience import with_patience
from tests.support.proxies import WEBSOCKET_SERVERS, proxied
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.websocket_pairs import wait_for
from tests.support.websocket_peers import CLIENTS, CODE, GOODBYE, REASON, SERVERS, Peer, Talker, peer, talk


class Meeting(NamedTuple):
    """A client's library, and a server's, with a proxy between them."""

    client: str
    peer: Peer
    server: str
    port: int

    @property
    def url(self) -> str:
        """What the client asks for."""
        return f"ws://127.0.0.1:{self.port}/chat?x=1"


MEETINGS = [(client, peer_name, "sansio") for client in CLIENTS for peer_name in SERVERS]
MEETINGS += [("websockets", "aiohttp", server) for server in WEBSOCKET_SERVERS[1:]]


@pytest.fixture(params=MEETINGS, ids="-".join)
def meeting(request: pytest.FixtureRequest) -> Iterator[Meeting]:
    """Give each client with each server, and each ASGI server between two of them; compression is on everywhere."""
    with met(*request.param) as meeting:
        yield meeting


@contextmanager
def met(client: str, name: str, server: str, **options: float) -> Iterator[Meeting]:
    """Let a client and a server meet for a block; nothing must be left of it. The options are those of ``peer``."""
    watch = ProxyWatch()
    with (
        peer(name, compressed=True, **options) as upstream,
        proxied(upstream.url, server, around=watch.around) as port,
    ):
        before = held_at(port)
        yield Meeting(client, upstream, server, port)
        wait_for(lambda: held_at(port).active == 0)
        wait_for(lambda: held_at(port).tasks == before.tasks)


def test_h5_an_echo(meeting: Meeting) -> None:
    """Messages of all kinds and sizes come back as they were sent, compressed or not, and pings are answered."""

    async def echo(talker: Talker) -> None:
        assert talker.subprotocol == "v1.echo"
        for message in ("hello", "", "ü€𝄞", b"\x00\xff", b"", "x" * 100_000, b"\xfe" * 3_000_000):
            await talker.send(message)
            assert await talker.receive() == message
        await talker.ping()

    talk(meeting.client, meeting.url, echo, compressed=True)


def test_h5_many_messages_at_once(meeting: Meeting) -> None:
    """Messages that are under way at the same time come back in their order."""

    async def echo(talker: Talker) -> None:
        async def send() -> None:
            for number in range(300):
                await talker.send(str(number) * 500)

        sending = asyncio.create_task(send())
        for number in range(300):
            assert await talker.receive() == str(number) * 500
        await sending

    talk(meeting.client, meeting.url, echo)


def test_h5_the_server_closes(meeting: Meeting) -> None:
    """The client is told the server's code and reason."""

    async def ask_for_it(talker: Talker) -> None:
        await talker.send(GOODBYE)
        assert await talker.ended() == (CODE, REASON)

    talk(meeting.client, meeting.url, ask_for_it)


def test_h5_the_client_closes(meeting: Meeting) -> None:
    """The server is told the client's code; hypercorn tells none."""

    async def close(talker: Talker) -> None:
        await talker.send("hello")
        assert await talker.receive() == "hello"
        await talker.close(4001, "enough")

    talk(meeting.client, meeting.url, close)
    wait_for_the_end(meeting)
    [(code, _)] = meeting.peer.told
    assert code == (1001 if meeting.server == "hypercorn" else 4001)


def wait_for_the_end(meeting: Meeting) -> None:
    """Wait until the server has noticed."""
    wait_for(lambda: held_at(meeting.port).active == 0 and bool(meeting.peer.told))


@pytest.mark.parametrize("who", MEETINGS, ids="-".join)
@with_patience(0.2)
def test_h6_pings_of_the_server(who: tuple[str, str, str], limit: float) -> None:
    """A WebSocket that is silent for longer than the server waits for its pongs lives on."""

    async def wait_and_talk(talker: Talker) -> None:
        await asyncio.wait([waiting := asyncio.create_task(talker.receive())], timeout=3 * limit)
        await talker.send("still here")
        assert await waiting == "still here"

    with met(*who, heartbeat=limit) as meeting:
        talk(meeting.client, meeting.url, wait_and_talk)
