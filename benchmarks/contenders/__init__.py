"""
Who is compared. Each entry is one row of the table.

The apps are modules beside this one; nothing of them is imported here, so a contender whose package
is missing is skipped with that reason. All may open 100 connections to the upstream.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

from ._programs import Place, Unavailable, go, nginx, reply_from

__all__ = ("ALL", "BASE", "SHORT", "WEBSOCKETS", "WEBSOCKETS_BASE", "Contender", "Place", "Unavailable")

BASE = "httpx"
"""What the others are compared with, unless something else is asked for."""

WEBSOCKETS_BASE = "aiohttp"
"""What the others are compared with when they relay WebSockets."""

_SECONDS_FOR_GOODBYE = "1"


@final
@dataclass(frozen=True)
class Contender:
    """A server that passes requests on to an upstream, or answers itself."""

    name: str
    what: str
    prepare: Callable[[Place], list[str]]
    needs: tuple[str, ...] = ()
    one_origin: bool = False

    def command(self, place: Place) -> list[str]:
        """
        Return the command that starts it.

        Raises:
            Unavailable: It cannot run here.
        """
        missing = [package for package in self.needs if find_spec(package) is None]
        if missing:
            raise Unavailable(f"{' and '.join(missing)} not installed")
        if self.one_origin and len(place.origins) > 1:
            raise Unavailable("it has one origin only")
        return self.prepare(place)


def _uvicorn(app: str, websockets: str = "none") -> Callable[[Place], list[str]]:
    """Return what starts an app with the options that all apps here have."""

    def prepare(place: Place) -> list[str]:
        command = [sys.executable, "-m", "uvicorn", f"{__name__}.{app}", "--host", "127.0.0.1"]
        command += ["--port", str(place.port), "--http", "httptools", "--ws", websockets, "--no-access-log"]
        command += ["--loop", "uvloop" if find_spec("uvloop") else "asyncio", "--log-level", "error"]
        return [*command, "--timeout-graceful-shutdown", _SECONDS_FOR_GOODBYE]

    return prepare


def _app(name: str, what: str, app: str, *needs: str, one_origin: bool = False) -> Contender:
    return Contender(name, what, _uvicorn(app), ("uvicorn", "httptools", *needs), one_origin)


def _websocket_app(name: str, what: str, app: str, *needs: str) -> Contender:
    start = _uvicorn(app, "websockets-sansio")
    return Contender(name, what, start, ("uvicorn", "httptools", "websockets", *needs), one_origin=True)


def _aiohttp_loop(place: Place) -> list[str]:
    return [sys.executable, "-m", f"{__name__}.loop_aiohttp", str(place.port)]


ALL = (
    _app("asgi", "a bare ASGI app that asks nobody", "bare_asgi:app"),
    _app("fastapi", "a FastAPI route that asks nobody", "bare_fastapi:app"),
    _app("httpx", "the recipe: `client.get` of httpx in a FastAPI route", "recipe_httpx:call"),
    _app("httpx2", "the recipe with httpx2", "recipe_httpx2:call", "httpx2"),
    _app("httpx-aiohttp", "the recipe with aiohttp under httpx", "recipe_httpx_aiohttp:call", "httpx_aiohttp"),
    _app("pyreqwest", "the recipe with pyreqwest under httpx", "recipe_pyreqwest:call", "pyreqwest"),
    _app("aiohttp", "aiohttp by hand in a FastAPI route", "by_hand_aiohttp:call", "aiohttp"),
    _app("ours-httpx", "this package: `client.get` through `ClientDep`", "ours_httpx:call"),
    _app("ours-httpx2", 'this package with `family="httpx2"`', "ours_httpx2:call", "httpx2"),
    _app("httpx-stream", "the streaming recipe with httpx", "recipe_httpx:stream"),
    _app("httpx2-stream", "the streaming recipe with httpx2", "recipe_httpx2:stream", "httpx2"),
    _app("aiohttp-stream", "aiohttp by hand, streamed", "by_hand_aiohttp:stream", "aiohttp"),
    _app("proxy-lib", "fastapi-proxy-lib", "proxy_lib:app", "fastapi_proxy_lib", one_origin=True),
    _app("ours-stream", "this package: `StreamingProxyResponse`", "ours_httpx:stream"),
    _app("ours-mounted", "this package: `ReverseProxy` mounted in FastAPI", "ours_proxy:mounted", one_origin=True),
    _app("ours-proxy", "this package: `ReverseProxy` alone", "ours_proxy:alone", one_origin=True),
    Contender("reply-from", "Fastify's reply-from", reply_from),
    Contender("go", "Go's `httputil.ReverseProxy`", go),
    Contender("nginx", "nginx, one process", nginx),
)

SHORT = (
    "fastapi",
    "httpx",
    "httpx2",
    "httpx-aiohttp",
    "aiohttp",
    "ours-httpx",
    "ours-httpx2",
    "aiohttp-stream",
    "ours-stream",
    "ours-proxy",
    "go",
)
"""For ``make bench``."""

WEBSOCKETS = (
    _websocket_app("asgi", "a bare ASGI app that echoes itself", "bare_asgi:echo"),
    _websocket_app("websockets", "the recipe: `websockets.connect` in a FastAPI route", "recipe_websockets:app"),
    _websocket_app("proxy-lib", "fastapi-proxy-lib", "proxy_lib:websockets", "fastapi_proxy_lib"),
    Contender(
        "aiohttp", "aiohttp by hand: its server, its client, two tasks", _aiohttp_loop, ("aiohttp",), one_origin=True
    ),
    _websocket_app("ours-route", "this package: `proxy_websocket` in a FastAPI route", "ours_websocket:route"),
    _websocket_app("ours-mounted", "this package: `ReverseProxy` mounted in FastAPI", "ours_proxy:mounted"),
    _websocket_app("ours-proxy", "this package: `ReverseProxy` alone", "ours_proxy:alone"),
    Contender("go", "Go's `httputil.ReverseProxy`", go),
    Contender("nginx", "nginx, one process", nginx),
)
"""Who relays WebSockets."""
