"""Upstream scripts that a test can watch and hold: who is connected, who waits, who has left."""

import threading
from functools import partial

import anyio.to_thread

from .upstream import LIMIT, Connection, Script, ok

SOON = 4.0
"""Seconds within which something that is due now must have happened; less than any default timeout."""


class Watched:
    """A script around another, which knows how many connections its peers still hold open."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._changed = threading.Condition()
        self.open = 0
        self.accepted = 0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection, then wait for its end."""
        with self._changed:
            self.open += 1
            self.accepted += 1
        self._script(connection)
        if connection.wait_until_closed():
            with self._changed:
                self.open -= 1
                self._changed.notify_all()

    async def none_open(self) -> bool:
        """Return whether, soon, no peer holds a connection any more."""
        return await anyio.to_thread.run_sync(self.none_open_now)

    def none_open_now(self) -> bool:
        """Return the same without an event loop."""
        with self._changed:
            return self._changed.wait_for(lambda: self.open == 0, SOON)


class Held:
    """A script that keeps each request waiting until the test lets it be answered."""

    def __init__(self, response: bytes | None = None) -> None:
        self._response = ok(b"late") if response is None else response
        self._arrived = threading.Semaphore(0)
        self._release = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while connection.read_request()[0]:
            self._arrived.release()
            self._release.wait(LIMIT)
            connection.send(self._response)

    async def arrived(self, count: int = 1) -> None:
        """Wait until so many further requests are here."""
        for _ in range(count):
            assert await anyio.to_thread.run_sync(partial(self._arrived.acquire, timeout=LIMIT)), "no request came"

    def release(self) -> None:
        """Answer those that wait, and all that come."""
        self._release.set()
