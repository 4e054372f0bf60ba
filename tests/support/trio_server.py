"""An app under hypercorn's trio worker, on 127.0.0.1, in a thread."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio

from tests.support.threads import ThreadedServer


class _TrioServer(ThreadedServer):
    name = "hypercorn"

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self._app = app
        self._config = hypercorn.config.Config()
        # Hypercorn closes the socket that it is given by number; the duplicate is its own.
        self._config.bind = [f"fd://{listener.dup().detach()}"]
        self._config.errorlog = None
        self._config.graceful_timeout = 1.0
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop = trio.Event()

    def serve(self) -> None:
        trio.run(self._serve)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        await hypercorn.trio.serve(self._app, self._config, shutdown_trigger=self._stop.wait, mode="asgi")

    def stop(self) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._stop.set)


@contextmanager
def serving_trio(app: Any) -> Iterator[int]:
    """Serve an app for a block and give its port; its lifespan runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        server = _TrioServer(app, listener)
        with server.running():
            yield listener.getsockname()[1]
    if server.failure is not None:
        raise server.failure
