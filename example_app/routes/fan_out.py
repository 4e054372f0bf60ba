"""Recipes that ask many upstreams at once."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from fastapi_httpx_pool import ClientDep

from ..dependencies import SettingsDep

__all__ = ("Beginning", "beginning_of", "router")

router = APIRouter(tags=["Five at once"])

LONGEST = 10.0
"""Seconds that one site may take, from the queue to its fiftieth character."""


class Beginning(BaseModel):
    """How a site's answer begins, or why there is none."""

    url: str
    status: int | None = None
    begins: str = ""
    error: str | None = None


async def beginning_of(client: httpx.AsyncClient, url: str) -> Beginning:
    """Return the first 50 characters, and read no more than that; a site that is down harms nobody."""
    try:
        async with asyncio.timeout(LONGEST), client.stream("GET", url) as response:
            pieces = response.aiter_text(50)
            begins = await anext(pieces, "")
            return Beginning(url=url, status=response.status_code, begins=begins)
    except (httpx.HTTPError, TimeoutError) as exc:
        return Beginning(url=url, error=f"{type(exc).__name__}: {exc}")


@router.get("/five")
async def five(client: ClientDep, settings: SettingsDep) -> list[Beginning]:
    """
    Five URLs at once, gathered.

    The first 50 characters of each, in the order of the list. One of the five is down, which the
    others do not notice.
    """
    return await asyncio.gather(*(beginning_of(client, url) for url in settings.sites))


@router.get("/five/events", response_class=EventSourceResponse)
async def five_events(
    client: ClientDep,
    settings: SettingsDep,
) -> AsyncIterator[Beginning]:
    """
    Five URLs at once, each as it finishes.

    The same as server-sent events: the fastest site comes first and waits for nobody. Should the
    browser leave, the requests that still run are cancelled.
    """
    tasks = [asyncio.create_task(beginning_of(client, url)) for url in settings.sites]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()
