"""Looks into a served proxy: which requests are under way, and what its pool and its event loop hold."""

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from fastapi_httpx_pool import ReverseProxy, pool_statistics
from tests.support.answers import ask, get
from tests.support.chaos import Misbehaving
from tests.support.recording import AppProbe
from tests.support.upstream import LIMIT

PATH = "/-/held"


@dataclass(frozen=True)
class Held:
    """What a proxy holds at one moment."""

    active: int
    idle: int
    queued: int
    opened: int
    """Connections so far."""
    closed: int
    """Connections so far."""
    tasks: int
    """Tasks in the event loop, but for those that hypercorn keeps for connections that are idle or gone."""


class ProxyWatch(AppProbe):
    """An ASGI app around another, a proxy, which also answers to ``held``."""

    def __init__(self) -> None:
        super().__init__(None)

    def around(self, app: Any) -> "ProxyWatch":
        """Put this around an app."""
        self._app = app
        return self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the app."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await super().__call__(scope, receive, send)
            return
        found = pool_statistics(self._client_for(scope))
        origins = found.origins.values()
        held = Held(
            active=found.active,
            idle=found.idle,
            queued=found.queued,
            opened=sum(origin.opened for origin in origins),
            closed=sum(sum(origin.closed.values()) for origin in origins),
            tasks=sum(not _is_hypercorns(task) for task in asyncio.all_tasks()),
        )
        body = json.dumps(asdict(held)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % len(body)), (b"connection", b"close")],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _client_for(self, scope: Any) -> Any:
        if isinstance(self._app, ReverseProxy):
            return self._app._own
        return scope["state"]["client"]

    def wait_for_end(self, count: int = 1) -> None:
        """Wait until the app is done with so many requests."""
        for _ in range(count):
            assert self.ended.acquire(timeout=LIMIT), "the app is not done"


def _is_hypercorns(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and f"{os.sep}hypercorn{os.sep}" in code.co_filename


def held_at(port: int) -> Held:
    """Ask a served ``ProxyWatch`` what it holds now."""
    return Held(**json.loads(ask(port, get(PATH.encode())).body))


def at_rest(port: int, upstream: Misbehaving, before: Held) -> Held:
    """
    Wait until servers at both ends have noticed the last that left, and return what is held then.

    That must be no more than before, but for connections that are kept, and those at both ends.
    """
    until = time.monotonic() + LIMIT / 2
    while True:
        held = held_at(port)
        is_quiet = (held.active, held.queued, held.tasks) == (0, 0, before.tasks) and upstream.open == held.idle
        if is_quiet or time.monotonic() > until:
            break
    assert (held.active, held.queued, held.tasks) == (0, 0, before.tasks), held
    assert held.opened == held.idle + held.closed, held
    assert upstream.open == held.idle, held
    return held
