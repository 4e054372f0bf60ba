"""A pooled httpx client in every FastAPI, Starlette and ASGI app: opened, injected, streamed and closed right."""

from .clients import ClientFactory
from .dependencies import ClientDep, get_client, named_client
from .engine import PoolStatistics
from .exceptions import (
    ClientClosed,
    ClientError,
    ClientNotStarted,
    FamilyNotInstalled,
    ForkedProcess,
    StateKeyConflict,
    UnknownClient,
    WrongEventLoop,
)
from .lifespan import ClientLifespan, create_lifespan
from .middleware import ClientMiddleware
from .proxy import (
    ProxyFailure,
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    StreamingProxyResponse,
    UpstreamAborted,
    UpstreamResponse,
)
from .settings import ClientSettings, LimitSettings, TimeoutSettings, TLSSettings
from .transports import pool_statistics
from .transports.httpx import PoolTransport

__all__ = (
    "ClientClosed",
    "ClientDep",
    "ClientError",
    "ClientFactory",
    "ClientLifespan",
    "ClientMiddleware",
    "ClientNotStarted",
    "ClientSettings",
    "FamilyNotInstalled",
    "ForkedProcess",
    "LimitSettings",
    "PoolStatistics",
    "PoolTransport",
    "ProxyFailure",
    "ProxyPolicy",
    "ProxyRequest",
    "ReverseProxy",
    "StateKeyConflict",
    "StreamingProxyResponse",
    "TLSSettings",
    "TimeoutSettings",
    "UnknownClient",
    "UpstreamAborted",
    "UpstreamResponse",
    "WrongEventLoop",
    "create_lifespan",
    "get_client",
    "named_client",
    "pool_statistics",
)
