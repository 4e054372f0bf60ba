"""
What an engine tells whoever listens.

An ``Observer`` is called with each event, in the event loop, in the middle of things: it must be
quick and must not raise. Without one, events are not even made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .messages import Origin

__all__ = ("ConnectionClosed", "ConnectionOpened", "Event", "ExchangeEnded", "Observer", "RequestQueued")


@dataclass(frozen=True, slots=True)
class RequestQueued:
    """A request found no free connection and waits for one."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A connection was made."""

    origin: Origin
    seconds: float
    """That it took, TLS included."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A connection was closed."""

    origin: Origin
    reason: str
    """One of the reasons that ``PoolStatistics`` counts."""
    age: float
    """Seconds that it was open."""
    exchanges: int
    """How many it has carried."""


@dataclass(frozen=True, slots=True)
class ExchangeEnded:
    """A request is through with its connection."""

    origin: Origin
    method: bytes
    status: int | None
    """None if no response came."""
    seconds: float
    """Since it was sent off, its time in the queue included."""
    error: str | None
    """What went wrong: the name of an exception, or a reason."""


Event = RequestQueued | ConnectionOpened | ConnectionClosed | ExchangeEnded

Observer = Callable[[Event], None]
"""Called with each event."""
