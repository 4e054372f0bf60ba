"""
Step 9 of a request: it gets an idle connection, or a new one, or a place in the queue.

The pool of one event loop: where a request finds its connection, and where that comes back.
Deciding is the books' business (``_bookkeeping``), and bytes are the exchange's. Here the two are
put together, and everything that takes time is awaited: the queue, a new connection, the response.
Whatever interrupts a wait, the lease is given back in the same step, without another wait.
"""

import asyncio
import contextlib
import logging
import random
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final, cast, final

from ..events import ConnectionClosed, ConnectionOpened, Event, ExchangeEnded, Observer, RequestQueued
from ..exceptions import (
    ClientClosed,
    NetworkError,
    PoolTimeout,
    ReadError,
    RemoteProtocolError,
    TotalTimeout,
)
from ..messages import Request, Response
from ._bookkeeping import OPEN, Bookkeeping
from ._connect import ConnectOptions, Connector
from ._connection import Connection
from ._exchange import Body, Exchange
from ._keys import Key, address_of, check_scheme, key_of, origin_in, shown_key, shown_origin
from ._statistics import Counters, OriginStatistics, statistics_of
from ._timer import EARLY, Alarm, Timer
from ._tracing import Trace
from ._tunnel import ConnectionInfo, Tunnel, TunnelBody
from ._upload import check_body
from ._wire import MAX_HEAD_SIZE, Head, head_of

__all__ = ("Limits", "Pool")

READ_SIZE: Final = 64 * 1024
"""Bytes that are read at a time; more of them would be more memory for each response that nobody reads."""
_logger = logging.getLogger("fastapi_httpx_pool.engine")

GRACE: Final = 0.1
"""Seconds that idle connections beyond the limit are kept, because the next request is often on its way."""
PATIENCE: Final = 1
"""Seconds by which we close an idle connection before the server says it will."""
MOST_ORIGINS: Final = 1000
"""Origins whose statistics are kept."""
SHOWN: Final = 3
"""Holders that an error about a full pool names."""

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
"""RFC 9110, section 9.2.2."""


@dataclass(frozen=True)
class Limits:
    """How many connections, and for how long; None is no limit."""

    max_connections: int | None = 100
    max_idle: int | None = 20
    """Idle connections that are kept."""
    max_connections_per_host: int | None = None
    idle_expiry: float | None = 5.0
    """Seconds that an idle connection is kept."""
    lifetime: float | None = None
    """Seconds (less up to a tenth, at random) after which a connection is not used again."""
    max_head_size: int = MAX_HEAD_SIZE
    """Bytes of a response's head."""


@final
class Pool:
    """Connections, and who has them, in one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        options: ConnectOptions,
        observer: Observer | None = None,
        *,
        retry: bool = True,
    ) -> None:
        self.loop = loop
        self.timer = Timer(loop)
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._limits = limits
        self.max_head_size = limits.max_head_size
        self._observer = observer
        self._retry = retry
        self._books: Bookkeeping[Connection] = Bookkeeping(
            limits.max_connections, limits.max_idle, limits.max_connections_per_host
        )
        self._connector = Connector(options, loop)
        self._connections: set[Connection] = set()
        self._exchanges: dict[Exchange, None] = {}
        """Those that hold a lease, oldest first."""
        self._tunnels: set[Tunnel] = set()
        self._connecting: dict[Exchange, asyncio.Timeout] = {}
        self._turns: set[_Turn] = set()
        self._counters: dict[Key, Counters] = {}
        self._trimming: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._report: tuple[float, str] = (-inf, "")
        self._debug = loop.get_debug() or sys.flags.dev_mode
        self._draining = False
        self.is_closed = False

    # One request.

    async def send(self, request: Request) -> Response:
        """Carry one exchange; see ``Engine``."""
        if self.is_closed:
            raise ClientClosed("transport's")
        check_scheme(request.origin.scheme)
        head = head_of(request)
        check_body(request.body, head)
        trace = request.extensions.get("trace")
        note = None if trace is None else Trace(trace, request)
        exchange = self._new_exchange(request, head, self.timer.now())
        while True:
            try:
                connection = self._take(exchange)
                if connection is None:
                    connection = await self._wait_for_connection(exchange, note)
                if note is None:
                    exchange.start(connection, self.timer.now())
                    await exchange.response_head()
                else:
                    await note.send(exchange, connection, self.timer.now())
            except BaseException as exc:
                again = self._again(exchange, exc)
                if again is None:
                    self._abort(exchange, exc)
                    if exchange.upload is not None:
                        await exchange.settle()
                    raise
                exchange = again
            else:
                return self._response(exchange, connection, note)

    def _new_exchange(self, request: Request, head: Head, now: float) -> Exchange:
        exchange = Exchange(self, request, head, now)
        key = key_of(request)
        exchange.origin = self._books.origin(key)
        exchange.counters = self._counters.get(key) or self._new_counters(key)
        if self._debug:
            exchange.place = "; it was requested here:\n" + "".join(traceback.format_stack(limit=12)[:-2])
        return exchange

    def _new_counters(self, key: Key) -> Counters:
        while len(self._counters) >= MOST_ORIGINS:
            oldest = next(iter(self._counters))
            counters = self._counters.pop(oldest)
            if counters.requests != counters.seen:  # it has been used since, and stays
                counters.seen = counters.requests
                self._counters[oldest] = counters
        counters = self._counters[key] = Counters(origin_in(key))
        return counters

    # Its connection.

    def _take(self, exchange: Exchange) -> Connection | None:
        """Take an idle connection; or the lease of a new one, if there is room; or nothing."""
        if exchange.leased:
            return None  # a repetition, on a new connection
        grant = self._books.take(exchange.origin)
        if grant is None:
            return None
        self._begin(exchange)
        if grant is OPEN:
            return None
        assert isinstance(grant, Connection)
        return self._reuse(exchange, grant)

    def _begin(self, exchange: Exchange) -> None:
        exchange.leased = True
        self._exchanges[exchange] = None
        exchange.counters.requests += 1

    def _reuse(self, exchange: Exchange, connection: Connection) -> Connection:
        exchange.reused = True
        exchange.counters.reused += 1
        return connection

    async def _wait_for_connection(self, exchange: Exchange, note: Trace | None) -> Connection:
        if not exchange.leased:
            connection = await self._queue(exchange)
            self._begin(exchange)
            if connection is not None:
                if connection.is_usable():
                    return self._reuse(exchange, connection)
                # It died between being handed over and being taken; its place is still ours.
                connection.retire("peer")
        return await self._open(exchange, note)

    async def _queue(self, exchange: Exchange) -> Connection | None:
        """Wait for a lease: of a connection, or of a new one."""
        if self._observer is not None:
            self._tell(RequestQueued(exchange.counters.origin))
        turn = _Turn(self, exchange)
        self._turns.add(turn)
        try:
            await turn.future
        except BaseException:
            self._give_up_turn(turn)
            raise
        finally:
            self._turns.discard(turn)
            self.timer.forget(turn)
        exchange.counters.queue_wait.add(self.timer.now() - exchange.created_at)
        granted = turn.waiter.granted
        return granted if isinstance(granted, Connection) else None

    def _give_up_turn(self, turn: "_Turn") -> None:
        """Leave the queue; what has been handed over already goes back."""
        if self.loop.is_closed():
            return
        origin, granted = turn.waiter.origin, turn.waiter.granted
        if granted is None:
            self._books.leave(turn.waiter)
        elif isinstance(granted, Connection) and not granted.is_closing:
            self._rest(granted)
        else:
            self._books.drop(origin)
        self._look_whether_empty()

    async def _open(self, exchange: Exchange, note: Trace | None) -> Connection:
        if self.is_closed:  # between being granted and being taken
            raise ReadError("the pool was closed while the request waited for a connection")
        request = exchange.request
        exchange.state = "connecting"
        began = self.timer.now()
        # Also how ``close`` ends it.
        limit = self._connecting[exchange] = asyncio.timeout_at(None if exchange.end == inf else exchange.end)
        try:
            async with limit:
                connection = await self._connector.connect(
                    lambda: Connection(self, exchange.origin),
                    address_of(request),
                    request.extensions.get("sni_hostname"),
                    request.timeouts.connect,
                    note,
                )
        except TimeoutError as exc:
            if self.is_closed:
                raise ReadError("the pool was closed while the connection was made") from exc
            assert request.timeouts.total is not None
            raise TotalTimeout(request.timeouts.total) from exc
        finally:
            del self._connecting[exchange]
        self._adopt(connection, exchange, began)
        return connection

    def _adopt(self, connection: Connection, exchange: Exchange, began: float) -> None:
        now = self.timer.now()
        connection.counters = exchange.counters
        connection.since = now
        if self._limits.lifetime is not None:
            # Connections opened together should not all be replaced together.
            connection.ends = now + self._limits.lifetime * random.uniform(0.9, 1.0)  # noqa: S311 -- nothing to guess
        exchange.counters.opened += 1
        self._connections.add(connection)
        if self._observer is not None:
            self._tell(ConnectionOpened(exchange.counters.origin, now - began))
        if self.is_closed or connection.is_closing:
            self.closed(connection, "shutdown" if self.is_closed else "peer")
            connection.give_up()
            raise ReadError(
                f"the {'pool' if self.is_closed else 'server'} closed the connection as soon as it was made"
            )

    # Its end.

    def _response(self, exchange: Exchange, connection: Connection, note: Trace | None) -> Response:
        reader = exchange.reader
        body: Any = Body(exchange)
        extensions: dict[str, Any] = {"http_version": reader.http_version, "reason_phrase": reader.reason}
        if reader.upgraded:
            tunnel = self._tunnel(exchange, connection)
            extensions["network_stream"] = tunnel
            body = TunnelBody(tunnel)
        else:
            extensions["network_stream"] = ConnectionInfo(connection)
            if reader.is_chunked:
                extensions["trailers"] = reader.trailers
        if note is not None:
            body = note.body(body)
        return Response(reader.status, reader.headers, body, extensions)

    def _tunnel(self, exchange: Exchange, connection: Connection) -> Tunnel:
        def release(tunnel: Tunnel) -> None:
            self._tunnels.discard(tunnel)
            self._end(exchange, None)

        tunnel = Tunnel(connection, exchange.reader.surplus, release)
        tunnel.draining = self._draining
        exchange.connection = None
        exchange.state = "a tunnel"
        self._tunnels.add(tunnel)
        return tunnel

    def _again(self, exchange: Exchange, exc: BaseException) -> Exchange | None:
        """
        Return the exchange that repeats one whose connection turned out to be dead, or None.

        Its place in the pool is kept for a new connection: the next idle one may be as dead.
        """
        if (
            not exchange.leased
            or not self._is_stale(exchange)
            or not isinstance(exc, NetworkError | RemoteProtocolError)
        ):
            return None
        exchange.counters.retried += 1
        again = self._new_exchange(exchange.request, exchange.head, exchange.created_at)
        again.leased, exchange.leased = True, False
        del self._exchanges[exchange]
        self._exchanges[again] = None
        return again

    def _is_stale(self, exchange: Exchange) -> bool:
        """Whether it can be repeated: nothing has come back, and sending it twice is the same as once."""
        return (
            self._retry
            and exchange.reused
            and not exchange.reader.begun
            and not self.is_closed
            and exchange.request.method in _IDEMPOTENT
            and (exchange.request.body is None or isinstance(exchange.request.body, bytes))
        )

    def _abort(self, exchange: Exchange, exc: BaseException) -> None:
        """End an exchange that has no response, wherever it was."""
        if self.loop.is_closed():
            return  # it is collected as garbage, and so are all who could be told
        error = type(exc).__name__
        exchange.counters.failures[error] = exchange.counters.failures.get(error, 0) + 1
        exchange.give_up("cancelled" if isinstance(exc, asyncio.CancelledError) else "failed")
        self._end(exchange, error)
        self._books.forget(exchange.origin)

    def _end(self, exchange: Exchange, error: str | None) -> None:
        """Give the lease back, without a connection. Harmless twice."""
        if exchange.leased:
            exchange.leased = False
            del self._exchanges[exchange]
            self._books.drop(exchange.origin)
            self._tell_end(exchange, error)
            self._look_whether_empty()

    def _tell_end(self, exchange: Exchange, error: str | None) -> None:
        if self._observer is not None:
            request, status = exchange.request, exchange.reader.status if exchange.reader.has_head else None
            seconds = self.timer.now() - exchange.created_at
            self._tell(ExchangeEnded(exchange.counters.origin, request.method, status, seconds, error))

    def _tell(self, event: Event) -> None:
        try:
            cast("Observer", self._observer)(event)
        except Exception:
            # It is called in the middle of decisions that must be carried through.
            _logger.exception("the observer %r raised on %r", self._observer, event)

    # What exchanges say.

    def responded(self, exchange: Exchange) -> None:
        """Take note: the head of the response is there."""
        exchange.counters.first_byte.add(self.timer.now() - exchange.sent_at)

    def finished(self, exchange: Exchange, connection: Connection, *, reusable: bool) -> None:
        """Take the connection back, after a complete exchange."""
        obstacle = self._obstacle(connection, exchange.reader.keep_alive_hint) if reusable else "not reusable"
        if obstacle is not None:
            connection.close(obstacle)
            self._end(exchange, None)
            return
        exchange.leased = False
        del self._exchanges[exchange]
        self._rest(connection)
        if self._observer is not None:
            self._tell_end(exchange, None)
        if self._empty is not None:
            self._look_whether_empty()

    def broken_off(self, exchange: Exchange, connection: Connection, reason: str) -> None:
        """Close the connection, after an exchange that is not complete."""
        connection.close(reason)
        if reason == "peer" and self._is_stale(exchange):
            return  # whoever waits for the response repeats it, in the same place
        if exchange.reader.has_head:
            exchange.counters.failures[reason] = exchange.counters.failures.get(reason, 0) + 1
            self._end(exchange, reason)

    # Idle connections.

    def _obstacle(self, connection: Connection, hint: int | None) -> str | None:
        """Note for how long a connection may be idle; or return why it may not."""
        expiry = self._limits.idle_expiry
        connection.rest = inf if expiry is None else expiry
        if hint is not None:
            connection.rest = min(connection.rest, hint - PATIENCE)
        if connection.rest <= 0:
            return "not reusable"
        return "lifetime" if self.timer.now() >= connection.ends else None

    def _rest(self, connection: Connection) -> None:
        """Give a connection to whoever waits, or let it be idle."""
        now = connection.idle_since = self.timer.now()
        due = min(now + connection.rest, connection.ends)
        if due != inf:
            self.timer.set(connection, due, now)
        books = self._books
        books.give_back(connection.origin, connection)
        if books.has_surplus:
            self._trim_later()

    def _trim(self) -> None:
        self._trimming = None
        self._books.trim(self.timer.now() - GRACE)
        self._trim_later()

    def _trim_later(self) -> None:
        if self._books.has_surplus and self._trimming is None:
            self._trimming = self.loop.call_later(GRACE, self._trim)

    def lost_idle(self, connection: Connection, reason: str) -> None:
        """Take note: an idle connection is closed."""
        self._books.strike_off(connection)

    def closed(self, connection: Connection, reason: str) -> None:
        """Take note, for the statistics."""
        if connection not in self._connections:
            return  # it ended while it was made
        connection.account()
        self._connections.discard(connection)
        closed = connection.counters.closed
        closed[reason] = closed.get(reason, 0) + 1
        if self._observer is not None:
            age = self.timer.now() - connection.since
            self._tell(ConnectionClosed(connection.counters.origin, reason, age, connection.exchanges))

    # What there is.

    def origins(self) -> dict[str, OriginStatistics]:
        """Return the statistics of each origin."""
        for connection in self._connections:
            connection.account()
        found = {}
        now = {origin.key: origin for origin in self._books.origins()}
        for key, counters in self._counters.items():
            origin = now.get(key)
            idle = 0 if origin is None else len(origin.idle)
            found[shown_key(key)] = statistics_of(
                counters,
                active=0 if origin is None else origin.open - idle,
                idle=idle,
                queued=0 if origin is None else origin.waiting,
            )
        return found

    @property
    def active(self) -> int:
        """Connections that carry an exchange, or are being opened for one."""
        return self._books.open - self._books.idle

    @property
    def idle(self) -> int:
        """Connections that wait for the next request."""
        return self._books.idle

    @property
    def queued(self) -> int:
        """Requests that wait for a connection."""
        return self._books.waiting

    def report(self, seconds: float, exchange: Exchange) -> str:
        """Return what an error about a full pool says: who has the connections."""
        per_host = self._limits.max_connections_per_host
        within = f"of the pool became free within {seconds:g} s"
        if per_host is not None and exchange.origin.open >= per_host:
            shown = shown_origin(exchange.counters.origin)
            within = (
                f"to {shown} became free within {seconds:g} s, of the {per_host} that max_connections_per_host allows"
            )
        now = self.timer.now()
        made, text = self._report
        if now - made > GRACE:  # ten thousand may time out together
            text = self._describe(now)
            self._report = (now, text)
        return f"no connection {within}; {text}"

    def _describe(self, now: float) -> str:
        count: dict[str, int] = {}
        for exchange in self._exchanges:
            shown = shown_origin(exchange.counters.origin)
            count[shown] = count.get(shown, 0) + 1
        most = sorted(count.items(), key=lambda item: -item[1])[:SHOWN]
        held = ", ".join(f"{number} by {shown}" for shown, number in most) or "none"
        oldest = [
            f"{exchange.request.method.decode()} {shown_origin(exchange.request.origin)} for {now - exchange.created_at:.1f} s "
            f"({exchange.described})"
            for exchange, _ in zip(self._exchanges, range(SHOWN), strict=False)
        ]
        limit = self._limits.max_connections
        return (
            f"{self._books.open} of {'any number' if limit is None else limit} are open, with {self._books.waiting} "
            f"in the queue; held: {held}; oldest: {'; '.join(oldest) or 'none'}. {self._advice()}"
        )

    def _advice(self) -> str:
        if 2 * len(self._tunnels) > self._books.open:
            return (
                "Most are open WebSockets or other tunnels, which keep theirs to the end: raise max_connections, or "
                "give them a client of their own."
            )
        return (
            "If responses are never closed, close them; if the upstream is slow, raise max_connections or the timeout."
        )

    # The end.

    async def drain(self, seconds: float) -> int:
        """Wait for the exchanges in flight, at most so long; return how many are left."""
        self._draining = True
        try:
            for tunnel in list(self._tunnels):
                tunnel.drain()
            await self._wait_until_empty(seconds)
        finally:
            self._draining = False
        return self.active + self.queued

    async def _wait_until_empty(self, seconds: float) -> None:
        if self.active or self.queued:
            if self._empty is None:
                self._empty = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self._empty)  # others may wait for it, too

    def _look_whether_empty(self) -> None:
        empty = self._empty
        if empty is not None and not self.active and not self.queued:
            self._empty = None
            empty.set_result(None)

    def close(self) -> None:
        """Close everything now; whoever waits is told. Harmless twice."""
        self.is_closed = True
        for turn in list(self._turns):
            turn.fail(ReadError("the pool was closed while the request waited for a connection"))
        for limit in self._connecting.values():
            if not limit.expired():
                limit.reschedule(self.loop.time())
        for tunnel in list(self._tunnels):
            tunnel.close()
        for exchange in list(self._exchanges):
            exchange.fail(ReadError("the pool was closed before the response was complete"), "shutdown")
        for connection in list(self._connections):
            self._books.strike_off(connection)
            connection.close("shutdown")
        if self._trimming is not None:
            self._trimming.cancel()
        self.timer.stop()

    def abandon(self) -> None:
        """Let go of the sockets of a loop that is closed, without touching the loop."""
        self.is_closed = True
        for connection in self._connections:
            connection.sock.close()


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@final
class _Turn(Alarm):
    """One request in the queue."""

    __slots__ = ("_exchange", "_pool", "future", "waiter")

    def __init__(self, pool: Pool, exchange: Exchange) -> None:
        super().__init__()
        self._pool = pool
        self._exchange = exchange
        self.future: asyncio.Future[None] = pool.loop.create_future()
        # A method of ours would be a circle.
        self.waiter = pool._books.wait(exchange.origin, partial(_wake, self.future))
        seconds = exchange.request.timeouts.pool
        if seconds is not None or exchange.end != inf:
            now = pool.timer.now()
            due = exchange.end if seconds is None else min(now + seconds, exchange.end)
            pool.timer.set(self, due, now)

    def fail(self, error: Exception) -> None:
        """End the wait."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self, now: float) -> None:
        """Act: the limit is over."""
        timeouts = self._exchange.request.timeouts
        if now + EARLY >= self._exchange.end:
            assert timeouts.total is not None
            self.fail(TotalTimeout(timeouts.total))
        elif not self.future.done():
            assert timeouts.pool is not None
            self.fail(PoolTimeout(self._pool.report(timeouts.pool, self._exchange)))
