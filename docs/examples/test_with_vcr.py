"""What the upstream says is recorded once, and replayed from then on."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from zen import make_app

from fastapi_httpx_pool.testing import Upstream

vcr: Any = pytest.importorskip("vcr")


def test_zen(tmp_path: Path) -> None:
    """The second time nobody is asked; in a project of yours, the cassette lies beside the test."""
    cassette = str(tmp_path / "zen.yaml")
    with Upstream() as upstream:
        upstream.get("/zen").respond(text="Keep it simple.")
        app = make_app(upstream.url)
        with vcr.use_cassette(cassette), TestClient(app) as browser:
            first = browser.get("/zen").json()

    with vcr.use_cassette(cassette, record_mode="none"), TestClient(app) as browser:
        assert browser.get("/zen").json() == first == "Keep it simple."
