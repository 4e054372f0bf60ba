"""Recipes for an upstream that fails."""

from typing import Literal

from fastapi import APIRouter, Request

from fastapi_httpx_pool import ClientDep, StreamingProxyResponse

from ..dependencies import SettingsDep

__all__ = ("router",)

router = APIRouter(tags=["When the upstream fails"])

Fault = Literal["unavailable", "hang", "early", "cut"]


@router.get("/flaky")
async def flaky(
    request: Request,
    settings: SettingsDep,
    fault: Fault | None = None,
) -> StreamingProxyResponse:
    """
    A flaky upstream, passed through.

    Its own 503 passes. Hanging becomes 504, breaking off before the body 502. Breaking off later
    breaks the browser's answer off too, so that half an answer never looks like a whole one.
    """
    return StreamingProxyResponse(request, "/flaky", timeout=settings.patience)


@router.get("/flaky/read")
async def flaky_read(
    client: ClientDep,
    settings: SettingsDep,
    fault: Fault = "hang",
) -> dict[str, object]:
    """
    A flaky upstream, read by the route.

    httpx raises its own exceptions as ever, and one handler for the whole app turns them into 502,
    503 and 504.
    """
    response = await client.get(f"/flaky?fault={fault}", timeout=settings.patience)
    return {"status": response.status_code, "body": response.text}
