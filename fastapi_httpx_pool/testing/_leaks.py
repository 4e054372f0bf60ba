"""
Finds what a test leaves behind: responses that nobody closed, connections of clients that nobody closed, tasks.

The engine itself knows nothing of this. For the time of a block its few places at which something
begins are wrapped, and what begins is noted with the line of the test or of the app that began it.
"""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, final
from unittest import mock

from ..engine import _engine
from ..engine._connection import Connection
from ..engine._exchange import Body, Exchange
from ..engine._pool import Pool
from ..messages import Request
from ._places import is_ours, place_here

__all__ = ("LeaksFound", "forbid_leaks")

GRACE: Final = 0.2
"""Seconds that tasks which are about to end have for it."""
MANY: Final = 256
"""Notes after which those are forgotten that have become pointless."""


class LeaksFound(AssertionError):
    """Something was left behind in a block that forbids it; the text says what, and where it was begun."""

    leaks: tuple[str, ...]
    """One line for each."""

    def __init__(self, leaks: tuple[str, ...]) -> None:
        super().__init__(
            "Left behind:\n"
            + "\n".join(f"  {leak}" for leak in leaks)
            + "\nClose responses (`async with client.stream(...)` does, `await response.aclose()` too), leave "
            "clients (`async with ClientFactory()`, the app's lifespan), await what was started. If it belongs "
            "to something that outlives the test, open that in a fixture of a wider scope."
        )
        self.leaks = leaks


@contextmanager
def forbid_leaks() -> Iterator[None]:
    """
    Note what the engine begins during a block, and look at its end whether all of it has ended.

    A response counts as left behind if it was neither closed nor read to its end, also if it has been
    collected as garbage, or broken off when its client was closed. A connection does if its client was made in
    the block and not closed. A task does if it runs on, or had to be cancelled by the end of its event loop.

    Raises:
        LeaksFound: At the end, if anything was left behind.
    """
    __tracebackhide__ = True
    watch = _Watch()
    with watch.watching():
        yield
    gc.collect()
    leaks = watch.leaks()
    if leaks:
        raise LeaksFound(leaks)


@final
@dataclass(eq=False)
class _Noted:
    """A request that was begun."""

    exchange: Exchange
    place: str
    lost: str = ""
    """What became of its response, if that was none of the proper ends."""

    def leak(self) -> str | None:
        """Say what is wrong with it, if anything is."""
        exchange = self.exchange
        wrong = self.lost
        if not wrong and (exchange.leased or exchange.connection is not None):
            wrong = "was not closed" if exchange.reader.has_head else "is still awaited"
        elif not wrong and exchange.reader.complete and exchange.reader.chunks:
            wrong = "was neither closed nor read"
        return f"the response to {_shown(exchange.request)} {wrong}: {self.place}" if wrong else None


@final
class _Watch:
    """Notes what begins."""

    def __init__(self) -> None:
        self._noted: dict[int, _Noted] = {}
        self._enough = MANY
        self._connections: list[tuple[Pool, Connection, str]] = []
        self._tasks: list[tuple[weakref.ref[asyncio.Task[Any]], str]] = []
        self._cancelled: list[str] = []
        # Whose clients are older belongs to somebody who outlives the block.
        self._old = weakref.WeakSet(_engine._engines)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Wrap the places where something begins."""
        with ExitStack() as stack:
            for owner, name, wrapper in (
                (Pool, "_new_exchange", self._note_exchange),
                (Pool, "_adopt", self._note_connection),
                (Pool, "close", self._note_end_of_pool),
                (Body, "__del__", self._note_end_of_body),
                (asyncio.BaseEventLoop, "create_task", self._note_task),
                (asyncio.Runner, "close", self._note_end_of_loop),
            ):
                stack.enter_context(mock.patch.object(owner, name, _wrapped(getattr(owner, name), wrapper)))
            yield

    def leaks(self) -> tuple[str, ...]:
        """Say what was left behind."""
        found = [leak for noted in self._noted.values() if (leak := noted.leak()) is not None]
        found += self._open_connections()
        for reference, place in self._tasks:
            task = reference()
            if task is not None and not _is_ending(task):
                found.append(_described(task, place))
        return (*found, *self._cancelled)

    def _open_connections(self) -> list[str]:
        outlive = {id(pool) for engine in self._old for pool in engine._pools.values()}
        places: dict[str, int] = {}
        for pool, connection, place in self._connections:
            if not pool.is_closed and not connection.is_closing and id(pool) not in outlive:
                where = f"of a client that was not closed: {place}"
                places[where] = places.get(where, 0) + 1
        return [f"{count} connection{'s' * (count > 1)} {where}" for where, count in places.items()]

    # What begins.

    def _note_exchange(self, original: Callable[..., Exchange], pool: Pool, *arguments: Any) -> Exchange:
        exchange = original(pool, *arguments)
        self._noted[id(exchange)] = _Noted(exchange, place_here())
        if len(self._noted) > self._enough:
            self._noted = {key: noted for key, noted in self._noted.items() if noted.leak() is not None}
            self._enough = len(self._noted) + MANY
        return exchange

    def _note_connection(
        self, original: Callable[..., None], pool: Pool, connection: Connection, *arguments: Any
    ) -> None:
        self._connections = [entry for entry in self._connections if not entry[1].is_closing]
        self._connections.append((pool, connection, place_here()))
        original(pool, connection, *arguments)

    def _note_task(
        self, original: Callable[..., asyncio.Task[Any]], loop: Any, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = original(loop, coroutine, **options)
        if _is_task_of_ours(task):
            self._tasks = [entry for entry in self._tasks if (known := entry[0]()) is not None and not known.done()]
            self._tasks.append((weakref.ref(task), place_here()))
        return task

    # What ends otherwise than it should.

    def _note_end_of_pool(self, original: Callable[..., None], pool: Pool) -> None:
        for exchange in pool._exchanges:
            # Whoever waits for something is told, and has left nothing behind.
            is_idle = exchange.reader.has_head and exchange._waiting is None
            if is_idle and id(exchange) in self._noted:
                self._noted[id(exchange)].lost = "was not closed before its client was"
        original(pool)

    def _note_end_of_body(self, original: Callable[..., None], body: Body) -> None:
        exchange = body._exchange
        if exchange.connection is not None and not exchange.reader.upgraded and id(exchange) in self._noted:
            self._noted[id(exchange)].lost = "was dropped without being closed"
        original(body)

    def _note_end_of_loop(self, original: Callable[..., None], runner: asyncio.Runner) -> None:
        loop = getattr(runner, "_loop", None)
        if loop is not None:
            places = {reference(): place for reference, place in self._tasks}
            for task in _left_in(loop):
                self._cancelled.append(_described(task, places.get(task, "begun at an unknown line")))
        original(runner)


def _wrapped(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    # A function, so that it becomes a method.
    return lambda *arguments, **options: wrapper(original, *arguments, **options)


def _left_in(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Return the tasks of ours that do not end by themselves."""
    tasks = [task for task in asyncio.all_tasks(loop) if _is_task_of_ours(task)]
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=GRACE))
    return [task for task in tasks if not _is_ending(task)]


def _is_ending(task: asyncio.Task[Any]) -> bool:
    return task.done() or task.cancelling() > 0


def _is_task_of_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and is_ours(code.co_filename)


def _described(task: asyncio.Task[Any], place: str) -> str:
    name = getattr(task.get_coro(), "__qualname__", "?")
    return f"a task, {name}(): {place}"


def _shown(request: Request) -> str:
    scheme, host, port = request.origin
    target = request.target.partition(b"?")[0]
    return (
        f"{request.method.decode('latin-1')} {scheme.decode()}://{host.decode('latin-1')}:{port}"
        f"{target.decode('latin-1')}"
    )
