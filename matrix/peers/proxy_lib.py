"""fastapi-proxy-lib: its proxies for HTTP and for WebSockets, under one prefix."""

import httpx
from fastapi import APIRouter, FastAPI
from fastapi_proxy_lib.core.http import ReverseHttpProxy
from fastapi_proxy_lib.core.websocket import ReverseWebSocketProxy
from fastapi_proxy_lib.fastapi.router import RouterHelper

from . import BASE, PREFIX
from ._addresses import LIMIT, ORIGIN

__all__ = ("app",)

_helper = RouterHelper()


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=LIMIT)


_http = ReverseHttpProxy(_client(), base_url=f"{ORIGIN}{BASE}/")
_websocket = ReverseWebSocketProxy(_client(), base_url=f"{ORIGIN.replace('http', 'ws', 1)}{BASE}/")

app = FastAPI(lifespan=_helper.get_lifespan(), openapi_url=None)
app.include_router(_helper.register_router(_http, APIRouter(prefix=PREFIX)))
app.include_router(_helper.register_router(_websocket, APIRouter(prefix=PREFIX)))
