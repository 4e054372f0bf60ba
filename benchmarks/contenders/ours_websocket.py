"""This package: ``proxy_websocket`` in a FastAPI route."""

from fastapi import FastAPI, WebSocket

from fastapi_httpx_pool import ClientSettings, LimitSettings, create_lifespan, proxy_websocket

from ._addresses import CONNECTIONS, KEEPALIVE, first

__all__ = ("route",)

_limits = LimitSettings(max_connections=CONNECTIONS, max_keepalive_connections=KEEPALIVE)

route = FastAPI(lifespan=create_lifespan(ClientSettings(trust_env=False, limits=_limits)))


@route.websocket("/{path:path}")
async def relay(websocket: WebSocket, path: str) -> None:
    """Relay to the upstream."""
    await proxy_websocket(websocket, f"{first()}/{path}")
