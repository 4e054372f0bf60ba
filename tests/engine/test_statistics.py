"""Counting: what a histogram says of the times it was given, and snapshots that stay as they are."""

import dataclasses
from collections.abc import Sequence
from math import ceil, inf, nextafter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fastapi_httpx_pool.engine._statistics import (
    BUCKETS,
    Counters,
    Histogram,
    OriginStatistics,
    PoolStatistics,
    Times,
    statistics_of,
)
from fastapi_httpx_pool.messages import Origin

ORIGIN = Origin(b"http", b"a.example", 80)


def histogram_of(seconds: Sequence[float]) -> Histogram:
    """Count them."""
    times = Times()
    for one in seconds:
        times.add(one)
    return times.snapshot()


def bucket_of(seconds: float) -> int:
    """Return where one is counted."""
    return histogram_of([seconds]).counts.index(1)


class TestHistogram:
    """How long something took, how often."""

    def test_bounds(self) -> None:
        """The buckets double from a microsecond on, and the last one takes all the rest."""
        bounds = Histogram().bounds

        assert len(bounds) == len(Histogram().counts) == BUCKETS
        assert bounds[:3] == (1e-6, 2e-6, 4e-6)
        assert bounds[-2:] == (67.108864, inf)

    @pytest.mark.parametrize(
        ("seconds", "bucket"),
        [(0.0, 0), (0.9e-6, 0), (1e-6, 1), (1.9e-6, 1), (2e-6, 2), (3e-6, 2), (4e-6, 3), (0.001, 10), (1.0, 20)],
    )
    def test_bucket(self, seconds: float, bucket: int) -> None:
        """A time is counted below the bound that is its double at most."""
        assert bucket_of(seconds) == bucket

    @pytest.mark.parametrize(("seconds", "bucket"), [(67.1, 26), (67.2, 27), (134.3, 27), (1e9, 27)])
    def test_long_times(self, seconds: float, bucket: int) -> None:
        """From about a minute on all are counted in the last bucket."""
        assert bucket_of(seconds) == bucket

    @given(st.floats(0, 10_000))
    @settings(deadline=None, database=None)
    def test_any_time(self, seconds: float) -> None:
        """Whatever the time, it lies within its bucket."""
        bounds = (0.0, *Histogram().bounds)
        bucket = bucket_of(seconds)

        assert bounds[bucket] * (1 - 1e-12) <= seconds <= bounds[bucket + 1] * (1 + 1e-12)

    def test_count(self) -> None:
        """All are counted."""
        assert Histogram().count == 0
        assert histogram_of([0.0, 0.001, 0.001, 500]).count == 4

    def test_snapshot(self) -> None:
        """A snapshot is not changed by what comes after it, and its like is equal."""
        times = Times()
        times.add(1)
        before = times.snapshot()
        times.add(1)

        assert (before.count, times.snapshot().count) == (1, 2)
        assert before == histogram_of([1])
        assert hash(before) == hash(histogram_of([1]))


class TestQuantile:
    """The bound below which a share of all lies."""

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_of_nothing(self, share: float) -> None:
        """There is none."""
        assert Histogram().quantile(share) is None

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_of_one(self, share: float) -> None:
        """It is the bound of its bucket."""
        assert histogram_of([0.001]).quantile(share) == 0.001024

    @pytest.mark.parametrize(
        ("share", "bound"),
        [
            (0.0, 4e-6),
            (0.5, 4e-6),
            (nextafter(0.5, 1), 0.001024),
            (0.75, 0.001024),
            (0.76, inf),
            (1.0, inf),
        ],
    )
    def test_of_several(self, share: float, bound: float) -> None:
        """It is that of the last that belongs to the share."""
        assert histogram_of([3e-6, 0.001, 100, 3e-6]).quantile(share) == bound

    @given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
    @settings(deadline=None, database=None)
    def test_of_any(self, seconds: list[float], share: float) -> None:
        """It is the bound of the bucket of that time which a sorted list has at this place."""
        place = max(0, ceil(share * len(seconds)) - 1)
        histogram = histogram_of(seconds)

        assert histogram.quantile(share) == histogram.bounds[bucket_of(sorted(seconds)[place])]


class TestSnapshots:
    """What is given away."""

    def counters(self) -> Counters:
        """Count something of everything."""
        counters = Counters(ORIGIN)
        counters.requests, counters.opened, counters.reused, counters.retried = 1, 2, 3, 4
        counters.bytes_in, counters.bytes_out = 5, 6
        counters.closed["peer"] = 7
        counters.failures["ReadError"] = 8
        counters.queue_wait.add(9)
        counters.first_byte.add(10)
        return counters

    def test_everything(self) -> None:
        """A snapshot has all that was counted."""
        assert statistics_of(self.counters(), active=11, idle=12, queued=13) == OriginStatistics(
            active=11,
            idle=12,
            queued=13,
            requests=1,
            opened=2,
            reused=3,
            retried=4,
            closed={"peer": 7},
            failures={"ReadError": 8},
            bytes_in=5,
            bytes_out=6,
            queue_wait=histogram_of([9]),
            first_byte=histogram_of([10]),
        )

    def test_nothing(self) -> None:
        """Without anything counted it is the default."""
        assert statistics_of(Counters(ORIGIN), active=0, idle=0, queued=0) == OriginStatistics()

    def test_later(self) -> None:
        """What is counted later is not in it."""
        counters = self.counters()
        found = statistics_of(counters, active=0, idle=0, queued=0)
        counters.requests += 1
        counters.bytes_in += 1
        counters.closed["peer"] += 1
        counters.failures["WriteError"] = 1
        counters.queue_wait.add(1)
        counters.first_byte.add(1)

        assert found == statistics_of(self.counters(), active=0, idle=0, queued=0)
        assert found != statistics_of(counters, active=0, idle=0, queued=0)

    @pytest.mark.parametrize(
        "snapshot", [Histogram(), OriginStatistics(), PoolStatistics("native", 100, 0, 0, 0, {})], ids=type
    )
    def test_frozen(self, snapshot: Any) -> None:
        """Nothing in it can be set, and nothing added."""
        for name in [field.name for field in dataclasses.fields(snapshot)]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(snapshot, name, 1)
        assert not hasattr(snapshot, "__dict__")
