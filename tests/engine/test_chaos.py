"""Thousands of exchanges with everything that may go wrong: nobody gets another's answer, and nothing is left."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from fastapi_httpx_pool.engine import Engine, Limits
from fastapi_httpx_pool.exceptions import TransportError
from fastapi_httpx_pool.messages import Response, Timeouts
from tests.support.chaos import FAULTS, Chaos, random_body
from tests.support.engines import LIMIT, assert_quiet, both_loops, fetch, pool_of, request_to, running, turn

pytestmark = [pytest.mark.anyio, both_loops]

CALLERS = 40
CALLS = 75
"""Of each caller."""


class Caller:
    """Sends requests of all kinds, and looks at what it gets."""

    def __init__(self, engine: Engine, upstreams: list[Chaos], seed: int) -> None:
        self._engine = engine
        self._upstreams = upstreams
        self._random = random.Random(seed)
        self._seed = seed
        self.outcomes: Counter[str] = Counter()

    async def __call__(self) -> None:
        """Send them, one after the other, and cancel some."""
        for number in range(CALLS):
            target = b"/%d-%d-" % (self._seed, number)
            task = asyncio.ensure_future(self._exchange(target))
            if self._random.random() < 0.25:
                await self._interrupt(task)
            try:
                outcome = await task
            except asyncio.CancelledError:
                outcome = "cancelled"
            except (TransportError, ZeroDivisionError) as exc:
                outcome = type(exc).__name__
            self.outcomes[outcome] += 1

    async def _interrupt(self, task: "asyncio.Task[str]") -> None:
        if self._random.random() < 0.5:
            await turn(self._random.randrange(30))
        else:
            await asyncio.sleep(self._random.random() * 0.01)
        task.cancel()
        if self._random.random() < 0.3:
            await turn(self._random.randrange(3))
            task.cancel()

    async def _exchange(self, target: bytes) -> str:
        method, body = self._random.choice([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE"]), random_body(self._random)
        request = request_to(
            self._random.choice(self._upstreams).url,
            target,
            method=method,
            body=None if method in (b"GET", b"HEAD", b"DELETE") else body,
            timeouts=self._timeouts(),
        )
        response = await self._engine(request)
        try:
            return await self._look_at(response, target if method != b"HEAD" else b"")
        finally:
            await response.aclose()

    async def _look_at(self, response: Response, target: bytes) -> str:
        if self._random.random() < 0.1:
            return "not read"
        read = b""
        async for chunk in response.body:
            read += chunk
            if self._random.random() < 0.05:
                return "half read"
        if response.status != 200:
            return "refused"
        assert read in {target, target * 20_000}, (read[:100], target)
        return "read"

    def _timeouts(self) -> Timeouts:
        def seconds(share: float) -> float | None:
            return self._random.random() * 0.02 if self._random.random() < share else None

        # Without a limit for reading some would wait until the upstream gives up.
        return Timeouts(connect=seconds(0.05), read=seconds(0.1) or 0.1, pool=seconds(0.1), total=seconds(0.1))


async def test_chaos() -> None:
    """After all of it there is no connection in use, no waiter and no task left, and the next request succeeds."""
    tasks = asyncio.all_tasks()
    with contextlib.ExitStack() as stack:
        upstreams = [stack.enter_context(Chaos(seed)) for seed in range(2)]
        limits = Limits(max_connections=10, max_idle=6, max_connections_per_host=8, idle_expiry=0.05, lifetime=0.5)
        async with running(limits) as engine:
            callers = [Caller(engine, upstreams, seed) for seed in range(CALLERS)]
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*(caller() for caller in callers))
            outcomes = sum((caller.outcomes for caller in callers), Counter[str]())
            assert outcomes.total() == CALLERS * CALLS
            assert outcomes["read"] > CALLS * CALLERS / 4, outcomes

            assert_quiet(engine)
            assert asyncio.all_tasks() == tasks
            assert set().union(*(upstream.done for upstream in upstreams)) >= {fault.__name__ for fault in FAULTS}
            for upstream in upstreams:
                upstream.behaves = True
                found = engine.statistics().origins[upstream.url]
                assert found.opened == found.idle + sum(found.closed.values())
                assert await fetch(engine, upstream.url, target=b"/last") == b"/last"
            pool = pool_of(engine)
        assert (pool.active, pool.idle, pool.queued, pool._connections) == (0, 0, 0, set())
