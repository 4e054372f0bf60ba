"""
WebSockets by hand, small and strict: both ends of one that goes through the proxy (RFC 6455).

``opened`` makes one: a client's handshake, and an upstream that agrees to it. An ``End`` sends what it is told
to, be it wise or not, and takes nothing that the RFC forbids: whatever does arrive of that kind is ``NotMet``.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from ._kit import Lab, NotMet, Request, Response, Script, TookTooLong, UpstreamConnection, Wire, expect, shown

__all__ = (
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "TEXT",
    "End",
    "Ended",
    "Pair",
    "accept_of",
    "agreeing",
    "agreement",
    "check_handshake",
    "closing",
    "handshake",
    "is_accepted",
    "opened",
    "refusing",
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_NAMES = {TEXT: "a text", BINARY: "a binary message", CLOSE: "a close frame"}
_KEY = base64.b64encode(b"sixteen bytes, a")
_KEY_SIZE = 16
"""RFC 6455, section 4.1."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\x0f\xf0\x55\xaa"
_SHORT, _IN_TWO_BYTES, _IN_EIGHT_BYTES = 125, 126, 127

_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
"""Those that may be sent (RFC 6455, section 7.4, and IANA's list)."""


class Ended(NotMet):
    """The connection is over where a frame should have come."""


def accept_of(key: bytes) -> bytes:
    """Return the answer to a handshake's key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def closing(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame's payload."""
    return struct.pack("!H", code) + reason


class End:
    """One end of a WebSocket."""

    pongs: list[bytes]
    """What the pongs had in them that came so far."""

    def __init__(self, wire: Wire, *, client: bool) -> None:
        self.pongs = []
        self._wire = wire
        self._client = client

    async def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        """Send one frame."""
        length, extra = _length_of(payload)
        masked = 0x80 if self._client else 0
        head = bytes((opcode | 0x80 * final, length | masked)) + extra
        await self._wire.send(head + (_MASK + _masked(payload, _MASK) if self._client else payload))

    async def message(self, what: str) -> tuple[int, bytes]:
        """
        Return the next message, put together, and its kind; a close frame is one, too. Pings are answered.

        Raises:
            Ended: The connection is over; the text begins with ``what``.
            TookTooLong: Nothing came; likewise.
            NotMet: Something came that the RFC forbids.
        """
        try:
            return await self._message()
        except (Ended, TookTooLong) as error:
            raise type(error)(f"{what} did not arrive: {error}") from None

    async def _message(self) -> tuple[int, bytes]:
        kind, data = CONTINUATION, b""
        while True:
            opcode, payload, final = await self._frame()
            match opcode:
                case 9:  # a ping
                    await self.send(PONG, payload)
                case 10:  # a pong
                    self.pongs.append(payload)
                case 8:
                    _check_close(payload)
                    return CLOSE, payload
                case _:
                    expect((opcode == CONTINUATION) == (kind != CONTINUATION), "a fragment came that continues nothing")
                    kind, data = kind or opcode, data + payload
                    if final:
                        _check_text(kind, data)
                        return kind, data

    async def gets(self, kind: int, data: bytes, what: str) -> None:
        """
        Take the next message, which should be this one.

        Raises:
            NotMet: It is another; the text begins with ``what``.
        """
        got, payload = await self.message(what)
        expect((got, payload) == (kind, data), f"{what} arrived as {_NAMES[got]}: {shown(payload)}")

    async def end(self, what: str) -> None:
        """
        Take the end, with a close frame or without one.

        Raises:
            TookTooLong: It did not come; the text begins with ``what``.
            NotMet: A message came instead.
        """
        with contextlib.suppress(Ended):
            kind, _ = await self.message(what)
            expect(kind == CLOSE, f"{what} did not arrive: a message did")

    async def hang_up(self) -> None:
        """
        Close the connection after a closing handshake; a client waits for the server to do so first.

        Raises:
            NotMet: It has waited in vain.
        """
        closed = not self._client or await self._wire.closed()
        expect(closed, "the client's connection stayed open after the closing handshake")
        self._wire.close()

    def reset(self) -> None:
        """Break the connection off."""
        self._wire.reset()

    def close(self) -> None:
        """Close the connection without a close frame."""
        self._wire.close()

    async def _frame(self) -> tuple[int, bytes, bool]:
        first, second = await self._exactly(2)
        expect(not first & 0x70, "a frame had reserved bits set, and no extension was agreed on")
        opcode, length = first & 0x0F, second & 0x7F
        expect(opcode in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}, f"a frame had the unknown opcode {opcode}")
        expect(opcode < CLOSE or (first & 0x80 and length <= _SHORT), "a control frame was in fragments, or too long")
        sender = "upstream" if self._client else "client"
        expect(bool(second & 0x80) != self._client, f"the masking of a frame was not right for one from the {sender}")
        if length > _SHORT:
            length = int.from_bytes(await self._exactly(2 if length == _IN_TWO_BYTES else 8))
        mask = await self._exactly(0 if self._client else 4)
        payload = await self._exactly(length)
        return opcode, payload if self._client else _masked(payload, mask), bool(first & 0x80)

    async def _exactly(self, count: int) -> bytes:
        data = await self._wire.read_exactly(count)
        if len(data) < count:
            raise Ended("the connection ended without a close frame")
        return data


def _length_of(payload: bytes) -> tuple[int, bytes]:
    length = len(payload)
    if length <= _SHORT:
        return length, b""
    if length < 1 << 16:
        return _IN_TWO_BYTES, struct.pack("!H", length)
    return _IN_EIGHT_BYTES, struct.pack("!Q", length)


def _masked(payload: bytes, mask: bytes) -> bytes:
    # As one large number: byte by byte would take long for a large message.
    length = len(payload)
    whole = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload) ^ int.from_bytes(whole)).to_bytes(length)


def _check_text(kind: int, data: bytes) -> None:
    expect(kind == BINARY or _is_utf8(data), "a text that arrived is not UTF-8")


def _check_close(payload: bytes) -> None:
    expect(len(payload) != 1, "a close frame had half a code")
    code = int.from_bytes(payload[:2])
    expect(not payload or code in _CODES, f"a close frame had the code {code}, which must never be sent")
    expect(_is_utf8(payload[2:]), "a close frame's reason is not UTF-8")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class Pair:
    """A WebSocket through the proxy, seen from both ends."""

    client: End
    upstream: End
    request: Request
    """The handshake as the upstream got it."""
    response: Response
    """The answer to it as the client got it."""


def handshake(lab: Lab, *lines: bytes, target: bytes = b"/chat") -> bytes:
    """Return a client's handshake."""
    head = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + _KEY)
    return lab.request(*head, *lines, target=target)


def is_accepted(response: Response) -> bool:
    """Return whether a client that checks what it is told would take this for an open WebSocket."""
    return _is_switch(response) and response.values(b"sec-websocket-accept") == [accept_of(_KEY)]


def _is_switch(response: Response) -> bool:
    return response.status == HTTPStatus.SWITCHING_PROTOCOLS


def agreement(accept: bytes, *lines: bytes) -> bytes:
    """Return an upstream's answer to a handshake."""
    head = (b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket")
    return b"\r\n".join((*head, b"Sec-WebSocket-Accept: " + accept, *lines, b"", b""))


def check_handshake(request: Request) -> None:
    """
    Look at what the upstream was sent as an upstream does that speaks WebSocket.

    Raises:
        NotMet: It is no handshake.
    """
    expect(request.method == b"GET", f"the upstream was asked with {request.method.decode('latin-1')}")
    asked, lines = request.tokens(b"upgrade") == [b"websocket"], request.values(b"upgrade")
    got = "Upgrade: " + shown(b", ".join(lines)) if lines else "no Upgrade"
    expect(asked, f"the upstream was not asked for a WebSocket: it got {got}")
    expect(b"upgrade" in request.tokens(b"connection"), "the upstream's Upgrade was not named in Connection")
    expect(request.values(b"sec-websocket-version") == [b"13"], "the upstream was not asked for version 13")
    keys = request.values(b"sec-websocket-key")
    expect(len(keys) == 1 and _is_key(keys[0]), "the upstream got no key of 16 bytes, or more than one")


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_SIZE
    except binascii.Error:
        return False


def refusing(response: bytes) -> Script:
    """Return a script that answers a handshake with these bytes; what is no handshake is the row's failure."""

    async def script(connection: UpstreamConnection) -> None:
        check_handshake(connection.request)
        await connection.send(response)

    return script


def agreeing(lines: Iterable[bytes], found: "asyncio.Queue[UpstreamConnection]", over: asyncio.Event) -> Script:
    """
    Return a script that agrees to a handshake, tells over which connection, and keeps that until it is over.

    What is no handshake is the row's failure: to agree to it would be to speak WebSocket with somebody who does not.
    """

    async def script(connection: UpstreamConnection) -> None:
        check_handshake(connection.request)
        key = b"".join(connection.request.values(b"sec-websocket-key"))
        await connection.send(agreement(accept_of(key), *lines))
        found.put_nowait(connection)
        await over.wait()

    return script


@asynccontextmanager
async def opened(lab: Lab, *lines: bytes, answer: Iterable[bytes] = ()) -> AsyncIterator[Pair]:
    """
    Open a WebSocket through the proxy for a block.

    Args:
        lab: The row's.
        lines: Header lines of the client's, beside those of every handshake.
        answer: Header lines of the upstream's, likewise.

    Raises:
        NotMet: It did not come to one.
    """
    found: asyncio.Queue[UpstreamConnection] = asyncio.Queue()
    over = asyncio.Event()
    before = len(lab.upstream.requests)
    lab.upstream.answer_with(agreeing(answer, found, over))
    client = await lab.client()
    await client.send(handshake(lab, *lines))
    try:
        response = await client.response()
        expect(_is_switch(response), f"the client's handshake got {response}")
        expect(is_accepted(response), "the client's key was not answered rightly")
        request = await lab.upstream.request(before)
        check_handshake(request)  # else nobody has agreed, and nobody is found
        upstream = await found.get()
        yield Pair(End(client, client=True), End(upstream, client=False), request, response)
    finally:
        over.set()
        client.close()
