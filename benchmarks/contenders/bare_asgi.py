"""Limits: ASGI apps of a few lines that ask nobody."""

from starlette.types import Receive, Scope, Send

__all__ = ("app", "echo")

_BODIES: dict[str, bytes] = {}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request, answer with as many bytes as the path says."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    path = scope["path"]
    body = _BODIES.get(path) or _BODIES.setdefault(path, b"x" * int(path[1:]))
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back what comes over a WebSocket."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
