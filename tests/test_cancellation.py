"""``finish``: work that cancellation cannot interrupt."""

import asyncio
from typing import Any

import anyio
import pytest

from fastapi_httpx_pool._cancellation import event_loop, finish

pytestmark = pytest.mark.anyio


async def test_result_and_error() -> None:
    """What the work raises comes out."""

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await finish(work)


async def test_cancelled_scope() -> None:
    """In a cancelled scope the work runs to its end, and the cancellation takes effect afterwards."""
    done = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.append("work")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await finish(work)
        await anyio.lowlevel.checkpoint()
        done.append("after")

    assert done == ["work"]


async def test_same_loop() -> None:
    """Within one loop the token is the same."""
    assert event_loop() == event_loop()


class TestPlainCancel:
    """asyncio's ``task.cancel()``, which anyio's shields do not hold off."""

    @pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Run on asyncio only."""
        return ("asyncio", {"use_uvloop": request.param})

    @pytest.mark.parametrize("fails", [False, True])
    async def test_cancelled_again_and_again(self, *, fails: bool) -> None:
        """The task is cancelled at the end, however often it was meanwhile, and an error is its cause."""
        go, done = asyncio.Event(), []

        async def work() -> None:
            await go.wait()
            done.append("work")
            if fails:
                raise ZeroDivisionError

        task = asyncio.ensure_future(finish(work))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task

        assert done == ["work"]
        assert isinstance(raised.value.__cause__, ZeroDivisionError) is fails
