"""
How a WebSocket ends, and what each side is told about it (RFC 6455, sections 5.5.1 and 7.4).

Codes that never stand on the wire become others: ``NO_STATUS`` an empty frame, or 1000 for servers,
which cannot send one; ``ABNORMAL`` 1001 if it was the client that was lost, 1011 if it was the upstream.
"""

from typing import Final, NamedTuple

from starlette.types import Message
from websockets.exceptions import PayloadTooBig

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

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
RESERVED: Final = 1004
NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
LAST_REGISTERED: Final = 1014
FIRST_PRIVATE: Final = 3000
LAST_PRIVATE: Final = 4999

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


LEAVING: Final = Goodbye(GOING_AWAY)

SHUTDOWN: Final = Ending(LEAVING, LEAVING)
"""The pool is being closed."""
LOST_CLIENT: Final = Ending(upstream=LEAVING)
IDLE: Final = Ending(Goodbye(GOING_AWAY, "idle"), Goodbye(GOING_AWAY, "idle"))
DEAD: Final = Ending(
    Goodbye(INTERNAL_ERROR),
    Goodbye(INTERNAL_ERROR, "keepalive ping timeout"),
    ProxyFailure.RESPONSE_BODY_TIMEOUT,
    "the upstream has not answered a ping",
)


def of_client(message: Message) -> Ending:
    """Return the end that a client has made."""
    return Ending(upstream=_for_upstream(message))


def of_upstream(code: int, reason: str) -> Ending:
    """Return the end that an upstream has made."""
    return Ending(Goodbye(NORMAL) if code == NO_STATUS else Goodbye(code, reason))


def of_garbled(error: UnicodeDecodeError) -> Ending:
    """Return the end of a WebSocket whose upstream has sent a text that is none."""
    detail = f"a text is no UTF-8: {error.reason} at position {error.start}"
    return Ending(Goodbye(INTERNAL_ERROR), Goodbye(INVALID_DATA), ProxyFailure.RESPONSE_INVALID, detail)


def _for_upstream(message: Message) -> Goodbye:
    code, reason = message.get("code", NO_STATUS), message.get("reason") or ""
    if code == NO_STATUS:
        return Goodbye(None)
    # Of a client that is lost, and of a server that goes down, the upstream is told the same.
    fitting = reason.encode()[:LONGEST_REASON].decode(errors="ignore")
    return Goodbye(code, fitting) if _is_sendable(code) else Goodbye(GOING_AWAY)


def _is_sendable(code: int) -> bool:
    """Whether a client's code may stand in a frame; a server that goes down gives ``SERVICE_RESTART`` for its own."""
    if code in (RESERVED, ABNORMAL, SERVICE_RESTART):
        return False
    return NORMAL <= code <= LAST_REGISTERED or FIRST_PRIVATE <= code <= LAST_PRIVATE


def of_broken(error: Exception) -> Ending:
    """Return the end of a WebSocket whose upstream has hung up, or broken the protocol's rules."""
    if isinstance(error, PayloadTooBig):
        return Ending(Goodbye(TOO_BIG), failure=ProxyFailure.RESPONSE_TOO_LARGE, detail=str(error))
    if isinstance(error, EOFError):
        return Ending(Goodbye(INTERNAL_ERROR), failure=ProxyFailure.RESPONSE_BODY_BROKE, detail="it hung up")
    return Ending(Goodbye(INTERNAL_ERROR), failure=ProxyFailure.RESPONSE_INVALID, detail=str(error))


def of_lost(error: TransportError) -> Ending:
    """Return the end of a WebSocket whose upstream's connection broke, or takes nothing."""
    takes_nothing = isinstance(error, WriteTimeout)
    failure = ProxyFailure.REQUEST_UPSTREAM_TIMEOUT if takes_nothing else ProxyFailure.RESPONSE_BODY_BROKE
    return Ending(Goodbye(INTERNAL_ERROR), failure=failure, detail=str(error) or type(error).__name__)


def stalled(limit: float) -> Ending:
    """Return the end of a WebSocket whose client has taken nothing for so many seconds, and is broken off."""
    return Ending(
        upstream=LEAVING, failure=ProxyFailure.CLIENT_STALLED, detail=f"the client has taken nothing for {limit:g} s"
    )
