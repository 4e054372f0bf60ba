"""An app under a real server, on 127.0.0.1, in a thread."""

import asyncio
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import uvicorn

WebSockets = Literal["websockets-sansio", "websockets", "wsproto"]
"""uvicorn's implementations; the second one is on its way out."""

LIMIT = 30.0
"""Seconds after which a server that does not start or stop fails the test."""


@contextmanager
def _without_its_warnings(ws: WebSockets) -> Iterator[None]:
    """Let an implementation that is deprecated, and stands on one that is, be used for a block."""
    with warnings.catch_warnings():
        if ws == "websockets":
            for text in (
                "The `websockets` implementation is deprecated",
                r"websockets\.(legacy|server\.WebSocketServerProtocol) is deprecated",
                "remove second argument of ws_handler",
            ):
                warnings.filterwarnings("ignore", text)
        yield


class _Server(uvicorn.Server):
    """Says when it is ready, or has failed to be."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._stop = asyncio.Event()
        self._running_in: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for ``stop``, where uvicorn would look ten times a second."""
        self._running_in = asyncio.get_running_loop()
        await self.on_tick(0)
        await self._stop.wait()

    async def shutdown(self, sockets: Any = None) -> None:
        """Do without the tenth of a second for connections to close, where there are none."""
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()

    def stop(self) -> None:
        """Begin an orderly shutdown, from another thread."""
        if self._running_in is not None and not self._running_in.is_closed():
            self._running_in.call_soon_threadsafe(self._stop.set)


class Running:
    """A server that runs."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Begin an orderly shutdown; ``serving`` waits for its end."""
        self._server.stop()


@contextmanager
def serving(
    app: Any,
    *,
    http: Literal["h11", "httptools"] = "httptools",
    loop: Literal["asyncio", "uvloop"] = "asyncio",
    ws: WebSockets = "websockets-sansio",
    **options: Any,
) -> Iterator[Running]:
    """Serve an app for a block; its lifespan runs."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=http,
        loop=loop,
        log_level="critical",
        lifespan="on",
        ws=ws,
        **options,
    )
    server = _Server(config)

    def run() -> None:
        try:
            server.run()
        except SystemExit:
            pass  # how uvicorn says that start-up failed; the test's own thread finds out below
        finally:
            server.ready.set()

    with _without_its_warnings(ws):
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert server.ready.wait(LIMIT), "the server did not start"
        assert server.started, "the server refused to start"
        running = Running(server)
        try:
            yield running
        finally:
            running.stop()
            thread.join(LIMIT)
            assert not thread.is_alive(), "the server did not stop"
