"""A server's side of a WebSocket by hand, so that a test sees each ASGI message, and is the client and the server in one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from tests.support.asgi import LIMIT


async def _nothing(message: dict[str, Any]) -> None:
    """Let a message pass."""


class WebSocketDriver:
    """One WebSocket as an app sees it."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.error: BaseException | None = None
        """What the app raised."""
        self.returned = anyio.Event()
        self.on_send: Callable[[dict[str, Any]], Awaitable[None]] = _nothing
        """Awaited with each message before it counts as sent: it may take its time, or raise what a server raises."""
        self._app = app
        self._to_app, self._for_app = anyio.create_memory_object_stream[dict[str, Any]](100)
        self._from_app, self._sent = anyio.create_memory_object_stream[dict[str, Any]](100)
        self.tell({"type": "websocket.connect"})

    def tell(self, message: dict[str, Any]) -> None:
        """Tell the app something."""
        self._to_app.send_nowait(message)

    async def sent_next(self) -> dict[str, Any]:
        """Wait for the next message from the app."""
        with anyio.fail_after(LIMIT):
            return await self._sent.receive()

    def nothing_more(self) -> bool:
        """Whether the app has sent nothing else so far."""
        return self._sent.statistics().current_buffer_used == 0

    async def run(self) -> None:
        """Call the app once."""
        try:
            await self._app(self.scope, self._for_app.receive, self._send)
        except Exception as exc:  # noqa: BLE001 -- a server notes it; the test looks at it
            self.error = exc
        finally:
            self.returned.set()

    def close(self) -> None:
        """Close the streams."""
        for stream in (self._to_app, self._for_app, self._from_app, self._sent):
            stream.close()

    async def _send(self, message: Any) -> None:
        await self.on_send(message)
        await self._from_app.send(message)


@asynccontextmanager
async def serving_websocket(
    app: Any,
    lifespan_scope: dict[str, Any],
    *,
    path: str = "/",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    answers: bool = True,
    **more: Any,
) -> AsyncIterator[WebSocketDriver]:
    """Call an app with a WebSocket for a block; ``answers``: whether the server can refuse with an answer; ``more``: of its scope."""
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"front.example"), *headers],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "state": dict(lifespan_scope.get("state", {})),
        "extensions": {"websocket.http.response": {}} if answers else {},
        **more,
    }
    driver = WebSocketDriver(app, scope)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(driver.run)
            try:
                yield driver
            finally:
                group.cancel_scope.cancel()
    finally:
        driver.close()
