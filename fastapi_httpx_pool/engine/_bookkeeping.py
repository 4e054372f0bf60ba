"""
Who gets which connection, who waits, who may open a new one; no I/O, no clock, no event loop.

Everything here is synchronous and costs the same whatever the number of connections, waiters and
origins. The rules:

1. A *lease* is the right to one connection. It is taken before a connection is opened, and the
   number of open connections (idle ones too) never exceeds the limit, not even for a moment.
2. Whatever becomes free is *handed* to the waiter who has waited longest, whichever origin it is
   for: nobody is woken to look again, and nobody overtakes. If what became free is a connection to
   another origin, it is closed and its place handed over.
3. Whoever was handed something and no longer wants it gives it back like any other lease.
4. While somebody waits for a place in the pool, nothing is idle: an idle connection would have been
   closed for them.
5. With a limit per origin, a request first waits for a place at its origin, and only then, at the
   end of the queue, for one in the pool: those who wait for a slow origin stand in nobody else's way.
6. Idle connections beyond ``max_idle`` are not closed at once, because the next request would only
   open them again: ``trim`` closes those that have been idle for a while.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, Literal, Protocol, TypeVar, final

__all__ = ("OPEN", "Bookkeeping", "Connection", "Origin", "Waiter")


class Connection(Protocol):
    """What is kept here, as far as it matters here."""

    idle_since: float
    """When it was given back last, by whatever clock."""

    def is_usable(self) -> bool:
        """Whether it can carry another request; asked just before it is handed out."""
        ...

    def retire(self, reason: Literal["surplus", "evicted", "peer"]) -> None:
        """Close it; it has been struck off already."""


ConnectionT = TypeVar("ConnectionT", bound=Connection)


@final
class _Open:
    """The lease of a connection that has yet to be opened."""

    def __repr__(self) -> str:
        return "OPEN"


OPEN: Final = _Open()


@final
class Origin(Generic[ConnectionT]):
    """What is kept about one origin, for as long as anything is."""

    __slots__ = ("idle", "key", "leases", "open", "parked", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key: Hashable = key
        self.idle: dict[ConnectionT, None] = {}
        """Last in, first out: the one used last is the least likely to have been closed."""
        self.open: int = 0
        """Connections, idle ones and those being opened included."""
        self.leases: int = 0
        """How many hold a place at this origin: a connection, or a turn in the pool's queue."""
        self.waiting: int = 0
        self.parked: OrderedDict[Waiter[ConnectionT], None] = OrderedDict()
        """Those who wait for a place at this origin."""


@final
class Waiter(Generic[ConnectionT]):
    """One request that waits for its turn."""

    __slots__ = ("granted", "origin", "wake")

    def __init__(self, origin: Origin[ConnectionT], wake: Callable[[], object]) -> None:
        """``wake`` is called once, when ``granted`` has been set."""
        self.origin = origin
        self.wake = wake
        self.granted: ConnectionT | _Open | None = None


@final
class Bookkeeping(Generic[ConnectionT]):
    """The books of one pool."""

    def __init__(self, max_open: int | None, max_idle: int | None, max_per_origin: int | None = None) -> None:
        """None is no limit."""
        self._max_open = float("inf") if max_open is None else max_open
        self._max_idle = float("inf") if max_idle is None else max_idle
        self._max_per_origin = float("inf") if max_per_origin is None else max_per_origin
        self._origins: dict[Hashable, Origin[ConnectionT]] = {}
        self._queue: OrderedDict[Waiter[ConnectionT], None] = OrderedDict()
        self._idle: OrderedDict[ConnectionT, Origin[ConnectionT]] = OrderedDict()
        """Oldest first."""
        self.open = 0
        """Connections, idle ones and those being opened included."""
        self.waiting = 0

    # What there is.

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    @property
    def has_surplus(self) -> bool:
        """Whether more are idle than may be: ``trim`` has something to close, now or a little later."""
        return len(self._idle) > self._max_idle

    def origins(self) -> Iterator[Origin[ConnectionT]]:
        """Give all origins about which anything is kept."""
        return iter(self._origins.values())

    def idle_connections(self) -> list[ConnectionT]:
        """Return the idle connections, oldest first."""
        return list(self._idle)

    def origin(self, key: Hashable) -> Origin[ConnectionT]:
        """Return what is kept about an origin; ``forget`` it if nothing comes of it."""
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(key)
        return origin

    def forget(self, origin: Origin[ConnectionT]) -> None:
        """Drop what is kept about an origin, if nothing hangs on it: ten thousand hosts leave no trace. Harmless twice."""
        if not origin.open and not origin.waiting and self._origins.get(origin.key) is origin:
            del self._origins[origin.key]

    # What a request does.

    def take(self, origin: Origin[ConnectionT]) -> ConnectionT | _Open | None:
        """
        Take a lease.

        Returns:
            An idle connection that is usable; ``OPEN`` for a new one; None if there is none to be
            had, and the request has to ``wait``.
        """
        if origin.leases >= self._max_per_origin:
            return None
        connection = self._pop_usable(origin)
        if connection is None and not self._make_room():
            return None
        origin.leases += 1
        if connection is not None:
            return connection
        self._open_one(origin)
        return OPEN

    def wait(self, origin: Origin[ConnectionT], wake: Callable[[], object]) -> Waiter[ConnectionT]:
        """Stand in the queue. Call after ``take`` gave nothing, before anything else happens."""
        waiter = Waiter(origin, wake)
        self.waiting += 1
        origin.waiting += 1
        if origin.leases >= self._max_per_origin:
            origin.parked[waiter] = None
        else:
            origin.leases += 1
            self._queue[waiter] = None
        return waiter

    def leave(self, waiter: Waiter[ConnectionT]) -> None:
        """
        Leave the queue. Only while nothing has been ``granted``.
        """
        origin = waiter.origin
        self.waiting -= 1
        origin.waiting -= 1
        if waiter in self._queue:
            del self._queue[waiter]
            self._end_lease(origin)
        else:
            del origin.parked[waiter]
        self.forget(origin)

    def give_back(self, origin: Origin[ConnectionT], connection: ConnectionT) -> None:
        """End a lease with a connection that can carry another request."""
        if self._max_idle == 0 and not self._queue and not origin.parked:
            self.drop(origin)
            connection.retire("surplus")
            return
        origin.idle[connection] = None
        self._idle[connection] = origin
        self._end_lease(origin)

    def drop(self, origin: Origin[ConnectionT]) -> None:
        """End a lease whose connection is closed, or was never opened."""
        self.open -= 1
        origin.open -= 1
        self._end_lease(origin)
        self.forget(origin)

    # What happens to idle connections.

    def strike_off(self, connection: ConnectionT) -> bool:
        """Forget an idle connection that is closed; whether it was idle. By rule 4 nobody waits for its place."""
        origin = self._idle.pop(connection, None)
        if origin is None:
            return False
        del origin.idle[connection]
        self._close_one(origin)
        self.forget(origin)
        return True

    def trim(self, idle_before: float) -> None:
        """Close the oldest idle connections beyond the limit, if they have been idle since before then."""
        while len(self._idle) > self._max_idle and next(iter(self._idle)).idle_since <= idle_before:
            self._retire_oldest("surplus")

    # How it is done.

    def _end_lease(self, origin: Origin[ConnectionT]) -> None:
        origin.leases -= 1
        if origin.parked:
            waiter, _ = origin.parked.popitem(last=False)
            origin.leases += 1
            self._queue[waiter] = None
        if self._queue:
            self._serve()

    def _serve(self) -> None:
        while self._queue:
            waiter = next(iter(self._queue))
            origin = waiter.origin
            connection = self._pop_usable(origin)
            if connection is None:
                if not self._make_room():
                    return
                self._open_one(origin)
            del self._queue[waiter]
            self.waiting -= 1
            origin.waiting -= 1
            waiter.granted = OPEN if connection is None else connection
            waiter.wake()

    def _pop_usable(self, origin: Origin[ConnectionT]) -> ConnectionT | None:
        while origin.idle:
            connection, _ = origin.idle.popitem()
            del self._idle[connection]
            if connection.is_usable():
                return connection
            self._close_one(origin)
            connection.retire("peer")
        return None

    def _make_room(self) -> bool:
        if self.open < self._max_open:
            return True
        if not self._idle:
            return False
        self._retire_oldest("evicted")
        return True

    def _retire_oldest(self, reason: Literal["surplus", "evicted"]) -> None:
        connection, origin = self._idle.popitem(last=False)
        del origin.idle[connection]
        self._close_one(origin)
        self.forget(origin)
        connection.retire(reason)

    def _open_one(self, origin: Origin[ConnectionT]) -> None:
        self.open += 1
        origin.open += 1

    def _close_one(self, origin: Origin[ConnectionT]) -> None:
        self.open -= 1
        origin.open -= 1
