"""
What can go wrong while relaying: a closed vocabulary, by stage and side.

One name serves the status, the log line and (later) labels. Answers say no more than the status
does: what the upstream is and why it failed is for the log.
"""

import json
from enum import Enum
from http import HTTPStatus

from ..exceptions import (
    ClientClosed,
    ConnectTimeout,
    LocalProtocolError,
    PoolTimeout,
    ProtocolError,
    ReadError,
    ReadTimeout,
    TimeoutException,
    TotalTimeout,
    TransportError,
    WriteError,
    WriteTimeout,
)
from ..messages import Header

__all__ = ("Failure", "answer", "failure_of")


class Failure(Enum):
    """One way to fail: its label and the status of the answer."""

    TARGET_REFUSED = ("target_refused", 400)
    """The URL leads where the route did not mean it to."""
    REQUEST_INVALID = ("request_invalid", 400)
    """The client's request cannot be sent on as it is."""
    CLIENT_LEFT = ("client_left", 499)
    """The client disconnected; nobody reads the answer."""
    POOL_FULL = ("pool_full", 503)
    """No connection became free in time."""
    SHUTTING_DOWN = ("shutting_down", 503)
    """The client pool takes no new requests."""
    CONNECT_FAILED = ("connect_failed", 502)
    CONNECT_TIMEOUT = ("connect_timeout", 504)
    REQUEST_UPSTREAM_BROKE = ("request_upstream_broke", 502)
    """The upstream hung up while it was being sent to."""
    REQUEST_UPSTREAM_TIMEOUT = ("request_upstream_timeout", 504)
    """The upstream stopped taking the request."""
    RESPONSE_HEAD_BROKE = ("response_head_broke", 502)
    """The upstream hung up, or answered what is not HTTP."""
    RESPONSE_HEAD_TIMEOUT = ("response_head_timeout", 504)
    RESPONSE_BODY_BROKE = ("response_body_broke", 502)
    """The answer ended early; after its first byte, the client's connection is broken off too."""
    RESPONSE_BODY_TIMEOUT = ("response_body_timeout", 504)
    TOTAL_TIMEOUT = ("total_timeout", 504)

    def __init__(self, label: str, status: int) -> None:
        self.label = label
        self.status = status


# RFC 9110, sections 15.6.3 to 15.6.5: 502 for a bad answer, 503 for no room, 504 for none in time.
_BEFORE_BODY: tuple[tuple[type[Exception], Failure], ...] = (
    (ClientClosed, Failure.SHUTTING_DOWN),
    (PoolTimeout, Failure.POOL_FULL),
    (TotalTimeout, Failure.TOTAL_TIMEOUT),
    (ConnectTimeout, Failure.CONNECT_TIMEOUT),
    (WriteTimeout, Failure.REQUEST_UPSTREAM_TIMEOUT),
    (ReadTimeout, Failure.RESPONSE_HEAD_TIMEOUT),
    (TimeoutException, Failure.RESPONSE_HEAD_TIMEOUT),
    (LocalProtocolError, Failure.REQUEST_INVALID),
    (ProtocolError, Failure.RESPONSE_HEAD_BROKE),
    (WriteError, Failure.REQUEST_UPSTREAM_BROKE),
    (ReadError, Failure.RESPONSE_HEAD_BROKE),
)


def failure_of(error: ClientClosed | TransportError, *, in_body: bool) -> Failure:
    """Return what an error means, before or after the response's head has come."""
    if in_body:
        if isinstance(error, TotalTimeout):
            return Failure.TOTAL_TIMEOUT
        return Failure.RESPONSE_BODY_TIMEOUT if isinstance(error, TimeoutException) else Failure.RESPONSE_BODY_BROKE
    for error_class, failure in _BEFORE_BODY:
        if isinstance(error, error_class):
            return failure
    return Failure.CONNECT_FAILED


def answer(failure: Failure) -> tuple[list[Header], bytes]:
    """Return headers and body of the answer: as FastAPI's errors look, and without any detail."""
    body = json.dumps({"detail": _phrase(failure.status)}).encode("ascii")
    headers: list[Header] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
    ]
    if failure is Failure.POOL_FULL or failure is Failure.SHUTTING_DOWN:
        headers.append((b"retry-after", b"1"))
    return headers, body


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
