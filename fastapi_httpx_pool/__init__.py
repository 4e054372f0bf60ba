"""A pooled httpx client in every FastAPI, Starlette and ASGI app: opened, injected, streamed and closed right."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .clients import ClientFactory
    from .dependencies import ClientDep, get_client, named_client
    from .engine import PoolStatistics
    from .exceptions import (
        CalledInEventLoop,
        ClientClosed,
        ClientError,
        ClientNotStarted,
        FamilyNotInstalled,
        FanOutError,
        ForkedProcess,
        StateKeyConflict,
        UnknownClient,
        WrongEventLoop,
    )
    from .fanout import Arrivals, MergedStreamResponse, Outcome, StreamPart, as_completed, fan_out, merge_streams
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
        proxy_websocket,
    )
    from .settings import ClientSettings, LimitSettings, TimeoutSettings, TLSSettings
    from .sync import SyncClient, SyncClientDep, get_sync_client, named_sync_client
    from .transports import pool_statistics
    from .transports.httpx import PoolTransport
else:
    # pytest imports this package wherever it is installed, because of the plugin; who uses nothing of it
    # should not wait for httpx and FastAPI. So the modules are imported when the first name is asked for.
    _MODULES = (
        "clients",
        "dependencies",
        "engine",
        "exceptions",
        "fanout",
        "lifespan",
        "middleware",
        "proxy",
        "settings",
        "sync",
        "transports",
        "transports.httpx",
    )

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        modules = (importlib.import_module(f"{__name__}.{module}") for module in _MODULES)
        found = globals()[name] = next(getattr(module, name) for module in modules if name in module.__all__)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = (
    "Arrivals",
    "CalledInEventLoop",
    "ClientClosed",
    "ClientDep",
    "ClientError",
    "ClientFactory",
    "ClientLifespan",
    "ClientMiddleware",
    "ClientNotStarted",
    "ClientSettings",
    "FamilyNotInstalled",
    "FanOutError",
    "ForkedProcess",
    "LimitSettings",
    "MergedStreamResponse",
    "Outcome",
    "PoolStatistics",
    "PoolTransport",
    "ProxyFailure",
    "ProxyPolicy",
    "ProxyRequest",
    "ReverseProxy",
    "StateKeyConflict",
    "StreamPart",
    "StreamingProxyResponse",
    "SyncClient",
    "SyncClientDep",
    "TLSSettings",
    "TimeoutSettings",
    "UnknownClient",
    "UpstreamAborted",
    "UpstreamResponse",
    "WrongEventLoop",
    "as_completed",
    "create_lifespan",
    "fan_out",
    "get_client",
    "get_sync_client",
    "merge_streams",
    "named_client",
    "named_sync_client",
    "pool_statistics",
    "proxy_websocket",
)
