"""
Counting what happens, and giving it away as frozen snapshots.

Counting is adding to plain integers. Times go into histograms whose buckets double from a
microsecond on: finding one's bucket is asking a number for its bit length.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from ..messages import Origin

__all__ = ("Counters", "Histogram", "OriginStatistics", "PoolStatistics", "Times")

BUCKETS: Final = 28
"""The last one begins at 2**26 microseconds: a little more than a minute."""


@final
@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, how often."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    """Per bucket."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds of the buckets in seconds; the last one has none and is infinity."""
        return (*(2.0**power / 1_000_000 for power in range(BUCKETS - 1)), float("inf"))

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """
        Return the upper bound in seconds of the bucket below which this share of all lies.

        Args:
            share: From 0 to 1; 0.5 is the median.

        Returns:
            None if there is nothing.
        """
        left = share * self.count
        for bound, count in zip(self.bounds, self.counts, strict=True):
            left -= count
            if count and left <= 0:
                return bound
        return None


@final
class Times:
    """A histogram in the making."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = int(seconds * 1_000_000).bit_length()
        self._counts[bucket if bucket < BUCKETS else BUCKETS - 1] += 1

    def snapshot(self) -> Histogram:
        """Return what has been counted so far."""
        return Histogram(tuple(self._counts))


@final
class Counters:
    """What is counted for one origin."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "closed",
        "failures",
        "first_byte",
        "opened",
        "origin",
        "queue_wait",
        "requests",
        "retried",
        "reused",
        "seen",
    )

    def __init__(self, origin: Origin) -> None:
        self.origin: Origin = origin
        self.requests: int = 0
        self.seen: int = 0
        """How many there had been when it was last thought of forgetting this origin."""
        self.opened: int = 0
        self.reused: int = 0
        self.retried: int = 0
        self.bytes_in: int = 0
        self.bytes_out: int = 0
        self.closed: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.queue_wait: Times = Times()
        self.first_byte: Times = Times()


@final
@dataclass(frozen=True, slots=True)
class OriginStatistics:
    """What there is now, and what there has been, of one origin."""

    active: int = 0
    """Connections that carry an exchange, or are being opened for one."""
    idle: int = 0
    """Connections that wait for the next request."""
    queued: int = 0
    """Requests that wait for a connection."""
    requests: int = 0
    """Requests that were given a connection."""
    opened: int = 0
    """Connections that were made."""
    reused: int = 0
    """Requests that found a connection."""
    retried: int = 0
    """Requests that were repeated because a reused connection was dead."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """
    Connections that were closed, by reason: ``expired``, ``lifetime``, ``surplus``, ``evicted``,
    ``peer``, ``unsolicited``, ``not reusable``, ``abandoned``, ``cancelled``, ``timeout``,
    ``protocol error``, ``body failed``, ``callback failed``, ``failed``, ``tunnel closed``, ``shutdown``.
    """
    failures: Mapping[str, int] = field(default_factory=dict)
    """Exchanges that failed: by the name of the error before the head of the response, by the reason after it."""
    bytes_in: int = 0
    """Bytes received; what TLS adds is not counted."""
    bytes_out: int = 0
    """Bytes sent, likewise."""
    queue_wait: Histogram = Histogram()
    """How long requests waited for a connection, if they had to."""
    first_byte: Histogram = Histogram()
    """How long it took from sending a request to the head of its response."""


@final
@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of a pool, or of a client's pool."""

    engine: str
    """``native`` or ``httpcore``."""
    max_connections: int | None
    active: int
    idle: int
    queued: int
    origins: Mapping[str, OriginStatistics]
    """By origin, as ``https://example.org:443``; of very many, those used last."""


def statistics_of(counters: Counters, *, active: int, idle: int, queued: int) -> OriginStatistics:
    """Return the snapshot of one origin."""
    return OriginStatistics(
        active=active,
        idle=idle,
        queued=queued,
        requests=counters.requests,
        opened=counters.opened,
        reused=counters.reused,
        retried=counters.retried,
        closed=dict(counters.closed),
        failures=dict(counters.failures),
        bytes_in=counters.bytes_in,
        bytes_out=counters.bytes_out,
        queue_wait=counters.queue_wait.snapshot(),
        first_byte=counters.first_byte.snapshot(),
    )
