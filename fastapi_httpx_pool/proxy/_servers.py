"""
What servers write into every answer by themselves.

An answer has one ``Date`` and one ``Server``, and those are the upstream's (RFC 9110, section 6.6.1).
Some servers write theirs beside whatever they are given, and ASGI has no word to ask for less. So we
look at whom a request comes from: uvicorn can be told, for one answer, to leave out what is there
already; hypercorn cannot, so that its own lines stand, and the upstream's go. Behind middleware that
puts a ``receive`` of its own before the server's there is nobody to look at, and both stand.
"""

import re
import sys
from asyncio import Queue
from collections.abc import Iterable
from typing import Any

from starlette.types import Receive, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..messages import Header

__all__ = ("abort", "joined", "says_gone", "with_one_of_each")

_WRITTEN = {b"date": "include_date_header", b"server": "include_server_header"}
"""Names of the lines, and hypercorn's options for them."""

_CLOSED = re.compile(r"Unexpected ASGI message|Connection already upgraded")
"""uvicorn's words, and granian's."""


def with_one_of_each(headers: list[Header], receive: Receive, send: Send) -> list[Header]:
    """
    Return the lines to send, so that the client gets one of each kind.

    Args:
        headers: What is to be sent, names in lower case.
        receive: The request's channel, as near to the server as we know it.
        send: Likewise.
    """
    server: Any = getattr(receive, "__self__", None)
    lines = getattr(server, "default_headers", None)
    if isinstance(lines, list):  # uvicorn's
        there = dict(headers)
        # Its list is for all answers, but what it is kept in is for this one.
        server.default_headers = [line for line in lines if line[0] not in there or line[0] not in _WRITTEN]
        return headers
    if isinstance(server, Queue) and "hypercorn" in sys.modules:
        config = getattr(getattr(send, "__self__", None), "config", None)
        written = {name for name, option in _WRITTEN.items() if getattr(config, option, True)}
        return [line for line in headers if line[0] not in written]
    return headers


def joined(headers: Iterable[Header]) -> list[Header]:
    """
    Return the lines with one for each name, where they refuse a WebSocket.

    granian's process ends if there are two. Cookies cannot be joined, so only the first stays.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return [(name, found[0] if name == b"set-cookie" else b", ".join(found)) for name, found in values.items()]


def says_gone(error: Exception) -> bool:
    """Whether a server says with this that the client has left, or that it has closed the WebSocket itself."""
    if isinstance(error, OSError | WebSocketDisconnect):
        return True
    return isinstance(error, RuntimeError) and _CLOSED.search(str(error)) is not None


def abort(receive: Receive) -> None:
    """
    Break off the client's connection with all that is still to be sent, if the server lets us at it: uvicorn does.

    It has no limit of its own for a client that takes nothing, and not even an exception would free it from one.
    """
    owner: Any = getattr(receive, "__self__", None)
    if isinstance(owner, WebSocket):
        owner = getattr(owner._receive, "__self__", None)
    transport: Any = getattr(owner, "transport", None)
    if transport is not None:
        transport.abort()
