"""Notes what passes: requests at an upstream, and ASGI messages around an app."""

import threading
from typing import Any

from tests.support.raw_client import headers_of
from tests.support.upstream import Connection, ok


class RecordingUpstream:
    """A script that answers every request alike and keeps what it was sent."""

    def __init__(self, response: bytes | None = None) -> None:
        self.response = ok() if response is None else response
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while True:
            head, body = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            self.heads.append(head)
            self.bodies.append(body)
            connection.send(self.response)

    @property
    def targets(self) -> list[bytes]:
        """The request targets, in their order."""
        return [head.split(b" ")[1] for head in self.heads]

    @property
    def methods(self) -> list[bytes]:
        """The request methods, in their order."""
        return [head.split(b" ")[0] for head in self.heads]

    def headers(self, index: int = 0) -> list[tuple[bytes, bytes]]:
        """Return the header lines of a request, names in lower case."""
        return headers_of(self.heads[index])

    def names(self, index: int = 0) -> set[bytes]:
        """Return the names of a request's headers, in lower case."""
        return {name for name, _ in self.headers(index)}

    def values(self, name: bytes, index: int = 0) -> list[bytes]:
        """Return the values of a header's lines, in their order."""
        return [value for key, value in self.headers(index) if key == name]


class AppProbe:
    """An ASGI app around another that tells when requests and WebSockets begin and end, and how."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.begun = threading.Semaphore(0)
        """Released once for each HTTP request and each WebSocket."""
        self.ended = threading.Semaphore(0)
        """Released once for each HTTP request and each WebSocket that the app is done with."""
        self.statuses: list[int] = []
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the app."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            await send(message)

        self.begun.release()
        try:
            await self._app(scope, receive, watched)
        except BaseException as exc:
            self.failures.append(exc)
            raise
        finally:
            self.ended.release()
