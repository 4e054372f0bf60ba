"""An app under hypercorn, on 127.0.0.1, in a thread."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypercorn.asyncio
import hypercorn.config

LIMIT = 30.0
"""Seconds after which a server that does not start or stop fails the test."""


def _config(listener: socket.socket, largest: int | None) -> hypercorn.config.Config:
    config = hypercorn.config.Config()
    # Hypercorn closes the socket that it is given by number; the duplicate is its own.
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.errorlog = None
    config.graceful_timeout = 1.0
    if largest is not None:
        config.websocket_max_message_size = largest
    return config


class _Hypercorn:
    """The loop that serves, and the switch that ends it."""

    def __init__(self, app: Any, config: hypercorn.config.Config) -> None:
        self._app = app
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # noqa: BLE001 -- raised again in the test's own thread
            self.failure = exc

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await hypercorn.asyncio.serve(self._app, self._config, shutdown_trigger=self._stop.wait, mode="asgi")

    def stop(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def serving_hypercorn(app: Any, *, largest: int | None = None) -> Iterator[int]:
    """Serve an app for a block and give its port; its lifespan runs. ``largest``: bytes that it takes in one message."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        server = _Hypercorn(app, _config(listener, largest))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.stop()
            thread.join(LIMIT)
            assert not thread.is_alive(), "hypercorn did not stop"
    if server.failure is not None:
        raise server.failure
