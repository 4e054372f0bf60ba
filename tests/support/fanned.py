"""For tests of many requests at once: where they run, and upstreams that see how many there are."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings
from tests.support.carriers import ASYNCIO, TRIO, UVLOOP
from tests.support.families import FAMILIES
from tests.support.raw_client import headers_of
from tests.support.upstream import LIMIT, Connection, ok
from tests.support.watched import Watched

everywhere = pytest.mark.parametrize(
    ("family", "anyio_backend"),
    [
        pytest.param("httpx", ASYNCIO, id="httpx-asyncio"),
        pytest.param(FAMILIES[-1], UVLOOP, id=f"{FAMILIES[-1]}-uvloop"),
        pytest.param(FAMILIES[-1], TRIO, id=f"{FAMILIES[-1]}-trio"),
    ],
)
"""Marks a test that takes ``family``: each family and each event loop, but not each of one with each of the other."""


@asynccontextmanager
async def client_of(family: Any, **settings: Any) -> AsyncIterator[Any]:
    """Give a client of that family, with time limits that no test waits for; check that it carries nothing after."""
    given = {"timeout": LIMIT, "drain": 0.0, **settings}
    async with ClientFactory(ClientSettings(family=family, trust_env=False, **given)) as factory:
        client = factory.get()
        yield client
        await nothing_under_way(client)


async def nothing_under_way(client: Any) -> None:
    """Wait until a client's pool carries nothing and nobody waits for it."""
    with anyio.fail_after(LIMIT):
        while any((client.pool_statistics().active, client.pool_statistics().queued)):  # noqa: ASYNC110 -- nobody tells
            await anyio.sleep(0.001)


async def wait(event: threading.Event) -> None:
    """Wait until a script has set an event."""
    assert await anyio.to_thread.run_sync(event.wait, LIMIT), "it never happened"


def target_of(head: bytes) -> str:
    """Return a request's target."""
    return head.split(b" ")[1].decode("ascii")


def replying(reply: Callable[[str, dict[bytes, bytes], bytes], bytes]) -> Callable[[Connection], None]:
    """Return a script that answers with what a function makes of target, headers and body."""

    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            connection.send(reply(target_of(head), dict(headers_of(head)), body))

    return script


def echo(target: str, headers: dict[bytes, bytes], body: bytes) -> bytes:
    """Reply with the target."""
    return ok(target.encode("ascii"))


class Backwards:
    """A script that answers ``/0`` to ``/n`` in the opposite order, each when the next one has been answered."""

    def __init__(self, count: int) -> None:
        self._turns = [threading.Event() for _ in range(count)]
        self._turns[-1].set()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while head := connection.read_request()[0]:
            number = int(target_of(head)[1:])
            assert self._turns[number].wait(LIMIT), "the next one was never asked for"
            connection.send(ok(b"%d" % number))
            if number:
                self._turns[number - 1].set()


class Gated:
    """A script that answers ``/0`` to ``/n``, each when its gate has been opened."""

    def __init__(self, count: int) -> None:
        self.gates = [threading.Event() for _ in range(count)]

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while head := connection.read_request()[0]:
            number = int(target_of(head)[1:])
            assert self.gates[number].wait(LIMIT), "the gate was never opened"
            connection.send(ok(b"%d" % number))


class Waves:
    """A script that answers when so many requests are there at once; and notes how many there were at most."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._lock = threading.Lock()
        self._present = 0
        self.most = 0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while connection.read_request()[0]:
            with self._lock:
                self._present += 1
                self.most = max(self.most, self._present)
            self._barrier.wait(LIMIT)
            with self._lock:
                self._present -= 1
            self._barrier.wait(LIMIT)  # all of a wave have left before the next begins
            connection.send(ok(b"wave"))


class Silent(Watched):
    """A script that takes requests and never answers them, but sends what it is given; it knows who still waits."""

    def __init__(self, sent: bytes = b"") -> None:
        super().__init__(self._take)
        self._sent = sent
        self._arrivals = threading.Semaphore(0)

    def _take(self, connection: Connection) -> None:
        if connection.read_request()[0]:
            connection.send(self._sent)
            self._arrivals.release()

    async def arrived(self, count: int = 1) -> None:
        """Wait until so many further requests are here."""
        for _ in range(count):
            assert await anyio.to_thread.run_sync(partial(self._arrivals.acquire, timeout=LIMIT)), "no request came"
