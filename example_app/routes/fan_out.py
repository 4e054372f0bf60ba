"""Recipes that ask many upstreams at once."""

from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from fastapi_httpx_pool import ClientDep, Outcome, as_completed

from ..dependencies import SettingsDep

__all__ = ("Beginning", "beginning_of", "router")

router = APIRouter(tags=["Five at once"])

LONGEST = 10.0
"""Seconds that all sites may take together."""


class Beginning(BaseModel):
    """How a site's answer begins, or why there is none."""

    url: str
    status: int | None = None
    begins: str = ""
    error: str | None = None


async def beginning_of(outcome: Outcome[str, httpx.Response]) -> Beginning:
    """Return the first 50 characters, and read no more than that; a site that is down harms nobody."""
    try:
        response = outcome.result()
        begins = await anext(response.aiter_text(50), "")
    except httpx.HTTPError as exc:
        return Beginning(url=outcome.input, error=f"{type(exc).__name__}: {exc}")
    return Beginning(url=outcome.input, status=response.status_code, begins=begins)


@router.get("/five")
async def five(client: ClientDep, settings: SettingsDep) -> list[Beginning]:
    """
    Five URLs at once, in order.

    The first 50 characters of each, in the order of the list. One of the five is down, which the
    others do not notice.
    """
    found = {}
    async for outcome in as_completed(client, settings.sites, stream=True, timeout=LONGEST):
        found[outcome.index] = await beginning_of(outcome)
    return [found[index] for index in sorted(found)]


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
    async with as_completed(client, settings.sites, stream=True, timeout=LONGEST) as outcomes:
        async for outcome in outcomes:
            yield await beginning_of(outcome)
