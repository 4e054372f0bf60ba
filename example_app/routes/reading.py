"""Recipes that read an answer as a whole."""

from typing import Annotated

import httpx
from fastapi import APIRouter, Depends

from fastapi_httpx_pool import ClientDep, named_client

from ..dependencies import SettingsDep

__all__ = ("router",)

router = APIRouter(tags=["Reading"])


@router.get("/read")
async def read(client: ClientDep, settings: SettingsDep) -> dict[str, object]:
    """
    One shared client.

    The lifespan opened it with the app: at most 10 connections, 5 of them kept when idle; 15 seconds
    to read, 5 for everything else. A route only asks for it.
    """
    response = await client.get(settings.page)
    return {
        "status": response.status_code,
        "characters": len(response.text),
        "begins": response.text[:50],
    }


@router.get("/named")
async def read_slowly(
    client: Annotated[httpx.AsyncClient, Depends(named_client("slow"))],
    settings: SettingsDep,
) -> dict[str, object]:
    """
    A named client.

    A second client with limits and timeouts of its own, for an upstream that needs more patience
    and must not take the other's connections.
    """
    response = await client.get(settings.page)
    return {"status": response.status_code, "seconds to read": client.timeout.read}


@router.get("/cookies")
async def cookies(client: ClientDep, user: str = "nobody") -> dict[str, object]:
    """
    Cookies stay with their caller.

    The upstream sets a cookie for each user and tells which ones it got. All users share one client,
    and still nobody sends what another one was given.
    """
    response = await client.get("/cookies", params={"user": user})
    return {
        "set for this caller": dict(response.cookies),
        "sent upstream": response.json()["received"],
    }
