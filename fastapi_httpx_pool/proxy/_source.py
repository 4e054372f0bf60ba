"""Where an answer comes from: the inbound request sent on, or a response that a route has opened."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

from .. import messages
from ..exceptions import ClientClosed, TransportError
from ..messages import Header, Origin
from ..transports import response_over
from ._hooks import ProxyRequest
from ._inbound import Inbound

__all__ = ("NOT_THEIRS", "HookFailed", "Informed", "Opened", "Source", "Where")

Informed = Callable[[int, list[Header]], None]
"""Is told of informational responses."""


class HookFailed(Exception):
    """A hook raised what is its cause."""


NOT_THEIRS = (TransportError, ClientClosed, ClientDisconnect)
"""What a hook that reads a body meets, and lets through."""


class Where(NamedTuple):
    """One place upstream."""

    origin: Origin
    host: bytes
    """For the ``Host`` line."""
    target: bytes

    @property
    def origin_url(self) -> str:
        """The URL without path and query."""
        return f"{self.origin.scheme.decode('ascii')}://{self.host.decode('ascii')}"

    @property
    def url(self) -> str:
        """All of it, octet by octet."""
        return self.origin_url + self.target.decode("latin-1")


class Source(Protocol):
    """Gets one upstream response."""

    method: str
    """Of the upstream's request."""
    asked_at: float
    """When it was asked, by ``perf_counter``."""
    must_close: bool
    """Whether the client's connection must not carry another request."""

    @property
    def url(self) -> str:
        """Where it comes from, for the log."""
        ...

    def inbound(self, receive: Receive) -> Inbound:
        """Return the inbound side."""
        ...

    async def open(self, inbound: Inbound, informed: Informed | None) -> messages.Response | Response:
        """
        Get it; or what is to be answered instead.

        Raises:
            TargetRefused: The URL leads where the route did not mean it to.
            RequestRefused: The request is not one that is sent on.
            LoopDetected: It has been here before.
            HookFailed: What ``on_request`` raised is the cause.
            TransportError: The upstream could not be reached, or did not answer.
        """
        ...

    def shown(self) -> ProxyRequest | None:
        """Return the request as hooks see it, as far as there is one."""
        ...


@final
class Opened:
    """A response of either family that is open already."""

    asked_at = 0.0
    must_close = False

    def __init__(self, response: Any) -> None:
        self._response = response_over(response)
        try:
            self.method: str = response.request.method
            self.url: str = str(response.request.url)
        except RuntimeError:  # made by hand, without a request
            self.method, self.url = "GET", ""

    def inbound(self, receive: Receive) -> Inbound:
        """Return a side of which nobody wants the body."""
        return Inbound(receive, body=None, expected=False)

    async def open(self, inbound: Inbound, informed: Informed | None) -> messages.Response:
        """Return it."""
        return self._response

    def shown(self) -> None:
        """Return None: nothing was sent on."""
