"""A thousand requests at once in a script: no web app, no generator, only a client that gathers them."""

import asyncio
import time

from ._clients import Client

__all__ = ("FIGURES", "LOOPS_MATTER", "TITLE", "measure")

TITLE = "1,000 gathered requests of 1 KiB with a bare client."
FIGURES = ("requests/s",)
LOOPS_MATTER = True

_REQUESTS = 1000
_WARM_UP = 100


async def measure(client: Client, origin: str) -> list[float]:
    """Return how many requests there were in a second."""
    url = f"{origin}/1024"
    await asyncio.gather(*(client.get(url) for _ in range(_WARM_UP)))
    started = time.perf_counter()
    await asyncio.gather(*(client.get(url) for _ in range(_REQUESTS)))
    return [_REQUESTS / (time.perf_counter() - started)]
