"""uvloop where it is installed, asyncio's own loop where it is not."""

import asyncio
from collections.abc import Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

__all__ = ("LOOPS", "run")

T = TypeVar("T")

LOOPS = ("uvloop", "asyncio") if find_spec("uvloop") else ("asyncio",)
"""Those that there are, the faster one first."""


def run(main: Coroutine[Any, Any, T], loop: str = LOOPS[0]) -> T:
    """Run a coroutine to its end on a loop of this name."""
    factory = import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
