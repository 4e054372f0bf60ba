"""
The opening handshake of a WebSocket with the upstream (RFC 6455, section 4).

The client's own handshake is its server's affair, so that the upstream's is ours: with a key of our
own, and without extensions, for what messages are compressed with ends at each hop, and ASGI shows
it to nobody. What the client offers as subprotocols goes on as it came, and the choice comes back.
"""

import logging
from collections.abc import Iterable
from typing import Final, final

from starlette.types import Scope
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Response as WebSocketResponse
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ..messages import Header

__all__ = ("OURS", "SUBPROTOCOL", "SWITCHING", "Handshake", "HandshakeFailed", "as_request")

SWITCHING: Final = 101
SUBPROTOCOL: Final = b"sec-websocket-protocol"
OURS: Final = frozenset(
    (b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-key", b"sec-websocket-version")
)
"""Lines that concern one connection only, and end here in both directions."""
_ASKING = OURS | {b"connection", b"upgrade"}

_NOWHERE = WebSocketURI(secure=False, host="", port=80, path="", query="")  # nothing asks for it
# Of its own, whatever the application logs: the library's would show all messages.
_SILENT = logging.Logger("fastapi_httpx_pool.proxy.frames", logging.CRITICAL)  # noqa: LOG001 -- nobody is to find it


class HandshakeFailed(Exception):
    """The upstream's answer switches to no WebSocket that was asked for."""


@final
class Handshake:
    """One upstream handshake."""

    __slots__ = ("protocol",)

    def __init__(self, max_message: int | None) -> None:
        """``max_message`` is in bytes."""
        self.protocol: ClientProtocol = ClientProtocol(_NOWHERE, state=OPEN, max_size=max_message, logger=_SILENT)
        """What makes and reads frames, once it has succeeded."""

    def put_into(self, headers: list[Header]) -> list[Header]:
        """Return the lines of a request with those that ask for the switch, whatever others say about it."""
        subprotocols = [value for name, value in headers if name.lower() == SUBPROTOCOL]
        offered = [Subprotocol(part.strip(b" \t").decode("latin-1")) for part in b",".join(subprotocols).split(b",")]
        self.protocol.available_subprotocols = offered if subprotocols else None
        return [
            *(line for line in headers if line[0].lower() not in _ASKING),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", self.protocol.key.encode("ascii")),
        ]

    def check(self, headers: Iterable[Header]) -> None:
        """
        Look at the head of an answer of 101.

        Raises:
            HandshakeFailed: It is none that was asked for.
        """
        try:
            told = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
            self.protocol.process_response(WebSocketResponse(SWITCHING, "", told))
        except (InvalidHandshake, ValueError) as exc:
            raise HandshakeFailed(f"the upstream's handshake is none that was asked for: {exc}") from exc


def as_request(scope: Scope) -> Scope:
    """Return the scope of the request that a WebSocket begins as."""
    headers, offered = scope["headers"], scope.get("subprotocols") or ()
    if offered and not any(name.lower() == SUBPROTOCOL for name, _ in headers):
        # uvicorn with wsproto takes the line away.
        headers = [*headers, (SUBPROTOCOL, ", ".join(offered).encode("latin-1"))]
    return {**scope, "type": "http", "method": "GET", "headers": headers, "extensions": {}}
