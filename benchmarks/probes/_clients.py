"""The clients that the probes compare, with one small face: get it all, or open a stream."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

__all__ = ("CLIENTS", "Client", "missing", "opened")

POOL = 100
"""Connections that each may open, by its own default."""


class Client(Protocol):
    """What a probe does with a client."""

    async def get(self, url: str) -> int:
        """Read an answer; return its length."""
        ...

    def stream(self, url: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open an answer; give its chunks."""
        ...


class _Httpx:
    """An ``AsyncClient`` of either family."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def get(self, url: str) -> int:
        response = await self._client.get(url)
        response.raise_for_status()
        return len(response.content)

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._client.stream("GET", url) as response:
            yield response.aiter_raw()


class _Aiohttp:
    """A ``ClientSession``."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def get(self, url: str) -> int:
        async with self._session.get(url, raise_for_status=True) as response:
            return len(await response.read())

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._session.get(url) as response:
            yield response.content.iter_any()


@asynccontextmanager
async def _with_httpx(family: str, transport: str | None) -> AsyncIterator[Client]:
    module = import_module(family)
    arguments = {} if transport is None else {"transport": import_module(transport).PoolTransport()}
    # No timeout: how long it takes is what is measured.
    async with module.AsyncClient(timeout=None, **arguments) as client:
        yield _Httpx(client)


@asynccontextmanager
async def _with_aiohttp() -> AsyncIterator[Client]:
    aiohttp = import_module("aiohttp")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield _Aiohttp(session)


CLIENTS: dict[str, tuple[str, Callable[[], AbstractAsyncContextManager[Client]]]] = {
    "httpx": ("httpx", lambda: _with_httpx("httpx", None)),
    "httpx2": ("httpx2", lambda: _with_httpx("httpx2", None)),
    "aiohttp": ("aiohttp", _with_aiohttp),
    "ours-httpx": ("httpx", lambda: _with_httpx("httpx", "fastapi_httpx_pool")),
    "ours-httpx2": ("httpx2", lambda: _with_httpx("httpx2", "fastapi_httpx_pool.transports.httpx2")),
}
"""By name: the package that it needs, and how to open it. Ours are httpx's with a ``PoolTransport``."""


def missing(name: str) -> str | None:
    """Return the package that a client needs and does not find."""
    package, _ = CLIENTS[name]
    return None if find_spec(package) else package


def opened(name: str) -> AbstractAsyncContextManager[Client]:
    """Open a client for a block."""
    return CLIENTS[name][1]()
