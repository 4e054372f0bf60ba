"""Request bodies on the wire: piece by piece at the client, and what an upstream sees of them."""

import threading

from tests.support.answers import get
from tests.support.upstream import Connection, ok

LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body in chunks."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def announcing(length: int | None, *headers: bytes, target: bytes = b"/", method: bytes = b"POST") -> bytes:
    """Return the head of a request whose body has that length, or comes in chunks."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return get(target, framing, *headers, method=method)


def piece(data: bytes, length: int | None) -> bytes:
    """Return a piece of a body as it is sent, given the body's length if it has one."""
    return chunk(data) if length is None else data


def dechunked(wire: bytes) -> bytes:
    """Return the data of a body in chunks; every chunk must be whole, and the last one there."""
    parts: list[bytes] = []
    position = 0
    while True:
        start = wire.index(b"\r\n", position) + 2
        length = int(wire[position : start - 2], 16)
        position = start + length + 2
        assert wire[position - 2 : position] == b"\r\n"
        if not length:
            assert position == len(wire)
            return b"".join(parts)
        parts.append(wire[start : start + length])


class SteppingUpstream:
    """A script that tells of the head and of each expected piece as it arrives, and answers when all are there."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.head = threading.Event()
        self.arrived = [threading.Event() for _ in pieces]

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        assert connection.read_head().endswith(b"\r\n\r\n")
        self.head.set()
        for expected, event in zip(self._pieces, self.arrived, strict=True):
            if connection.read_until(expected).endswith(expected):
                event.set()
        connection.send(ok())


class AbortedUpstream:
    """
    A script whose first connection reads up to a mark, answers something or nothing, and keeps what still comes.

    Any other connection answers.
    """

    def __init__(self, mark: bytes = b"\r\n\r\n", response: bytes = b"") -> None:
        self._mark = mark
        self._response = response
        self.begun = threading.Event()
        """The mark has been read."""
        self.ended = threading.Event()
        """The first connection has ended."""
        self.rest = b"?"
        """What came on it behind the mark."""

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        if connection.number:
            connection.read_request()
            connection.send(ok(b"next"))
            return
        connection.read_until(self._mark)
        self.begun.set()
        connection.send(self._response)
        self.rest = connection.read_until(b"what never comes")
        self.ended.set()
