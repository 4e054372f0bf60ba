"""The recipe for WebSockets: ``websockets.connect`` in a FastAPI route, and two tasks that copy messages."""

import asyncio

from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ._addresses import first

__all__ = ("app",)

_LARGEST = 64 * 1024 * 1024
_CLOSED = "websocket.disconnect"

app = FastAPI()
_origin = first().replace("http", "ws", 1)


@app.websocket("/{path:path}")
async def relay(websocket: WebSocket, path: str) -> None:
    """Connect to the upstream, then accept, then copy in both directions until one of them ends."""
    async with connect(f"{_origin}/{path}", compression=None, max_size=_LARGEST, proxy=None) as upstream:
        await websocket.accept()
        async with asyncio.TaskGroup() as group:
            group.create_task(_to_client(upstream, websocket))
            group.create_task(_to_upstream(websocket, upstream))


async def _to_client(upstream: ClientConnection, websocket: WebSocket) -> None:
    try:
        while True:
            message = await upstream.recv()
            if isinstance(message, str):
                await websocket.send_text(message)
            else:
                await websocket.send_bytes(message)
    except ConnectionClosed:
        await websocket.close()


async def _to_upstream(websocket: WebSocket, upstream: ClientConnection) -> None:
    while (message := await websocket.receive())["type"] != _CLOSED:
        data = message.get("bytes")
        await upstream.send(message["text"] if data is None else data)
    await upstream.close()
