"""A ReverseProxy before an upstream, behind each of its doors and under each server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from fastapi_httpx_pool import (
    ClientSettings,
    LimitSettings,
    ProxyPolicy,
    ReverseProxy,
    TimeoutSettings,
    create_lifespan,
)
from tests.support.granian_server import serving_granian
from tests.support.hypercorn_server import serving_hypercorn
from tests.support.server import serving
from tests.support.stack import METHODS

UVICORN = ("httptools", "h11")
"""uvicorn's two parsers: what most rows run under."""
EVERY_SERVER = (*UVICORN, "hypercorn", "granian")
"""For rows where the server matters."""

DOORS = ("alone", "mounted", "route")


@contextmanager
def serving_by(server: str, app: Any) -> Iterator[int]:
    """Serve an app for a block and give its port."""
    if server == "hypercorn":
        with serving_hypercorn(app) as port:
            yield port
    elif server == "granian":
        with serving_granian(app) as port:
            yield port
    else:
        # uvicorn would believe X-Forwarded-For from 127.0.0.1, where all clients of the tests are.
        with serving(app, http=server, proxy_headers=False) as running:  # type: ignore[arg-type]  # a name
            yield running.port


def settings_of(**options: Any) -> ClientSettings:
    """Return settings that are deaf to the machine's proxy variables."""
    return ClientSettings(**{"trust_env": False, **options})


def _itself(app: Any) -> Any:
    return app


@contextmanager
def proxied(
    upstream: str,
    server: str = "httptools",
    *,
    door: str = "alone",
    prefix: str = "/p",
    settings: ClientSettings | None = None,
    on_request: Any = None,
    on_response: Any = None,
    on_failure: Any = None,
    around: Callable[[Any], Any] = _itself,
    **policy: Any,
) -> Iterator[int]:
    """
    Serve a ReverseProxy before an upstream for a block and give its port.

    Args:
        upstream: Its URL, with the base path.
        server: One of ``EVERY_SERVER``.
        door: ``alone`` under the server; ``mounted`` in a FastAPI app at the prefix; or ``route``: a
            FastAPI route at the prefix that returns ``proxy.response(request)``.
        prefix: Where it is mounted.
        settings: Of the client.
        on_request: Hook.
        on_response: Hook.
        on_failure: Hook.
        around: Makes of the app what is served: an app around it, which looks at what passes.
        policy: Fields of the ``ProxyPolicy``.
    """
    hooks = {"on_request": on_request, "on_response": on_response, "on_failure": on_failure}
    rules = ProxyPolicy(**policy)
    settings = settings or settings_of()
    if door == "alone":
        with serving_by(server, around(ReverseProxy(upstream, settings=settings, policy=rules, **hooks))) as port:
            yield port
        return
    app = FastAPI(lifespan=create_lifespan(settings), openapi_url=None)
    proxy = ReverseProxy(upstream, policy=rules, **hooks)
    if door == "mounted":
        app.mount(prefix, proxy)
    else:

        async def respond(request: Request) -> Response:
            return proxy.response(request, prefix=prefix)

        app.add_api_route(prefix + "{path:path}", respond, methods=METHODS, response_model=None)
    with serving_by(server, around(app)) as port:
        yield port


POOL_OF_ONE = LimitSettings(max_connections=1, max_keepalive_connections=1)


def hasty(**seconds: float) -> ClientSettings:
    """Return settings with short timeouts, for limits that are to be reached."""
    return settings_of(timeout=TimeoutSettings(**seconds))
