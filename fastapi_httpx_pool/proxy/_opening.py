"""The opening handshake of a WebSocket, sent on: a GET whose answer may switch to another protocol."""

from collections.abc import AsyncIterable
from typing import Any, final

from starlette.types import Receive

from .. import messages
from ..messages import Header
from ._admission import RequestRefused
from ._failures import ProxyFailure
from ._forwarded import Forwarded
from ._handshake import Handshake
from ._headers import sift
from ._hooks import ProxyRequest
from ._inbound import Inbound
from ._target import Target, http_url, parse_target

__all__ = ("Opening", "parse_websocket_target")


def parse_websocket_target(url: str, *, strict: bool = False) -> Target:
    """Take a URL apart as ``parse_target`` does."""
    return parse_target(http_url(url), strict=strict)


@final
class Opening(Forwarded):
    """The request that a WebSocket begins as, sent on."""

    def __init__(self, handshake: Handshake, *request: Any, **options: Any) -> None:
        """Take the handshake with the upstream, and what ``Forwarded`` takes."""
        self._handshake = handshake
        super().__init__(*request, **options)

    def inbound(self, receive: Receive) -> Inbound:
        """Return a side of which nobody wants a body."""
        return Inbound(receive, body=None, expected=False)

    def _sifted(self, inbound: list[Header]) -> tuple[list[Header], dict[bytes, list[bytes]]]:
        return sift(inbound, self._rules.special_in_handshakes, self._rules.ours_in_handshakes)

    def _parsed(self, url: str) -> Target:
        return parse_websocket_target(url, strict=self._rules.policy.strict_paths)

    async def _framed(self, inbound: Inbound) -> tuple[bytes | AsyncIterable[bytes] | None, list[Header]]:
        special = self._special
        if b"transfer-encoding" in special or special.get(b"content-length", [b"0"]) != [b"0"]:
            raise RequestRefused(ProxyFailure.REQUEST_INVALID, "the handshake of a WebSocket has a body")
        return None, []

    def _take_over(self, given: ProxyRequest, request: messages.Request, url: str, before: list[Header]) -> None:
        super()._take_over(given, request, url, before)
        if self.method != "GET":
            raise ValueError(f"on_request made a {self.method} of a WebSocket's handshake, which is a GET")

    async def _sent(self, handler: messages.Handler, request: messages.Request) -> messages.Response:
        request.headers = self._handshake.put_into(request.headers)
        return await super()._sent(handler, request)

    def _patience(self, response: messages.Response, limits: messages.Timeouts) -> messages.Timeouts:
        return limits
