"""fastapi-proxy-lib's reverse proxies, which are made for one origin."""

import httpx
from fastapi_proxy_lib.fastapi.app import reverse_http_app, reverse_ws_app

from ._addresses import CONNECTIONS, first

__all__ = ("app", "websockets")

app = reverse_http_app(base_url=first() + "/")
websockets = reverse_ws_app(
    httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS), trust_env=False),
    base_url=first().replace("http", "ws", 1) + "/",
)
