"""For tests of how connections are made: names of one's own, and what is left open afterwards."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import LIMIT

Address = tuple[Any, ...]

_real_getaddrinfo = socket.getaddrinfo


def has_ipv6() -> bool:
    """Return whether there is a ``::1`` here."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += str(entry.readlink()).startswith("socket:")
    return found


async def eventually(happens: Callable[[], bool]) -> bool:
    """Return whether something becomes true soon; for what no event tells of."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT
    while not happens():
        if loop.time() > end:
            return False
        await asyncio.sleep(0.001)
    return True


async def in_thread(wait: Callable[[float], bool]) -> None:
    """Wait for something of the threads' within the limit, without holding up the loop."""
    assert await asyncio.to_thread(wait, LIMIT), "it did not happen"


class Names:
    """Stands for ``socket.getaddrinfo``: knows names of its own, and counts and holds questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, int]] = []
        self.arrived = threading.Semaphore(0)
        """Released at each question."""
        self._known: dict[str, list[tuple[str, int | None]] | BaseException] = {}
        self._gates: dict[str, threading.Event] = {}
        self._turns: dict[str, list[str]] = {}

    def know(self, name: str, *addresses: str | tuple[str, int]) -> None:
        """Resolve a name to these addresses, in this order; a port with one is instead of the port asked for."""
        self._known[name] = [(found, None) if isinstance(found, str) else found for found in addresses]

    def know_in_turn(self, name: str, *addresses: str) -> None:
        """Resolve a name to one address after the other, at each question to the next; the last one stays."""
        self.know(name)
        self._turns[name] = list(addresses)

    def fail(self, name: str, error: BaseException) -> None:
        """Raise an error for a name."""
        self._known[name] = error

    def hold(self, name: str) -> threading.Event:
        """Keep whoever asks for a name waiting until the event is set."""
        gate = self._gates[name] = threading.Event()
        return gate

    def release(self) -> None:
        """Keep nobody waiting any more."""
        for gate in self._gates.values():
            gate.set()

    def count(self, name: str) -> int:
        """Return how often a name was asked for."""
        return sum(asked == name for asked, _ in self.asked)

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Address]:
        """Answer as ``socket.getaddrinfo`` does."""
        if host not in self._known and host not in self._gates:
            return list(_real_getaddrinfo(host, port, *args, **kwargs))
        self.asked.append((host, port))
        self.arrived.release()
        if host in self._gates:
            assert self._gates[host].wait(LIMIT), "nobody let the question be answered"
        if self._turns.get(host):
            self.know(host, self._turns[host].pop(0))
        found = self._known[host]
        if isinstance(found, BaseException):
            raise found
        return [_address(address, port if own is None else own) for address, own in found]


def _address(host: str, port: int) -> Address:
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


class Steps:
    """A ``trace`` that keeps the names of the steps of connecting."""

    def __init__(self, act: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.names: list[str] = []
        self.infos: list[dict[str, Any]] = []
        self._act = act

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        """Take note."""
        if name.startswith("connection."):
            self.names.append(name.removeprefix("connection."))
            self.infos.append(info)
        if self._act is not None:
            await self._act(name)


class LoopErrors:
    """Keeps what the running event loop would log as an error nobody caught."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.contexts.append(context))
