"""Cancelled calls leave nothing behind: no slot, no waiter, no socket."""

import asyncio
from typing import Any

import anyio
import httpx
import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings, LimitSettings, TimeoutSettings
from tests.support.carriers import on_both_engines_of_asyncio
from tests.support.families import FAMILIES
from tests.support.upstream import answering, ok, scripted

ROUNDS = 60
CALLS = 20

SMALL = LimitSettings(max_connections=5, max_keepalive_connections=5)


@pytest.fixture
def anyio_backend() -> str:
    """asyncio only: a plain ``task.cancel()`` is what anyio's shields do not hold off."""
    return "asyncio"


async def _cancel_in_every_state(client: Any, url: str) -> None:
    for round_ in range(ROUNDS):
        calls = [asyncio.ensure_future(client.get(url)) for _ in range(CALLS)]
        for _ in range(round_):
            await asyncio.sleep(0)
        for call in calls[round_ % 3 :: 2]:
            call.cancel()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _pool(client: Any) -> Any:
    return client._transport._pool


def _assert_quiet(client: Any) -> None:
    """Check that no slot is taken and nobody waits for one."""
    found = client.pool_statistics()
    assert (found.active, found.queued) == (0, 0)
    assert found.idle <= SMALL.max_connections
    assert not _pool(client)._requests


@pytest.mark.anyio
@on_both_engines_of_asyncio
@pytest.mark.parametrize("family", FAMILIES)
async def test_slots_survive_cancellation(family: Any, engine: Any) -> None:
    """After hundreds of cancelled calls under contention the pool has all its slots."""
    with scripted(answering(ok())) as upstream:
        settings = ClientSettings(family=family, engine=engine, limits=SMALL, timeout=TimeoutSettings(pool=10.0))
        async with ClientFactory(settings) as factory:
            client = factory.get()
            await _cancel_in_every_state(client, upstream.url)
            _assert_quiet(client)
            responses = await asyncio.gather(*(client.get(upstream.url) for _ in range(CALLS)))
            assert [response.text for response in responses] == ["ok"] * CALLS
            _assert_quiet(client)


@pytest.mark.anyio
async def test_a_bare_client_fails_this() -> None:
    """The test above can fail: the same calls leave httpx 0.28's own client without a slot."""
    with scripted(answering(ok())) as upstream:
        limits = httpx.Limits(max_connections=5, max_keepalive_connections=5)
        async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(5.0, pool=0.2)) as client:
            await _cancel_in_every_state(client, upstream.url)
            stuck = [c for c in _pool(client).connections if not (c.is_idle() or c.is_closed())]
            assert stuck or _pool(client)._requests


@pytest.mark.anyio
@on_both_engines_of_asyncio
@pytest.mark.parametrize("family", FAMILIES)
async def test_closing_survives_cancellation(family: Any, engine: Any) -> None:
    """A response whose closing is cancelled gives its slot back all the same."""
    body = b"x" * 300_000
    with scripted(answering(ok(body))) as upstream:
        settings = ClientSettings(family=family, engine=engine, limits=SMALL, timeout=TimeoutSettings(pool=10.0))
        async with ClientFactory(settings) as factory:
            client = factory.get()
            for turns in range(30):
                await asyncio.gather(*(_stream_and_cancel(client, upstream.url, turns) for _ in range(5)))
            assert (await client.get(upstream.url)).content == body
            _assert_quiet(client)


async def _stream_and_cancel(client: Any, url: str, turns: int) -> None:
    async def call() -> None:
        async with client.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                started.set()

    started = asyncio.Event()
    task = asyncio.ensure_future(call())
    await asyncio.wait_for(started.wait(), 10)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # once more, into the closing
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.anyio
@on_both_engines_of_asyncio
@pytest.mark.parametrize("family", FAMILIES)
async def test_anyio_cancellation(family: Any, engine: Any) -> None:
    """anyio's cancel scopes, as Starlette uses them, leave nothing behind either."""
    with scripted(answering(ok())) as upstream:
        settings = ClientSettings(family=family, engine=engine, limits=SMALL, timeout=TimeoutSettings(pool=10.0))
        async with ClientFactory(settings) as factory:
            client = factory.get()
            for turns in range(40):
                async with anyio.create_task_group() as group:
                    for _ in range(CALLS):
                        group.start_soon(client.get, upstream.url)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    group.cancel_scope.cancel()
            assert (await client.get(upstream.url)).text == "ok"
            _assert_quiet(client)


@pytest.mark.anyio
@on_both_engines_of_asyncio
async def test_2000_cancelled_calls_then_one(engine: Any) -> None:
    """Two thousand cancelled calls, and the next one succeeds at once."""
    with scripted(answering(ok())) as upstream:
        settings = ClientSettings(engine=engine, limits=SMALL, timeout=TimeoutSettings(pool=10.0))
        async with ClientFactory(settings) as factory:
            client = factory.get()
            for number in range(100):
                calls = [asyncio.ensure_future(client.get(upstream.url)) for _ in range(20)]
                for _ in range(number % 50):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            assert (await client.get(upstream.url)).text == "ok"
            _assert_quiet(client)
