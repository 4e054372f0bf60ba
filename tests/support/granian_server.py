"""An app under granian, on 127.0.0.1, in a thread."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.threads import LIMIT, ThreadedServer

_PATIENCE = 1.0
"""Seconds that requests have to end when the server stops; by itself it would wait for ever."""

_BACKLOG = 500

# It would set up the logging of the whole process, and close everybody's handlers.
_LEAVE_LOGGING_ALONE = {"incremental": True, "handlers": {}, "loggers": {}}


class _Watch:
    """The app, watched: whether its lifespan has started, and which requests it is busy with."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._requests: set[asyncio.Task[Any]] = set()
        self.ready = threading.Event()
        """Set when the lifespan has started, or will not."""
        self.started = False
        self.failure: BaseException | None = None
        """What the lifespan raised; granian would go on without one."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._requests.discard(task)

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        async def telling(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.started = True
                self.ready.set()

        try:
            await self._app(scope, receive, telling)
        except Exception as exc:
            self.failure = exc
            raise
        finally:
            self.ready.set()

    def cancel_requests(self) -> None:
        """Break off what is still busy."""
        for task in self._requests:
            task.cancel()


class _Granian(ThreadedServer):
    name = "granian"

    def __init__(self, app: _Watch, listener: socket.socket, *, websockets: bool) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = _server_of(app, listener, websockets=websockets)

    def serve(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._app.ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve()

    def stop(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop, self._loop)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server.stop()
        loop.call_later(_PATIENCE, self._app.cancel_requests)


def _server_of(app: Any, listener: socket.socket, *, websockets: bool) -> Any:
    """Make a server that takes connections from a socket that listens already."""
    constants, net, embed = (
        pytest.importorskip(f"granian.{name}", reason="granian is not installed")
        for name in ("constants", "net", "server.embed")
    )
    server = embed.Server(
        app,
        interface=constants.Interfaces.ASGI,
        websockets=websockets,
        log_enabled=False,
        log_dictconfig=_LEAVE_LOGGING_ALONE,
    )
    # It would open a socket of its own, and nobody could tell when. The duplicate is its own to close.
    server._shd = net.SocketHolder(listener.dup().detach(), False, _BACKLOG)
    server._init_shared_socket = lambda: None
    return server


@contextmanager
def serving_granian(app: Any, *, websockets: bool = False) -> Iterator[int]:
    """Serve an app for a block and give its port; its lifespan runs. Skips the test where granian is not installed."""
    watch = _Watch(app)
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener:
        server = _Granian(watch, listener, websockets=websockets)
        with server.running():
            assert watch.ready.wait(LIMIT), "granian did not start"
            if watch.started:
                yield listener.getsockname()[1]
    if (failure := watch.failure or server.failure) is not None:
        raise failure
    assert watch.started, "the app's lifespan did not start"
