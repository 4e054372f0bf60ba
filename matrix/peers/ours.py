"""This package: a mounted reverse proxy, with what the behaviours ask for and no policy can guess."""

from fastapi import FastAPI

from fastapi_httpx_pool import ClientSettings, ProxyPolicy, ReverseProxy, TimeoutSettings, create_lifespan

from . import BASE, PREFIX
from ._addresses import LIMIT, ORIGIN

__all__ = ("app",)

_policy = ProxyPolicy(rewrite_location=True, rewrite_cookies=True)
_settings = ClientSettings(timeout=TimeoutSettings(default=LIMIT), trust_env=False)

app = FastAPI(lifespan=create_lifespan(_settings), openapi_url=None)
app.mount(PREFIX, ReverseProxy(ORIGIN + BASE, policy=_policy))
