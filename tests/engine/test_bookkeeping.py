"""Who gets which connection: each rule of the books by an example, and all of them against a model."""

import gc
import sys
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastapi_httpx_pool.engine._bookkeeping import OPEN, Bookkeeping, Origin, Waiter

A, B, C = "a.example", "b.example", "c.example"

LATER = 1.0
"""Everything has been idle for long."""

T = TypeVar("T")


class Plain:
    """A connection that does what it is told."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.usable = True
        self.retired: list[str] = []

    def is_usable(self) -> bool:
        """Whether it can carry another request."""
        return self.usable

    def retire(self, reason: str) -> None:
        """Note why it was closed."""
        self.retired.append(reason)


Books = Bookkeeping[Plain]


def books_of(max_open: int | None = None, max_idle: int | None = None, max_per_origin: int | None = None) -> Books:
    """Make the books of a pool."""
    return Bookkeeping(max_open, max_idle, max_per_origin)


def request(books: Books, key: str) -> Any:
    """Take a lease at an origin; None if there is none."""
    return books.take(books.origin(key))


def opened(books: Books, key: str) -> Plain:
    """Take the lease of a new connection, and open it."""
    assert request(books, key) is OPEN
    return Plain()


def give_back(books: Books, key: str, connection: Plain) -> None:
    """End a lease with a connection that can be used again."""
    books.give_back(books.origin(key), connection)


def drop(books: Books, key: str) -> None:
    """End a lease without a connection."""
    books.drop(books.origin(key))


def idle(books: Books, *keys: str) -> list[Plain]:
    """Open a connection to each origin, and when all are open let them be idle, in this order."""
    connections = [opened(books, key) for key in keys]
    for key, connection in zip(keys, connections, strict=True):
        give_back(books, key, connection)
    return connections


def queued(books: Books, key: str, woken: list[Any] | None = None) -> Waiter[Plain]:
    """Wait, because there is no lease to be had; a waiter who is woken is noted in ``woken``."""
    assert request(books, key) is None

    def wake() -> None:
        assert waiter.granted is not None
        if woken is not None:
            woken.append(waiter)

    waiter = books.wait(books.origin(key), wake)
    return waiter


class TestLimit:
    """Rule 1: a lease is taken before a connection is opened, and the limit is never exceeded."""

    def test_g1_connections_being_opened_count(self) -> None:
        """A lease counts from when it is taken, not from when its connection is open."""
        books = books_of(2)

        assert [request(books, A), request(books, B), request(books, C)] == [OPEN, OPEN, None]
        assert (books.open, books.idle, books.waiting) == (2, 0, 0)
        assert repr(OPEN) == "OPEN"

    def test_idle_connections_count(self) -> None:
        """An idle connection is open, too."""
        books = books_of(2)
        idle(books, A)

        assert (books.open, books.idle) == (1, 1)
        assert books.origin(A).open == 1

    def test_no_limit(self) -> None:
        """None is no limit."""
        books = books_of()

        assert {request(books, A) for _ in range(1000)} == {OPEN}
        assert books.open == 1000

    @pytest.mark.parametrize("limits", [{"max_open": 0}, {"max_per_origin": 0}])
    def test_limit_of_nothing(self, limits: dict[str, int]) -> None:
        """With a limit of nought nobody gets anything, and those who leave leave nothing behind."""
        books = books_of(**limits)
        waiter = queued(books, A)
        books.forget(waiter.origin)
        assert list(books.origins()) == [waiter.origin]
        books.leave(waiter)

        assert not list(books.origins())


class TestTaking:
    """What a request finds."""

    def test_last_used_first(self) -> None:
        """Of several idle connections the one used last is taken."""
        books = books_of()
        first, second = idle(books, A, A)

        assert request(books, A) is second
        assert request(books, A) is first
        assert request(books, A) is OPEN

    def test_own_origin_only(self) -> None:
        """A connection to another origin is of no use."""
        books = books_of()
        idle(books, B)

        assert request(books, A) is OPEN
        assert (books.open, books.idle) == (2, 1)

    def test_g3_oldest_is_evicted(self) -> None:
        """At the limit the connection idle for longest is closed, and its place is taken in the same step."""
        books = books_of(3)
        oldest, middle, newest = idle(books, B, C, B)

        assert request(books, A) is OPEN
        assert (oldest.retired, middle.retired, newest.retired) == (["evicted"], [], [])
        assert (books.open, books.idle) == (3, 2)

    def test_g8_dead_one_is_passed_over(self) -> None:
        """Connections that have died are closed on the way to one that has not."""
        books = books_of()
        usable, dead = idle(books, A, A)
        dead.usable = False

        assert request(books, A) is usable
        assert (dead.retired, usable.retired) == (["peer"], [])
        assert (books.open, books.idle) == (1, 0)

    def test_g8_place_of_a_dead_one(self) -> None:
        """If all have died, their places are free."""
        books = books_of(2)
        for connection in idle(books, A, A):
            connection.usable = False

        assert request(books, A) is OPEN
        assert request(books, A) is OPEN
        assert request(books, A) is None


class TestHandingOver:
    """Rules 2 and 4: what becomes free is handed to whoever has waited longest, and nobody overtakes."""

    def test_connection(self) -> None:
        """A connection is handed to the first in the queue, and to nobody else."""
        books, woken = books_of(1), list[Any]()
        connection = opened(books, A)
        first, second = queued(books, A, woken), queued(books, A, woken)
        give_back(books, A, connection)

        assert woken == [first]
        assert (first.granted, second.granted) == (connection, None)
        assert (books.open, books.idle, books.waiting) == (1, 0, 1)

    def test_g2_connection_to_another_origin(self) -> None:
        """If the first in the queue is for another origin, the connection is closed and its place handed over."""
        books = books_of(1)
        connection = opened(books, A)
        first, second = queued(books, B), queued(books, A)
        give_back(books, A, connection)

        assert connection.retired == ["evicted"]
        assert (first.granted, second.granted) == (OPEN, None)
        assert (books.open, books.idle, books.waiting) == (1, 0, 1)

    def test_g7_place(self) -> None:
        """A place is handed over when a connection is closed, or could not be opened."""
        books, woken = books_of(1), list[Any]()
        opened(books, A)
        queue = [queued(books, key, woken) for key in (B, A, C)]
        for key in (A, B, A):
            drop(books, key)

        assert woken == queue
        assert {waiter.granted for waiter in queue} == {OPEN}
        assert (books.open, books.waiting) == (1, 0)

    def test_g2_nobody_overtakes(self) -> None:
        """Whoever comes while something is handed over goes to the end of the queue."""
        books = books_of(1)
        connection = opened(books, A)
        first = queued(books, A)
        give_back(books, A, connection)
        late = queued(books, A)

        assert (first.granted, late.granted) == (connection, None)

    def test_g8_dead_on_arrival(self) -> None:
        """Instead of a connection that has died, its place is handed over."""
        books = books_of(1)
        connection = opened(books, A)
        waiter = queued(books, A)
        connection.usable = False
        give_back(books, A, connection)

        assert waiter.granted is OPEN
        assert connection.retired == ["peer"]
        assert books.open == 1

    def test_nothing_is_idle_while_somebody_waits(self) -> None:
        """Who would have to wait gets the place of an idle connection."""
        books = books_of(2)
        busy, idle = opened(books, A), opened(books, A)
        give_back(books, A, idle)

        assert request(books, B) is OPEN
        assert (idle.retired, busy.retired) == (["evicted"], [])
        assert request(books, B) is None


class TestGivingBack:
    """Rule 3: whoever no longer wants what was handed over gives it back."""

    def test_g5_connection(self) -> None:
        """A connection goes on to the next."""
        books = books_of(1)
        connection = opened(books, A)
        first, second = queued(books, A), queued(books, A)
        give_back(books, A, connection)
        assert first.granted is connection
        books.give_back(first.origin, connection)

        assert second.granted is connection

    def test_g5_place(self) -> None:
        """So does a place."""
        books = books_of(1)
        opened(books, A)
        first, second = queued(books, A), queued(books, B)
        drop(books, A)
        assert first.granted is OPEN
        books.drop(first.origin)

        assert second.granted is OPEN

    def test_g10_leaving(self) -> None:
        """Whoever leaves the queue leaves nothing behind, and the others keep their order."""
        books, woken = books_of(1), list[Any]()
        opened(books, A)
        first, second, third = (queued(books, key, woken) for key in (A, B, A))
        books.leave(second)
        books.leave(first)
        assert books.waiting == 1
        assert [origin.key for origin in books.origins()] == [A]
        drop(books, A)

        assert woken == [third]
        assert books.waiting == 0


class TestPerOrigin:
    """Rule 5: with a limit per origin a request waits there first, and stands in nobody else's way."""

    def test_g4_others_are_served(self) -> None:
        """Those who wait for a slow origin do not hold up the queue of the pool."""
        books = books_of(3, max_per_origin=1)
        slow, other = opened(books, A), opened(books, B)
        parked = queued(books, A)

        assert request(books, C) is OPEN
        give_back(books, B, other)
        assert request(books, B) is other
        assert parked.granted is None
        give_back(books, A, slow)
        assert parked.granted is slow

    def test_g4_full_pool(self) -> None:
        """In a full pool, too, what becomes free is handed to the first who may have it."""
        books = books_of(2, max_per_origin=1)
        slow, other = opened(books, A), opened(books, B)
        parked, eligible = queued(books, A), queued(books, C)
        give_back(books, B, other)

        assert (parked.granted, eligible.granted) == (None, OPEN)
        give_back(books, A, slow)
        assert parked.granted is slow

    def test_then_for_the_pool(self) -> None:
        """A place at the origin is a turn at the end of the pool's queue."""
        books, woken = books_of(2, max_per_origin=1), list[Any]()
        opened(books, A)
        opened(books, B)
        parked, before = queued(books, A, woken), queued(books, C, woken)
        drop(books, A)

        assert woken == [before]
        drop(books, B)
        assert woken == [before, parked]

    def test_first_come_first_served(self) -> None:
        """Those who wait for a place at an origin get it in order."""
        books, woken = books_of(max_per_origin=1), list[Any]()
        connection = opened(books, A)
        queue = [queued(books, A, woken) for _ in range(3)]
        for _ in queue:
            give_back(books, A, connection)

        assert woken == queue
        assert {waiter.granted for waiter in queue} == {connection}
        assert (books.open, books.waiting) == (1, 0)

    def test_leaving_a_place(self) -> None:
        """Whoever leaves the pool's queue gives a place at the origin to the next."""
        books = books_of(1, max_per_origin=1)
        opened(books, B)
        at_the_pool, at_the_origin = queued(books, A), queued(books, A)
        books.leave(at_the_pool)
        drop(books, B)

        assert at_the_origin.granted is OPEN

    def test_leaving_without_a_place(self) -> None:
        """Whoever leaves while waiting for a place at the origin changes nothing for the others."""
        books = books_of(max_per_origin=1)
        connection = opened(books, A)
        first, second = queued(books, A), queued(books, A)
        books.leave(first)
        give_back(books, A, connection)

        assert second.granted is connection
        assert books.origin(A).leases == 1

    def test_no_more_connections_than_places(self) -> None:
        """Idle connections do not add up with those in use."""
        books = books_of(max_per_origin=2)
        idle(books, A, A)

        assert request(books, A) is not OPEN
        assert request(books, A) is not OPEN
        assert request(books, A) is None
        assert books.origin(A).open == 2


class TestSurplus:
    """Rule 6: idle connections beyond the limit are closed some time later."""

    def test_not_at_once(self) -> None:
        """They are there for a request that comes soon."""
        books = books_of(max_idle=1)
        first, second = idle(books, A, A)

        assert books.has_surplus
        assert request(books, A) is second
        assert not books.has_surplus
        assert not first.retired

    def test_trim(self) -> None:
        """Trimming closes the oldest, whatever their origin, and leaves as many as may be idle."""
        books = books_of(max_idle=2)
        connections = idle(books, A, B, C, A)
        books.trim(LATER)

        assert [connection.retired for connection in connections] == [["surplus"], ["surplus"], [], []]
        assert (books.open, books.idle, books.has_surplus) == (2, 2, False)
        assert {origin.key for origin in books.origins()} == {C, A}

    def test_only_after_a_while(self) -> None:
        """Those that have not been idle for long are left alone."""
        books = books_of(max_idle=1)
        connections = idle(books, A, B, C)
        for since, connection in enumerate(connections):
            connection.idle_since = since
        books.trim(0)

        assert [connection.retired for connection in connections] == [["surplus"], [], []]
        assert (books.idle, books.has_surplus) == (2, True)

    def test_no_limit(self) -> None:
        """Without a limit there is no surplus."""
        books = books_of()
        idle(books, A, B, C)
        books.trim(LATER)

        assert (books.idle, books.has_surplus) == (3, False)

    def test_none_may_be_idle(self) -> None:
        """With a limit of nought a connection that nobody waits for is closed at once."""
        books = books_of(max_idle=0)
        (connection,) = idle(books, A)

        assert connection.retired == ["surplus"]
        assert (books.open, books.idle, books.has_surplus) == (0, 0, False)
        assert not list(books.origins())

    @pytest.mark.parametrize("limits", [{"max_open": 1}, {"max_per_origin": 1}])
    def test_none_may_be_idle_but_somebody_waits(self, limits: dict[str, int]) -> None:
        """With a limit of nought, too, a connection is handed to whoever waits for it."""
        books = books_of(max_idle=0, **limits)
        connection = opened(books, A)
        waiter = queued(books, A)
        give_back(books, A, connection)

        assert waiter.granted is connection
        assert not connection.retired


class TestIdle:
    """What happens to idle connections."""

    def test_f5_closed_by_the_peer(self) -> None:
        """One that is closed is struck off, and not closed again."""
        books = books_of(1)
        (connection,) = idle(books, A)

        assert books.strike_off(connection)
        assert not books.strike_off(connection)
        assert not connection.retired
        assert (books.open, books.idle) == (0, 0)
        assert not list(books.origins())

    def test_handed_over(self) -> None:
        """One that is in use is not idle: its lease ends with whoever has it."""
        books = books_of(1)
        connection = opened(books, A)
        waiter = queued(books, A)
        give_back(books, A, connection)

        assert waiter.granted is connection
        assert not books.strike_off(connection)
        assert books.open == 1

    def test_others_of_its_origin_stay(self) -> None:
        """The others keep their order."""
        books = books_of()
        first, second, third = idle(books, A, A, A)
        books.strike_off(second)

        assert [request(books, A), request(books, A), request(books, A)] == [third, first, OPEN]

    @pytest.mark.parametrize(
        ("limits", "act", "reason"),
        [
            ({"max_idle": 0}, lambda books: None, "surplus"),
            ({"max_idle": 1}, lambda books: books.trim(LATER), "surplus"),
            ({"max_open": 2}, lambda books: request(books, C), "evicted"),
            ({}, lambda books: request(books, A), "peer"),
        ],
        ids=["at-once", "trimmed", "evicted", "dead"],
    )
    def test_struck_off_before_it_is_closed(
        self, limits: dict[str, int], act: Callable[[Books], object], reason: str
    ) -> None:
        """Whoever looks while a connection is closed finds it no longer in the books."""
        books = books_of(**limits)
        found = []

        class Looking(Plain):
            def retire(self, reason: str) -> None:
                found.append(
                    (reason, books.open, {origin.key: origin.open for origin in books.origins() if origin.open})
                )

        dead = Looking()
        dead.usable = False
        assert [request(books, A), request(books, B)] == [OPEN, OPEN]
        give_back(books, A, dead)
        give_back(books, B, Plain())
        act(books)

        assert found == [(reason, 1, {B: 1})]


class TestOrigins:
    """An origin is kept for as long as anything hangs on it."""

    def test_g9_one_shot_hosts(self) -> None:
        """Hosts that were asked once leave no trace."""
        books = books_of(10, 2)
        for number in range(1000):
            idle(books, f"{number}.example")
            if number % 3 == 0:
                books.trim(LATER)
        books.trim(LATER)

        assert [origin.key for origin in books.origins()] == ["998.example", "999.example"]

    def test_unused(self) -> None:
        """One of which nothing came is forgotten."""
        books = books_of()
        books.forget(books.origin(A))

        assert not list(books.origins())

    def test_in_use(self) -> None:
        """One with a connection or with somebody who waits is not."""
        books = books_of(1)
        opened(books, A)
        queued(books, B)
        for key in (A, B):
            books.forget(books.origin(key))

        assert {origin.key for origin in books.origins()} == {A, B}

    def test_forgotten_twice(self) -> None:
        """To forget one again does not touch what has been begun anew under its key."""
        books = books_of(max_per_origin=1)
        old = books.origin(A)
        books.forget(old)
        opened(books, A)
        books.forget(old)

        assert request(books, A) is None


def steps_of(action: Callable[[], object]) -> int:
    """Count the calls and lines of Python that an action takes."""
    steps = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # who is called back when garbage is collected takes steps too
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


def reusing(many: int) -> Callable[[], object]:
    """Take an idle connection and give it back, while there are many to other origins."""
    books = books_of()
    idle(books, A, *(f"{number}.example" for number in range(many)))
    return lambda: give_back(books, A, request(books, A))


def opening(many: int) -> Callable[[], object]:
    """Take a place in the pool and free it, while there are many idle and busy connections."""
    books = books_of()
    for number in range(many):
        opened(books, f"{number}.example")
        idle(books, f"{number}.example")
    return lambda: take_and_drop(books)


def evicting(many: int) -> Callable[[], object]:
    """Take the place of the oldest of many idle connections."""
    books = books_of(many)
    idle(books, *(f"{number}.example" for number in range(many)))
    return lambda: take_and_drop(books)


def take_and_drop(books: Books) -> None:
    """Take a lease, and end it."""
    assert request(books, A) is OPEN
    drop(books, A)


def queueing(many: int) -> Callable[[], object]:
    """Come to the end of a long queue, and leave it."""
    books = full_with_queue(many)
    return lambda: books.leave(queued(books, A))


def leaving(many: int) -> Callable[[], object]:
    """Leave the middle of a long queue."""
    books = full_with_queue(many // 2)
    waiter = queued(books, A)
    for _ in range(many // 2):
        queued(books, B)
    return lambda: books.leave(waiter)


def handing_over(many: int) -> Callable[[], object]:
    """Give a place in the pool to the first of a long queue."""
    books = full_with_queue(many)
    return lambda: drop(books, A)


def full_with_queue(many: int) -> Books:
    """Make a full pool with many who wait for it."""
    books = books_of(1)
    opened(books, A)
    for number in range(many):
        queued(books, f"{number}.example")
    return books


def parking(many: int) -> Callable[[], object]:
    """Come to the end of the long queue of one origin, and leave it."""
    books = books_of(max_per_origin=1)
    connection_with_queue(books, many)
    return lambda: books.leave(queued(books, A))


def giving_to_parked(many: int) -> Callable[[], object]:
    """Give a connection to the first of those who wait for the origin."""
    books = books_of(max_per_origin=1)
    connection = connection_with_queue(books, many)
    return lambda: give_back(books, A, connection)


def passing_parked(many: int) -> Callable[[], object]:
    """Use another origin than the one that many wait for."""
    books = books_of(2, max_per_origin=1)
    connection_with_queue(books, many)
    idle(books, B)
    return lambda: give_back(books, B, request(books, B))


def connection_with_queue(books: Books, many: int) -> Plain:
    """Open a connection that many wait for."""
    connection = opened(books, A)
    for _ in range(many):
        queued(books, A)
    return connection


def striking_off(many: int) -> Callable[[], object]:
    """Forget one of many idle connections."""
    books = books_of()
    connections = idle(books, *(f"{number}.example" for number in range(many)))
    return lambda: books.strike_off(connections[many // 2])


def trimming(many: int) -> Callable[[], object]:
    """Close one of many idle connections."""
    books = books_of(max_idle=many)
    idle(books, A, *(f"{number}.example" for number in range(many)))
    return lambda: books.trim(LATER)


@pytest.mark.parametrize(
    "prepare",
    [
        reusing,
        opening,
        evicting,
        queueing,
        leaving,
        handing_over,
        parking,
        giving_to_parked,
        passing_parked,
        striking_off,
        trimming,
    ],
)
def test_g6_cost(prepare: Callable[[int], Callable[[], object]]) -> None:
    """It takes the same steps whatever the number of connections, waiters and origins."""
    assert steps_of(prepare(2)) == steps_of(prepare(10_000)) > 5


class Fake:
    """A connection of the machine's."""

    def __init__(self, machine: "Machine", key: str) -> None:
        self._machine = machine
        self.key = key
        self.idle_since = 0.0
        self.usable = True

    def is_usable(self) -> bool:
        """Whether it can carry another request."""
        self._machine.check_limits()
        return self.usable

    def retire(self, reason: str) -> None:
        """Note that it was closed, and see that the books no longer know it."""
        self._machine.check_limits()
        assert self not in self._machine.idle
        for origin in self._machine.books.origins():
            assert origin.open - len(origin.idle) <= origin.leases
        self._machine.log.append((self, reason))


Grant = Any
"""A ``Fake``, ``OPEN``, or None."""


class Ticket:
    """A request in the queue."""

    def __init__(self, machine: "Machine", key: str, number: int) -> None:
        self._machine = machine
        self.key = key
        self.number = number
        """In order of arrival."""
        self.waiter = machine.books.wait(machine.books.origin(key), self.wake)

    def wake(self) -> None:
        """Note what was handed over; those who want it all the same have a lease now."""
        machine = self._machine
        machine.check_limits()
        machine.log.append((self, self.waiter.granted))
        assert self.number == min(ticket.number for ticket in machine.tickets if ticket.key == self.key)
        machine.tickets.remove(self)
        machine.leases.append(Lease(self.waiter.origin, self.waiter.granted))


class Lease:
    """What a request holds."""

    def __init__(self, origin: Origin[Fake], granted: Grant) -> None:
        self.origin = origin
        self.granted = granted


class Model:
    """The rules once more: in plain lists that are searched, however long that takes."""

    def __init__(self, max_open: float, max_idle: float, max_per_origin: float) -> None:
        self.max_open = max_open
        self.max_idle = max_idle
        self.max_per_origin = max_per_origin
        self.leased: list[str] = []
        """The key of each lease."""
        self.idle: list[Fake] = []
        """Oldest first."""
        self.queue: list[Ticket] = []
        self.parked: list[Ticket] = []
        self.log: list[tuple[object, object]] = []
        """Connections that were closed and why, tickets that were served and with what."""

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self.leased) + len(self.idle)

    def places(self, key: str) -> int:
        """Return how many places are taken at an origin."""
        return self.leased.count(key) + sum(ticket.key == key for ticket in self.queue)

    def take(self, key: str) -> Grant:
        """Return what a new request gets."""
        found = None if self.places(key) >= self.max_per_origin else self._find(key)
        if found is not None:
            self.leased.append(key)
        return found

    def wait(self, ticket: Ticket) -> None:
        """Stand in one queue or the other."""
        where = self.parked if self.places(ticket.key) >= self.max_per_origin else self.queue
        where.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Leave it."""
        where = self.queue if ticket in self.queue else self.parked
        where.remove(ticket)
        self._serve()

    def give_back(self, connection: Fake) -> None:
        """End a lease with a connection."""
        key = connection.key
        self.leased.remove(key)
        if self.max_idle == 0 and not self.queue and all(ticket.key != key for ticket in self.parked):
            self.log.append((connection, "surplus"))
        else:
            self.idle.append(connection)
        self._serve()

    def drop(self, key: str) -> None:
        """End a lease without one."""
        self.leased.remove(key)
        self._serve()

    def trim(self, idle_before: float) -> None:
        """Close what is too much."""
        surplus = self.idle[: max(0, len(self.idle) - int(min(self.max_idle, len(self.idle))))]
        for connection in surplus:
            if connection.idle_since <= idle_before:
                self.idle.remove(connection)
                self.log.append((connection, "surplus"))

    def _serve(self) -> None:
        for ticket in list(self.parked):
            if self.places(ticket.key) < self.max_per_origin:
                self.parked.remove(ticket)
                self.queue.append(ticket)
        while self.queue and (found := self._find(self.queue[0].key)) is not None:
            ticket = self.queue.pop(0)
            self.leased.append(ticket.key)
            self.log.append((ticket, found))

    def _find(self, key: str) -> Grant:
        for connection in reversed([connection for connection in self.idle if connection.key == key]):
            self.idle.remove(connection)
            if connection.usable:
                return connection
            self.log.append((connection, "peer"))
        if self.open >= self.max_open:
            if not self.idle:
                return None
            self.log.append((self.idle.pop(0), "evicted"))
        return OPEN


def one_of(those: list[T], which: int) -> list[T]:
    """Return a list of one, counted around, or an empty one if there is none."""
    return [those[which % len(those)]] if those else []


KEYS = (A, B, C)
STEPS = {
    "request": 10,
    "give_back": 5,
    "give_back_all": 2,
    "give_back_dead": 1,
    "drop": 1,
    "leave": 1,
    "refuse": 1,
    "forget": 1,
    "die": 1,
    "strike_off": 1,
    "close_busy": 1,
    "trim": 1,
    "finish": 1,
}
"""What may happen, and how often. As one rule: of many, Hypothesis leaves out half in each run."""


class Machine(RuleBasedStateMachine):
    """Requests that come, are served or not, and go; connections that live and die."""

    books: Bookkeeping[Fake]
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.tickets: list[Ticket] = []
        """Those who wait."""
        self.leases: list[Lease] = []
        self.log: list[tuple[object, object]] = []
        self.arrived = 0
        self.time = 0
        """It passes when something becomes idle."""
        self.seen: list[Origin[Fake]] = []

    @initialize(
        max_open=st.sampled_from([None, 1, 2, 3, 5]),
        max_idle=st.sampled_from([None, 0, 1, 3]),
        max_per_origin=st.sampled_from([None, 1, 2]),
    )
    def begin(self, max_open: int | None, max_idle: int | None, max_per_origin: int | None) -> None:
        """Open the books."""
        self.books = Bookkeeping(max_open, max_idle, max_per_origin)
        self.model = Model(*(inf if limit is None else limit for limit in (max_open, max_idle, max_per_origin)))

    @rule(
        what=st.sampled_from([what for what, weight in STEPS.items() for _ in range(weight)]), which=st.integers(0, 59)
    )
    def step(self, what: str, which: int) -> None:
        """Something happens, to one of those to whom it may happen, if there are any."""
        getattr(self, what)(which)

    @property
    def idle(self) -> list[Fake]:
        """The idle connections as the books know them, oldest first."""
        return self.books.idle_connections()

    # What requests do.

    def request(self, which: int) -> None:
        """A request comes, and waits if it must."""
        key = KEYS[which % len(KEYS)]
        origin = self.books.origin(key)
        self.seen.append(origin)
        granted = self.books.take(origin)

        assert granted is self.model.take(key)
        if granted is not None:
            self.leases.append(Lease(origin, granted))
            return
        self.arrived += 1
        ticket = Ticket(self, key, self.arrived)
        self.tickets.append(ticket)
        self.model.wait(ticket)

    def refuse(self, which: int) -> None:
        """A request comes of which nothing becomes."""
        self.books.forget(self.books.origin(KEYS[which % len(KEYS)]))

    def leave(self, which: int) -> None:
        """Somebody no longer waits."""
        for ticket in one_of(self.tickets, which):
            self.tickets.remove(ticket)
            self.model.leave(ticket)
            self.books.leave(ticket.waiter)

    def give_back(self, which: int, *, usable: bool = True) -> None:
        """A request ends, and leaves a connection that can be used again."""
        for lease in one_of(self.leases, which):
            self.leases.remove(lease)
            connection = Fake(self, str(lease.origin.key)) if lease.granted is OPEN else lease.granted
            connection.usable = usable
            self.time += 1
            connection.idle_since = self.time
            self.model.give_back(connection)
            self.books.give_back(lease.origin, connection)

    def give_back_dead(self, which: int) -> None:
        """A request ends, and leaves a connection that only seems to be of use."""
        self.give_back(which, usable=False)

    def give_back_all(self, which: int) -> None:
        """All who have a lease now give it back."""
        for lease in list(self.leases):
            self.give_back(self.leases.index(lease))

    def drop(self, which: int) -> None:
        """A request ends, and its connection with it."""
        for lease in one_of(self.leases, which):
            self.leases.remove(lease)
            self.model.drop(str(lease.origin.key))
            self.books.drop(lease.origin)

    def forget(self, which: int) -> None:
        """Somebody who has kept an origin for long is through with it."""
        for origin in one_of(self.seen, which):
            self.books.forget(origin)

    def finish(self, which: int) -> None:
        """All end what they do: nothing is left."""
        while self.tickets:
            self.leave(0)
        while self.leases:
            self.drop(0)
        while self.model.idle:
            self.strike_off(0)

        assert (self.books.open, self.books.idle, self.books.waiting) == (0, 0, 0)
        assert not list(self.books.origins())

    # What connections do.

    def die(self, which: int) -> None:
        """An idle connection dies, and nobody has noticed yet."""
        for connection in one_of(self.model.idle, which):
            connection.usable = False

    def strike_off(self, which: int) -> None:
        """An idle connection is closed."""
        for connection in one_of(self.model.idle, which):
            self.model.idle.remove(connection)

            assert self.books.strike_off(connection)

    def close_busy(self, which: int) -> None:
        """A connection is closed while somebody has it."""
        for granted in one_of([lease.granted for lease in self.leases if lease.granted is not OPEN], which):
            assert not self.books.strike_off(granted)

    def trim(self, which: int) -> None:
        """It is time to close what is too much, and has been idle for a while."""
        grace = which % 3
        assert self.books.has_surplus == (len(self.model.idle) > self.model.max_idle)
        self.model.trim(self.time - grace)
        self.books.trim(self.time - grace)

    # What is true at any time.

    def check_limits(self) -> None:
        """See that no limit is exceeded, and that the origins add up; in the middle of a step, too."""
        origins = list(self.books.origins())
        assert self.books.open <= self.model.max_open
        assert all(origin.open <= self.model.max_per_origin for origin in origins)
        assert self.books.open == sum(origin.open for origin in origins)
        assert sorted(map(id, self.idle)) == sorted(id(connection) for origin in origins for connection in origin.idle)

    @invariant()
    def does_what_the_model_does(self) -> None:
        """The same connections are closed, for the same reasons, and the same requests served, in the same order."""
        assert self.log == self.model.log
        self.log.clear()
        self.model.log.clear()

    @invariant()
    def counts_what_the_model_counts(self) -> None:
        """In all, and for each origin; and origins on which nothing hangs are forgotten."""
        self.check_limits()
        model, tickets = self.model, [ticket.key for ticket in self.tickets]
        assert (self.books.open, self.books.idle, self.books.waiting) == (model.open, len(model.idle), len(tickets))
        assert self.idle == model.idle
        assert {origin.key: (origin.open, origin.leases, origin.waiting) for origin in self.books.origins()} == {
            key: (len(idle) + model.leased.count(key), model.places(key), tickets.count(key))
            for key in (A, B, C)
            if (idle := [connection for connection in model.idle if connection.key == key])
            or key in model.leased
            or key in tickets
        }
        for origin in self.books.origins():
            assert list(origin.idle) == [connection for connection in model.idle if connection.key == origin.key]

    @invariant()
    def nobody_is_stranded(self) -> None:
        """Who waits could not be served: the origin is full, or the pool is, and nothing in it is idle."""
        for ticket in self.tickets:
            origin = self.books.origin(ticket.key)
            if ticket.waiter in origin.parked:
                assert origin.leases == self.model.max_per_origin
            else:
                assert self.books.open == self.model.max_open
                assert self.books.idle == 0

    @invariant()
    def nothing_is_owned_twice(self) -> None:
        """A connection has one owner, or is idle."""
        owned = [lease.granted for lease in self.leases if lease.granted is not OPEN]
        everywhere = [*map(id, owned), *map(id, self.idle)]
        assert len(everywhere) == len(set(everywhere))


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(
    max_examples=70,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
