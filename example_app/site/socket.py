"""A WebSocket that sends everything back."""

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from .live import Key, LogbookDep
from .visitors import SessionsDep

__all__ = ("PROTOCOL", "router")

router = APIRouter()

PROTOCOL = "lighthouse.v2"


@router.websocket("/socket")
async def echo(websocket: WebSocket, logbook: LogbookDep, sessions: SessionsDep, key: Key | None = None) -> None:
    """Send everything back. Greet those with a key by name, close when they ask for it, and note how they left."""
    chosen = PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None
    await websocket.accept(chosen, [(b"set-cookie", b"berth=7; Path=/; SameSite=lax")])
    try:
        if key is not None:
            await websocket.send_json({"hello": sessions.name_of(websocket) or "stranger"})
        await _send_back(websocket, closes=key is not None)
    except WebSocketDisconnect as exc:
        logbook.write(f"{key} ended", f"{exc.code} {exc.reason}")


async def _send_back(websocket: WebSocket, *, closes: bool) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        if closes and message.get("text") == "close":
            await websocket.close(4001, "good night")
        elif message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


@router.websocket("/socket/closed")
async def refuse(websocket: WebSocket) -> None:
    """Turn everybody away."""
    await websocket.close()
