"""
What tests of an app need: an upstream, other clients, the app's lifespan, and guards.

The fixtures of ``fastapi_httpx_pool.pytest_plugin`` are made of these; they work without pytest, too.
"""

from ._connection import UpstreamConnection
from ._leaks import LeaksFound, forbid_leaks
from ._lifespan import lifespan_client
from ._messages import Reply, UpstreamRequest
from ._network import NetworkForbidden, NetworkUsed, forbid_network
from ._override import client_override
from ._routes import Route
from ._upstream import Upstream

__all__ = (
    "LeaksFound",
    "NetworkForbidden",
    "NetworkUsed",
    "Reply",
    "Route",
    "Upstream",
    "UpstreamConnection",
    "UpstreamRequest",
    "client_override",
    "forbid_leaks",
    "forbid_network",
    "lifespan_client",
)
