"""The policies alone, around handlers that tests make: no network, no family."""

import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fastapi_httpx_pool.exceptions import (
    ClientClosed,
    ForkedProcess,
    PoolTimeout,
    ReadError,
    TotalTimeout,
    WrongEventLoop,
)
from fastapi_httpx_pool.messages import Origin, Request, Response, Timeouts
from fastapi_httpx_pool.policies import Gate, HostLimit, deadline

pytestmark = pytest.mark.anyio

A = Origin(b"http", b"a.example", 80)
B = Origin(b"http", b"b.example", 80)


def request(origin: Origin = A, **timeouts: float) -> Request:
    """Make a request."""
    return Request(b"GET", origin, b"/", [], timeouts=Timeouts(**timeouts))


class Chunks:
    """A body that waits for ``go`` before its last chunk."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.closed = 0
        self._given = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._given += 1
        if self._given == 1:
            return b"first"
        await self.go.wait()
        if self._given == 2:
            return b"last"
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Count how often this is closed."""
        self.closed += 1


class Upstream:
    """A handler that answers when it may, and counts."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.go.set()
        self.busy = 0
        self.most = 0
        self.bodies: list[Chunks] = []

    async def __call__(self, request: Request) -> Response:
        """Answer."""
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await self.go.wait()
        finally:
            self.busy -= 1
        self.bodies.append(Chunks())
        return Response(200, [], self.bodies[-1])


class Failing(Upstream):
    """A handler that fails."""

    async def __call__(self, request: Request) -> Response:
        """Fail."""
        raise ValueError("broken")


class TestDeadline:
    """One limit over the whole exchange."""

    async def test_head(self) -> None:
        """No answer in time."""
        upstream = Upstream()
        upstream.go = anyio.Event()

        with pytest.raises(TotalTimeout, match=r"0\.01 s"):
            await deadline(upstream)(request(total=0.01))

        assert upstream.busy == 0

    async def test_body(self) -> None:
        """No end of the answer in time."""
        response = await deadline(Upstream())(request(total=0.25))

        chunks = aiter(response.body)
        assert await anext(chunks) == b"first"
        with pytest.raises(TotalTimeout):
            await anext(chunks)

    @pytest.mark.parametrize("timeouts", [{}, {"total": 60.0}], ids=["none", "long"])
    async def test_in_time(self, timeouts: Any) -> None:
        """An answer in time passes, and is closed once; without a limit any time is in time."""
        upstream = Upstream()
        response = await deadline(upstream)(request(**timeouts))
        upstream.bodies[0].go.set()

        assert [chunk async for chunk in response.body] == [b"first", b"last"]
        await response.aclose()
        assert upstream.bodies[0].closed == 1

    async def test_cancellation_is_no_timeout(self) -> None:
        """A cancellation from outside stays one."""
        upstream = Upstream()
        upstream.go = anyio.Event()

        with anyio.move_on_after(0.01) as scope:
            await deadline(upstream)(request(total=60))

        assert scope.cancelled_caught


class TestGate:
    """Who may send now."""

    async def test_counts_until_closed(self) -> None:
        """An exchange is in flight until its response is closed, and twice closed is once."""
        gate = Gate("test")
        response = await gate.count(Upstream())(request())
        assert gate.in_flight == 1

        await response.aclose()
        await response.aclose()

        assert gate.in_flight == 0

    async def test_failures_are_over(self) -> None:
        """A failed exchange is not in flight."""
        gate = Gate("test")

        with pytest.raises(ValueError, match="broken"):
            await gate.count(Failing())(request())

        assert gate.in_flight == 0

    async def test_shut(self) -> None:
        """A shut gate lets nothing in, and what is inside may end."""
        gate, upstream = Gate("test"), Upstream()
        response = await gate.guard(gate.count(upstream))(request())
        gate.shut()

        with pytest.raises(ClientClosed, match="test client takes no new requests"):
            await gate.guard(upstream)(request())

        async with anyio.create_task_group() as group:
            group.start_soon(gate.empty, 10.0)
            await anyio.lowlevel.checkpoint()
            await response.aclose()
        assert gate.in_flight == 0

    async def test_waiting_has_a_limit(self) -> None:
        """What does not end is not waited for."""
        gate = Gate("test")
        await gate.count(Upstream())(request())

        with anyio.fail_after(20):
            await gate.empty(0.01)

        assert gate.in_flight == 1

    async def test_after_a_fork(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In another process nothing is let in."""
        gate = Gate("test")
        monkeypatch.setattr(os, "getpid", lambda: -1)

        assert gate.foreign
        with pytest.raises(ForkedProcess, match="before this process was forked"):
            await gate.guard(Upstream())(request())

    async def test_from_another_loop(self) -> None:
        """In another event loop nothing is let in either."""
        gate = Gate("test")

        async def elsewhere() -> None:
            assert gate.elsewhere
            with pytest.raises(WrongEventLoop, match="opened in another event loop"):
                await gate.guard(Upstream())(request())

        await anyio.to_thread.run_sync(anyio.run, elsewhere)
        assert not gate.elsewhere

    async def test_ending_what_has_no_response(self) -> None:
        """When the time is over, an exchange without a response ends with an error."""
        gate, upstream, errors = Gate("test"), Upstream(), []
        upstream.go = anyio.Event()

        async def exchange() -> None:
            try:
                await gate.count(upstream)(request())
            except ReadError as exc:
                errors.append(str(exc))

        async with anyio.create_task_group() as group:
            group.start_soon(exchange)
            await anyio.wait_all_tasks_blocked()
            assert await gate.empty(0.01) == 1

        assert errors == ["The test client was closed before the response came; its drain time was over."]
        assert (gate.in_flight, upstream.busy) == (0, 0)


class TestHostLimit:
    """At most so many exchanges with one origin."""

    async def test_limit(self) -> None:
        """Ten at once, two at a time; another origin is not held up."""
        upstream, hosts = Upstream(), HostLimit(2)
        handler = hosts.guard(upstream)

        async def exchange(origin: Origin) -> None:
            response = await handler(request(origin))
            await response.aclose()

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(exchange, A)

        assert upstream.most == 2
        assert not hosts._origins

    async def test_other_origins(self) -> None:
        """A full origin does not hold up another one."""
        handler = HostLimit(1).guard(Upstream())
        held = await handler(request(A))

        with anyio.fail_after(20):
            other = await handler(request(B))

        await held.aclose()
        await other.aclose()

    async def test_pool_timeout(self) -> None:
        """Waiting counts towards the pool timeout, and the text names the host."""
        hosts = HostLimit(1)
        handler = hosts.guard(Upstream())
        held = await handler(request())

        with pytest.raises(PoolTimeout, match=r"1 places for exchanges with a\.example became free in 0\.01 s"):
            await handler(request(pool=0.01))

        await held.aclose()
        assert not hosts._origins

    async def test_waiting_is_not_counted_twice(self) -> None:
        """What has been waited here is no longer left for the pool's own queue."""
        left: list[float] = []

        async def handler(request: Request) -> Response:
            left.append(request.timeouts.pool or 0.0)
            return Response(200, [], Chunks())

        async def queued() -> None:
            await limited(request(pool=60.0))

        limited = HostLimit(1).guard(handler)
        held = await limited(request(pool=60.0))
        async with anyio.create_task_group() as group:
            group.start_soon(queued)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.05)  # the time that is counted
            await held.aclose()

        assert 30.0 < left[0] <= 60.0
        assert 30.0 < left[1] < 59.96

    async def test_failure_frees_the_place(self) -> None:
        """A failed exchange gives its place back."""
        hosts = HostLimit(1)

        for _ in range(3):
            with pytest.raises(ValueError, match="broken"):
                await hosts.guard(Failing())(request())

        assert not hosts._origins

    async def test_cancelled_waiter(self) -> None:
        """A waiter that is cancelled leaves the queue."""
        hosts = HostLimit(1)
        handler = hosts.guard(Upstream())
        held = await handler(request())

        with anyio.move_on_after(0.01):
            await handler(request())
        await held.aclose()

        response = await handler(request())
        await response.aclose()
        assert not hosts._origins
