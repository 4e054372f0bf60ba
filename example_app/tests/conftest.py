"""The application and its upstream, each under a real server."""

import os
import socket
from collections.abc import Iterator

import pytest

from example_app.app import create_app
from example_app.settings import ExampleSettings
from example_app.tests.support import PLACES, bare
from example_app.upstream import create_upstream
from tests.support.server import Running, serving


@pytest.fixture(scope="session", autouse=True)
def bare_environment() -> Iterator[None]:
    """Hide the example's variables of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("EXAMPLE_"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def down() -> Iterator[str]:
    """Return the URL of a site that is down: its port is kept from others, but nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"


@pytest.fixture(scope="session")
def upstream() -> Iterator[Running]:
    """Serve the embedded upstream."""
    with serving(create_upstream()) as running:
        yield running


@pytest.fixture(scope="session")
def settings(upstream: Running, down: str) -> ExampleSettings:
    """Return settings that lead to the served upstream."""
    sites = ("/page", "/json", "/slow?lines=2&interval=0", "/file", down)
    return ExampleSettings(**bare(), upstream_port=upstream.port, sites=sites, patience=1.5)


@pytest.fixture(scope="session")
def example(settings: ExampleSettings) -> Iterator[Running]:
    """Serve the application."""
    with serving(create_app(settings)) as running:
        yield running


@pytest.fixture
def small(settings: ExampleSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Serve the application with few connections for its site, and little patience for more."""
    for name in ("MAX_CONNECTIONS", "MAX_KEEPALIVE_CONNECTIONS"):
        monkeypatch.setenv(f"EXAMPLE_SITE_CLIENT_LIMITS__{name}", str(PLACES))
    monkeypatch.setenv("EXAMPLE_SITE_CLIENT_TIMEOUT__POOL", "0.5")
    with serving(create_app(settings)) as running:
        yield running
