"""What one request wants otherwise than the rules: another client, method, limits or headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ..messages import Header, Timeouts
from ..settings import TimeoutSettings
from ..transports import PooledClient, family_of
from ._headers import method_in_bytes, sendable

__all__ = ("Wishes", "timeouts_from", "timeouts_of", "wishes_from")


@dataclass(slots=True)
class Wishes:
    """What one request wants otherwise than the rules."""

    client: Any
    timeouts: Timeouts
    method: bytes | None = None
    headers: tuple[list[Header], frozenset[bytes]] = field(default=([], frozenset()))
    """Lines to send in the place of others, and names to leave out."""


def wishes_from(
    client: Any, timeouts: Timeouts, method: str | None = None, headers: Mapping[str, str | None] | None = None
) -> Wishes:
    """Return them; raise ValueError for a method or a header that would break the request."""
    wishes = Wishes(client, timeouts)
    if method is not None:
        wishes.method = method_in_bytes(method)
    if headers:
        wishes.headers = sendable(headers)
    return wishes


def timeouts_of(client: Any) -> Timeouts:
    """
    Return a client's own limits in seconds.

    Raises:
        TypeError: It is not an ``AsyncClient`` of either family.
    """
    try:
        known = _limits.get(client)
    except TypeError:
        known = None  # it is no client, and is told so below
    if known is None or known[0] is not client.timeout:
        family_of(client)
        timeout = client.timeout
        timeouts = timeouts_from(timeout)
        if isinstance(client, PooledClient):  # the families know no total
            timeouts = timeouts._replace(total=client.pool_settings.timeout.total)
        known = _limits[client] = timeout, timeouts
    return known[1]


_limits: "WeakKeyDictionary[Any, tuple[Any, Timeouts]]" = WeakKeyDictionary()
"""Each client's timeout, and what it means."""


def timeouts_from(timeout: Any) -> Timeouts:
    """
    Return limits in seconds for a number, for settings, or for a family's ``Timeout``.

    Raises:
        pydantic.ValidationError: It is none of them, or a number below 0.
    """
    settings = TimeoutSettings.model_validate(timeout)
    return Timeouts(**{name: getattr(settings, name) for name in Timeouts._fields})
