"""An app with its lifespan and a client that calls it, in an asynchronous test, without a server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, final

import anyio
import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._cancellation import finish, runs_asyncio

__all__ = ("lifespan_client",)


@asynccontextmanager
async def lifespan_client(
    app: ASGIApp, *, base_url: str = "http://testserver", raise_app_exceptions: bool = True, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """
    Run an app's lifespan for a block, and give a client that calls the app, with the lifespan's state.

    The lifespan has a task of its own from beginning to end, as under a server; so this can stand in an
    asynchronous fixture, under anyio's plugin and pytest-asyncio. An app that knows no lifespan is only called.

    Args:
        app: Any ASGI app.
        base_url: What relative URLs are relative to.
        raise_app_exceptions: Raise what the app raises, instead of answering with 500.
        options: Of ``httpx.AsyncClient``.

    Raises:
        Exception: What the lifespan raised.
    """
    lifespan = _Lifespan(app)
    try:
        await lifespan.start()
        transport = httpx.ASGITransport(lifespan.call, raise_app_exceptions=raise_app_exceptions)
        async with httpx.AsyncClient(transport=transport, base_url=base_url, **options) as client:
            yield client
    finally:
        await finish(lifespan.stop)


@final
class _Lifespan:
    """One run of the lifespan protocol, from a server's side."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._answers: list[Message] = []
        self._error: BaseException | None = None
        self._answered = anyio.Event()
        self._told_to_stop = anyio.Event()
        self._ended = anyio.Event()
        self._asked = False

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app with the state of its lifespan, as servers do."""
        await self._app({**scope, "state": self._state.copy()}, receive, send)

    async def start(self) -> None:
        _spawn(self._run)
        await self._answered.wait()
        self._raise_failure("startup")

    async def stop(self) -> None:
        self._told_to_stop.set()
        await self._ended.wait()
        self._raise_failure("shutdown")

    def _raise_failure(self, phase: str) -> None:
        if not self._answers:
            return  # the app does not know the protocol
        error, self._error = self._error, None
        if error is not None:
            raise error
        answer = self._answers[-1]
        if answer["type"] == f"lifespan.{phase}.failed":
            raise RuntimeError(f"the app's {phase} failed: {answer.get('message', '')}")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as exc:  # noqa: BLE001 -- raised where the lifespan was entered
            self._error = exc
        finally:
            self._answered.set()
            self._ended.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._told_to_stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self._answers.append(message)
        self._answered.set()


_spawned: set[asyncio.Task[None]] = set()


def _spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a task that belongs to no task group: those must be left in the task that entered them."""
    if runs_asyncio():
        task = asyncio.get_running_loop().create_task(work())
        _spawned.add(task)  # asyncio itself may forget it
        task.add_done_callback(_spawned.discard)
    else:
        sys.modules["trio"].lowlevel.spawn_system_task(work, context=copy_context())
