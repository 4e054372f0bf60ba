"""Table H of the conformance suite: a tunnel that does everything right meets it, and each fault is seen."""

import asyncio
import struct

import pytest

from fastapi_httpx_pool.conformance import Outcome, Place, Result, run, select
from fastapi_httpx_pool.conformance._websocket import accept_of
from tests.support import faults
from tests.support.faults import Change, replacing
from tests.support.ports import free_port
from tests.support.tunnel import Faults, first_bits, tunnelling

KEY = b"c2l4dGVlbiBieXRlcywgYQ=="
ACCEPT = accept_of(KEY)
AGREEMENT = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
IS_WEBSOCKET = b"Upgrade: websocket"


def asked(rows: str, faults: Faults | None = None, timeout: float = 2.0) -> list[Result]:
    """Return what becomes of rows behind a tunnel."""

    async def ask() -> list[Result]:
        upstream = free_port()
        async with tunnelling(upstream, faults) as port:
            place = Place("127.0.0.1", port, "/p", upstream_port=upstream, timeout=timeout)
            return await run(place, select([rows]))

    return asyncio.run(ask())


def test_what_is_right_is_met() -> None:
    """A tunnel that only takes foreign upgrades away meets the whole table."""
    results = asked("H")
    assert [(result.row.id, result.outcome, result.text) for result in results] == [
        (f"H{number}", Outcome.MET, "") for number in range(1, 9)
    ]


def without(name: bytes) -> Faults:
    """Return what takes lines of this name out of requests and responses."""
    take = faults.without(name)
    return Faults(request=take, response=take)


def request(old: bytes, new: bytes) -> Faults:
    """Return what changes requests' heads."""
    return Faults(request=replacing(old, new))


def response(old: bytes, new: bytes) -> Faults:
    """Return what changes responses' heads."""
    return Faults(response=replacing(old, new))


NOT_PASSED_ON = faults.without(b"upgrade", b"connection")
"""What proxies do that have not been told of WebSockets: they ask for a page."""


@pytest.mark.parametrize("hasty", [False, True])
def test_what_is_no_handshake_is_not_agreed_to(*, hasty: bool) -> None:
    """A proxy that takes Upgrade away meets no row about WebSockets, even if it tells clients that it went well."""
    proxy = Faults(request=NOT_PASSED_ON, first=lambda head: AGREEMENT if hasty and IS_WEBSOCKET in head else b"")
    told = {result.row.id: result.text for result in asked("H", proxy)}

    assert told.pop("H7") == ""
    if hasty:
        assert told.pop("H1") == "the client was told 101, while the upstream refused"
        assert told.pop("H2")  # whichever of the two is seen first
    assert set(told.values()) == {"the upstream was not asked for a WebSocket: it got no Upgrade"}


def unmasked(piece: bytes) -> bytes:
    """Take the mask's bit off the client's frames."""
    return piece[:1] + bytes((piece[1] & 0x7F,)) + piece[2:]


def code(number: int) -> Faults:
    """Return what changes the upstream's 4001."""
    return Faults(down=replacing(struct.pack("!H", 4001), struct.pack("!H", number)))


def joined(head: bytes) -> bytes:
    """Join two cookies, as code does that takes header lines for a mapping."""
    return (
        head.replace(b"Set-Cookie: d=4\r\n", b"").replace(b"c=3", b"c=3, d=4").replace(b"a=1\r\nSet-Cookie:", b"a=1,")
    )


def decoded(head: bytes) -> bytes:
    """Decode a WebSocket's target."""
    return head.replace(b"%2F", b"/") if IS_WEBSOCKET in head else head


def believing(head: bytes) -> bytes:
    """Believe a WebSocket what it says about itself."""
    return head if IS_WEBSOCKET in head else head.replace(b"192.0.2.1", b"127.0.0.1")


def refusing(mark: bytes) -> Faults:
    """Return what refuses requests with this in their heads, if they are not for WebSockets."""
    return Faults(first=lambda head: REFUSAL if mark in head and IS_WEBSOCKET not in head else b"")


def dropping(first: int) -> Change:
    """Return what swallows pieces with this first byte."""
    return lambda piece: b"" if piece[:1] == bytes((first,)) else piece


SEEN = [
    (
        "H1",
        Faults(first=lambda head: AGREEMENT if IS_WEBSOCKET in head else b""),
        "the client was told 101, while the upstream refused",
    ),
    ("H1", request(b"GET ", b"POST "), "the upstream was asked with POST"),
    ("H1", request(b"Upgrade: websocket", b"Upgrade: socket"), "was not asked for a WebSocket: it got Upgrade: socket"),
    ("H1", request(b"Connection: Upgrade", b"Connection: close"), "was not named in Connection"),
    ("H1", request(b"Version: 13", b"Version: 8"), "not asked for version 13"),
    ("H1", request(KEY, b"no key"), "got no key of 16 bytes"),
    ("H1", request(KEY, b"AAAA"), "got no key of 16 bytes"),
    ("H1", response(ACCEPT, b"c29tZXRoaW5n"), "the client's key was not answered rightly"),
    ("H1", response(b" 101 Switching Protocols", b" 500 No\r\nContent-Length: 0"), "the client's handshake got"),
    ("H1", response(accept_of(b"another key"), ACCEPT), "while the upstream answered another key"),
    ("H1", Faults(up=first_bits(0x81, 0x82)), "a text to the upstream arrived as a binary message"),
    ("H1", Faults(up=unmasked), "the masking of a frame was not right for one from the client"),
    ("H1", Faults(down=first_bits(0x81, 0xC1)), "reserved bits"),
    ("H1", Faults(down=first_bits(0x81, 0x83)), "unknown opcode 3"),
    ("H2", response(b" 401 ", b" 403 "), "a refusal with 401 became"),
    ("H2", without(b"X-Why"), "own line got lost"),
    ("H2", without(b"WWW-Authenticate"), "WWW-Authenticate got lost"),
    ("H2", Faults(response=joined), "did not stay two lines"),
    ("H2", Faults(down=replacing(b"who is", b"secret")), "body got lost"),
    ("H2", response(b" 302 ", b" 500 "), "a redirect became"),
    ("H2", without(b"Location"), "Location got lost"),
    ("H2", response(b" 404 ", b" 500 "), "a refusal in chunks became"),
    ("H3", request(b"chat, superchat", b"chat"), "did not see both"),
    ("H3", response(b": superchat", b": chat"), "not told the subprotocol"),
    ("H3", request(b"two, three", b"two"), "not all subprotocols"),
    ("H3", response(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: superchat\r\n\r\n"), "not told the subprotocol"),
    ("H3", response(b"Upgrade\r\nUpgrade", b"Upgrade\r\nsec-websocket-protocol: one\r\nUpgrade"), "subprotocol"),
    ("H4", without(b"cookie"), "the client's cookie did not arrive"),
    ("H4", without(b"origin"), "the client's origin did not arrive"),
    ("H4", without(b"X-Answered"), "a line of the upstream's 101 did not arrive"),
    ("H4", Faults(response=joined), "did not arrive as two lines"),
    ("H5", Faults(down=first_bits(0x01, 0x81)), "not UTF-8"),
    ("H5", Faults(down=replacing(b"\x00\x01\xbc", b"\x01\x01\xbc")), "a fragment came that continues nothing"),
    ("H5", Faults(up=replacing(b"\x89\x85", b"\x09\x85")), "a control frame was in fragments"),
    ("H5", Faults(up=first_bits(0x88, 0x82)), "arrived as a message"),
    ("H5", code(1000), "to the client arrived with 1000 'bis später'"),
    ("H5", code(1005), "the code 1005, which must never be sent"),
    ("H5", Faults(down=replacing(b"sp\xc3", b"sp\xff")), "reason is not UTF-8"),
    ("H5", Faults(down=replacing(b"\x88\x00", b"\x88\x01\x03")), "half a code"),
    ("H5", Faults(down=replacing(b"\x88\x00", b"\x88\x02\x03\xe9")), "without a code to the client arrived with 1001"),
    ("H6", Faults(down=first_bits(0x8A, 0x81)), "a text after a pong arrived as a text: are you there?"),
    ("H6", Faults(up=first_bits(0x89, 0x8A)), "the client's ping was not answered"),
    ("H6", Faults(down=first_bits(0x89, 0x8A)), "the upstream's ping was not answered"),
    ("H7", Faults(passes_upgrades=True), "the upstream got Upgrade: h2c"),
    ("H7", Faults(passes_upgrades=True, request=replacing(b"h2c", b"h2")), "the upstream got HTTP2-Settings"),
    ("H7", refusing(b"h2c"), "a request with Upgrade: h2c got"),
    ("H7", refusing(b"example/1"), "a request with Upgrade: example/1 got"),
    ("H8", Faults(request=decoded), "went upstream as /base/a/b;c"),
    ("H8", Faults(request=believing), "x-forwarded-for was 192.0.2.1, and over HTTP 127.0.0.1"),
    ("H8", refusing(b"/secret"), "went upstream, while it is refused over HTTP"),
]


@pytest.mark.parametrize(
    ("row", "faults", "text"), SEEN, ids=[f"{row}-{number}" for number, (row, *_) in enumerate(SEEN)]
)
def test_what_is_wrong_is_seen(row: str, faults: Faults, text: str) -> None:
    """A tunnel with one fault does not meet the row, and the row says what it saw."""
    (result,) = asked(row, faults)
    assert (result.outcome, text in result.text) == (Outcome.NOT_MET, True), result.text


MISSED = [
    ("H1", Faults(down=dropping(0x81)), "a text to the client did not arrive"),
    ("H5", Faults(keeps=True), "the end after the client was gone did not arrive"),
    ("H8", Faults(first=lambda head: REFUSAL if IS_WEBSOCKET in head else b""), "no request arrived"),
]


@pytest.mark.parametrize(("row", "faults", "text"), MISSED, ids=[row for row, *_ in MISSED])
def test_what_does_not_come_is_missed(row: str, faults: Faults, text: str) -> None:
    """What has to be waited for in vain takes as long as the limit, and is told of."""
    (result,) = asked(row, faults, timeout=0.5)
    assert (result.outcome, text in result.text) == (Outcome.NOT_MET, True), result.text
