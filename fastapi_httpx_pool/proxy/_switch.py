"""From a request to a WebSocket: the server's channel while it is still a request, and the moment of the switch."""

from typing import Any, final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ..messages import Header, Response
from ..transports import NetworkStream, network_stream_of
from ._bridge import GONE, Bridge
from ._failures import ProxyFailure
from ._handshake import OURS, SUBPROTOCOL, Handshake, HandshakeFailed
from ._outgoing import Outgoing
from ._policy import ProxyPolicy
from ._servers import with_one_of_each

__all__ = ("Channel", "Switch")

# Beside what the upstream says about one connection, what servers write themselves, and what has no place here.
_NOT_WITH_101 = OURS | {SUBPROTOCOL, b"content-length", b"date", b"server"}


@final
class Channel:
    """A WebSocket's channel in the words of a request's, until it is accepted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._takes_answers = "websocket.http.response" in (scope.get("extensions") or ())

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
            if self._takes_answers and kind == "http.response.start":
                headers = with_one_of_each(message["headers"], self._receive, self._send)
                await self._send({**message, "type": "websocket.http.response.start", "headers": headers})
            elif self._takes_answers and kind == "http.response.body":
                await self._send({**message, "type": "websocket.http.response.body"})
            elif kind == "http.response.start":
                await self._send({"type": "websocket.close"})
        except GONE:
            raise ClientDisconnect from None


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

    def fits(self, response: Response) -> bool:
        """
        Return True: it is the switch that was asked for.

        Raises:
            HandshakeFailed: It is not.
        """
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
        return ending.failure, ending.detail
