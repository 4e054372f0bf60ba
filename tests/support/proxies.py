"""A ReverseProxy before an upstream, behind each of its doors and under each server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from starlette.responses import Response

from fastapi_httpx_pool import (
    ClientSettings,
    LimitSettings,
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    TimeoutSettings,
    create_lifespan,
    proxy_websocket,
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

WEBSOCKETS = {"sansio": "websockets-sansio", "legacy": "websockets", "wsproto": "wsproto"}
"""uvicorn's implementations of WebSockets, each as a server of its own."""
WEBSOCKET_SERVERS = (*WEBSOCKETS, "hypercorn", "granian")
WEBSOCKET_DOORS = (*DOORS, "helper")


@contextmanager
def serving_by(server: str, app: Any, *, largest: int | None = None) -> Iterator[int]:
    """
    Serve an app for a block and give its port.

    Args:
        server: One of ``EVERY_SERVER`` or of ``WEBSOCKET_SERVERS``.
        app: What to serve.
        largest: Bytes that the server takes in one message of a WebSocket, if it can be told.
    """
    if server == "hypercorn":
        with serving_hypercorn(app, largest=largest) as port:
            yield port
    elif server == "granian":
        with serving_granian(app, websockets=server in WEBSOCKET_SERVERS and largest is None) as port:
            yield port
    elif server in WEBSOCKETS:
        sizes = {} if largest is None else {"ws_max_size": largest}
        with serving(app, ws=WEBSOCKETS[server], proxy_headers=False, **sizes) as running:  # type: ignore[arg-type]  # a name
            yield running.port
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
    largest: int | None = None,
    **policy: Any,
) -> Iterator[int]:
    """
    Serve a ReverseProxy before an upstream for a block and give its port.

    Args:
        upstream: Its URL, with the base path.
        server: One of ``EVERY_SERVER``, or of ``WEBSOCKET_SERVERS``, which serve WebSockets, too.
        door: ``alone`` under the server; ``mounted`` in a FastAPI app at the prefix; or ``route``: a
            FastAPI route at the prefix that returns ``proxy.response(request)``, and one that awaits
            ``proxy.websocket(websocket)``; or ``helper``: one that awaits ``proxy_websocket``.
        prefix: Where it is mounted.
        settings: Of the client.
        on_request: Hook.
        on_response: Hook.
        on_failure: Hook.
        around: Makes of the app what is served: an app around it, which looks at what passes.
        largest: As in ``serving_by``.
        policy: Fields of the ``ProxyPolicy``.
    """
    hooks = {"on_request": on_request, "on_response": on_response, "on_failure": on_failure}
    rules = ProxyPolicy(**policy)
    settings = settings or settings_of()
    if door == "alone":
        app = ReverseProxy(upstream, settings=settings, policy=rules, **hooks)
        with serving_by(server, around(app), largest=largest) as port:
            yield port
        return
    routes = FastAPI(lifespan=create_lifespan(settings), openapi_url=None)
    proxy = ReverseProxy(upstream, policy=rules, **hooks)
    if door == "mounted":
        routes.mount(prefix, proxy)
    elif door == "helper":

        async def relay_to(websocket: WebSocket) -> None:
            await proxy_websocket(websocket, upstream + _rest_of(websocket, prefix), policy=rules, **hooks)

        routes.add_api_websocket_route(prefix + "{path:path}", relay_to)
    else:

        async def respond(request: Request) -> Response:
            return proxy.response(request, prefix=prefix)

        async def relay(websocket: WebSocket) -> None:
            await proxy.websocket(websocket, prefix=prefix)

        routes.add_api_route(prefix + "{path:path}", respond, methods=METHODS, response_model=None)
        routes.add_api_websocket_route(prefix + "{path:path}", relay)
    with serving_by(server, around(routes), largest=largest) as port:
        yield port


def _rest_of(websocket: WebSocket, prefix: str) -> str:
    """Return path and query as they came, without the prefix."""
    scope = websocket.scope
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return str(path.removeprefix(prefix)) + ("?" + query if query else "")


POOL_OF_ONE = LimitSettings(max_connections=1, max_keepalive_connections=1)


def impatient(request: ProxyRequest) -> None:
    """Let requests for ``/impatient`` not wait for long in the pool's queue; a hook."""
    if request.url.endswith("/impatient"):
        request.timeouts = request.timeouts._replace(pool=0.1)


def hasty(**seconds: float) -> ClientSettings:
    """Return settings with short timeouts, for limits that are to be reached."""
    return settings_of(timeout=TimeoutSettings(**seconds))
