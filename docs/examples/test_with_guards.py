"""Nothing is left behind, and nobody outside is asked."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from fastapi.testclient import TestClient
from zen import app

from fastapi_httpx_pool.testing import Upstream

pytestmark = pytest.mark.httpx_pool(leak_guard=True, network_guard=True)


def test_zen(upstream: Upstream, client_override: Callable[..., AbstractContextManager[None]]) -> None:
    """The test fails if the route forgets to close a response, or asks the real GitHub."""
    upstream.get("/zen").respond(text="Keep it simple.")

    with TestClient(app) as browser, client_override(app, upstream):
        assert browser.get("/zen").json() == "Keep it simple."
