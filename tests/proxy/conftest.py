"""The stacks that the proxy's tests run on: each HTTP parser, each client family, and where it matters each server."""

from typing import Any

import pytest

from tests.support.stack import EVERY_SERVER, UVICORN, Stack


def _name(stack: Stack) -> str:
    return f"{stack.server}-{stack.family}"


@pytest.fixture(params=UVICORN, ids=_name)
def stack(request: pytest.FixtureRequest) -> Any:
    """Give uvicorn with httptools over httpx, then uvicorn with h11 over httpx2."""
    return request.param


@pytest.fixture(params=EVERY_SERVER, ids=_name)
def every_stack(request: pytest.FixtureRequest) -> Any:
    """Give the stacks of ``stack``, then uvloop, then hypercorn."""
    return request.param
