"""
What comes of many requests, as an async iterator.

The requests run in a task of their own: an iterator that kept a task group open between two items would cancel
the loop that reads it, and that loop may be left anywhere. Nothing here refers from that task back to the
iterator, so an iterator that nobody has any more is noticed, and ends it.
"""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, final

import anyio

from .._cancellation import finish, runs_asyncio

__all__ = ("Arrivals", "Sink")

ItemT = TypeVar("ItemT")


@final
class _Entry(Generic[ItemT]):
    """An item on its way from who has put it there to who fetches it."""

    __slots__ = ("fetched", "finished", "item")

    def __init__(self, item: ItemT) -> None:
        self.item = item
        self.fetched = anyio.Event()
        self.finished = anyio.Event()


@final
class Sink(Generic[ItemT]):
    """Where items are put, and fetched one by one; there are never more than there are tasks that wait with one."""

    def __init__(self) -> None:
        self._entries: deque[_Entry[ItemT]] = deque()
        self._lent: _Entry[ItemT] | None = None
        self._news = anyio.Event()
        self._over = False
        self._failure: BaseException | None = None

    async def put(self, item: ItemT, *, lend: bool = False) -> None:
        """Wait until the item has been fetched; or, if it is lent, until the next one is asked for."""
        entry = _Entry(item)
        self._entries.append(entry)
        self._news.set()
        try:
            await entry.fetched.wait()
        except BaseException:
            with suppress(ValueError):  # fetched, and cancelled in the same moment
                self._entries.remove(entry)
            raise
        if lend:
            await entry.finished.wait()

    async def get(self) -> ItemT:
        """
        Return the next item.

        Raises:
            StopAsyncIteration: There are no more.
            BaseException: What they have ended with.
        """
        if self._lent is not None:
            self._lent.finished.set()
            self._lent = None
        while not self._entries:
            if self._over:
                failure, self._failure = self._failure, None
                try:
                    raise StopAsyncIteration if failure is None else failure
                finally:
                    del failure
            self._news = anyio.Event()
            await self._news.wait()
        entry = self._lent = self._entries.popleft()
        entry.fetched.set()
        return entry.item

    def end(self, failure: BaseException | None) -> None:
        """Say that no more will come, and why."""
        self._over = True
        self._failure = failure
        self._news.set()


Work = Callable[[Sink[ItemT]], Awaitable[None]]
"""Puts items into a sink."""


@final
class _Run(Generic[ItemT]):
    """The task that does the work."""

    def __init__(self, work: Work[ItemT]) -> None:
        self._work = work
        self.sink: Sink[ItemT] = Sink()
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self._call_soon = _spawn(self._run)

    def stop(self) -> None:
        """Cancel it; from anywhere, also from a garbage collector in another thread."""
        with suppress(RuntimeError):  # the event loop has ended, and the task with it
            self._call_soon(self.scope.cancel)

    async def _run(self) -> None:
        failure: BaseException | None = None
        try:
            with self.scope:
                await self._work(self.sink)
        except anyio.get_cancelled_exc_class() as exc:
            failure = exc  # the event loop ends, or somebody has cancelled every task there is
            raise
        except BaseException as exc:  # noqa: BLE001 -- raised where the items are fetched
            failure = exc
        finally:
            self.sink.end(failure)
            self.ended.set()
            del failure


_tasks: set["asyncio.Task[None]"] = set()
"""asyncio itself keeps no task alive."""


def _spawn(run: Callable[[], Any]) -> Callable[[Callable[[], object]], object]:
    """Start a task that nobody waits for; return what calls a function in its event loop."""
    if runs_asyncio():
        loop = asyncio.get_running_loop()
        task = loop.create_task(run())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return loop.call_soon_threadsafe
    trio = sys.modules["trio"]
    trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
    call_soon: Callable[[Callable[[], object]], object] = trio.lowlevel.current_trio_token().run_sync_soon
    return call_soon


@final
class Arrivals(Generic[ItemT]):
    """
    What comes of many requests, as it comes: an async iterator, and an async context manager.

    The requests begin with the first step of the loop, or of the ``async with`` block. A loop that is left early
    (``break``, ``return``, an exception, cancellation) cancels what is under way and closes it, at once but in
    the background; with ``async with`` it is done by the end of the block::

        async with as_completed(client, urls) as outcomes:
            async for outcome in outcomes:
                ...

    Nothing runs ahead of the loop: what has come and is not fetched yet keeps its place among those under way.
    """

    def __init__(self, work: "Callable[[Sink[ItemT]], Awaitable[None]]") -> None:
        self._work = work
        self._run: _Run[ItemT] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[ItemT]:
        return self

    async def __anext__(self) -> ItemT:
        if self._closed:
            raise StopAsyncIteration
        try:
            return await self._begun().sink.get()
        except BaseException:
            # The end, a failure, or whoever waits here is cancelled; a generator would be over then, too.
            await self.aclose()
            raise

    async def __aenter__(self) -> Self:
        self._begun()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is under way, close it, and wait until that is done. Harmless twice."""
        self._closed = True
        run = self._run
        if run is not None and not run.ended.is_set():
            run.stop()
            await finish(run.ended.wait)

    def __del__(self) -> None:
        run = self._run
        if run is not None and not run.ended.is_set():
            run.stop()

    def _begun(self) -> _Run[ItemT]:
        if self._run is None:
            self._run = _Run(self._work)
        return self._run
