"""One accepted connection of an upstream, in the hands of a script."""

import contextlib
import socket
import struct
import threading
from typing import Final, final

from ._messages import UpstreamRequest

__all__ = ("LIMIT", "UpstreamConnection")

LIMIT: Final = 30.0
"""Seconds after which a script that still waits gives up, so that no test hangs."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_READ_SIZE = 65536
_GONE = (OSError, ValueError)
"""The second is ssl's, of a socket that was shut down meanwhile."""


@final
class UpstreamConnection:
    """A connection byte by byte; nothing that it does fails because the client has left."""

    sock: socket.socket
    """What it is made of."""
    number: int
    """0 for the first connection that the upstream accepted."""
    is_closed: bool
    """Whether ``close`` or ``reset`` has been called."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self.sock = sock
        self.number = number
        self.is_closed = False
        self._closing = closing
        self._rest = b""

    # Reading.

    def read_until(self, mark: bytes) -> bytes:
        """Return everything up to and with a mark; less if the client hung up."""
        while mark not in self._rest:
            data = self._receive()
            if not data:
                break
            self._rest += data
        before, found, self._rest = self._rest.partition(mark)
        return before + found

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes; less if the client hung up."""
        parts, left = [self._rest], count - len(self._rest)
        while left > 0:
            data = self._receive()
            parts.append(data)
            left = 0 if not data else left - len(data)
        data = b"".join(parts)
        found, self._rest = data[:count], data[count:]
        return found

    def read_request(self) -> UpstreamRequest | None:
        """Return the next request, with its whole body; None if there is none, or half of one."""
        head = self.read_until(b"\r\n\r\n")
        line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        words = line.split(b" ")
        if not head.endswith(b"\r\n\r\n") or len(words) != 3:  # noqa: PLR2004 -- method, target, version
            return None
        headers = tuple((name, value.strip()) for name, _, value in (entry.partition(b":") for entry in fields))
        body = self._read_body({name.lower(): value.lower() for name, value in headers})
        if body is None:
            return None
        return UpstreamRequest(words[0].decode("latin-1"), words[1].decode("latin-1"), headers, body, self.number)

    def _read_body(self, headers: dict[bytes, bytes]) -> bytes | None:
        if headers.get(b"expect") == b"100-continue":
            self.send(_CONTINUE)
        if b"transfer-encoding" in headers:
            return self._read_chunks()
        length = int(headers.get(b"content-length", b"0"))
        body = self.read_exactly(length)
        return body if len(body) == length else None

    def _read_chunks(self) -> bytes | None:
        chunks = []
        while True:
            line = self.read_until(b"\r\n")
            if not line.endswith(b"\r\n"):
                return None
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                break
            chunks.append(self.read_exactly(size))
            self.read_exactly(2)
        while self.read_until(b"\r\n") not in (b"\r\n", b""):
            pass  # trailers
        return b"".join(chunks)

    def wait_until_closed(self) -> bool:
        """Wait until the client hangs up, or the upstream is closed; whether the client did in time."""
        try:
            while self.sock.recv(_READ_SIZE):
                pass
        except TimeoutError:
            return False
        except _GONE:
            pass
        return not self._closing.is_set()

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(_READ_SIZE)
        except _GONE:
            return b""

    # Writing.

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the upstream is closed."""
        self._closing.wait(seconds)

    # Ending.

    def close(self) -> None:
        """Close in the ordinary way."""
        self.is_closed = True
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset: the client sees a broken connection."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
