"""The recipe on httpx with aiohttp as its transport; 100 connections, as is its default."""

import httpx
from httpx_aiohttp import AiohttpTransport

from ._recipe import calling

__all__ = ("call",)


def _open() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AiohttpTransport())


call = calling(_open)
