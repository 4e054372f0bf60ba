"""This package: the reverse proxy, alone under the server and mounted in FastAPI."""

from fastapi import FastAPI

from fastapi_httpx_pool import ClientSettings, LimitSettings, ReverseProxy, create_lifespan

from ._addresses import CONNECTIONS, KEEPALIVE, first

__all__ = ("alone", "mounted")

_limits = LimitSettings(max_connections=CONNECTIONS, max_keepalive_connections=KEEPALIVE)
_settings = ClientSettings(trust_env=False, limits=_limits)

alone = ReverseProxy(first(), settings=_settings)

mounted = FastAPI(lifespan=create_lifespan(_settings))
mounted.mount("/", ReverseProxy(first()))
