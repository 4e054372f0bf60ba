"""What the application may say about a request and its answer: the hooks, and what they are given."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from ..messages import Header, Timeouts
from ._failures import ProxyFailure

__all__ = ("Hooks", "OnFailure", "OnRequest", "OnResponse", "ProxyRequest", "UpstreamResponse", "ask")


@final
class ProxyRequest:
    """
    A request on its way to the upstream, for ``on_request`` to read and change.

    Hop-by-hop headers are gone already, and what we say ourselves about the client is there.
    """

    method: str
    url: str
    """Where it goes, with the query; octet by octet what will be on the wire. May be replaced."""
    headers: MutableHeaders
    """What is sent, but for the framing; changed in place."""
    timeouts: Timeouts
    """Limits in seconds: ``request.timeouts = request.timeouts._replace(read=60)``."""
    inbound: Request
    """The client's request: its state, its address. Its body is being sent on, so hands off."""

    def __init__(self, method: str, url: str, headers: list[Header], timeouts: Timeouts, inbound: Request) -> None:
        self.method = method
        self.url = url
        self.headers = MutableHeaders(raw=headers)
        self.timeouts = timeouts
        self.inbound = inbound

    def __repr__(self) -> str:
        return f"<ProxyRequest [{self.method} {self.url.partition('?')[0]}]>"


class UpstreamResponse:
    """
    An upstream's answer on its way to the client, for ``on_response`` to read and change.

    Hop-by-hop headers are gone already. To rewrite the body, put another async iterator around it:
    ``response.body = upper(response.body)``. The ``Content-Length`` of a replaced body is dropped.

    The chunks are as on the wire. If the upstream might compress what you want to read, send it
    ``headers={"accept-encoding": "identity"}``.
    """

    status_code: int
    headers: MutableHeaders
    """Changed in place; repeated lines and bytes beyond ASCII are kept."""
    body: AsyncIterator[bytes]

    def __init__(self, status_code: int, headers: list[Header], body: AsyncIterator[bytes]) -> None:
        self.status_code = status_code
        self.headers = MutableHeaders(raw=headers)
        self.body = body


OnRequest = Callable[[ProxyRequest], Awaitable[ProxyRequest | Response | None] | ProxyRequest | Response | None]
"""Changes the request that it is given, or answers it at once; a function or an async one."""
OnResponse = Callable[
    [UpstreamResponse], Awaitable[UpstreamResponse | Response | None] | UpstreamResponse | Response | None
]
"""Changes the answer that it is given, or returns another one; a function or an async one."""
OnFailure = Callable[[ProxyRequest, ProxyFailure, Exception], Awaitable[Response | None] | Response | None]
"""Is told what went wrong before anything was sent to the client, and may answer; a function or an async one."""


@final
class Hooks:
    """Those of one door."""

    def __init__(
        self, on_request: OnRequest | None, on_response: OnResponse | None, on_failure: OnFailure | None
    ) -> None:
        """
        Take the hooks.

        Raises:
            TypeError: One cannot be called.
        """
        for name, hook in (("on_request", on_request), ("on_response", on_response), ("on_failure", on_failure)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} is {hook!r}, which cannot be called; give a function or an async one")
        self.on_request = on_request
        self.on_response = on_response
        self.on_failure = on_failure


async def ask(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook, and wait for it if it is an async one."""
    answer = hook(*arguments)
    return await answer if inspect.isawaitable(answer) else answer
