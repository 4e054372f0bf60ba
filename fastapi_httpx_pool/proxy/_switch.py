"""From a request to a WebSocket: the server's channel while it is still a request, and the moment of the switch."""

from typing import Any, Final, final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ..messages import Header, Response
from ..transports import NetworkStream, network_stream_of
from ._bridge import GONE, Bridge
from ._failures import ProxyFailure
from ._handshake import OURS, SUBPROTOCOL, SWITCHING, Handshake, HandshakeFailed
from ._outgoing import Outgoing, ResponseTooLarge
from ._policy import ProxyPolicy
from ._servers import abort, joined, with_one_of_each

__all__ = ("Channel", "Switch")

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of a refusal's body."""

# Beside what the upstream says about one connection, what servers write themselves, and what has no place here.
_NOT_WITH_101 = OURS | {SUBPROTOCOL, b"content-length", b"date", b"server"}


@final
class Channel:
    """A WebSocket's channel in the words of a request's, until it is accepted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        extensions = scope.get("extensions") or ()
        self._takes_answers = "websocket.http.response" in extensions
        self._takes_lines_once = "http.response.pathsend" in extensions  # granian's mark
        self._head: Message | None = None
        self._body = bytearray()

    async def begin(self) -> None:
        """Take note that there is a WebSocket: servers say so first."""
        await self._receive()

    async def receive(self) -> Message:
        """Wait for the client to leave: it has nothing else to say yet."""
        await self._receive()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Refuse the WebSocket with an answer, or without one if the server knows only one refusal: 403."""
        kind = message["type"]
        try:
            if kind == "http.response.start" and not self._takes_answers:
                await self._send({"type": "websocket.close"})
            elif kind == "http.response.start":
                headers = with_one_of_each(message["headers"], self._receive, self._send)
                if self._takes_lines_once:
                    headers = joined(headers)
                self._head = {**message, "type": "websocket.http.response.start", "headers": headers}
            elif kind == "http.response.body" and self._takes_answers:
                await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        except GONE:
            raise ClientDisconnect from None

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        # All at once: some servers send what is there when they get the head, and take no more.
        self._body += piece
        if len(self._body) > LONGEST:
            raise ResponseTooLarge(f"the refusal of the WebSocket is longer than {LONGEST} bytes")
        if not more and self._head is not None:
            await self._send(self._head)
            await self._send({"type": "websocket.http.response.body", "body": bytes(self._body), "more_body": False})


@final
class Switch:
    """Takes over when the upstream has switched."""

    def __init__(self, receive: Receive, send: Send, handshake: Handshake, client: Any, policy: ProxyPolicy) -> None:
        self._receive = receive
        self._send = send
        self._handshake = handshake
        self._client = client
        self._policy = policy
        self._stream: NetworkStream

    def channel(self, scope: Scope) -> Channel:
        """Return the channel for the time before."""
        return Channel(scope, self._receive, self._send)

    def is_made(self, response: Response) -> bool:
        """
        Return whether the upstream has switched; if not, it has refused to.

        Raises:
            HandshakeFailed: It has switched to something else, or it was never asked.
        """
        if response.extensions.get("http_version") == b"HTTP/2":
            raise HandshakeFailed(
                "the client speaks HTTP/2 with the upstream, in which there is no Upgrade; give the proxy a client "
                "without http2=True"
            )
        if response.status != SWITCHING:
            return False
        self._handshake.check(response.headers)
        stream = network_stream_of(response, self._client)
        if stream is None:
            raise HandshakeFailed("the client's transport does not let anybody at its connections")
        self._stream = stream
        return True

    async def run(self, outgoing: Outgoing) -> tuple[ProxyFailure | None, str]:
        """Accept the client's WebSocket, and carry messages until it is over; return what went wrong, if anything."""
        chosen = [value for name, value in outgoing.headers if name == SUBPROTOCOL]
        headers: list[Header] = [line for line in outgoing.headers if line[0] not in _NOT_WITH_101]
        subprotocol = chosen[0].decode("latin-1") if chosen else None
        try:
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        except GONE:
            raise ClientDisconnect from None
        ending = await Bridge(self._receive, self._send, self._handshake.protocol, self._stream, self._policy).run()
        if ending.failure is ProxyFailure.CLIENT_STALLED:
            abort(self._receive)
        return ending.failure, ending.detail
