"""An app under hypercorn, on 127.0.0.1, in a thread."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypercorn.asyncio
import hypercorn.config

from tests.support.threads import ThreadedServer

_PATIENCE = 1.0
"""Seconds that requests have to end when the server stops."""

_LAST_RESORT = 3.0
"""
Seconds after which connections are broken off that are still open.

Since Python 3.12 it waits for them first, before its patience begins; and one whose app has ended, while more
than its queue holds was left unread, does not end.
"""


def _config(listener: socket.socket, largest: int | None) -> hypercorn.config.Config:
    config = hypercorn.config.Config()
    # Hypercorn closes the socket that it is given by number; the duplicate is its own.
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.errorlog = None
    config.graceful_timeout = _PATIENCE
    if largest is not None:
        config.websocket_max_message_size = largest
    return config


class _Hypercorn(ThreadedServer):
    name = "hypercorn"

    def __init__(self, app: Any, config: hypercorn.config.Config) -> None:
        self._app = app
        self._config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def serve(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await hypercorn.asyncio.serve(self._app, self._config, shutdown_trigger=self._stop.wait, mode="asgi")

    def stop(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._begin_to_stop, self._loop)

    def _begin_to_stop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop.set()
        loop.call_later(_LAST_RESORT, _abort_connections)


def _abort_connections() -> None:
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        if coroutine.__name__ == "_server_callback" and coroutine.cr_frame is not None:
            coroutine.cr_frame.f_locals["writer"].transport.abort()


@contextmanager
def serving_hypercorn(app: Any, *, largest: int | None = None) -> Iterator[int]:
    """Serve an app for a block and give its port; its lifespan runs. ``largest``: bytes that it takes in one message."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        server = _Hypercorn(app, _config(listener, largest))
        with server.running():
            yield listener.getsockname()[1]
    if server.failure is not None:
        raise server.failure
