"""What is mounted: a whole site under a path of the application."""

from fastapi import FastAPI

from fastapi_httpx_pool import ProxyPolicy, ReverseProxy

from .settings import ExampleSettings

__all__ = ("mount_site",)


def mount_site(app: FastAPI, settings: ExampleSettings) -> None:
    """
    Mount a whole site.

    Every request under `/site` goes to the upstream, with any method, octet by octet, and the
    answer streams back; WebSockets, too. Nothing reaches outside of the upstream's base, however it
    is spelled. The site checks itself: it must not see whether there is a proxy.
    """
    policy = ProxyPolicy(
        rewrite_location=True,
        rewrite_cookies=True,
        server_timing=True,
    )
    app.mount("/site", ReverseProxy(settings.upstream, policy=policy))
