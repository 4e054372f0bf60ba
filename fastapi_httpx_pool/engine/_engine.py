"""
Step 8 of a request: the engine carries it, in the pool of the event loop that it is sent in.

Connections belong to one event loop and one process. So there is a pool for each loop, and after a
fork the child begins anew and leaves its parent's sockets alone.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable
from typing import Any, final

from ..events import Observer
from ..exceptions import ClientClosed
from ..messages import Request, Response
from ._connect import ConnectOptions
from ._pool import Limits, Pool
from ._statistics import PoolStatistics

__all__ = ("Engine",)


@final
class Engine:
    """
    An HTTP/1.1 client without the comfort: a ``Handler`` of requests in plain bytes.

    It can be used in several event loops, and each has connections and limits of its own there.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        options: ConnectOptions | None = None,
        observer: Observer | None = None,
        *,
        retry: bool = True,
    ) -> None:
        """
        Nothing is opened yet.

        Args:
            limits: How many connections.
            options: How they are made.
            observer: Called with each event.
            retry: Repeat a request once, on a new connection, if a reused one turned out to be dead
                before any byte of the response, the method is idempotent, and the body in memory.
        """
        self._limits = Limits() if limits is None else limits
        self._options = ConnectOptions() if options is None else options
        self._observer = observer
        self._retry = retry
        self._current: Pool | None = None
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}
        self._lock = threading.Lock()
        self._closed = False
        _engines.add(self)

    def __call__(self, request: Request) -> Awaitable[Response]:
        """
        Send a request, and give its response as soon as the head is there.

        Raises:
            AddressForbidden: The upstream has no address that may be connected to.
            ConnectError: No connection could be made.
            ConnectTimeout: Not within ``timeouts.connect`` seconds.
            PoolTimeout: No connection became free within ``timeouts.pool`` seconds.
            WriteTimeout: The upstream took nothing for ``timeouts.write`` seconds.
            ReadTimeout: It sent nothing for ``timeouts.read`` seconds.
            TotalTimeout: The exchange was not complete within ``timeouts.total`` seconds.
            ReadError, WriteError: The connection broke.
            LocalProtocolError: The request is none; nothing was sent.
            RemoteProtocolError: The response is none.
            UnsupportedProtocol: Neither http nor https.
            ClientClosed: The engine is closed.
        """
        loop = asyncio.get_running_loop()
        pool = self._current
        if pool is None or pool.loop is not loop:
            pool = self._pool_of(loop)
        return pool.send(request)

    def _pool_of(self, loop: asyncio.AbstractEventLoop) -> Pool:
        with self._lock:
            if self._closed:
                raise ClientClosed("transport's")
            pool = self._pools.get(loop)
            if pool is None:
                for other in [other for other in self._pools if other.is_closed()]:
                    self._pools.pop(other).abandon()
                pool = self._pools[loop] = Pool(loop, self._limits, self._options, self._observer, retry=self._retry)
            self._current = pool
        return pool

    def statistics(self) -> PoolStatistics:
        """Return a snapshot of this loop's pool; outside of a loop, or before its first request, of none."""
        pool = self._here()
        return PoolStatistics(
            engine="native",
            max_connections=self._limits.max_connections,
            active=0 if pool is None else pool.active,
            idle=0 if pool is None else pool.idle,
            queued=0 if pool is None else pool.queued,
            origins={} if pool is None else pool.origins(),
        )

    async def drain(self, seconds: float) -> int:
        """Wait for the exchanges in flight in this loop, at most so long; return how many are left."""
        pool = self._here()
        return 0 if pool is None else await pool.drain(seconds)

    async def aclose(self) -> None:
        """Close all connections; whoever waits for a response is told. Waits for no peer. Harmless twice."""
        self.close()

    def close(self) -> None:
        """Do what ``aclose`` does, from any thread; another loop's connections follow in that loop's next turn."""
        here = self._here()
        with self._lock:
            self._closed = True
            pools, self._pools, self._current = list(self._pools.values()), {}, None
        for pool in pools:
            if pool is here:
                pool.close()
            else:
                try:
                    pool.loop.call_soon_threadsafe(pool.close)
                except RuntimeError:  # the loop is closed
                    pool.abandon()

    def _here(self) -> Pool | None:
        try:
            return self._pools.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    def _forget(self) -> None:
        """Begin anew in a forked child."""
        # The parent's loop is still there in the child, and so must be what it knows: dropping a
        # transport would take its socket out of the poll set that both share.
        _left_behind.append(self._pools)
        self._pools = {}
        self._current = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        if self._closed:
            return "<Engine [closed]>"
        found = self.statistics()
        limit = "any number" if found.max_connections is None else found.max_connections
        return f"<Engine [{found.active} active, {found.idle} idle, {found.queued} queued, of {limit}]>"


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_left_behind: list[Any] = []


def _forget_all() -> None:
    for engine in list(_engines):
        engine._forget()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- Windows cannot fork
    os.register_at_fork(after_in_child=_forget_all)
