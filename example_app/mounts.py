"""What is mounted: a whole site under a path of the application."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from fastapi_httpx_pool import ProxyFailure, ProxyPolicy, ProxyRequest, ReverseProxy

from .settings import ExampleSettings

__all__ = ("mount_site", "tell_full_house")


def mount_site(app: FastAPI, settings: ExampleSettings) -> None:
    """
    Mount a whole site.

    Every request under `/site` goes to the upstream, with any method, octet by octet, and the
    answer streams back; WebSockets, too. Nothing reaches outside of the upstream's base, however it
    is spelled. The site checks itself: it must not see whether there is a proxy. Its client is its
    own: each open chat keeps a connection, and none of those is missing elsewhere.
    """
    policy = ProxyPolicy(
        rewrite_location=True,
        rewrite_cookies=True,
        server_timing=True,
    )
    site = ReverseProxy(
        settings.upstream,
        client="site",
        policy=policy,
        on_failure=tell_full_house,
    )
    app.mount("/site", site)


def tell_full_house(
    request: ProxyRequest,
    failure: ProxyFailure,
    error: Exception,
) -> Response | None:
    """Answer visitors for whom no connection is left, and leave all other failures to the proxy."""
    if failure is not ProxyFailure.POOL_FULL:
        return None
    return PlainTextResponse(
        "All places are taken. Please come back soon.",
        status_code=503,
        headers={"retry-after": "5"},
    )
