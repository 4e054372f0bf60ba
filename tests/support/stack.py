"""A server and a client family, and the plainest app between a raw client and an upstream."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request

from fastapi_httpx_pool import ClientSettings, LimitSettings, StreamingProxyResponse, create_lifespan
from tests.support.hypercorn_server import serving_hypercorn
from tests.support.server import serving

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
POOL_OF_ONE = LimitSettings(max_connections=1, max_keepalive_connections=1)

Respond = Callable[[Request], Any]
"""What makes the response for a request; sync or async."""


def target_of(request: Request) -> str:
    """Return the request's target as it was on the wire; a FastAPI path parameter is decoded."""
    path = request.scope["raw_path"].decode("utf-8", "surrogateescape")
    query = request.scope["query_string"].decode("utf-8", "surrogateescape")
    return f"{path}?{query}" if query else path


def app_of(respond: Respond, settings: ClientSettings, **options: Any) -> FastAPI:
    """Return an app that answers every request in one way."""
    app = FastAPI(lifespan=create_lifespan(settings, **options), openapi_url=None)
    app.add_api_route("/{path:path}", respond, methods=METHODS, response_model=None)
    return app


@dataclass(frozen=True)
class Stack:
    """What a test runs on."""

    server: str
    family: Any

    def settings(self, **options: Any) -> ClientSettings:
        """Return settings of the stack's family, deaf to the machine's proxy variables."""
        return ClientSettings(**{"family": self.family, "trust_env": False, **options})

    @contextmanager
    def serve(self, app: Any) -> Iterator[int]:
        """Serve an app for a block and give its port."""
        if self.server == "hypercorn":
            with serving_hypercorn(app) as port:
                yield port
            return
        loop = "uvloop" if self.server == "uvloop" else "asyncio"
        parser = "h11" if self.server == "h11" else "httptools"
        # uvicorn would believe X-Forwarded-For from 127.0.0.1, where all clients of the tests are.
        with serving(app, http=parser, loop=loop, proxy_headers=False) as running:  # type: ignore[arg-type]  # checked above
            yield running.port

    @contextmanager
    def routing(self, respond: Respond, settings: ClientSettings | None = None) -> Iterator[int]:
        """Serve an app that answers every request in one way."""
        with self.serve(app_of(respond, settings or self.settings())) as port:
            yield port

    @contextmanager
    def proxying(self, url: str, settings: ClientSettings | None = None, **options: Any) -> Iterator[int]:
        """Serve an app that passes every request on to the same path of an upstream."""

        async def respond(request: Request) -> StreamingProxyResponse:
            return StreamingProxyResponse(request, url + target_of(request), **options)

        with self.routing(respond, settings) as port:
            yield port


SECOND_FAMILY = "httpx2" if importlib.util.find_spec("httpx2") else "httpx"
"""The suite also runs where only httpx is installed."""

UVICORN = [Stack("httptools", "httpx"), Stack("h11", SECOND_FAMILY)]
EVERY_SERVER = [*UVICORN, Stack("uvloop", SECOND_FAMILY), Stack("hypercorn", "httpx")]
