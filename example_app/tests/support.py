"""The application over an upstream of a test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from example_app.app import create_app
from example_app.settings import ExampleSettings
from tests.support.server import Running, serving

PLACES = 2
"""Connections that the site has in the application with a small one."""


def bare() -> dict[str, Any]:
    """Return the arguments that keep settings from reading a ``.env``."""
    return {"_env_file": None}


@contextmanager
def example_over(upstream_url: str, **values: Any) -> Iterator[Running]:
    """Serve the application over another upstream."""
    with serving(create_app(ExampleSettings(**bare(), upstream_url=upstream_url, **values))) as running:
        yield running
