"""The front page without a browser."""

import json
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute

from example_app.mounts import mount_site
from example_app.routes import ROUTERS
from tests.support.server import Running


@pytest.fixture(scope="module")
def cards(example: Running) -> list[dict[str, Any]]:
    """Return what the page makes its cards of."""
    text = httpx.get(f"{example.url}/recipes.js").text
    return list(json.loads(text.removeprefix("export default ").removesuffix(";"))["recipes"])


def test_page_loads_nothing_from_elsewhere(example: Running) -> None:
    """The page and its parts come from the application itself, and the browser is told to allow no more."""
    response = httpx.get(f"{example.url}/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "//" not in response.text.replace("<!doctype html>", "")
    for path in ("/static/style.css", "/static/page.js", "/static/icon.svg", "/docs"):
        assert httpx.get(example.url + path).status_code == 200


def test_every_route_has_a_card(cards: list[dict[str, Any]]) -> None:
    """No recipe is missing on the page."""
    routes = [route for router in ROUTERS for route in router.routes]
    endpoints = {route.endpoint.__name__ for route in routes if isinstance(route, APIRoute | APIWebSocketRoute)}
    assert len(routes) == len(endpoints)
    assert {card["id"] for card in cards} == endpoints | {mount_site.__name__}


def test_cards_show_the_code_that_runs(cards: list[dict[str, Any]]) -> None:
    """A card has the route's own source, its docstring as title and text, and something to run."""
    by_id = {card["id"]: card for card in cards}
    page = by_id["stream_page"]
    assert page["title"] == "Stream a page through"
    assert "return StreamingProxyResponse(request, settings.page)" in page["code"]
    assert "async def count_lines" in by_id["stream_shout"]["code"]
    assert all('"""' not in card["code"] for card in cards)
    assert all(card["text"] and card["steps"] for card in cards)


def test_pages_of_the_site_are_linked(example: Running, cards: list[dict[str, Any]]) -> None:
    """The mounted site's card, and the top of the page, lead to pages that are there."""
    (links,) = (card["links"] for card in cards if card["links"])
    assert [link["path"] for link in links] == ["/site/", "/site/chat"]
    page = httpx.get(f"{example.url}/").text
    for link in links:
        assert f'href="{link["path"]}"' in page
        assert "<title>Lighthouse" in httpx.get(example.url + link["path"]).text
