"""asgi-proxy-lib, which knows no prefix: it is taken off before."""

from asgi_proxy import asgi_proxy  # type: ignore[import-untyped]  # it has no types
from starlette.types import Receive, Scope, Send

from . import BASE, PREFIX
from ._addresses import LIMIT, ORIGIN

__all__ = ("app",)

_proxy = asgi_proxy(ORIGIN + BASE, timeout=LIMIT)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass on what is under the prefix."""
    await _proxy({**scope, "path": scope.get("path", "").removeprefix(PREFIX)}, receive, send)
