"""Where the clients are opened, beside what the application itself keeps while it runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastapi_httpx_pool import ClientLifespan, create_lifespan

from .settings import ExampleSettings

__all__ = ("make_lifespan",)


def make_lifespan(settings: ExampleSettings) -> ClientLifespan:
    """Return a lifespan that opens all clients and then enters the application's own."""

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, ExampleSettings]]:
        yield {"settings": settings}

    return create_lifespan(
        settings.shared_client(),
        clients={"slow": settings.slow_client(), "site": settings.site_client()},
        lifespan=own,
    )
