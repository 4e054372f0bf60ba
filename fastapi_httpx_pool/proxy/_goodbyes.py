"""
How a WebSocket ends, and what each side is told about it (RFC 6455, sections 5.5.1 and 7.4).

Codes that never stand on the wire become others: 1005 (none was given) an empty frame, or 1000 for
servers, which cannot send one; 1006 (a side was lost) 1001 if it was the client, 1011 if it was the
upstream.
"""

from typing import Final, NamedTuple

from starlette.types import Message
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, CloseCode

from ..exceptions import TransportError, WriteTimeout
from ._failures import ProxyFailure

__all__ = (
    "DEAD",
    "IDLE",
    "LEAVING",
    "LOST_CLIENT",
    "SHUTDOWN",
    "Ending",
    "Goodbye",
    "of_broken",
    "of_client",
    "of_garbled",
    "of_lost",
    "of_upstream",
    "stalled",
)

LONGEST_REASON: Final = 123
"""Bytes."""


class Goodbye(NamedTuple):
    """What a side is told at the end."""

    code: int | None
    reason: str = ""


class Ending(NamedTuple):
    """How it ended."""

    client: Goodbye | None = None
    """What the client is told; None if it knows."""
    upstream: Goodbye | None = None
    """What the upstream is told; None if it knows, or is lost."""
    failure: ProxyFailure | None = None
    """What went wrong, if anything did."""
    detail: str = ""


LEAVING: Final = Goodbye(CloseCode.GOING_AWAY)

SHUTDOWN: Final = Ending(LEAVING, LEAVING)
"""The pool is being closed."""
LOST_CLIENT: Final = Ending(upstream=LEAVING)
IDLE: Final = Ending(Goodbye(CloseCode.GOING_AWAY, "idle"), Goodbye(CloseCode.GOING_AWAY, "idle"))
DEAD: Final = Ending(
    Goodbye(CloseCode.INTERNAL_ERROR),
    Goodbye(CloseCode.INTERNAL_ERROR, "keepalive ping timeout"),
    ProxyFailure.RESPONSE_BODY_TIMEOUT,
    "the upstream has not answered a ping",
)


def of_client(message: Message) -> Ending:
    """Return the end that a client has made."""
    return Ending(upstream=_for_upstream(message))


def of_upstream(code: int, reason: str) -> Ending:
    """Return the end that an upstream has made."""
    return Ending(Goodbye(CloseCode.NORMAL_CLOSURE) if code == CloseCode.NO_STATUS_RCVD else Goodbye(code, reason))


def of_garbled(error: UnicodeDecodeError) -> Ending:
    """Return the end of a WebSocket whose upstream has sent a text that is none."""
    detail = f"a text is no UTF-8: {error.reason} at position {error.start}"
    return Ending(
        Goodbye(CloseCode.INTERNAL_ERROR), Goodbye(CloseCode.INVALID_DATA), ProxyFailure.RESPONSE_INVALID, detail
    )


def _for_upstream(message: Message) -> Goodbye:
    code, reason = message.get("code", CloseCode.NO_STATUS_RCVD), message.get("reason") or ""
    if code == CloseCode.NO_STATUS_RCVD:
        return Goodbye(None)
    if not _is_sendable(code):
        return LEAVING  # as if the client had gone: its server says so in words of its own
    return Goodbye(code, reason.encode()[:LONGEST_REASON].decode(errors="ignore"))


def _is_sendable(code: int) -> bool:
    """Whether a client's code may stand in a frame."""
    if code == CloseCode.SERVICE_RESTART:
        return False  # it is not the client's, but that of a server that goes down
    try:
        Close(code, "").check()
    except ProtocolError:
        return False
    return True


def of_broken(error: Exception) -> Ending:
    """Return the end of a WebSocket whose upstream has hung up, or broken the protocol's rules."""
    if isinstance(error, PayloadTooBig):
        return Ending(Goodbye(CloseCode.MESSAGE_TOO_BIG), failure=ProxyFailure.RESPONSE_TOO_LARGE, detail=str(error))
    if isinstance(error, EOFError):
        return Ending(
            Goodbye(CloseCode.INTERNAL_ERROR),
            failure=ProxyFailure.RESPONSE_BODY_BROKE,
            detail="it hung up without a goodbye",
        )
    return Ending(Goodbye(CloseCode.INTERNAL_ERROR), failure=ProxyFailure.RESPONSE_INVALID, detail=str(error))


def of_lost(error: TransportError) -> Ending:
    """Return the end of a WebSocket whose upstream's connection broke, or takes nothing."""
    takes_nothing = isinstance(error, WriteTimeout)
    failure = ProxyFailure.REQUEST_UPSTREAM_TIMEOUT if takes_nothing else ProxyFailure.RESPONSE_BODY_BROKE
    return Ending(Goodbye(CloseCode.INTERNAL_ERROR), failure=failure, detail=str(error) or type(error).__name__)


def stalled(limit: float) -> Ending:
    """Return the end of a WebSocket whose client has taken nothing for so many seconds, and is broken off."""
    return Ending(
        upstream=LEAVING, failure=ProxyFailure.CLIENT_STALLED, detail=f"the client has taken nothing for {limit:g} s"
    )
