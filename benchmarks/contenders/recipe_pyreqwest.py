"""The recipe on httpx with pyreqwest, which is reqwest in Rust, as its transport; 100 connections, as the others have."""

import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from ._recipe import calling

__all__ = ("call",)


def _open() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=HttpxTransport(ClientBuilder().max_connections(100).build()))


call = calling(_open)
