"""The recipe on httpx."""

import httpx

from ._addresses import CONNECTIONS, KEEPALIVE
from ._recipe import calling, streaming

__all__ = ("call", "stream")


def _open() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=KEEPALIVE))


call = calling(_open)
stream = streaming(_open)
