"""
Closing that cancellation cannot interrupt.

anyio's shields hold off anyio's and trio's cancellation, but not a plain ``task.cancel()``, which
is what ``asyncio.wait_for``, ``asyncio.timeout`` and servers use. On asyncio the work therefore
runs in a task of its own, and the caller waits for it however often it is cancelled.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import current_token

__all__ = ("event_loop", "finish", "runs_asyncio", "runs_trio")


def event_loop() -> object:
    """Return an object that is equal in one event loop and differs between two."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token()


def runs_asyncio() -> bool:
    """Whether an asyncio event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def runs_trio() -> bool:
    """Whether trio runs in this thread."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


async def finish(work: Callable[[], Awaitable[None]]) -> None:
    """
    Run ``work`` to its end, then let a cancellation that came meanwhile take effect.

    ``work`` must limit its own time: nothing can stop it.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        with anyio.CancelScope(shield=True):
            await work()
        return
    task = loop.create_task(_shielded(work))
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as exc:
                cancelled = exc
    if cancelled is not None:
        if task.exception() is not None:
            raise cancelled from task.exception()
        raise cancelled
    task.result()


async def _shielded(work: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await work()
