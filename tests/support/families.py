"""Which client families are installed: httpx always, httpx2 perhaps."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

FAMILIES = tuple(name for name in ("httpx", "httpx2") if find_spec(name))
"""The names of those that are installed."""

needs_httpx2 = pytest.mark.skipif("httpx2" not in FAMILIES, reason="httpx2 is not installed")
"""Marks a test that is about httpx2."""


def module_of(family: str) -> Any:
    """Return a family's package."""
    return import_module(family)
