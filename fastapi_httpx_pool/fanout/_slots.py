"""
How many requests are under way at once, over all and for each host.

None of them may ever wait in the pool's queue for its own siblings: there it would time out. So they wait here,
where no time limit runs, until the pool has a place for them.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Any, Final, NamedTuple, final

import anyio

from ..transports import capacity_of

__all__ = ("Bounds", "Slots", "bounds_for")

ASSUMED: Final = 100
"""Connections of a pool without a limit, or with one that cannot be read; both families' own default."""


class Bounds(NamedTuple):
    """How many may be under way."""

    total: int
    per_host: int | None
    queues: bool
    """Whether they may wait in the pool's queue all the same, so that its time limit must not count."""


def bounds_for(client: Any, limit: int | None) -> Bounds:
    """
    Return how many requests a client may be given at once.

    By default, three quarters of what its pool can carry, so that others find a connection meanwhile. A limit
    that is asked for counts, but not beyond what the pool can carry: the rest would only stand in its queue.

    Raises:
        ValueError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit!r}: at least one request has to be under way; leave it out for the default")
    capacity = capacity_of(client)
    if limit is None:
        per_host = None if capacity.per_host is None else _share(capacity.per_host)
        return Bounds(_share(capacity.connections or ASSUMED), per_host, queues=False)
    if capacity.connections is None or limit <= capacity.connections:
        return Bounds(limit, capacity.per_host, queues=False)
    if capacity.shared:
        # How many streams a connection takes is for each server to say.
        return Bounds(limit, capacity.per_host, queues=True)
    return Bounds(capacity.connections, capacity.per_host, queues=False)


def _share(count: int) -> int:
    return max(1, count * 3 // 4)


@final
class Slots:
    """The places of those under way; one task takes them, all give them back."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._taken = 0
        self._hosts: Counter[Hashable] = Counter()
        self._freed = anyio.Event()

    async def wait(self) -> None:
        """Wait until there is a place for one more."""
        while self._taken >= self._bounds.total:
            await self._wait_for_change()

    async def take(self, host: Hashable) -> None:
        """Take the place, as soon as there is one at the host too."""
        while self._bounds.per_host is not None and self._hosts[host] >= self._bounds.per_host:
            await self._wait_for_change()
        self._taken += 1
        self._hosts[host] += 1

    def give_back(self, host: Hashable) -> None:
        """Give a place back."""
        self._taken -= 1
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        self._freed.set()

    async def _wait_for_change(self) -> None:
        self._freed = anyio.Event()
        await self._freed.wait()
