"""A client that sends bytes and reads bytes, so that a test sees what is really on the wire."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 30.0
"""Seconds after which a read gives up, so that no test hangs."""


class RawClient:
    """One connection to a server."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection((host, port), timeout=LIMIT)
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        """Return everything up to and with a mark; less if the server hung up."""
        while mark not in self._rest:
            data = self._recv()
            if not data:
                break
            self._rest += data
        head, found, self._rest = self._rest.partition(mark)
        return head + found

    def read_head(self) -> bytes:
        """Return a response's head."""
        return self.read_until(b"\r\n\r\n")

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes; less if the server hung up."""
        while len(self._rest) < count:
            data = self._recv()
            if not data:
                break
            self._rest += data
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def read_to_end(self) -> bytes:
        """Return everything until the server hangs up, cleanly or not."""
        while data := self._recv():
            self._rest += data
        data, self._rest = self._rest, b""
        return data

    def reset(self) -> None:
        """Leave with a reset, as a browser's closed tab does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Leave cleanly."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def _recv(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""


@contextmanager
def raw_client(port: int) -> Iterator[RawClient]:
    """Connect for a block."""
    client = RawClient(port)
    try:
        yield client
    finally:
        client.close()


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header lines of a head, names in lower case."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")[1:]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
