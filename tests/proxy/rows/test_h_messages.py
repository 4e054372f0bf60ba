"""Rows H5 and H6: messages both ways, their limits, pings, silence, and who is slow."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest

from tests.support.bodies import SMALL_BUFFER
from tests.support.patience import with_patience
from tests.support.proxies import WEBSOCKET_SERVERS, proxied
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.websocket_pairs import beside, open_pair, wait_for
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    SOON,
    TEXT,
    Client,
    End,
    Frame,
    Handed,
    Pair,
    closing,
    exchange,
    frame,
    handed,
    part,
)

every_server = pytest.mark.parametrize("server", WEBSOCKET_SERVERS)

KILOBYTE, MEGABYTE = 1024, 1024 * 1024

STALL = 0.3
"""Seconds in which nothing is taken, after which more is not tried: on a slow machine a little too early, which does no harm."""

FRAGMENT = 256 * KILOBYTE
"""Of what is longer, this much goes upstream in one frame."""

BOUND = 40 * MEGABYTE
"""
What a proxy and the kernel's buffers between four sockets hold at most of a stream that nobody takes.

It is mostly 5 to 10 MiB, but kernels let the buffer of a socket grow whose reader is busy: up to 32 MiB.
"""


# H5: messages.

TEXTS = ["hello", "", "ü€𝄞", "\x00\n", "x" * 125, "x" * 126, "é" * 40_000]
DATA = [b"\x00\xff\xfe", b"", b"hello", b"x" * 125, b"x" * 126, b"x" * 65_535, b"x" * 65_536]


@every_server
def test_h5_texts_and_bytes_both_ways(server: str) -> None:
    """A text arrives as a text, and bytes as bytes, empty ones too, in their order and in a frame each."""
    with open_pair(server) as pair:
        for sender, receiver in ((pair.client, pair.upstream), (pair.upstream, pair.client)):
            for text, data in zip(TEXTS, DATA, strict=True):
                sender.text(text)
                sender.binary(data)
                for opcode, payload in ((TEXT, text.encode()), (BINARY, data)):
                    assert receiver.frames() == [Frame(opcode, payload)]


def test_h5_frames_that_end_in_the_middle_of_a_packet() -> None:
    """Where frames are cut on the wire does not matter."""
    data = b"".join(frame(BINARY, bytes((size,)) * size) for size in (1, 125, 200)) + frame(TEXT, b"end")
    with open_pair() as pair:
        for byte in data:
            pair.upstream.send_raw(bytes((byte,)))
        assert [pair.client.message()[1] for _ in range(4)] == [b"\x01", b"}" * 125, b"\xc8" * 200, b"end"]


@every_server
def test_h5_fragments_of_the_client(server: str) -> None:
    """A message in fragments arrives whole, with a ping between them and a letter cut in two."""
    with open_pair(server) as pair:
        euro = "€".encode()
        pair.client.send(TEXT, b"a" + euro[:1], fin=False)
        pair.client.send(CONTINUATION, euro[1:], fin=False)
        pair.client.send(PING, b"between")
        pair.client.send(CONTINUATION, fin=False)
        pair.client.send(CONTINUATION, b"b")
        assert pair.upstream.message() == (TEXT, b"a" + euro + b"b")
        found = pair.client.read()
        assert found is not None
        assert (found.opcode, found.payload) == (PONG, b"between")


@every_server
def test_h5_fragments_of_the_upstream(server: str) -> None:
    """A message in fragments arrives whole, with a ping between them and a letter cut in two."""
    with open_pair(server) as pair:
        note = "𝄞".encode()
        pair.upstream.send(TEXT, b"a" + note[:2], fin=False)
        pair.upstream.send(PING, b"between")
        found = pair.upstream.read()
        assert found is not None
        assert (found.opcode, found.payload) == (PONG, b"between")
        pair.upstream.send(CONTINUATION, note[2:3], fin=False)
        pair.upstream.send(CONTINUATION, note[3:] + b"b")
        assert pair.client.message() == (TEXT, b"a" + note + b"b")
        pair.upstream.send(BINARY, b"", fin=False)
        pair.upstream.send(CONTINUATION, b"\xff", fin=False)
        pair.upstream.send(CONTINUATION)
        assert pair.client.message() == (BINARY, b"\xff")
        exchange(pair)


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_h5_long_messages_go_upstream_in_fragments(server: str, opcode: int) -> None:
    """What is longer than 256 KiB is sent on in fragments of that size; what is not, in one frame."""
    long = "€".encode() * (FRAGMENT // 3 + 1)  # a letter lies across the border
    with open_pair(server) as pair:
        for payload, sizes in (
            (long[: FRAGMENT - 1], [FRAGMENT - 1]),
            (long, [FRAGMENT, len(long) - FRAGMENT]),
            (long * 2, [FRAGMENT, FRAGMENT, 2 * len(long) - 2 * FRAGMENT]),
        ):
            pair.client.send(opcode, payload)
            frames = pair.upstream.frames()
            assert [len(one.payload) for one in frames] == sizes
            assert frames[0].opcode == opcode
            assert b"".join(one.payload for one in frames) == payload
        exchange(pair)


@pytest.mark.parametrize("upwards", [True, False], ids=["to-the-upstream", "to-the-client"])
def test_h5_messages_of_64_mebibytes(upwards: bool) -> None:
    """A message may have 64 MiB, in either direction, if the server takes it."""
    payload = bytes(range(256)) * (256 * KILOBYTE)
    with open_pair(largest=len(payload)) as pair:
        sender, receiver = pair if upwards else reversed(pair)
        data = frame(BINARY, payload, mask=bytes(4) if upwards else None)
        with beside(lambda: sender.send_raw(data)):
            opcode, found = receiver.message()
        assert opcode == BINARY
        assert found == payload
        exchange(pair)


LIMIT = 1000
"""Bytes of a message, in the tests of limits."""


def too_long(end: End, *, in_fragments: bool) -> None:
    """Send a message that is a byte too long."""
    if in_fragments:
        end.send(BINARY, b"x" * 600, fin=False)
        end.send(CONTINUATION, b"x" * 401)
    else:
        end.binary(b"x" * 1001)


@every_server
@pytest.mark.parametrize("in_fragments", [True, False], ids=["in-fragments", "in-one"])
def test_h5_messages_of_the_upstream_have_a_limit(server: str, in_fragments: bool) -> None:
    """A message as long as ``websocket_max_message`` passes; of a longer one nothing does: 1009 for both."""
    with open_pair(server, websocket_max_message=LIMIT) as pair:
        pair.upstream.binary(b"x" * LIMIT)
        assert pair.client.message() == (BINARY, b"x" * LIMIT)
        too_long(pair.upstream, in_fragments=in_fragments)
        assert pair.client.agree()[0] == 1009
        assert pair.upstream.told()[0] == 1009
        pair.upstream.close(1009)
        pair.upstream.hang_up()
        assert pair.client.ended()


@pytest.mark.parametrize("server", ["sansio", "legacy", "wsproto", "hypercorn"])
def test_h5_messages_of_the_client_have_the_servers_limit(server: str) -> None:
    """What is too long for the server is 1009 for both; where the server does not tell why, it is 1001 upstream."""
    with open_pair(server, largest=LIMIT) as pair:
        pair.client.binary(b"x" * LIMIT)
        assert pair.upstream.message() == (BINARY, b"x" * LIMIT)
        too_long(pair.client, in_fragments=False)
        assert pair.client.agree()[0] == 1009
        pair.client.hang_up()
        assert pair.upstream.told()[0] == (1001 if server in {"hypercorn", "legacy"} else 1009)


def test_h5_no_limit() -> None:
    """With None there is no limit."""
    with open_pair(websocket_max_message=None) as pair:
        pair.upstream.binary(b"x" * 3 * MEGABYTE)
        assert pair.client.message() == (BINARY, b"x" * 3 * MEGABYTE)


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "no-utf-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half-a-letter": (frame(TEXT, b"a\xe2\x82"), 1007),
    "no-utf-8-in-fragments": (frame(TEXT, b"a\xe2", fin=False) + frame(CONTINUATION, b"a"), 1007),
    "a-surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "masked": (frame(TEXT, b"x", mask=b"abcd"), 1002),
    "compressed": (frame(TEXT, b"x", rsv=4), 1002),
    "unknown-kind": (frame(3, b"x"), 1002),
    "unknown-control": (frame(11, b"x"), 1002),
    "continuation-of-nothing": (frame(CONTINUATION, b"x"), 1002),
    "two-beginnings": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "ping-in-fragments": (frame(PING, b"x", fin=False), 1002),
    "long-ping": (frame(PING, b"x" * 126), 1002),
    "half-a-code": (frame(CLOSE, b"\x03"), 1002),
    "code-that-is-never-sent": (frame(CLOSE, closing(1005)), 1002),
    "code-that-does-not-exist": (frame(CLOSE, closing(999)), 1002),
    "reason-that-is-no-utf-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize(
    ("server", "kind"),
    [*(("sansio", kind) for kind in VIOLATIONS), *((one, "no-utf-8") for one in WEBSOCKET_SERVERS[1:])],
)
def test_h5_an_upstream_that_breaks_the_rules(server: str, kind: str) -> None:
    """The upstream is told which rule, and the client that its WebSocket has failed (1011); nothing of it passes."""
    data, code = VIOLATIONS[kind]
    with open_pair(server) as pair:
        pair.upstream.text("before")
        pair.upstream.send_raw(data)
        assert pair.client.message() == (TEXT, b"before")
        assert pair.client.agree()[0] == 1011
        assert pair.upstream.told()[0] == code
        pair.upstream.hang_up()
        assert pair.client.ended()


@pytest.mark.parametrize("server", ["sansio", "legacy", "wsproto", "hypercorn"])
def test_h5_a_client_that_breaks_the_rules(server: str) -> None:
    """The server tells the client, and the upstream's WebSocket is closed, too."""
    with open_pair(server) as pair:
        pair.client.text("before")
        assert pair.upstream.message() == (TEXT, b"before")
        pair.client.send(TEXT, b"\xff\xfe")
        pair.client.ended_after()
        pair.client.hang_up()
        pair.upstream.agree()
        pair.upstream.hang_up()


# H6: pings and silence.


@every_server
def test_h6_pings_of_the_upstream_are_answered(server: str) -> None:
    """Each ping has its pong, with its payload; the client sees nothing of either, and pongs for nothing are nothing."""
    with open_pair(server) as pair:
        for payload in (b"", b"hello", b"x" * 125):
            pair.upstream.send(PING, payload)
            found = pair.upstream.read()
            assert found is not None
            assert (found.opcode, found.payload) == (PONG, payload)
        pair.upstream.send(PONG, b"unasked")
        exchange(pair)


@every_server
def test_h6_pings_of_the_client_are_its_servers_affair(server: str) -> None:
    """A client's ping is answered by the server, and goes no further."""
    with open_pair(server) as pair:
        pair.client.send(PING, b"hello")
        found = pair.client.read()
        assert found is not None
        assert (found.opcode, found.payload) == (PONG, b"hello")
        exchange(pair)


def pings(pair: Pair, number: int) -> Iterator[bytes]:
    """Give the payloads of so many pings that the upstream gets, one after the other."""
    for _ in range(number):
        found = pair.upstream.read()
        assert found is not None
        assert found.opcode == PING
        yield found.payload


def test_h6_a_silent_upstream_is_pinged() -> None:
    """An upstream that is silent for ``websocket_ping_interval`` is pinged; who answers lives on."""
    with open_pair(websocket_ping_interval=0.05, websocket_ping_timeout=30) as pair:
        for payload in pings(pair, 4):
            pair.upstream.send(PONG, payload)
        pair.upstream.text("alive")
        assert pair.client.message() == (TEXT, b"alive")


@every_server
def test_h6_a_dead_upstream(server: str) -> None:
    """An upstream that does not answer a ping is given up: 1011 for the client, and the connection is closed."""
    with open_pair(server, websocket_ping_interval=0.05, websocket_ping_timeout=0.1) as pair:
        list(pings(pair, 1))
        assert pair.client.agree()[0] == 1011
        assert pair.client.ended()
        pair.client.hang_up()
        assert [one.opcode for one in pair.upstream.ended_after()] in ([CLOSE], [])


@with_patience(0.4)
def test_h6_an_upstream_that_talks_is_alive(limit: float) -> None:
    """A ping that nobody answers is forgiven to an upstream that sends messages."""
    with open_pair(websocket_ping_interval=0.05, websocket_ping_timeout=limit) as pair:
        until = time.monotonic() + 2 * limit
        for number in count():
            list(pings(pair, 1))
            pair.upstream.text(str(number))
            assert pair.client.message() == (TEXT, str(number).encode())
            if time.monotonic() > until:
                break


def test_h6_no_pings() -> None:
    """With None nobody is pinged, and an upstream may be silent for ever."""
    with open_pair(websocket_ping_interval=None, websocket_ping_timeout=0.01, websocket_idle=0.3) as pair:
        assert pair.upstream.told() == (1001, "idle")


@every_server
@with_patience(0.4)
def test_h6_idle(server: str, limit: float) -> None:
    """Without a message for ``websocket_idle`` both are told to go away (1001), however many pings there are."""
    with open_pair(server, websocket_idle=limit, websocket_ping_interval=0.1, websocket_ping_timeout=30) as pair:
        exchange(pair)
        for payload in pings(pair, 2):
            pair.upstream.send(PONG, payload)
        assert pair.client.agree()[0] == 1001
        while (one := pair.upstream.read()) is not None and one.opcode == PING:
            pass
        assert one is not None
        assert (one.opcode, one.payload[:2]) == (CLOSE, closing(1001))
        pair.upstream.send(CLOSE, one.payload)
        pair.upstream.hang_up()
        assert pair.client.ended()


@pytest.mark.parametrize("upwards", [True, False], ids=["from-the-client", "from-the-upstream"])
@with_patience(0.6)
def test_h6_messages_keep_a_websocket_open(upwards: bool, limit: float) -> None:
    """A message in either direction is enough."""
    with open_pair(websocket_idle=limit, websocket_ping_interval=0.1, websocket_ping_timeout=30) as pair:
        sender, receiver = pair if upwards else reversed(pair)
        until = time.monotonic() + 1.5 * limit
        while time.monotonic() < until:
            sender.text("here")
            if not upwards:
                assert receiver.message() == (TEXT, b"here")
            for payload in pings(pair, 1) if not upwards else ():
                pair.upstream.send(PONG, payload)
            if upwards:
                assert upstream_message(pair) == b"here"
        sender.text("still here")
        assert (upstream_message(pair) if upwards else receiver.message()[1]) == b"still here"


def upstream_message(pair: Pair) -> bytes:
    """Return the next message at the upstream, and wait for a ping behind it; pings are answered."""
    found: list[bytes] = []
    pinged = False
    while not (found and pinged):
        one = pair.upstream.read()
        assert one is not None
        if one.opcode == PING:
            pair.upstream.send(PONG, one.payload)
            pinged = True
        else:
            assert one.opcode == TEXT, one
            found.append(one.payload)
    return found[0]


# H5: who is slow.


@contextmanager
def tight_pair(port: int, upstream: Handed) -> Iterator[Pair]:
    """Open a WebSocket whose ends hold little themselves."""
    client = Client(port)
    try:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        client.ask()
        pair = pair_of(client, upstream)
        try:
            yield pair
        finally:
            pair.upstream.hang_up()
    finally:
        client.close()


def pair_of(client: Client, upstream: Handed) -> Pair:
    """Answer a client's handshake."""
    asked = upstream.asked()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        asked.connection.sock.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)
    far = asked.accept()
    return Pair(client.taken(), far)


def push_until_it_stalls(end: End, message: bytes, stall: float = STALL) -> tuple[int, bytes]:
    """Send a message again and again until nobody takes any more; return how often it was begun, and what is left of the last."""
    number, rest = push(end, message, 2 * BOUND, stall)
    assert rest, "everything is taken, although nobody reads"
    return number, rest


def push(end: End, message: bytes, at_most: int, stall: float = STALL) -> tuple[int, bytes]:
    """Likewise, but only so many bytes."""
    end.sock.settimeout(stall)
    number = 0
    rest = memoryview(b"")
    try:
        while number * len(message) < at_most:
            number += 1
            rest = memoryview(message)
            while rest:
                rest = rest[end.sock.send(rest) :]
    except OSError:
        pass  # it stalls; or, on a slow machine, it is over already
    end.sock.settimeout(SOON)
    return number, bytes(rest)


@every_server
@pytest.mark.parametrize("upwards", [True, False], ids=["a-slow-upstream", "a-slow-client"])
def test_h5_who_is_slow_slows_the_other_down(server: str, upwards: bool) -> None:
    """Whoever sends faster than the other side takes is stopped after a bounded amount; nothing of it is lost."""
    payload = bytes(range(256)) * 256
    with open_pair(server, by=tight_pair) as pair:
        sender, receiver = pair if upwards else reversed(pair)
        number, rest = push_until_it_stalls(sender, sender.made(BINARY, payload))
        assert number * len(payload) < BOUND
        with beside(lambda: sender.send_raw(rest)):
            for _ in range(number):
                opcode, found = receiver.message()
                assert opcode == BINARY
                assert found == payload
        exchange(pair)


@every_server
def test_h5_a_client_that_is_lost_while_it_takes_nothing(server: str) -> None:
    """A client that leaves in the middle of what it does not take frees the connection at once."""
    watch = ProxyWatch()
    with (
        handed() as upstream,
        proxied(upstream.url, server, around=watch.around) as port,
        tight_pair(port, upstream) as pair,
    ):
        push_until_it_stalls(pair.upstream, pair.upstream.made(BINARY, bytes(64 * KILOBYTE)))
        assert held_at(port).active == 1
        pair.client.reset()
        wait_for(lambda: held_at(port).active == 0)


@every_server
def test_h6_an_upstream_that_takes_nothing(server: str) -> None:
    """An upstream that takes nothing, and so answers no ping, is given up; its connection is free."""
    watch = ProxyWatch()
    with (
        handed() as upstream,
        proxied(
            upstream.url, server, around=watch.around, websocket_ping_interval=0.5, websocket_ping_timeout=0.5
        ) as port,
        tight_pair(port, upstream) as pair,
    ):
        # On a slow machine it is given up before everything is full.
        push(pair.client, pair.client.made(BINARY, bytes(64 * KILOBYTE)), 2 * BOUND)
        pair.client.reset()
        wait_for(lambda: held_at(port).active == 0)


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
def test_h6_idle_with_a_client_that_takes_nothing(server: str) -> None:
    """A client that takes nothing for ``websocket_idle`` is idle, too, and the upstream's connection is free."""
    watch = ProxyWatch()
    with (
        handed() as upstream,
        proxied(upstream.url, server, around=watch.around, websocket_idle=1.0) as port,
        tight_pair(port, upstream) as pair,
    ):
        push(pair.upstream, pair.upstream.made(BINARY, bytes(64 * KILOBYTE)), 2 * BOUND)  # likewise
        wait_for(lambda: held_at(port).active == 0)


@with_patience(0.1)
def test_h5_a_slow_client_does_not_keep_pings_waiting(limit: float) -> None:
    """An upstream that is slowed down by its client is not taken for dead, nor is the client disturbed."""
    payload = bytes(64 * KILOBYTE)
    with open_pair(by=tight_pair, websocket_ping_interval=limit, websocket_ping_timeout=limit) as pair:
        number, rest = push_until_it_stalls(pair.upstream, pair.upstream.made(BINARY, payload), 3 * limit)
        with beside(lambda: pair.upstream.send_raw(rest)):
            for _ in range(number):
                assert pair.client.message() == (BINARY, payload)


def test_h5_many_pings_to_which_nobody_listens() -> None:
    """An upstream that pings again and again and reads no pong does not stop what it says besides."""
    with open_pair(by=tight_pair) as pair:
        _, rest = push(pair.upstream, frame(PING, b"x" * 125) * 500, 2 * BOUND)
        with beside(lambda: pair.upstream.send_raw(rest + frame(TEXT, b"still here"))):
            assert pair.client.message() == (TEXT, b"still here")


def test_h5_both_at_once() -> None:
    """Both sides may send at the same time, more than buffers hold, as long as both read."""
    payload = bytes(range(256)) * 256
    number = 100
    with open_pair(by=tight_pair) as pair:
        with (
            beside(partial(repeat, number, pair.client.binary, payload)),
            beside(partial(repeat, number, pair.upstream.binary, payload)),
            beside(partial(repeat, number, check, pair.upstream, payload)),
        ):
            for _ in range(number):
                check(pair.client, payload)
        part(pair)


def repeat(number: int, action: Callable[..., None], *arguments: object) -> None:
    """Do something so many times."""
    for _ in range(number):
        action(*arguments)


def check(end: End, payload: bytes) -> None:
    """Read a message, which must be this one."""
    assert end.message() == (BINARY, payload)
