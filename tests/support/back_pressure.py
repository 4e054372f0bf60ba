"""What it takes to see back-pressure: how much kernels hold, clients that take little, upstreams that push and push."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.raw_client import RawClient
from tests.support.stages import HangingUpstream
from tests.support.upstream import LIMIT, Connection

MEGABYTE = 1024 * 1024


def kernel_holds(connections: int) -> int:
    """Return how many bytes so many loopback connections may hold in the kernel at most."""
    limits = [Path(f"/proc/sys/net/ipv4/tcp_{name}mem") for name in "rw"]
    if not all(limit.exists() for limit in limits):
        pytest.skip("reads the kernel's limits from Linux's /proc")
    return connections * sum(int(limit.read_text().split()[2]) for limit in limits)


@contextmanager
def stingy_client(port: int) -> Iterator[RawClient]:
    """Connect for a block with a client whose kernel takes little before the client reads."""
    client = RawClient.__new__(RawClient)
    client._rest = b""
    with socket.socket() as client.sock:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sock.settimeout(LIMIT)
        client.sock.connect(("127.0.0.1", port))
        yield client


class Firehose(HangingUpstream):
    """
    A script whose first connection pushes until the proxy takes no more, then waits until the proxy closes it.

    It pushes no more, because that need not fail: while the proxy takes a last piece, the kernel
    finds room for megabytes. Any other connection answers.
    """

    def __init__(self, limit: int, head: bytes = b"HTTP/1.0 200 OK\r\n\r\n", *, patience: float = 1.0) -> None:
        """Push no more than ``limit`` bytes; what is not taken for ``patience`` seconds is not going to be."""
        super().__init__(head)
        self._limit = limit
        self._patience = patience
        self.pushed = 0
        self.stalled = threading.Event()

    def hang(self, connection: Connection) -> None:
        """Push until nobody takes it."""
        connection.sock.settimeout(self._patience)
        try:
            self.push(connection, self._limit)
        except TimeoutError:
            self.stalled.set()
        except OSError:
            pass  # it was broken off before it came to that
        connection.sock.settimeout(LIMIT)

    def push(self, connection: Connection, limit: int) -> None:
        """Push until so many bytes have been taken altogether."""
        block = b"x" * 65536
        while self.pushed < limit:
            self.pushed += connection.sock.send(block[: limit - self.pushed])
