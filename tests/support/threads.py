"""A server with a loop of its own in a thread, for the time of a block."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 30.0
"""Seconds after which a server that does not start or stop fails the test."""


class ThreadedServer(ABC):
    """The loop that serves, and the switch that ends it."""

    name: str
    failure: BaseException | None = None
    """What it raised; to be raised again in the test's own thread."""

    @abstractmethod
    def serve(self) -> None:
        """Serve until it is stopped."""

    @abstractmethod
    def stop(self) -> None:
        """Begin to stop, from another thread."""

    def _run(self) -> None:
        try:
            self.serve()
        except BaseException as exc:  # noqa: BLE001 -- raised again in the test's own thread
            self.failure = exc

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve for a block."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop()
            thread.join(LIMIT)
            assert not thread.is_alive(), f"{self.name} did not stop"
