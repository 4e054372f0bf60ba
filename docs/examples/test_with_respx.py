"""The upstream is respx's."""

import respx
from fastapi.testclient import TestClient
from zen import app


@respx.mock
def test_zen() -> None:
    """The route returns what GitHub says."""
    respx.get("https://api.github.com/zen").respond(text="Keep it simple.")

    with TestClient(app) as browser:
        assert browser.get("/zen").json() == "Keep it simple."
