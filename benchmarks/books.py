"""
What one decision of the engine costs, whatever there is: ``python -m benchmarks.books``.

One lease taken and given back, by the engine's books alone, with one origin and with many, with an
empty queue and with a long one. The cases take turns; the figures are medians of many short rounds.
"""

import statistics
import time
from collections.abc import Callable
from typing import Literal, final

from fastapi_httpx_pool.engine._bookkeeping import OPEN, Bookkeeping, Waiter

__all__ = ("main",)

MANY = 10_000
ROUNDS = 200
LOOPS = 500


@final
class _Plain:
    """A connection that is none."""

    idle_since = 0.0

    def is_usable(self) -> bool:
        return True

    def retire(self, reason: Literal["surplus", "evicted", "peer"]) -> None:
        """Do nothing."""


def _nothing() -> None:
    pass


def _reused(origins: int) -> Callable[[], None]:
    """Return what takes an idle connection of one origin among so many, and gives it back."""
    books: Bookkeeping[_Plain] = Bookkeeping(None, None)
    for number in range(origins):
        origin = books.origin(number)
        books.take(origin)
        books.give_back(origin, _Plain())

    def once() -> None:
        origin = books.origin(0)
        connection = books.take(origin)
        assert isinstance(connection, _Plain)
        books.give_back(origin, connection)

    return once


def _handed_over(waiters: int) -> Callable[[], None]:
    """Return what gives a connection back to the first of so many waiters, and queues one more."""
    books: Bookkeeping[_Plain] = Bookkeeping(1, None)
    origin = books.origin(0)
    assert books.take(origin) is OPEN
    connection = _Plain()
    queue: list[Waiter[_Plain]] = [books.wait(origin, _nothing) for _ in range(waiters)]

    def once() -> None:
        queue.append(books.wait(origin, _nothing))
        books.give_back(origin, connection)

    return once


def main() -> None:
    """Measure, and print a table."""
    cases = {
        "idle connection, 1 origin": _reused(1),
        f"idle connection, {MANY:,} origins": _reused(MANY),
        "handed over, 1 waiter": _handed_over(1),
        f"handed over, {MANY:,} waiters": _handed_over(MANY),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, once in cases.items():
            began = time.perf_counter_ns()
            for _ in range(LOOPS):
                once()
            taken[name].append((time.perf_counter_ns() - began) / LOOPS)
    print("nanoseconds for a lease taken and given back, medians:")
    for name, rounds in taken.items():
        print(f"  {name:<36}{statistics.median(rounds):>8,.0f}")


if __name__ == "__main__":
    main()
