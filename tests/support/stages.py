"""How far an exchange gets before it hangs, and what tells that the upstream was let go."""

import threading
from collections.abc import Callable
from typing import Any

from fastapi import Request

from fastapi_httpx_pool import ClientSettings, StreamingProxyResponse, TimeoutSettings
from tests.support.stack import POOL_OF_ONE, Stack, target_of
from tests.support.upstream import Connection, ok

AT_ONCE = 20.0
"""
Seconds, fewer than a script waits; no time limit of the client's is set, so that only what is tested
can end the waiting.
"""


def one_slot(stack: Stack) -> ClientSettings:
    """Return settings with one connection and no time limit."""
    return stack.settings(limits=POOL_OF_ONE, timeout=TimeoutSettings(default=None))


def proxy_to(url: str, **options: Any) -> Callable[[Request], Any]:
    """Return a route that passes every request on to the same path of an upstream."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, url + target_of(request), **options)

    return respond


class HangingUpstream:
    """
    A script whose first connection gets so far and hangs, until the proxy closes it.

    Any other connection answers: that it is served tells that the only slot of the pool is free.
    """

    def __init__(self, sent: bytes = b"") -> None:
        self._sent = sent
        self.hanging = threading.Event()
        self.closed = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_request()
        if connection.number:
            connection.send(ok(b"next"))
            return
        connection.send(self._sent)
        self.hang(connection)
        self.end(connection)

    def hang(self, connection: Connection) -> None:
        """Go no further."""
        self.hanging.set()

    def end(self, connection: Connection) -> None:
        """Wait until the proxy closes the connection."""
        if connection.wait_until_closed():
            self.closed.set()


STAGES = {
    "waiting-for-the-head": b"",
    "half-a-head": b"HTTP/1.1 200 OK\r\nConte",
    "waiting-for-a-known-length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "in-a-known-length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    "in-a-silent-stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    "between-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}
BEGUN = {"in-a-known-length", "in-a-silent-stream", "between-chunks"}
"""Stages at which the client has the answer's head."""
