"""A uvicorn server that lives as long as a block, so that two of them share one event loop and one Ctrl-C."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from .settings import HOST

__all__ = ("PortUnusable", "listen", "running", "signals_set")

GRACE = 3
"""Seconds that answers have to end when the server stops."""


class PortUnusable(Exception):
    """Nobody can listen on the port, most often because somebody does."""

    def __init__(self, port: int, variable: str, error: OSError) -> None:
        super().__init__(
            f"Cannot listen on port {port} of {HOST}: {os.strerror(error.errno or 0)}.\n"
            f"Choose another one: {variable}=8100 make demo ({variable}=0 takes a free one).\n"
            "If it is in use, stop the program that has it; perhaps another example is running."
        )


def listen(port: int, variable: str) -> socket.socket:
    """
    Return a listening socket; 0 takes a free port.

    Raises:
        PortUnusable: The port is taken, or not allowed; the text names the variable that chooses another.
    """
    try:
        return socket.create_server((HOST, port), backlog=2048)
    except OSError as exc:
        raise PortUnusable(port, variable, exc) from exc


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves the signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # each server would take Ctrl-C from the other

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def running(app: Any, listener: socket.socket, *, names_itself: bool = True) -> AsyncIterator[None]:
    """
    Serve an app for a block; the block begins when the app has started.

    Args:
        app: The ASGI application.
        listener: Where it listens.
        names_itself: Whether answers get uvicorn's ``Server`` and ``Date``. An app that passes
            answers on would have them twice, because uvicorn adds its own to the upstream's.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="websockets-sansio",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=names_itself,
        date_header=names_itself,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(config)
    # An app that cannot start makes uvicorn end the process, with the reason in the log.
    task = asyncio.create_task(server.serve([listener]))
    try:
        await server.ready.wait()
        yield
    finally:
        server.should_exit = True
        await task


@contextmanager
def signals_set(event: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set an event for a block."""
    loop = asyncio.get_running_loop()

    def set_event(*_: object) -> None:
        loop.call_soon_threadsafe(event.set)

    before = {number: signal.signal(number, set_event) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
