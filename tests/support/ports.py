"""Ports for those who listen soon, and ports at which no connection comes about: refused, or never answered."""

import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_EACH = 2000
_FIRST = 12_000 + _WORKER % 8 * _EACH
_ports = cycle(range(_FIRST, _FIRST + _EACH))
"""Below those that kernels give out by themselves, and others for each of the processes that tests run in."""

_MOST_HELD = 100
_held: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a port for somebody to listen at, soon; others are not given it for long."""
    while True:
        port = next(_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def refusing_port() -> int:
    """Return a port at which nobody listens, nor can: tests run beside each other, and take each other's free ones."""
    sock = socket.socket()
    _held.append(sock)
    if len(_held) > _MOST_HELD:
        _held.popleft().close()
    sock.bind(("127.0.0.1", 0))
    return int(sock.getsockname()[1])


@contextmanager
def deaf_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Give a port at which a connection is neither taken nor refused: its listener's queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        for _ in range(4):
            sock = stack.enter_context(socket.socket(family))
            sock.setblocking(False)
            sock.connect_ex((host, port))
        yield port
