"""How much a client's pool can carry at once, as far as that can be told from outside."""

import sys
from typing import Any, NamedTuple

from ._client import PooledClient

__all__ = ("Capacity", "capacity_of")


class Capacity(NamedTuple):
    """What a client's pool can carry at once; None is no limit, or one that cannot be read."""

    connections: int | None
    per_host: int | None
    """Exchanges with one origin."""
    shared: bool
    """Whether several exchanges may share a connection, as HTTP/2 has it."""


def capacity_of(client: Any) -> Capacity:
    """
    Return what a client of either family can carry.

    One with several transports (mounts, proxies) can carry what the smallest of them can.
    """
    # Private in both families. A mock, or somebody's own transport, has no pool; a release that has it in
    # another place has none that could be read.
    transports = [getattr(client, "_transport", None), *getattr(client, "_mounts", {}).values()]
    pools = [getattr(transport, "_pool", None) for transport in transports]
    limits = [getattr(pool, "_max_connections", None) for pool in pools]
    return Capacity(
        connections=min(
            (limit for limit in limits if isinstance(limit, int) and 0 < limit < sys.maxsize), default=None
        ),
        per_host=_per_host(client, transports[0]),
        shared=any(getattr(pool, "_http2", False) for pool in pools),
    )


def _per_host(client: Any, transport: Any) -> int | None:
    if isinstance(client, PooledClient):
        return client.pool_settings.limits.max_connections_per_host
    engine = getattr(transport, "_engine", None)
    limits = getattr(engine, "_limits", None)
    found: int | None = getattr(limits, "max_connections_per_host", None)
    return found
