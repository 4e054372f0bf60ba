"""
Time limits that cost next to nothing: one coarse timer for all that can wait a little.

Nearly every time limit is set and then not needed. So setting one is writing a number: an alarm is
looked at when its first limit is due, and if that has been moved meanwhile, later again. Limits of
less than a second keep their precision with a timer of the event loop's; longer ones are late by a
tick at most.
"""

import asyncio
import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from math import inf
from typing import Final, final

__all__ = ("EARLY", "TICK", "Alarm", "Timer")

TICK: Final = 0.05
"""Seconds."""

PRECISE: Final = 1.0
"""Seconds below which a limit does not wait for the tick."""


HORIZON: Final = 10.0
"""Seconds after which an alarm is looked at, however late its limit: a closed connection is not kept longer."""

EARLY: Final = 0.001
"""Seconds that the loop may run a timer too soon, by its clock's resolution."""


class Alarm(ABC):
    """Something with a time limit at a time."""

    __slots__ = ("due", "look")

    def __init__(self) -> None:
        self.due: float = inf
        """When the limit is over, in the loop's time; infinity for no limit."""
        self.look: float = inf
        """When the timer will look here next."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """Act: the limit is over."""


@final
class Timer:
    """Looks after the alarms of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] | None = None) -> None:
        """``clock`` is the loop's own, but for tests."""
        self._loop = loop
        self.now: Callable[[], float] = clock or loop.time
        self._ticks: dict[int, dict[Alarm, None]] = {}
        self._order: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_tick = 0
        self._precise: dict[Alarm, asyncio.TimerHandle] = {}

    def set(self, alarm: Alarm, due: float, now: float) -> None:
        """Expire the alarm at a time, instead of whatever was set before; infinity sets nothing."""
        alarm.due = due
        if due < alarm.look:
            self._watch(alarm, due, now)

    def forget(self, alarm: Alarm) -> None:
        """Do not look at it again, nor keep it alive; for what ends long before its limit."""
        alarm.due = inf
        if alarm.look != inf:
            self._unwatch(alarm)

    def stop(self) -> None:
        """Forget all alarms."""
        for alarm in [*self._precise, *chain.from_iterable(self._ticks.values())]:
            self.forget(alarm)
        self._ticks.clear()
        self._order.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _watch(self, alarm: Alarm, due: float, now: float) -> None:
        if alarm.look != inf:
            self._unwatch(alarm)
        if due - now < PRECISE:
            alarm.look = due
            self._precise[alarm] = self._loop.call_later(due - now, self._look_precisely, alarm)
            return
        tick = int(min(due, now + HORIZON) / TICK) + 1
        alarm.look = tick * TICK
        alarms = self._ticks.get(tick)
        if alarms is not None:
            alarms[alarm] = None
            return
        self._ticks[tick] = {alarm: None}
        heapq.heappush(self._order, tick)
        if self._handle is None or tick < self._handle_tick:
            self._wait_for_tick(now)

    def _unwatch(self, alarm: Alarm) -> None:
        handle = self._precise.pop(alarm, None)
        if handle is not None:
            handle.cancel()
        else:
            del self._ticks[round(alarm.look / TICK)][alarm]
        alarm.look = inf

    def _wait_for_tick(self, now: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        if self._order:
            self._handle_tick = self._order[0]
            self._handle = self._loop.call_later(max(0.0, self._handle_tick * TICK - now), self._on_tick)

    def _on_tick(self) -> None:
        now = self.now()
        try:
            # One by one, because an alarm that expires may change what else is watched.
            while self._order and self._order[0] * TICK <= now + EARLY:
                alarms = self._ticks[self._order[0]]
                if alarms:
                    self._look(alarms.popitem()[0], now)
                else:
                    del self._ticks[heapq.heappop(self._order)]
        finally:
            # An alarm that raises does not take the others with it.
            self._wait_for_tick(now)

    def _look_precisely(self, alarm: Alarm) -> None:
        del self._precise[alarm]
        self._look(alarm, self.now())

    def _look(self, alarm: Alarm, now: float) -> None:
        alarm.look = inf
        due = alarm.due
        if due <= now + EARLY:
            alarm.due = inf
            alarm.expire(now)
        elif due != inf:
            self._watch(alarm, due, now)
