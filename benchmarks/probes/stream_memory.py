"""
What an open stream costs that nobody reads: 10 MiB are on their way, and have to wait somewhere.

Only this process's memory is counted; what the kernel keeps in the sockets' buffers is the same for all.
"""

import asyncio
import gc
import os
from contextlib import AsyncExitStack
from pathlib import Path

from ._clients import POOL, Client

__all__ = ("FIGURES", "LOOPS_MATTER", "TITLE", "measure")

TITLE = f"Memory per open, stalled stream of 10 MiB ({POOL} of them)."
FIGURES = ("KiB, unread", "KiB, one chunk read")
LOOPS_MATTER = False

_SIZE = 10 * 1024 * 1024
_GLANCES = 30
_PAUSE = 0.1
_STEADY = 1.005


async def measure(client: Client, origin: str) -> list[float]:
    """Return KiB per stream, unread and after its first chunk."""
    url = f"{origin}/{_SIZE}"
    async with client.stream(url) as first:  # what is made once is made now
        await anext(first)
    gc.collect()
    before = await _steady_memory()
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.stream(url)) for _ in range(POOL)]
        unread = await _steady_memory()
        for stream in streams:
            await anext(stream)
        begun = await _steady_memory()
    return [(unread - before) / POOL / 1024, (begun - before) / POOL / 1024]


async def _steady_memory() -> int:
    """Wait until the memory no longer grows, since data arrive at their own pace."""
    before = _memory()
    for _ in range(_GLANCES):
        await asyncio.sleep(_PAUSE)
        now = _memory()
        if now < before * _STEADY:
            return now
        before = now
    return before


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
