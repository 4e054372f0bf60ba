"""
What httpcore's pool leaves undone, done from outside, for what our own engine does not carry. The rules, for httpcore 1 and httpcore2 alike:

1. Bytes behind the end of a response are never the next caller's response (RFC 9112, section
   6.3). h11 keeps them and would parse them as the next one, so before a response is closed we
   look, and a connection that holds any is closed instead of reused.
2. A slot whose request is gone is free. A cancelled call can leave a connection behind that is
   neither idle nor closed nor anybody's: one that was assigned but never connected, one cancelled
   before its first byte, or one whose closing was itself cancelled. After every failure we look
   for such orphans and close them.
3. A connection older than its lifetime is not reused.

All of it reads private attributes. ``PRIVATE_NAMES`` lists them; a test asks the installed
releases for each, and a pool that lacks one is used unguarded, with a warning.
"""

import logging
import random
import ssl
import time
from typing import Any, final
from weakref import WeakKeyDictionary

from .._cancellation import finish
from ..engine import OriginStatistics, PoolStatistics
from ._network import CarefulBackend, SealedBackend

__all__ = ("PRIVATE_NAMES", "PoolKeeper", "seal", "statistics_of_httpcore")

PRIVATE_NAMES = ("_requests", "_connections", "_assign_requests_to_connections", "_network_backend")

_logger = logging.getLogger("fastapi_httpx_pool.transports")


@final
class PoolKeeper:
    """Keeps one httpcore pool in order; a ``Keeper`` for ``handler_over``."""

    def __init__(self, pool: Any, lifetime: float | None = None) -> None:
        """``lifetime`` is in seconds; each connection lives nine to ten tenths of it."""
        self._pool = pool
        self._lifetime = lifetime
        self._ends: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._guarded = all(hasattr(pool, name) for name in PRIVATE_NAMES)
        if self._guarded:
            pool._network_backend = CarefulBackend(pool._network_backend)
        else:
            _logger.warning("%s is of a release that this package does not know; it is used unguarded", pool)

    def before_close(self, stream: Any) -> None:
        """Make sure that a connection with anything unread on it is not reused."""
        connection = _connection_of(stream)
        if connection is None:
            return
        h11_state = getattr(connection, "_h11_state", None)
        if h11_state is not None and (_has_unread_bytes(connection) or self._is_over_age(connection)):
            # h11 then says "not reusable", and httpcore closes the connection itself.
            h11_state.send_failed()

    async def after_failure(self, stream: Any) -> None:
        """Take back what a failed exchange still holds, and hand it to those who wait."""
        if self._guarded:
            orphans = self._disown(stream)
            if orphans:
                await finish(lambda: _close_all(orphans))

    def _disown(self, stream: Any) -> list[Any]:
        pool = self._pool
        pool_request = _pool_request_of(stream)
        kept = pool_request in pool._requests
        if kept:
            pool._requests.remove(pool_request)
        owned = {id(request.connection) for request in pool._requests}
        orphans = [
            connection
            for connection in pool._connections
            if id(connection) not in owned and not (connection.is_idle() or connection.is_closed())
        ]
        if not (kept or orphans):
            return []  # httpcore has cleaned up after itself, and its pass over everything is slow
        pool._connections = [connection for connection in pool._connections if connection not in orphans]
        return [*orphans, *pool._assign_requests_to_connections()]

    def _is_over_age(self, connection: Any) -> bool:
        if self._lifetime is None:
            return False
        now = time.monotonic()
        # First seen at the end of its first exchange, which is near enough to its beginning.
        end = self._ends.setdefault(connection, now + self._lifetime * _jitter())
        return now >= end


def seal(pool: Any) -> None:
    """
    Keep an httpcore pool from connecting to anything.

    Raises:
        RuntimeError: This release has it in another place, so it would connect all the same.
    """
    if not hasattr(pool, "_network_backend"):
        raise RuntimeError(
            f"{pool} is of a release that this package does not know, and cannot be kept from connecting to addresses "
            "outside of allowed_addresses; install a release that this package was tested with"
        )
    pool._network_backend = SealedBackend()


def statistics_of_httpcore(pool: Any, max_connections: int | None) -> PoolStatistics:
    """Return what can be told of an httpcore pool: how many connections, and for whom."""
    counts: dict[str, list[int]] = {}
    for connection in pool._connections:
        which = 1 if connection.is_idle() else 0
        counts.setdefault(_shown(getattr(connection, "_origin", None)), [0, 0, 0])[which] += 1
    for waiting in pool._requests:
        if waiting.connection is None:
            counts.setdefault(_shown(waiting.request.url.origin), [0, 0, 0])[2] += 1
    return PoolStatistics(
        engine="httpcore",
        max_connections=max_connections,
        active=sum(active for active, _, _ in counts.values()),
        idle=sum(idle for _, idle, _ in counts.values()),
        queued=sum(queued for _, _, queued in counts.values()),
        origins={
            origin: OriginStatistics(active=active, idle=idle, queued=queued)
            for origin, (active, idle, queued) in counts.items()
        },
    )


def _shown(origin: Any) -> str:
    return "proxied" if origin is None else str(origin)


def _jitter() -> float:
    # Connections opened together should not all be replaced together.
    return random.uniform(0.9, 1.0)  # noqa: S311 -- nothing to guess


async def _close_all(connections: list[Any]) -> None:
    for connection in connections:
        try:
            await connection.aclose()
        except Exception:
            # The others must be closed too, and this one is out of the pool.
            _logger.debug("closing %r failed", connection, exc_info=True)


def _pool_request_of(stream: Any) -> Any:
    # The family's stream holds httpcore's, which holds the pool's record of the request. A mock's
    # stream has neither.
    return getattr(getattr(stream, "_httpcore_stream", None), "_pool_request", None)


def _connection_of(stream: Any) -> Any:
    # A connection of the pool wraps another (TLS, tunnel, SOCKS) until the one that speaks HTTP.
    connection = getattr(_pool_request_of(stream), "connection", None)
    while connection is not None and not hasattr(connection, "_network_stream"):
        connection = getattr(connection, "_connection", None)
    return connection


def _has_unread_bytes(connection: Any) -> bool:
    stream = connection._network_stream
    unread, _ = connection._h11_state.trailing_data
    return bool(unread) or _has_unread_records(stream.get_extra_info("ssl_object")) or _has_queued_bytes(stream)


def _has_queued_bytes(stream: Any) -> bool:
    # asyncio delivers more at a time than httpcore asks for, and anyio keeps the rest in a queue,
    # below TLS if there is any. A response that ends where a read does leaves the next one there.
    while stream is not None:
        queue = getattr(getattr(stream, "_protocol", None), "read_queue", None)
        if queue is not None:
            return bool(queue)
        stream = getattr(stream, "transport_stream", None) or getattr(stream, "_stream", None)
    return False


def _has_unread_records(tls: ssl.SSLObject | None) -> bool:
    # A TLS record that arrived together with the last one of the response waits inside OpenSSL,
    # where neither h11 nor a poll of the socket sees it.
    if tls is None:
        return False
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True  # one byte too many, or the peer's close_notify
