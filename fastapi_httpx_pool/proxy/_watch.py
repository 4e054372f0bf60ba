"""
Who notices that the client has left, or does nothing any more, and interrupts the exchange wherever it is.

Most exchanges are over before anybody could leave, and a task for each of them would cost as much
as the rest of the proxy. So an exchange is watched only once it has lasted for ``PATIENCE``; until
then all it costs is an entry in a dictionary.
"""

import asyncio
from collections.abc import Awaitable
from contextvars import Context, copy_context
from time import monotonic
from typing import Final, Protocol, final
from weakref import WeakKeyDictionary

import anyio
from starlette.requests import ClientDisconnect

from .._cancellation import runs_asyncio
from ._inbound import Inbound

__all__ = ("ClientStalled", "Watch", "watch_over")

PATIENCE: Final = 0.025
"""Seconds; an exchange is watched when it has lasted once to twice as long."""

LAST_PIECE: Final = 1.0
"""Seconds that a server may take over the end of an answer when it says that the client has left."""


class ClientStalled(Exception):
    """The client neither sent what it had announced nor took what it was sent."""


class Watch(Protocol):
    """Watches one exchange."""

    over: bool
    """Whether the server was given the last piece of the answer: servers say that the client has left then, too."""
    sending_since: float | None
    """When the server was given something to send that it has not taken yet."""

    async def run(self, work: Awaitable[None]) -> None:
        """
        Await the work.

        Raises:
            ClientDisconnect: The client left before it was done.
            ClientStalled: The client was idle for too long.
        """
        ...


def watch_over(inbound: Inbound, idle: float | None) -> Watch:
    """Return what watches an exchange in the event loop that runs here; ``idle`` in seconds."""
    return _Watch(inbound, idle) if runs_asyncio() else _GroupWatch(inbound)


@final
class _Watch:
    """For asyncio: interrupts the task by cancelling it, as ``asyncio.timeout`` does."""

    __slots__ = (
        "_context",
        "_idle",
        "_inbound",
        "_interrupted",
        "_loop",
        "_reason",
        "_task",
        "_timer",
        "_watcher",
        "generation",
        "over",
        "sending_since",
    )

    def __init__(self, inbound: Inbound, idle: float | None) -> None:
        self._inbound = inbound
        self._idle = idle
        self._reason: Exception | None = None
        self._interrupted = False
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object]
        self._context: Context
        self._loop: asyncio.AbstractEventLoop
        self.generation: dict[_Watch, None]
        self.over: bool = False
        self.sending_since: float | None = None

    async def run(self, work: Awaitable[None]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        cancelling = task.cancelling()
        self._context = copy_context()  # what the application put there, its ``receive`` may look for
        _nursery_of(loop).add(self)
        try:
            await work
        except asyncio.CancelledError:
            if self._reason is not None and self._take_back() <= cancelling:
                raise self._reason from None
            raise
        finally:
            self._take_back()
            self.generation.pop(self, None)
            if self._watcher is not None:
                await self._end(self._watcher)

    def start(self) -> None:
        """Begin to watch."""
        self._watcher = self._loop.create_task(self._watch(), context=self._context)
        if self._idle is not None:
            self._timer = self._loop.call_later(self._idle, self._look, self._idle)

    async def _watch(self) -> None:
        if await self._inbound.watch():
            if self.over:
                # hypercorn waits for ever for a client of HTTP/2 that has left to take the last piece.
                await asyncio.sleep(LAST_PIECE)
            self._interrupt(ClientDisconnect())

    def _look(self, idle: float) -> None:
        """See whether the client has been idle for too long."""
        waiting = [since for since in (self._inbound.waiting_since, self.sending_since) if since is not None]
        rest = idle if not waiting else min(waiting) + idle - monotonic()
        if rest > 0:
            self._timer = self._loop.call_later(rest, self._look, idle)
        else:
            what = "sent nothing of its body" if self.sending_since is None else "took nothing of the answer"
            self._interrupt(ClientStalled(f"the client {what} for {idle:g} s"))

    def _interrupt(self, reason: Exception) -> None:
        if self._reason is None and (not self.over or self.sending_since is not None):
            self._reason = reason
            self._interrupted = True
            self.over = False
            self._task.cancel()

    def _take_back(self) -> int:
        """Take the cancellation back, whatever the work has made of it; return how many of others' there are."""
        if not self._interrupted:
            return self._task.cancelling()
        self._interrupted = False
        return self._task.uncancel()

    async def _end(self, watcher: "asyncio.Task[None]") -> None:
        if self._timer is not None:
            self._timer.cancel()
        watcher.cancel()
        await asyncio.wait((watcher,))


@final
class _Nursery:
    """The exchanges of one event loop that are too young to be watched."""

    def __init__(self) -> None:
        self._newest: dict[_Watch, None] = {}
        self._older: dict[_Watch, None] = {}
        self._ticks = False

    def add(self, watch: _Watch) -> None:
        """Take one; it leaves by itself."""
        watch.generation = self._newest
        self._newest[watch] = None
        if not self._ticks:
            self._ticks = True
            asyncio.get_running_loop().call_later(PATIENCE, self._tick)

    def _tick(self) -> None:
        grown, self._older, self._newest = self._older, self._newest, {}
        for watch in list(grown):
            watch.start()
        grown.clear()
        self._ticks = bool(self._older)
        if self._ticks:
            asyncio.get_running_loop().call_later(PATIENCE, self._tick)


_nurseries: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Nursery]" = WeakKeyDictionary()
"""A nursery does not know its loop, or the loop would stay for ever."""


def _nursery_of(loop: asyncio.AbstractEventLoop) -> _Nursery:
    nursery = _nurseries.get(loop)
    if nursery is None:
        nursery = _nurseries[loop] = _Nursery()
    return nursery


@final
class _GroupWatch:
    """For other event loops: a task beside each exchange. It knows nothing of idle clients."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound
        self._left = False
        self.over: bool = False
        self.sending_since: float | None = None

    async def run(self, work: Awaitable[None]) -> None:
        error: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            try:
                await work
            except Exception as exc:  # noqa: BLE001 -- raised again outside of the group
                error = exc
            group.cancel_scope.cancel()
        if error is not None:
            raise error
        if self._left:
            raise ClientDisconnect

    async def _watch(self, scope: anyio.CancelScope) -> None:
        if await self._inbound.watch():
            if self.over:
                await anyio.sleep(LAST_PIECE)
            self._left = not self.over or self.sending_since is not None
            if self._left:
                scope.cancel()
