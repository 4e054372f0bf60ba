"""A server's side of the ASGI protocol by hand, so that a test sees each message and its moment."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

LIMIT = 30.0
"""Seconds after which an app that does not answer fails the test."""


class LifespanDriver:
    """One run of the lifespan protocol with an app."""

    def __init__(self, app: Any, *, state: bool) -> None:
        self.scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        if state:
            self.scope["state"] = {}
        self.sent: list[str] = []
        """The types of the messages that the app has sent."""
        self.error: BaseException | None = None
        """What the app raised."""
        self.returned = anyio.Event()
        self.on_send: Callable[[str], None] = lambda kind: None
        """Called with a message's type at the moment the app sends it."""
        self._app = app
        self._to_app, self._for_app = anyio.create_memory_object_stream[dict[str, Any]](4)
        self._from_app, self._answers = anyio.create_memory_object_stream[dict[str, Any]](4)

    async def startup(self) -> dict[str, Any] | None:
        """Tell the app to start; return its answer, or None if it ended without one."""
        return await self._tell("lifespan.startup")

    async def shutdown(self) -> dict[str, Any] | None:
        """Tell the app to stop; return its answer, or None if it ended without one."""
        return await self._tell("lifespan.shutdown")

    async def run(self) -> None:
        """Call the app once."""
        try:
            await self._app(self.scope, self._for_app.receive, self._send)
        except Exception as exc:  # noqa: BLE001 -- a server notes it; the test looks at it
            self.error = exc
        finally:
            self._from_app.close()
            self.returned.set()

    def close(self) -> None:
        """Close the streams."""
        for stream in (self._to_app, self._for_app, self._from_app, self._answers):
            stream.close()

    async def _tell(self, kind: str) -> dict[str, Any] | None:
        await self._to_app.send({"type": kind})
        try:
            return await self._answers.receive()
        except anyio.EndOfStream:
            return None

    async def _send(self, message: Any) -> None:
        self.on_send(message["type"])
        self.sent.append(message["type"])
        await self._from_app.send(message)


@asynccontextmanager
async def lifespan_driver(app: Any, *, state: bool = True) -> AsyncIterator[LifespanDriver]:
    """Call an app with a lifespan scope for a block; ``state``: whether the server offers one."""
    driver = LifespanDriver(app, state=state)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(driver.run)
        try:
            with anyio.fail_after(LIMIT):
                yield driver
        except Exception as exc:  # noqa: BLE001 -- raised again below, where no group wraps it
            failure = exc
        group.cancel_scope.cancel()
    driver.close()
    if failure is not None:
        raise failure


@asynccontextmanager
async def started(app: Any, *, state: bool = True) -> AsyncIterator[LifespanDriver]:
    """Start an app for a block and stop it afterwards; both must succeed."""
    async with lifespan_driver(app, state=state) as driver:
        assert await driver.startup() == {"type": "lifespan.startup.complete"}
        yield driver
        assert await driver.shutdown() == {"type": "lifespan.shutdown.complete"}
        await driver.returned.wait()
        assert driver.error is None


async def get(app: Any, path: str = "/", *, state: dict[str, Any] | None = None) -> httpx.Response:
    """Send one GET to an app; ``state`` is the lifespan's, of which a request gets a copy."""

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        if state is not None:
            scope["state"] = dict(state)
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://test") as client:
        return await client.get(path)
