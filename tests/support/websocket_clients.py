"""WebSockets as each family's clients open them, and servers that they talk to."""

import base64
import hashlib
import importlib
import queue
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.sync.server import ServerConnection, serve

from fastapi_httpx_pool import ClientFactory, ClientSettings
from tests.support.carriers import ASYNCIO, TRIO, UVLOOP
from tests.support.families import module_of
from tests.support.stack import SECOND_FAMILY
from tests.support.upstream import LIMIT, Connection

Handler = Callable[[ServerConnection], None]


@dataclass(frozen=True)
class WebSocketStack:
    """A client family, and what carries its requests."""

    family: Any
    engine: Any

    @property
    def module(self) -> Any:
        """The family's package."""
        return module_of(self.family)

    @property
    def websockets(self) -> Any:
        """Where the family has its WebSockets: errors, sessions."""
        return importlib.import_module("httpx_ws" if self.family == "httpx" else "httpx2.websockets")

    def settings(self, **options: Any) -> ClientSettings:
        """Return settings of the stack."""
        return ClientSettings(**{"family": self.family, "engine": self.engine, **options})

    def opened(self, **options: Any) -> ClientFactory:
        """Return a factory, to be entered, of one client with these settings."""
        return ClientFactory(self.settings(**options))

    def connect(self, client: Any, url: str, **options: Any) -> Any:
        """Open a WebSocket, for a block, in the way that the family's users do."""
        if self.family == "httpx":
            return self.websockets.aconnect_ws(url, client, **options)
        return client.websocket(url, **options)


def _stack(family: str, engine: str, backend: Any, loop: str) -> Any:
    return pytest.param(WebSocketStack(family, engine), backend, id=f"{family}-{engine}-{loop}")


on_every_stack = pytest.mark.parametrize(
    ("stack", "anyio_backend"),
    [
        _stack("httpx", "native", ASYNCIO, "asyncio"),
        _stack(SECOND_FAMILY, "native", UVLOOP, "uvloop"),
        _stack("httpx", "httpcore", TRIO, "trio"),
        _stack(SECOND_FAMILY, "httpcore", ASYNCIO, "asyncio"),
    ],
)
"""Marks a test that takes ``stack``: both families, both engines and every event loop are among them."""

on_the_engine = pytest.mark.parametrize(
    ("stack", "anyio_backend"),
    [
        _stack("httpx", "native", UVLOOP, "uvloop"),
        _stack(SECOND_FAMILY, "native", ASYNCIO, "asyncio"),
    ],
)
"""Marks one that is about this package's own engine."""


class WebSocketServer:
    """A server of the ``websockets`` library, with a thread for each connection."""

    def __init__(self, handler: Handler, ssl_context: ssl.SSLContext | None, options: dict[str, Any]) -> None:
        self._handler = handler
        self._server = serve(
            self._talk, "127.0.0.1", 0, ssl=ssl_context, **{"ping_interval": None, "close_timeout": 2.0, **options}
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._ends: queue.Queue[tuple[int | None, str | None]] = queue.Queue()
        self._secure = ssl_context is not None
        self.address = f"127.0.0.1:{self._server.socket.getsockname()[1]}"
        self.requests: list[Request] = []
        """The handshakes that were accepted."""
        self.errors: list[BaseException] = []
        """What handlers raised; ``serving_websockets`` raises the first of them again."""
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{'wss' if self._secure else 'ws'}://{self.address}"

    @property
    def http_url(self) -> str:
        """The same in the words of HTTP."""
        return f"{'https' if self._secure else 'http'}://{self.address}"

    async def ended(self) -> tuple[int | None, str | None]:
        """Wait for the end of the next connection; return the code and the reason that the client gave."""
        return await anyio.to_thread.run_sync(partial(self._ends.get, timeout=LIMIT))

    def _talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.requests.append(connection.request)
        try:
            with suppress(ConnectionClosed):
                self._handler(connection)
        except BaseException as exc:  # noqa: BLE001 -- raised again in the test's own thread
            self.errors.append(exc)
        finally:
            connection.close()
            received = connection.protocol.close_rcvd
            self._ends.put((None, None) if received is None else (received.code, received.reason))

    def close(self) -> None:
        """Stop listening, close what is open, wait for the handlers."""
        self._server.shutdown()
        self._thread.join(LIMIT)


@contextmanager
def serving_websockets(
    handler: Handler, ssl_context: ssl.SSLContext | None = None, **options: Any
) -> Iterator[WebSocketServer]:
    """Run a WebSocket server for a block; options are those of ``websockets.sync.server.serve``."""
    server = WebSocketServer(handler, ssl_context, options)
    try:
        yield server
    finally:
        server.close()
    if server.errors:
        raise server.errors[0]


def echo(connection: ServerConnection) -> None:
    """Give back each message as it is."""
    for message in connection:
        connection.send(message)


def switch(connection: Connection, *, first: bytes = b"") -> bytes:
    """
    Accept a handshake by hand and return its head, for a server that does what no library would.

    Args:
        connection: A scripted upstream's.
        first: What is sent together with the answer.
    """
    head = connection.read_head()
    key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    # RFC 6455, section 4.2.2: any client that has not asked for this very answer does not know the text.
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + first
    )
    return head


def read_frame(connection: Connection) -> tuple[int, bytes]:
    """Read one short frame of a client's; return its opcode and what it says. At the end of the stream, opcode -1."""
    start = connection.read_exactly(2)
    if len(start) < 2:
        return -1, b""
    mask = connection.read_exactly(4)
    masked = connection.read_exactly(start[1] & 0x7F)
    return start[0] & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))


def frame_of(opcode: int, data: bytes = b"") -> bytes:
    """Return a short frame of a server's."""
    return bytes((0x80 | opcode, len(data))) + data
