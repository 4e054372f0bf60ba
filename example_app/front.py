"""The front page and what it is made of."""

import json
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from .catalogue import RECIPES
from .dependencies import SettingsDep

__all__ = ("router",)

router = APIRouter(include_in_schema=False)

PAGE = Path(__file__).parent / "static" / "index.html"

POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"


@router.get("/")
async def front_page() -> FileResponse:
    """Return the page; everything it loads comes from here."""
    return FileResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/recipes.js")
async def recipes(settings: SettingsDep) -> Response:
    """Return the cards, and where their requests end up, as a module for the page's script."""
    example = {
        "upstream": settings.upstream,
        "embedded": settings.embedded,
        "recipes": [recipe.as_card() for recipe in RECIPES],
    }
    return Response(f"export default {json.dumps(example)};", media_type="text/javascript")
