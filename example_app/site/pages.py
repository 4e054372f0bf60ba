"""The pages, and what they show: pictures, a font, a text that travels compressed."""

import gzip
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from .font import beacon
from .picture import sea_at_dusk

__all__ = ("POLICY", "router")

router = APIRouter()

ASSETS = Path(__file__).parent / "assets"

POLICY = {"content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"}

VERSE = "The lamp turns once, the lamp turns twice, and ships go by at night.\n"


@router.get("/")
async def front_page() -> FileResponse:
    """Answer with the page that checks everything."""
    return FileResponse(ASSETS / "index.html", headers=POLICY)


@router.get("/chat")
async def chat_page() -> FileResponse:
    """Answer with the page of the chat."""
    return FileResponse(ASSETS / "chat.html", headers=POLICY)


@router.get("/sea.png")
async def sea() -> Response:
    """Answer with a picture that was computed."""
    return Response(sea_at_dusk(), media_type="image/png")


@router.get("/beacon.ttf")
async def font() -> Response:
    """Answer with a font that was built here."""
    return Response(beacon(), media_type="font/ttf")


@router.get("/story")
async def story(request: Request) -> Response:
    """Answer with a text, compressed for browsers that understand it."""
    headers = {"vary": "accept-encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(_story(), media_type="text/plain", headers=headers)
    return Response(_compressed_story(), media_type="text/plain", headers=headers | {"content-encoding": "gzip"})


def _story() -> bytes:
    return (VERSE * 500).encode()


@cache
def _compressed_story() -> bytes:
    return gzip.compress(_story())
