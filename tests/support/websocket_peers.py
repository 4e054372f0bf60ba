"""Other people's WebSocket servers and clients: those of websockets and of aiohttp, in an event loop of their own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Protocol

import aiohttp
import aiohttp.web
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.exceptions
from websockets.typing import Subprotocol

LIMIT = 30.0
"""Seconds after which a peer that does not start or stop fails the test."""

LARGEST = 2**24
"""Bytes that a peer takes in one message."""

SUBPROTOCOLS = ("v2.echo", "v1.echo")

GOODBYE = "close"
"""The message on which a server closes, with the code and the reason below."""
CODE, REASON = 4321, "as you wish"


class Talker(Protocol):
    """A client's open WebSocket."""

    subprotocol: str | None

    async def send(self, message: str | bytes) -> None:
        """Send one message."""

    async def receive(self) -> str | bytes:
        """Wait for the next message."""

    async def ended(self) -> tuple[int | None, str]:
        """Wait for the other side's close frame; return its code and its reason, if the library tells it."""

    async def close(self, code: int, reason: str) -> None:
        """Close."""

    async def ping(self) -> None:
        """Ping, and wait for the pong."""


# Servers: echoes that close when they are asked to, and say how they were closed.

Told = list[tuple[int | None, str]]


@asynccontextmanager
async def _websockets_server(told: Told, compressed: bool, heartbeat: float) -> AsyncIterator[int]:
    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        try:
            async for message in connection:
                if message == GOODBYE:
                    await connection.close(CODE, REASON)
                    return
                await connection.send(message)
        finally:
            await connection.wait_closed()
            told.append((connection.close_code, connection.close_reason or ""))

    async with websockets.asyncio.server.serve(
        echo,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(one) for one in SUBPROTOCOLS],
        compression="deflate" if compressed else None,
        max_size=LARGEST,
        ping_interval=heartbeat,
    ) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@asynccontextmanager
async def _aiohttp_server(told: Told, compressed: bool, heartbeat: float) -> AsyncIterator[int]:
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        websocket = aiohttp.web.WebSocketResponse(
            protocols=SUBPROTOCOLS, compress=compressed, max_msg_size=LARGEST, heartbeat=heartbeat
        )
        await websocket.prepare(request)
        async for message in websocket:
            if message.type is aiohttp.WSMsgType.TEXT and message.data == GOODBYE:
                await websocket.close(code=CODE, message=REASON.encode())
                break
            await (websocket.send_str if message.type is aiohttp.WSMsgType.TEXT else websocket.send_bytes)(message.data)
        told.append((websocket.close_code, ""))
        return websocket

    app = aiohttp.web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


_Server = Callable[[Told, bool, float], AbstractAsyncContextManager[int]]
SERVERS: dict[str, _Server] = {"websockets": _websockets_server, "aiohttp": _aiohttp_server}


class Peer:
    """A server that runs."""

    def __init__(self, port: int, told: Told) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.told = told
        """With which codes and reasons its WebSockets ended; aiohttp tells no reason."""


@contextmanager
def peer(name: str, *, compressed: bool = False, heartbeat: float = LIMIT) -> Iterator[Peer]:
    """
    Run a server for a block.

    Args:
        name: The library's.
        compressed: Whether it speaks permessage-deflate with who offers it.
        heartbeat: Seconds between its pings; aiohttp waits for a pong for half as long.
    """
    told: Told = []
    ready, ports = threading.Event(), list[int]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with SERVERS[name](told, compressed, heartbeat) as port:
            ports.append(port)
            ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(LIMIT), "the peer did not start"
    try:
        yield Peer(ports[0], told)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT)
        assert not thread.is_alive(), "the peer did not stop"


# Clients.


class _WebsocketsTalker:
    def __init__(self, connection: websockets.asyncio.client.ClientConnection) -> None:
        self._connection = connection
        self.subprotocol: str | None = connection.subprotocol

    async def send(self, message: str | bytes) -> None:
        await self._connection.send(message)

    async def receive(self) -> str | bytes:
        return await self._connection.recv()

    async def ended(self) -> tuple[int | None, str]:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            await self._connection.recv()
        told = caught.value.rcvd
        assert told is not None, "no close frame"
        return told.code, told.reason

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    async def ping(self) -> None:
        await (await self._connection.ping())


@asynccontextmanager
async def _websockets_client(url: str, *, compressed: bool) -> AsyncIterator[Talker]:
    async with websockets.asyncio.client.connect(
        url,
        subprotocols=[Subprotocol("v1.echo")],
        compression="deflate" if compressed else None,
        max_size=LARGEST,
        proxy=None,
    ) as connection:
        yield _WebsocketsTalker(connection)


class _AiohttpTalker:
    def __init__(self, websocket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        self._websocket = websocket
        self.subprotocol = websocket.protocol

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._websocket.send_str(message)
        else:
            await self._websocket.send_bytes(message)

    async def receive(self) -> str | bytes:
        message = await self._websocket.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        found: str | bytes = message.data
        return found

    async def ended(self) -> tuple[int | None, str]:
        message = await self._websocket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return message.data, message.extra or ""

    async def close(self, code: int, reason: str) -> None:
        await self._websocket.close(code=code, message=reason.encode())

    async def ping(self) -> None:
        await self._websocket.ping()  # it does not tell of the pong


@asynccontextmanager
async def _aiohttp_client(url: str, *, compressed: bool) -> AsyncIterator[Talker]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            url, protocols=["v1.echo"], compress=15 if compressed else 0, max_msg_size=LARGEST
        ) as websocket,
    ):
        yield _AiohttpTalker(websocket)


_Client = Callable[..., AbstractAsyncContextManager[Talker]]
CLIENTS: dict[str, _Client] = {"websockets": _websockets_client, "aiohttp": _aiohttp_client}


def talk(name: str, url: str, about: Callable[[Talker], Awaitable[None]], *, compressed: bool = False) -> None:
    """Connect a client to a URL of scheme ws, and let it talk."""

    async def connect() -> None:
        async with asyncio.timeout(LIMIT), CLIENTS[name](url, compressed=compressed) as talker:
            await about(talker)

    asyncio.run(connect())
