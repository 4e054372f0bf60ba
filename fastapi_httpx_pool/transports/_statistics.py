"""What a client's pool is doing, for whoever has the client only."""

from typing import Any

from ..engine import PoolStatistics
from ._client import PooledClient
from ._family import family_of
from ._transport import HandlerTransport

__all__ = ("pool_statistics",)


def pool_statistics(client: Any) -> PoolStatistics:
    """
    Return a snapshot of a client's connections, and of what they have carried.

    Args:
        client: An injected client, or one made with ``transport=PoolTransport()``. What it sends
            through forward proxies is not in it.

    Raises:
        TypeError: Its transport is not this package's.
    """
    family_of(client)
    if isinstance(client, PooledClient):
        return client.pool_statistics()
    transport = client._transport
    if isinstance(transport, HandlerTransport):
        return transport.statistics()
    raise TypeError(
        f"{client!r} sends through {transport!r}, which keeps no statistics; inject the client with ClientDep, "
        "or make it with httpx.AsyncClient(transport=PoolTransport())"
    )
