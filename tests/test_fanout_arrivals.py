"""``as_completed``: outcomes as they come, and a loop that may be left anywhere."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fastapi_httpx_pool import Arrivals, LimitSettings, as_completed
from fastapi_httpx_pool.fanout._arrivals import Sink
from tests.support.carriers import ASYNCIO, UVLOOP
from tests.support.families import module_of
from tests.support.fanned import Gated, Silent, client_of, echo, everywhere, nothing_under_way, replying
from tests.support.patience import with_patience
from tests.support.ports import refusing_port
from tests.support.upstream import scripted

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP], ids=["asyncio", "uvloop"])

BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@everywhere
async def test_as_they_finish(family: str) -> None:
    """Outcomes come in the order in which the requests finish, each with its input and a time."""
    gated = Gated(3)
    outcomes = []
    with scripted(gated) as upstream:
        urls = [f"{upstream.url}/{number}" for number in range(3)]
        async with client_of(family) as client:
            arrivals = as_completed(client, urls)
            for number in (2, 1, 0):
                gated.gates[number].set()
                outcomes.append(await anext(arrivals))

    assert [outcome.result().text for outcome in outcomes] == ["2", "1", "0"]
    assert [outcome.index for outcome in outcomes] == [2, 1, 0]
    assert [outcome.input for outcome in outcomes] == urls[::-1]
    assert all(outcome.error is None and outcome.elapsed > 0 for outcome in outcomes)
    assert all(outcome.response.is_closed for outcome in outcomes)


@everywhere
async def test_errors_are_outcomes(family: str) -> None:
    """A request that fails is an outcome too, and disturbs no other; ``result`` raises its error."""
    module = module_of(family)
    bad = f"http://127.0.0.1:{refusing_port()}/"
    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            outcomes = {
                outcome.index: outcome async for outcome in as_completed(client, [upstream.url, bad, upstream.url])
            }

    assert [outcomes[index].response is None for index in range(3)] == [False, True, False]
    assert isinstance(outcomes[1].error, module.ConnectError)
    with pytest.raises(module.ConnectError):
        outcomes[1].result()


# Leaving.


async def _leave_by_break(outcomes: Any) -> None:
    async for _ in outcomes:
        break


async def _leave_by_error(outcomes: Any) -> None:
    async def loop() -> None:
        async for _ in outcomes:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await loop()


async def _leave_a_block(outcomes: Any) -> None:
    async with outcomes:
        async for _ in outcomes:
            break
    assert outcomes._run.ended.is_set()


async def _leave_a_block_by_error(outcomes: Any) -> None:
    async def loop() -> None:
        async with outcomes:
            async for _ in outcomes:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # as it is, not in a group
        await loop()
    assert outcomes._run.ended.is_set()


async def _close(outcomes: Any) -> None:
    async with aclosing(outcomes):
        await anext(outcomes)
    await outcomes.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


@everywhere
@pytest.mark.parametrize("stream", [False, True], ids=["read", "stream"])
@pytest.mark.parametrize(
    "leave",
    [_leave_by_break, _leave_by_error, _leave_a_block, _leave_a_block_by_error, _close],
    ids=lambda each: each.__name__,
)
async def test_leaving_the_loop(family: str, leave: Callable[[Any], Any], stream: bool) -> None:
    """However the loop is left, what is under way is cancelled and its connections are closed."""
    silent = Silent()
    with scripted(silent) as upstream, scripted(replying(echo)) as quick:
        async with client_of(family) as client:
            await leave(as_completed(client, [upstream.url, quick.url, upstream.url], stream=stream))
            await nothing_under_way(client)
            assert await silent.none_open()


@everywhere
async def test_cancelled_while_waiting(family: str) -> None:
    """A loop that is cancelled while it waits has closed everything when it is over."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            outcomes = as_completed(client, [upstream.url] * 3)
            async with anyio.create_task_group() as group:
                group.start_soon(outcomes.__anext__)
                await silent.arrived(3)
                group.cancel_scope.cancel()
            assert client.pool_statistics().active == 0
            assert await silent.none_open()
            with pytest.raises(StopAsyncIteration):
                await anext(outcomes)


@on_asyncio
async def test_task_that_is_cancelled() -> None:
    """So has one whose task is cancelled."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of("httpx") as client:
            task = asyncio.ensure_future(_leave_by_break(as_completed(client, [upstream.url] * 3)))
            await silent.arrived(3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.pool_statistics().active == 0
            assert await silent.none_open()


@everywhere
async def test_never_begun(family: str) -> None:
    """Without a step of the loop nothing is sent; a block that is left at once leaves nothing either."""
    silent = Silent()
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            as_completed(client, [upstream.url])
            await as_completed(client, [upstream.url]).aclose()
            async with as_completed(client, [upstream.url]):
                pass
            await nothing_under_way(client)
            assert await silent.none_open()


@everywhere
async def test_dropped_in_another_thread(family: str) -> None:
    """An iterator that the garbage collector finds, in whatever thread, ends its requests in their event loop."""
    silent = Silent()
    with scripted(silent) as upstream, scripted(replying(echo)) as quick:
        async with client_of(family) as client:
            outcomes = as_completed(client, [quick.url, upstream.url])
            await anext(outcomes)
            holder = [outcomes]
            del outcomes
            await anyio.to_thread.run_sync(holder.clear)
            await nothing_under_way(client)
            assert await silent.none_open()


def test_dropped_after_the_loop() -> None:
    """An iterator that outlives its event loop is dropped without a word."""

    async def work(sink: Sink[int]) -> None:
        await sink.put(1)
        await anyio.sleep_forever()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # it would tell of the task, which never ends
    arrivals = Arrivals(work)
    loop.run_until_complete(arrivals.__anext__())
    loop.close()
    del arrivals
    gc.collect()


@on_asyncio
async def test_all_tasks_are_cancelled() -> None:
    """If somebody cancels the task behind it, the loop is not told that all is well."""

    async def work(sink: Sink[int]) -> None:
        await sink.put(1)
        await anyio.sleep_forever()

    before = asyncio.all_tasks()
    arrivals = Arrivals(work)
    assert await anext(arrivals) == 1
    (task,) = asyncio.all_tasks() - before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await anext(arrivals)


async def test_fetched_and_cancelled_at_once(anyio_backend: Any) -> None:
    """An item that has been fetched is not put back when its task is cancelled in the same moment."""
    sink: Sink[int] = Sink()
    async with anyio.create_task_group() as group:
        group.start_soon(sink.put, 1)
        await anyio.wait_all_tasks_blocked()
        assert await sink.get() == 1
        group.cancel_scope.cancel()
        sink.end(None)

    with pytest.raises(StopAsyncIteration):
        await sink.get()


async def test_cancelled_before_it_is_fetched(anyio_backend: Any) -> None:
    """An item whose task is cancelled is not there any more."""
    sink: Sink[int] = Sink()
    async with anyio.create_task_group() as group:
        group.start_soon(sink.put, 1)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    sink.end(None)

    with pytest.raises(StopAsyncIteration):
        await sink.get()


# What does not run ahead.


@everywhere
async def test_nothing_runs_ahead(family: str) -> None:
    """A loop that is slower than the upstream holds the requests up: what is not fetched keeps its place."""
    taken: list[int] = []

    def urls() -> Iterator[str]:
        for number in range(10):
            taken.append(number)
            yield upstream.url

    with scripted(replying(echo)) as upstream:
        async with client_of(family) as client:
            seen = 0
            async for _ in as_completed(client, urls(), limit=2):
                seen += 1
                if seen < 4:
                    await anyio.wait_all_tasks_blocked()
                assert len(taken) <= seen + 2

    assert seen == 10


@everywhere
@with_patience(0.3)
async def test_deadline(family: str, limit: float) -> None:
    """When the time is over the loop is told, after what had come until then; all has been closed."""
    silent = Silent()
    with scripted(silent) as upstream, scripted(replying(echo)) as quick:
        async with client_of(family) as client:
            arrivals = as_completed(client, [upstream.url, quick.url], timeout=limit)
            outcomes = [await anext(arrivals)]
            with pytest.raises(TimeoutError, match=rf"not done within {limit:g} s: 1 were"):
                await anext(arrivals)
            assert client.pool_statistics().active == 0
            assert await silent.none_open()

    assert [outcome.index for outcome in outcomes] == [1]


@everywhere
async def test_wrong_input(family: str) -> None:
    """What stands for no request ends the loop."""
    async with client_of(family) as client:
        with pytest.raises(TypeError, match="stands for no request"):
            await anext(as_completed(client, [3]))  # type: ignore[type-var] # that is the point


# Streams.


@everywhere
async def test_stream(family: str) -> None:
    """With ``stream`` responses are open, and closed when the loop asks for the next one."""
    with scripted(replying(echo)) as upstream:
        urls = [f"{upstream.url}/{number}" for number in range(3)]
        async with client_of(family) as client:
            responses, texts = [], []
            async for outcome in as_completed(client, urls, stream=True):
                responses.append(outcome.result())
                assert not responses[-1].is_closed
                if outcome.index:  # one is left unread
                    texts.append((await responses[-1].aread()).decode())
            assert [response.is_closed for response in responses] == [True] * 3

    assert sorted(texts) == ["/1", "/2"]


@everywhere
async def test_streams_keep_their_places(family: str) -> None:
    """An open stream holds its connection, so it counts until the loop goes on; nobody waits in the pool for it."""
    pool = LimitSettings(max_connections=2, max_keepalive_connections=2)
    silent = Silent(BEGUN)
    with scripted(silent) as upstream:
        async with client_of(family, limits=pool) as client:
            seen = 0
            async for outcome in as_completed(client, [upstream.url] * 4, limit=2, stream=True):
                seen += outcome.response is not None
                await anyio.wait_all_tasks_blocked()
                assert client.pool_statistics().queued == 0
                if seen == 1:
                    await outcome.result().aclose()  # the others are left to the loop
            assert await silent.none_open()

    assert seen == 4


@everywhere
async def test_progress_that_raises_in_a_stream(family: str) -> None:
    """A callback that raises ends the loop with its error, and closes the response that it was told of."""

    def callback(done: int, failed: int, total: int | None) -> None:
        raise ZeroDivisionError

    silent = Silent(BEGUN)
    with scripted(silent) as upstream:
        async with client_of(family) as client:
            with pytest.raises(ZeroDivisionError):
                await anext(as_completed(client, [upstream.url], stream=True, on_progress=callback))
            assert await silent.none_open()


_caller: ContextVar[str] = ContextVar("_caller", default="nobody")


async def test_context_of_the_caller(anyio_backend: Any) -> None:
    """Requests see the context variables of whoever begins the loop, as tracing wants it."""

    async def work(sink: Sink[str]) -> None:
        await sink.put(_caller.get())

    token = _caller.set("somebody")
    assert [item async for item in Arrivals(work)] == ["somebody"]
    _caller.reset(token)
