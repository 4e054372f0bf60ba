"""
The upstream of all contenders: ``python -m benchmarks.upstream 3`` listens on three ports and prints them.

Does as little as a server can, so that it is never what is measured. A path is the number of bytes
to answer with: ``/1024``, or ``/1024?delay=0.1`` to take a tenth of a second over it. Request bodies
are read and forgotten. ``/connections`` tells how many connections there have been.

Each port is an origin of its own to a connection pool, so 1,000 origins are 1,000 ports.
"""

import asyncio
import json
import socket
import sys
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import parse_qs, urlsplit

import httptools

from .loops import run

__all__ = ("Upstream",)

_HOST = "127.0.0.1"
_BACKLOG = 4096
_SLICE = 256 * 1024


class _Answer(NamedTuple):
    head: bytes
    body: bytes
    delay: float


def _head(length: int, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n".encode()


@lru_cache(maxsize=64)
def _answer_to(target: bytes) -> _Answer:
    url = urlsplit(target.decode("latin-1"))
    if not url.path[1:].isdecimal():
        return _Answer(_head(0, "404 Not Found"), b"", 0)
    body = b"x" * int(url.path[1:])
    delay = float(parse_qs(url.query).get("delay", ["0"])[0])
    return _Answer(_head(len(body)), body, delay)


class Upstream(asyncio.Protocol):
    """One connection."""

    connections = 0
    """How many there have been."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._paused = False
        self._rest = memoryview(b"")

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        Upstream.connections += 1

    def data_received(self, data: bytes) -> None:
        """Parse; an answer is sent when its request is complete."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Stop sending a large body: its reader is slow."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with it."""
        self._paused = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Send nothing more."""
        self._rest = memoryview(b"")

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._target = b""

    def on_url(self, part: bytes) -> None:
        """Collect the target, which may come in parts."""
        self._target += part

    def on_message_complete(self) -> None:
        """Answer, at once or later."""
        if self._target == b"/connections":
            body = str(Upstream.connections).encode()
            self._send(_Answer(_head(len(body)), body, 0))
            return
        answer = _answer_to(self._target)
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: _Answer) -> None:
        if self._transport.is_closing():
            return
        if len(answer.body) <= _SLICE:
            self._transport.write(answer.head + answer.body)
        else:
            self._transport.write(answer.head)
            self._rest = memoryview(answer.body)
            self._pump()

    def _pump(self) -> None:
        while self._rest and not self._paused:
            part, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
            self._transport.write(part)


async def _serve(ports: int) -> None:
    loop = asyncio.get_running_loop()
    listeners = [socket.create_server((_HOST, 0), backlog=_BACKLOG) for _ in range(ports)]
    for listener in listeners:
        await loop.create_server(Upstream, sock=listener)
    sys.stdout.write(json.dumps([listener.getsockname()[1] for listener in listeners]) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()  # until the harness ends the process


if __name__ == "__main__":
    run(_serve(int(sys.argv[1])))
