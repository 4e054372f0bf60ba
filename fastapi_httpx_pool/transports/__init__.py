"""
Where a client's family ends and the family-neutral core begins.

Each family has a module of its own with its ``PoolTransport``; what they share is here. Objects of
one family never reach the other.
"""

from ._capacity import Capacity, capacity_of
from ._client import PooledClient
from ._family import Family, family_named, family_of
from ._reverse import handler_for, response_over
from ._statistics import pool_statistics
from ._streams import NetworkStream, network_stream_of

__all__ = (
    "Capacity",
    "Family",
    "NetworkStream",
    "PooledClient",
    "capacity_of",
    "family_named",
    "family_of",
    "handler_for",
    "network_stream_of",
    "pool_statistics",
    "response_over",
)
