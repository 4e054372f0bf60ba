"""A thousand and a half requests through ``AsyncClient`` while everything goes wrong: only the family's errors, and nothing left."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import anyio
import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings, LimitSettings
from tests.support.carriers import ASYNCIO, UVLOOP
from tests.support.chaos import FAULTS, Chaos, random_body
from tests.support.families import FAMILIES, module_of
from tests.support.upstream import LIMIT

pytestmark = pytest.mark.anyio

CALLERS = 30
CALLS = 50
"""Of each caller."""


class Caller:
    """Sends requests in every way that a client has, gives some of them up, and looks at what it gets."""

    def __init__(self, client: Any, module: Any, url: str, seed: int) -> None:
        self._client = client
        self._module = module
        self._url = url
        self._random = random.Random(seed)
        self._seed = seed
        self.outcomes: Counter[str] = Counter()

    async def __call__(self) -> None:
        """Send them, one after the other."""
        for number in range(CALLS):
            target = f"/{self._seed}-{number}-"
            try:
                outcome = await self._given_up_or_not(target)
            except (self._module.TransportError, ZeroDivisionError) as exc:
                outcome = type(exc).__name__
            self.outcomes[outcome] += 1

    async def _given_up_or_not(self, target: str) -> str:
        how = self._random.choice(["task", "timeout", "scope", *["not"] * 5])
        seconds = self._random.random() * 0.01
        if how == "task":
            task = asyncio.ensure_future(self._send(target))
            await asyncio.sleep(self._random.choice([0, seconds]))
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return "cancelled" if task.cancelled() else await task
        if how == "timeout":
            try:
                async with asyncio.timeout(seconds):
                    return await self._send(target)
            except TimeoutError:
                return "cancelled"
        if how == "scope":
            with anyio.move_on_after(seconds):
                return await self._send(target)
            return "cancelled"
        return await self._send(target)

    async def _send(self, target: str) -> str:
        method = self._random.choice(["GET", "GET", "HEAD", "POST", "PUT", "DELETE"])
        arguments = {
            "content": random_body(self._random) if method in ("POST", "PUT") else None,
            "timeout": self._timeout(),
        }
        if self._random.random() < 0.6:
            response = await self._client.request(method, self._url + target, **arguments)
            return self._look_at(response, response.text, target if method != "HEAD" else "")
        async with self._client.stream(method, self._url + target, **arguments) as response:
            if self._random.random() < 0.2:
                return "not read"
            read = ""
            async for text in response.aiter_text():
                read += text
                if self._random.random() < 0.05:
                    return "half read"
        return self._look_at(response, read, target if method != "HEAD" else "")

    def _look_at(self, response: Any, read: str, target: str) -> str:
        if response.status_code != 200:
            return "refused"
        assert read in {target, target * 20_000}, (read[:100], target)
        return "read"

    def _timeout(self) -> Any:
        def seconds(share: float, otherwise: float) -> float:
            return self._random.random() * 0.02 if self._random.random() < share else otherwise

        return self._module.Timeout(
            connect=seconds(0.05, LIMIT), read=seconds(0.1, 0.1), write=LIMIT, pool=seconds(0.1, LIMIT)
        )


@pytest.mark.parametrize(
    ("family", "engine", "anyio_backend", "whose"),
    [
        pytest.param(FAMILIES[0], "native", ASYNCIO, "factory", id=f"{FAMILIES[0]}-asyncio-factory"),
        pytest.param(FAMILIES[-1], "native", UVLOOP, "bare", id=f"{FAMILIES[-1]}-uvloop-bare"),
        pytest.param(FAMILIES[0], "httpcore", ASYNCIO, "factory", id=f"{FAMILIES[0]}-httpcore-factory"),
    ],
)
async def test_chaos(family: Any, engine: Any, whose: str) -> None:
    """At the end nothing is in use, nobody waits, no task is left, and the next request succeeds."""
    module = module_of(family)
    tasks = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(Chaos(7))
        if whose == "bare":
            limits = module.Limits(max_connections=8, max_keepalive_connections=4, keepalive_expiry=0.05)
            transport_class = import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport
            transport = transport_class(engine=engine, limits=limits)
            client = await stack.enter_async_context(module.AsyncClient(transport=transport, trust_env=False))
        else:
            few = LimitSettings(max_connections=8, max_keepalive_connections=4, keepalive_expiry=0.05)
            factory = ClientFactory(ClientSettings(family=family, engine=engine, limits=few, trust_env=False))
            client = (await stack.enter_async_context(factory)).get()
            transport = client._transport
        callers = [Caller(client, module, upstream.url, seed) for seed in range(CALLERS)]
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(caller() for caller in callers))
        outcomes = sum((caller.outcomes for caller in callers), Counter[str]())
        assert outcomes.total() == CALLERS * CALLS
        assert outcomes["read"] > CALLERS * CALLS / 5, outcomes
        assert set(upstream.done) >= {fault.__name__ for fault in FAULTS}

        found = transport.statistics()
        assert (found.engine, found.active, found.queued) == (engine, 0, 0)
        assert asyncio.all_tasks() == tasks
        upstream.behaves = True
        assert (await client.get(upstream.url + "/last")).text == "/last"
