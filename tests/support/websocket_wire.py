"""WebSockets byte by byte: a client and a scripted upstream whose handshakes and frames a test writes and reads itself."""

import base64
import hashlib
import queue
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.support.raw_client import RawClient, headers_of
from tests.support.upstream import LIMIT, Connection, Upstream, scripted

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

SOON = 10.0
"""Seconds within which what is due must come; only a failing test waits for so long."""

MASK = b"\x37\xfa\x21\x3d"

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_SIXTEEN_BITS, _SIXTY_FOUR_BITS = 126, 127


class Frame(NamedTuple):
    """One frame, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def masked(payload: bytes, mask: bytes) -> bytes:
    """Mask a payload, or take its mask away."""
    if mask == bytes(4):
        return payload
    length = len(payload)
    full = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(full, "big")).to_bytes(length, "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    """Return a frame's bytes, whether it makes sense or not."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0 if mask is None else 0x80
    length = len(payload)
    if length < _SIXTEEN_BITS:
        head = struct.pack("!BB", first, bit | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, bit | _SIXTEEN_BITS, length)
    else:
        head = struct.pack("!BBQ", first, bit | _SIXTY_FOUR_BITS, length)
    return head + payload if mask is None else head + mask + masked(payload, mask)


def closing(code: int | None, reason: str = "") -> bytes:
    """Return a close frame's payload."""
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


class End:
    """One end of an open WebSocket."""

    def __init__(self, peer: RawClient | Connection, head: bytes, *, is_client: bool) -> None:
        self.head = head
        """What the other side sent of the handshake."""
        self.sock = peer.sock
        self.sock.settimeout(SOON)
        # Otherwise each frame would wait for the acknowledgement of the last one.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer
        self._mask = MASK if is_client else None
        self._is_client = is_client
        self._buffer = bytearray(peer._rest)
        self._ended_by: str | None = None

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header's lines in the other side's handshake, in their order."""
        return [value for key, value in headers_of(self.head) if key == name]

    # Sending.

    def send_raw(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame, masked as it must be."""
        self.send_raw(self.made(opcode, payload, fin=fin))

    def made(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        """Return the bytes of a frame from this end."""
        return frame(opcode, payload, fin=fin, mask=self._mask)

    def text(self, text: str) -> None:
        """Send a text message."""
        self.send(TEXT, text.encode())

    def binary(self, data: bytes) -> None:
        """Send a binary message."""
        self.send(BINARY, data)

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Send a close frame."""
        self.send(CLOSE, closing(code, reason))

    # Reading.

    def read(self) -> Frame | None:
        """Return the next frame, or None if the connection ends first; it must be masked if a client sent it."""
        head = self._take(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        if length == _SIXTEEN_BITS:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == _SIXTY_FOUR_BITS:
            (length,) = struct.unpack("!Q", self._take(8))
        assert bool(head[1] & 0x80) is not self._is_client, "clients mask, and nobody else does"
        mask = bytes(4) if self._is_client else self._take(4)
        payload = self._take(length)
        if len(payload) < length:
            return None
        return Frame(head[0] & 0x0F, masked(payload, mask), bool(head[0] & 0x80), head[0] >> 4 & 7)

    def frames(self) -> list[Frame]:
        """Return the frames of the next message."""
        found: list[Frame] = []
        while not found or not found[-1].fin:
            next_one = self.read()
            assert next_one is not None, f"the connection ended ({self._ended_by}) instead of a message"
            assert next_one.rsv == 0
            assert next_one.opcode == CONTINUATION if found else next_one.opcode in (TEXT, BINARY), next_one[:1]
            found.append(next_one)
        return found

    def message(self) -> tuple[int, bytes]:
        """Return the next message, put together: its opcode and its payload."""
        found = self.frames()
        return found[0].opcode, b"".join(part.payload for part in found)

    def told(self) -> tuple[int | None, str]:
        """Return code and reason of a close frame, which must be what comes next."""
        found = self.read()
        assert found is not None, f"the connection ended ({self._ended_by}) without a close frame"
        assert found.opcode == CLOSE, found
        if not found.payload:
            return None, ""
        return int.from_bytes(found.payload[:2], "big"), found.payload[2:].decode()

    def agree(self) -> tuple[int | None, str]:
        """Return code and reason of a close frame, which must be what comes next, and say the same."""
        code, reason = self.told()
        self.close(code, reason)
        return code, reason

    def ended(self) -> bool:
        """Whether the connection ends soon, without another byte."""
        try:
            return self._take(1) == b""
        except TimeoutError:
            return False

    def ended_after(self) -> list[Frame]:
        """Return the frames until the connection ends, which must be soon."""
        return list(iter(self.read, None))

    def is_silent(self) -> bool:
        """Whether nothing has come at this moment, not even the end."""
        return not self._buffer and not select.select([self.sock], [], [], 0)[0]

    # The end.

    def hang_up(self) -> None:
        """End the connection without a word."""
        self._peer.close()

    def reset(self) -> None:
        """Break the connection off."""
        self._peer.reset()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionError:
                self._ended_by = "reset"
                break
            if not data:
                self._ended_by = "FIN"
                break
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


# Handshakes.


def handshake(target: bytes = b"/", *lines: bytes, key: bytes = KEY, host: bytes = b"front.example") -> bytes:
    """Return a client's; a line of these takes the place of the one that there would be."""
    own = (
        b"Host: " + host,
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + key,
    )
    names = {line.partition(b":")[0] for line in lines}
    left = (line for line in own if line.partition(b":")[0] not in names)
    return b"\r\n".join((b"GET " + target + b" HTTP/1.1", *left, *lines, b"", b""))


def accepting(key: bytes) -> bytes:
    """Return what answers a key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def switching(head: bytes, *lines: bytes) -> bytes:
    """Return the 101 that answers the head of a handshake."""
    key = dict(headers_of(head))[b"sec-websocket-key"]
    return switching_with(b"Upgrade: websocket", b"Connection: Upgrade", accept_line(key), *lines)


def accept_line(key: bytes) -> bytes:
    """Return the line that answers a key."""
    return b"Sec-WebSocket-Accept: " + accepting(key)


def switching_with(*lines: bytes) -> bytes:
    """Return a 101 of these lines and nothing else."""
    return b"\r\n".join((b"HTTP/1.1 101 Switching Protocols", *lines, b"", b""))


class Handed:
    """A scripted upstream that hands its connections to the test's own thread, where both ends are seen in one order."""

    def __init__(self) -> None:
        self.upstream: Upstream
        self._connections: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self.over = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Hand one over, and keep it until the test is over."""
        self._connections.put(connection)
        self.over.wait(LIMIT)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return self.upstream.url

    @property
    def accepted(self) -> int:
        """Connections so far."""
        return self.upstream.accepted

    def next(self) -> Connection:
        """Wait for the next connection."""
        connection = self._connections.get(timeout=SOON)
        connection.sock.settimeout(SOON)
        return connection

    def asked(self) -> "Asked":
        """Wait for the next connection and the head of its request."""
        connection = self.next()
        return Asked(connection, connection.read_head())


class Asked:
    """A connection that has asked for a WebSocket."""

    def __init__(self, connection: Connection, head: bytes) -> None:
        self.connection = connection
        self.head = head

    @property
    def target(self) -> bytes:
        """The request's."""
        return self.head.split(b" ")[1]

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header's lines, in their order."""
        return [value for key, value in headers_of(self.head) if key == name]

    def accept(self, *lines: bytes, and_send: bytes = b"") -> End:
        """Answer with 101, and in the same packet with whatever else."""
        self.connection.send(switching(self.head, *lines) + and_send)
        return End(self.connection, self.head, is_client=False)

    def answer(self, data: bytes) -> None:
        """Answer with something else."""
        self.connection.send(data)

    def was_let_go(self) -> bool:
        """Whether the connection is closed soon."""
        return self.connection.wait_until_closed()


@contextmanager
def handed(ssl_context: ssl.SSLContext | None = None) -> Iterator[Handed]:
    """Run such an upstream for a block."""
    script = Handed()
    with scripted(script, ssl_context) as upstream:
        script.upstream = upstream
        try:
            yield script
        finally:
            script.over.set()


class Client(RawClient):
    """A client that asks for a WebSocket."""

    def ask(self, target: bytes = b"/", *lines: bytes) -> None:
        """Send a handshake."""
        self.sock.settimeout(SOON)
        self.send(handshake(target, *lines))

    def taken(self) -> End:
        """Read the answer, which must be a 101 to this handshake."""
        head = self.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        end = End(self, head, is_client=True)
        assert end.values(b"sec-websocket-accept") == [accepting(KEY)]
        return end

    def is_waiting(self) -> bool:
        """Whether nothing has come at this moment, not even the end."""
        return not self._rest and not select.select([self.sock], [], [], 0)[0]


@contextmanager
def asking(port: int, target: bytes = b"/", *lines: bytes) -> Iterator[Client]:
    """Send a handshake, for a block."""
    client = Client(port)
    try:
        client.ask(target, *lines)
        yield client
    finally:
        client.close()


class Pair(NamedTuple):
    """Both ends of what goes through a proxy."""

    client: End
    upstream: End


@contextmanager
def opened(
    port: int,
    upstream: Handed,
    target: bytes = b"/",
    *lines: bytes,
    answer: tuple[bytes, ...] = (),
    and_send: bytes = b"",
) -> Iterator[Pair]:
    """Open a WebSocket through a proxy to an upstream, for a block."""
    with asking(port, target, *lines) as client:
        far = upstream.asked().accept(*answer, and_send=and_send)
        try:
            yield Pair(client.taken(), far)
        finally:
            far.hang_up()


def exchange(pair: Pair, text: str = "still here") -> None:
    """Check that a message passes in either direction."""
    pair.client.text(text)
    assert pair.upstream.message() == (TEXT, text.encode())
    pair.upstream.text(text)
    assert pair.client.message() == (TEXT, text.encode())


def part(pair: Pair) -> None:
    """Close a WebSocket from the client's side, in the regular way. Servers differ in which side is told first."""
    pair.client.close(1000)
    if pair.client.sock in select.select([pair.client.sock, pair.upstream.sock], [], [], SOON)[0]:
        assert pair.client.told()[0] == 1000
        pair.client.hang_up()
    pair.upstream.agree()
    pair.upstream.hang_up()
