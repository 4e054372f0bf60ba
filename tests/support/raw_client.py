"""A client that sends bytes and reads bytes, so that a test sees what is really on the wire."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.reading import SocketReader

LIMIT = 30.0
"""Seconds after which a read gives up, so that no test hangs."""


class RawClient(SocketReader):
    """One connection to a server."""

    gone = ConnectionError  # a read that takes too long fails the test

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        super().__init__(socket.create_connection((host, port), timeout=LIMIT))

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def read_to_end(self) -> bytes:
        """Return everything until the server hangs up, cleanly or not."""
        while data := self._recv():
            self._rest += data
        data, self._rest = self._rest, b""
        return data

    def close(self) -> None:
        """Leave cleanly."""
        with contextlib.suppress(OSError):
            self.sock.close()


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
