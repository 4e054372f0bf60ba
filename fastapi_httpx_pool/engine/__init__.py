"""
An HTTP/1.1 connection pool on asyncio and llhttp, family-neutral and framework-free.

A request's way: ``_engine`` finds the loop's pool, ``_pool`` a connection by the books of
``_bookkeeping`` (or has ``_connect`` make one), ``_exchange`` writes and reads on ``_connection``
what ``_wire`` turns into bytes and back. ``_addresses`` says where connections may go; ``_timer``,
``_statistics`` and ``_tracing`` watch.
"""

from ._addresses import AddressRule, IPAddress, allowing
from ._connect import ConnectOptions, SocketOption
from ._engine import Engine
from ._pool import Limits
from ._statistics import Histogram, OriginStatistics, PoolStatistics
from ._tunnel import Tunnel

__all__ = (
    "AddressRule",
    "ConnectOptions",
    "Engine",
    "Histogram",
    "IPAddress",
    "Limits",
    "OriginStatistics",
    "PoolStatistics",
    "SocketOption",
    "Tunnel",
    "allowing",
)
