"""The recipe on httpx2."""

import httpx2

from ._addresses import CONNECTIONS, KEEPALIVE
from ._recipe import calling, streaming

__all__ = ("call", "stream")


def _open() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=KEEPALIVE))


call = calling(_open)
stream = streaming(_open)
