"""The recipes for WebSockets."""

import httpx
from fastapi import APIRouter, WebSocket

from fastapi_httpx_pool import ClientDep, proxy_websocket

from .fan_out import Beginning

__all__ = ("router",)

router = APIRouter(tags=["WebSocket"])


@router.websocket("/ws")
async def read_over_websocket(websocket: WebSocket, client: ClientDep) -> None:
    """
    The same client in a WebSocket route.

    Type a path of the upstream; its first characters come back. The dependency is the one that HTTP
    routes use.
    """
    await websocket.accept()
    async for path in websocket.iter_text():
        if path.startswith("/"):
            answer = await read(client, path)
        else:  # an absolute URL would lead to wherever the browser likes
            answer = Beginning(url=path, error="not a path: it begins with no slash")
        await websocket.send_json(answer.model_dump())


@router.websocket("/ws/relay")
async def relay(websocket: WebSocket) -> None:
    """
    A WebSocket passed through.

    The upstream is asked first: if it refuses, so does the route. Then messages go back and forth
    until either side ends it, and the other hears how. This one comes back as it was sent.
    """
    await proxy_websocket(websocket, "/socket")


async def read(client: httpx.AsyncClient, path: str) -> Beginning:
    """Return the first 50 characters, and read no more than that."""
    try:
        async with client.stream("GET", path) as response:
            begins = await anext(response.aiter_text(50), "")
            return Beginning(url=path, status=response.status_code, begins=begins)
    except httpx.HTTPError as exc:
        return Beginning(url=path, error=f"{type(exc).__name__}: {exc}")
