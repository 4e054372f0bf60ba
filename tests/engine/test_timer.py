"""Time limits: on time, at most a tick late, and nothing left behind; the time is the test's own."""

import asyncio
import socket
import time
import weakref
from collections.abc import Callable
from math import inf
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastapi_httpx_pool.engine._timer import EARLY, HORIZON, PRECISE, TICK, Alarm, Timer

SLACK = 1e-6
"""Seconds that numbers may be off."""


class Handle:
    """A call that a loop will make."""

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        """Do not make it."""
        self.cancelled = True


class Loop:
    """An event loop as far as the timer knows one; its time passes when the test says so."""

    def __init__(self, early: float = 0.0) -> None:
        """``early`` is by how many seconds it is too quick, once."""
        self.now = 1000.0
        self.calls = 0
        """Timers that were set."""
        self.errors: list[Exception] = []
        self._early = early
        self._handles: list[Handle] = []

    def clock(self) -> float:
        """Return what time it is."""
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Take note."""
        self.calls += 1
        handle = Handle(self.now + max(0.0, delay), lambda: callback(*args))
        self._handles.append(handle)
        return handle

    @property
    def pending(self) -> list[Handle]:
        """What will be called."""
        return [handle for handle in self._handles if not handle.cancelled]

    def advance(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due by then, in order."""
        end = self.now + seconds
        for _ in range(10_000):
            handle = min(self.pending, key=lambda handle: handle.when, default=None)
            if handle is None or handle.when - self._early > end:
                break
            self._handles.remove(handle)
            self.now = max(self.now, handle.when - self._early)
            self._early = 0.0
            try:
                handle.call()
            except ZeroDivisionError as exc:
                self.errors.append(exc)
        else:
            raise AssertionError("the loop is never idle")
        self.now = end


class Bell(Alarm):
    """An alarm that notes when it rings."""

    __slots__ = ("__weakref__", "_act", "rung")

    def __init__(self, act: Callable[[], object] | None = None) -> None:
        """``act`` is called when it rings."""
        super().__init__()
        self._act = act
        self.rung: list[float] = []

    def expire(self, now: float) -> None:
        """Ring."""
        self.rung.append(now)
        if self._act is not None:
            self._act()


def new_timer(early: float = 0.0) -> tuple[Loop, Timer]:
    """Make a loop and its timer."""
    loop = Loop(early)
    return loop, Timer(cast("asyncio.AbstractEventLoop", loop), loop.clock)


def set_in(timer: Timer, bell: Bell, seconds: float) -> float:
    """Set a limit in so many seconds; return when it is over."""
    now = timer.now()
    timer.set(bell, now + seconds, now)
    return now + seconds


class TestPrecise:
    """Limits of less than a second."""

    @pytest.mark.parametrize("seconds", [1e-6, 1e-4, 0.04, 0.3, 0.999])
    def test_h5_on_time(self, seconds: float) -> None:
        """They are over on time, and once."""
        loop, timer = new_timer()
        bell = Bell()
        due = set_in(timer, bell, seconds)
        loop.advance(seconds - min(seconds, EARLY) / 2)
        assert not bell.rung
        loop.advance(100)

        assert bell.rung == [pytest.approx(due, abs=SLACK)]
        assert bell.due == inf

    @pytest.mark.parametrize("seconds", [0.0, -5.0])
    def test_h5_over_already(self, seconds: float) -> None:
        """One that is over already is over in the loop's next turn, not at once."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, seconds)
        assert not bell.rung
        loop.advance(0)

        assert bell.rung == [1000]

    def test_of_what_is_left(self) -> None:
        """When a long limit is looked at too soon, what is left of it is kept precisely."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, 1.0)
        loop.advance(0.5)
        due = set_in(timer, bell, 0.7)
        loop.advance(0.6)
        assert not bell.rung
        loop.advance(1)

        assert bell.rung == [pytest.approx(due, abs=SLACK)]


class TestCoarse:
    """Longer ones."""

    @pytest.mark.parametrize("seconds", [PRECISE, 1.01, 1.05, 5.0, 9.99, HORIZON, 10.03, 33.3, 300.0])
    def test_at_most_a_tick_late(self, seconds: float) -> None:
        """They are over a tick late at most, never early, and are seldom looked at before."""
        loop, timer = new_timer()
        bell = Bell()
        due = set_in(timer, bell, seconds)
        loop.advance(1000)

        (rung,) = bell.rung
        assert due - SLACK <= rung <= due + TICK + SLACK
        assert loop.calls <= seconds / HORIZON + 1
        assert not loop.pending

    def test_share_timers(self) -> None:
        """Those of a tick share the loop's timer, and there is one for all ticks."""
        loop, timer = new_timer()
        bells = [Bell() for _ in range(100)]
        for number, bell in enumerate(bells):
            set_in(timer, bell, PRECISE + number % 2 * 0.06)
        assert (loop.calls, len(loop.pending)) == (1, 1)
        loop.advance(10)

        assert loop.calls == 2
        assert [len(bell.rung) for bell in bells] == [1] * 100

    def test_earlier_tick_first(self) -> None:
        """A limit earlier than all others is not late, and the others still come."""
        loop, timer = new_timer()
        late, early = Bell(), Bell()
        due = {late: set_in(timer, late, 7), early: set_in(timer, early, 3)}
        assert len(loop.pending) == 1
        loop.advance(20)

        for bell in (early, late):
            assert bell.rung == [pytest.approx(due[bell] + TICK / 2, abs=TICK / 2 + SLACK)]


class TestMoving:
    """A limit that is set again counts instead of the one before."""

    @pytest.mark.parametrize(("first", "second"), [(0.5, 0.6), (0.5, 5), (5, 5.5), (5, 50)])
    def test_later(self, first: float, second: float) -> None:
        """Later: that costs nothing now."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, first)
        for extra in range(1000):
            due = set_in(timer, bell, second + extra / 10_000)
        assert loop.calls == 1
        loop.advance(100)

        (rung,) = bell.rung
        assert due - SLACK <= rung <= due + TICK + SLACK
        assert not loop.pending

    @pytest.mark.parametrize(("first", "second"), [(0.6, 0.5), (5, 0.5), (5.5, 5), (50, 5)])
    def test_earlier(self, first: float, second: float) -> None:
        """Earlier."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, first)
        due = set_in(timer, bell, second)
        loop.advance(100)

        (rung,) = bell.rung
        assert due - SLACK <= rung <= due + TICK + SLACK
        assert not loop.pending

    @pytest.mark.parametrize("seconds", [0.5, 5.0])
    def test_by_writing_it(self, seconds: float) -> None:
        """A limit may be moved later, or taken away, by writing ``due``."""
        loop, timer = new_timer()
        moved, taken = Bell(), Bell()
        moved.due = set_in(timer, moved, seconds) + 2
        set_in(timer, taken, seconds)
        taken.due = inf
        loop.advance(100)

        assert moved.rung == [pytest.approx(1002 + seconds + TICK / 2, abs=TICK / 2 + SLACK)]
        assert not taken.rung
        assert not loop.pending

    def test_when_it_is_over(self) -> None:
        """A limit may be set again when it is over."""
        loop, timer = new_timer()
        dues: list[float] = []

        def again() -> None:
            if len(dues) < 4:
                dues.append(set_in(timer, bell, [0.3, 2, 0.3][len(dues) - 1]))

        bell = Bell(again)
        again()
        loop.advance(100)

        assert bell.rung == [pytest.approx(due + TICK / 2, abs=TICK / 2 + SLACK) for due in dues]
        assert not loop.pending


class TestNothingLeft:
    """H7: nothing is scheduled, and nothing kept alive, for limits that are not there."""

    def test_h7_infinity(self) -> None:
        """No limit creates no timer."""
        loop, timer = new_timer()
        bell = Bell()
        timer.set(bell, inf, timer.now())

        assert loop.calls == 0
        assert bell.due == inf

    def test_infinity_after_a_limit(self) -> None:
        """Setting infinity takes a limit away."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, 2)
        set_in(timer, bell, inf)
        loop.advance(10)

        assert not bell.rung
        assert not loop.pending

    def test_forget_precise(self) -> None:
        """A precise limit that is forgotten leaves nothing in the loop."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, 0.5)
        timer.forget(bell)
        assert not loop.pending
        loop.advance(10)

        assert not bell.rung

    def test_forget_coarse(self) -> None:
        """A coarse one keeps nothing alive, and the loop's timer at most until its tick."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, 5)
        timer.forget(bell)
        found = weakref.ref(bell)
        del bell
        assert found() is None
        loop.advance(5 + TICK + SLACK)

        assert not loop.pending

    def test_forget_what_was_never_set(self) -> None:
        """Forgetting is harmless, also twice."""
        loop, timer = new_timer()
        bell = Bell()
        timer.forget(bell)
        set_in(timer, bell, 5)
        timer.forget(bell)
        timer.forget(bell)
        due = set_in(timer, bell, 0.5)
        loop.advance(10)

        assert bell.rung == [pytest.approx(due, abs=SLACK)]

    @pytest.mark.parametrize("seconds", [0.5, 5.0])
    def test_over(self, seconds: float) -> None:
        """A limit that is over keeps nothing alive."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, seconds)
        loop.advance(10)
        found = weakref.ref(bell)
        del bell

        assert found() is None

    def test_horizon(self) -> None:
        """What has ended without being forgotten is not kept until its limit, however late that is."""
        loop, timer = new_timer()
        bell = Bell()
        set_in(timer, bell, 3600)
        bell.due = inf
        found = weakref.ref(bell)
        del bell
        loop.advance(HORIZON - TICK)
        assert found() is not None
        loop.advance(3 * TICK)

        assert found() is None
        assert not loop.pending

    def test_stop(self) -> None:
        """Stopping forgets all limits; they can be set again."""
        loop, timer = new_timer()
        bells = [Bell() for _ in range(4)]
        for bell, seconds in zip(bells, (0.5, 0.5, 5, 50), strict=True):
            set_in(timer, bell, seconds)
        timer.stop()
        assert not loop.pending
        timer.stop()
        due = [set_in(timer, bell, seconds) for bell, seconds in zip(bells, (0.9, 5, 60, 2), strict=True)]
        loop.advance(100)

        assert [bell.rung for bell in bells] == [[pytest.approx(one + TICK / 2, abs=TICK / 2 + SLACK)] for one in due]
        assert not loop.pending


class TestEarlyLoop:
    """A loop may call a little too soon, by its clock's resolution."""

    @pytest.mark.parametrize("seconds", [0.5, 5.0])
    def test_a_little(self, seconds: float) -> None:
        """Then a limit is over."""
        loop, timer = new_timer(early=EARLY / 2)
        bell = Bell()
        set_in(timer, bell, seconds)
        loop.advance(10)

        assert len(bell.rung) == 1
        assert loop.calls == 1

    @pytest.mark.parametrize("seconds", [0.5, 5.0])
    def test_too_much(self, seconds: float) -> None:
        """If it is too soon, a limit is not over."""
        loop, timer = new_timer(early=0.02)
        bell = Bell()
        due = set_in(timer, bell, seconds)
        loop.advance(10)

        (rung,) = bell.rung
        assert due - EARLY - SLACK <= rung <= due + TICK + SLACK


class TestActing:
    """Whoever acts on one limit may do as it likes with others of the same tick."""

    def ring_two(self, act: Callable[[Timer, Bell], object]) -> tuple[Loop, Bell, Bell]:
        """Set two limits of a tick; whichever is over first acts on the other."""
        loop, timer = new_timer()
        first = Bell(lambda: None if second.rung else act(timer, second))
        second = Bell(lambda: None if first.rung else act(timer, first))
        for bell in (first, second):
            set_in(timer, bell, 2.0)
        loop.advance(2.1)
        if second.rung and not first.rung:
            first, second = second, first
        return loop, first, second

    def test_forgets_another(self) -> None:
        """It may forget one."""
        loop, first, second = self.ring_two(lambda timer, other: timer.forget(other))
        assert (len(first.rung), len(second.rung)) == (1, 0)
        assert not loop.pending

    def test_moves_another(self) -> None:
        """It may move one."""
        loop, first, second = self.ring_two(lambda timer, other: set_in(timer, other, 0.5))
        assert (len(first.rung), len(second.rung)) == (1, 0)
        loop.advance(1)
        assert second.rung == [pytest.approx(first.rung[0] + 0.5, abs=SLACK)]
        assert not loop.pending

    @pytest.mark.parametrize("seconds", [0.5, 3.0])
    def test_forgets_and_sets_another(self, seconds: float) -> None:
        """It may forget one and set it anew."""

        def act(timer: Timer, other: Bell) -> None:
            timer.forget(other)
            set_in(timer, other, seconds)

        loop, first, second = self.ring_two(act)
        assert (len(first.rung), len(second.rung)) == (1, 0)
        assert len(loop.pending) == 1
        loop.advance(3.1)
        assert second.rung == [pytest.approx(first.rung[0] + seconds + TICK / 2, abs=TICK / 2 + SLACK)]
        assert not loop.pending

    def test_stops_all(self) -> None:
        """It may stop the timer."""
        loop, first, second = self.ring_two(lambda timer, other: timer.stop())
        assert (len(first.rung), len(second.rung)) == (1, 0)
        loop.advance(10)
        assert not second.rung
        assert not loop.pending

    def test_stops_all_and_sets_another(self) -> None:
        """It may begin anew."""

        def act(timer: Timer, other: Bell) -> None:
            timer.stop()
            set_in(timer, other, 3.0)

        loop, first, second = self.ring_two(act)
        loop.advance(3.1)
        assert (len(first.rung), len(second.rung)) == (1, 1)
        assert not loop.pending

    @pytest.mark.parametrize("seconds", [0.5, 2.0])
    def test_fails(self, seconds: float) -> None:
        """An error goes to the loop, and the other limits are kept all the same."""
        loop, timer = new_timer()
        bells = [Bell(lambda: 1 / 0) for _ in range(3)]
        for bell in bells:
            set_in(timer, bell, seconds)
        loop.advance(3)

        assert [len(bell.rung) for bell in bells] == [1, 1, 1]
        assert len(loop.errors) == 3
        assert not loop.pending


BELLS = 4
STEPS = {"set": 5, "advance": 3, "move": 2, "take_away": 1, "chain": 1, "forget": 1, "stop": 1, "wait": 1}
"""What may happen, and how often. As one rule: of many, Hypothesis leaves out half in each run."""


class Machine(RuleBasedStateMachine):
    """Limits that are set, moved, forgotten and over, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.timer = new_timer()
        self.bells = [Bell(self._act_of(number)) for number in range(BELLS)]
        self.due: list[float] = [inf] * BELLS
        """When each must ring."""
        self.then: list[float] = [inf] * BELLS
        """In how many seconds the next one must ring after each."""

    def _act_of(self, number: int) -> Callable[[], None]:
        def act() -> None:
            due, now = self.due[number], self.loop.now
            assert due - EARLY <= now <= due + TICK + SLACK
            self.due[number] = inf
            seconds, self.then[number] = self.then[number], inf
            if seconds != inf:
                self.set((number + 1) % BELLS, seconds)

        return act

    @rule(
        what=st.sampled_from([what for what, weight in STEPS.items() for _ in range(weight)]),
        number=st.integers(0, BELLS - 1),
        seconds=st.sampled_from([0.0, 1e-6, 0.02, 0.5, 0.999, 1.0, 1.04, 2.5, 9.99, 10.0, 25.0]),
    )
    def step(self, what: str, number: int, seconds: float) -> None:
        """Something happens to one of them."""
        getattr(self, what)(number, seconds)

    def set(self, number: int, seconds: float) -> None:
        """Set a limit, or move it."""
        self.due[number] = set_in(self.timer, self.bells[number], seconds)

    def chain(self, number: int, seconds: float) -> None:
        """When this one is over, set the next."""
        self.then[number] = seconds

    def move(self, number: int, seconds: float) -> None:
        """Move a limit later without asking the timer."""
        self.bells[number].due += seconds
        self.due[number] += seconds

    def take_away(self, number: int, _: float) -> None:
        """Take a limit away without asking the timer."""
        self.bells[number].due = self.due[number] = inf

    def forget(self, number: int, _: float) -> None:
        """Forget a limit."""
        self.timer.forget(self.bells[number])
        self.due[number] = inf

    def stop(self, _: int, __: float) -> None:
        """Forget all."""
        self.timer.stop()
        self.due = [inf] * BELLS

        assert not self.loop.pending

    def advance(self, _: int, seconds: float) -> None:
        """Time passes."""
        self.loop.advance(seconds)

    def wait(self, _: int, __: float) -> None:
        """Time passes until all is over: nothing is left."""
        for _ in range(2 * BELLS):
            self.loop.advance(60)

        assert self.due == [inf] * BELLS
        assert not self.loop.pending

    @invariant()
    def nothing_is_missed(self) -> None:
        """What is over has rung, but for the last tick."""
        assert all(due + TICK + SLACK >= self.loop.now for due in self.due)
        assert [bell.due for bell in self.bells] == self.due


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.anyio
class TestRealLoop:
    """The same in the loops there are."""

    @pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Run on asyncio only."""
        return ("asyncio", {"use_uvloop": request.param})

    @pytest.mark.parametrize("seconds", [1e-6, 0.01])
    async def test_h5_precise(self, seconds: float) -> None:
        """A short limit is over, and not too soon."""
        timer = Timer(asyncio.get_running_loop())
        over = asyncio.Event()
        bell = Bell(over.set)
        due = set_in(timer, bell, seconds)
        async with asyncio.timeout(20):
            await over.wait()

        assert len(bell.rung) == 1
        assert bell.rung[0] >= due - EARLY

    async def test_h6_data_beats_the_limit(self) -> None:
        """What has arrived while the loop was busy is read before the limit is found to be over."""
        loop = asyncio.get_running_loop()
        timer = Timer(loop)
        happened = []
        over = asyncio.Event()

        class Reader(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                happened.append(data.decode())

        def ring() -> None:
            happened.append("limit")
            over.set()

        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.connect_accepted_socket(Reader, ours)
            set_in(timer, Bell(ring), 0.002)
            theirs.send(b"data")
            time.sleep(0.01)  # noqa: ASYNC251 -- the loop is busy
            async with asyncio.timeout(20):
                await over.wait()
            transport.close()

        assert happened == ["data", "limit"]
