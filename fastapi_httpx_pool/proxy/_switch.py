"""From a request to a WebSocket: the server's channel while it is still a request, and the moment of the switch."""

from typing import Any, Final, final

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ..messages import Header, Response
from ..transports import NetworkStream, network_stream_of
from ._bridge import Bridge
from ._failures import ProxyFailure
from ._handshake import OURS, SUBPROTOCOL, SWITCHING, Handshake, HandshakeFailed, as_request
from ._headers import HOP_BY_HOP
from ._outgoing import Outgoing, ResponseTooLarge
from ._policy import ProxyPolicy
from ._servers import abort, joined, says_gone, with_one_of_each
from ._source import HookFailed

__all__ = ("Channel", "Switch")

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of a refusal's body."""

# Beside what the upstream says about one connection, what servers write themselves, and what has no place here.
_NOT_WITH_101 = OURS | HOP_BY_HOP | {SUBPROTOCOL, b"content-length", b"date", b"server"}


@final
class Channel:
    """A WebSocket's channel in the words of a request's, until it is accepted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self.send_message: Send = send
        """For what is said once it is accepted."""
        extensions = scope.get("extensions") or ()
        self._takes_answers = "websocket.http.response" in extensions
        self._takes_lines_once = "http.response.pathsend" in extensions  # granian's mark
        self._head: Message | None = None
        self._body = bytearray()
        self._answered = False
        self._early: Message | None = None

    async def begin(self) -> None:
        """Take note that there is a WebSocket: servers say so first."""
        await self._receive()

    async def receive(self) -> Message:
        """Wait for the client to leave: it should have nothing else to say yet."""
        message = await self._receive()
        if message["type"] != "websocket.disconnect":
            self._early = message
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Refuse the WebSocket with an answer, or without one if the server knows only one refusal: 403."""
        kind = message["type"]
        if kind == "http.response.start":
            if message["status"] == SWITCHING:
                raise HookFailed from ValueError(
                    "only the upstream can accept a WebSocket; a hook can refuse it, or change its headers"
                )
            self._head = message
        elif kind == "http.response.body" and self._head is not None:
            await self._refuse(self._head, message.get("body", b""), more=message.get("more_body", False))

    def take_back(self) -> bool:
        """Forget a refusal that is not complete; whether the server knows nothing of any answer."""
        self._head = None
        self._body.clear()
        return not self._answered

    async def accept(self, subprotocol: str | None, headers: list[Header]) -> None:
        """Accept the WebSocket."""
        await self._tell({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def receive_message(self) -> Message:
        """Wait for what the client says once it is accepted."""
        if self._early is not None:
            early, self._early = self._early, None
            return early
        return await self._receive()

    def abort(self) -> None:
        """Break off the client's connection, if the server lets us at it."""
        abort(self._receive)

    async def _refuse(self, head: Message, piece: bytes, *, more: bool) -> None:
        # All at once: some servers send what is there when they get the head, and take no more.
        self._body += piece
        if len(self._body) > LONGEST:
            raise ResponseTooLarge(f"the refusal of the WebSocket is longer than {LONGEST} bytes")
        if more:
            return
        self._head = None
        if not self._takes_answers:
            await self._tell({"type": "websocket.close"})
            return
        headers = with_one_of_each(head.get("headers", []), self._receive, self.send_message)
        if self._takes_lines_once:
            headers = joined(headers)
        await self._tell({**head, "type": "websocket.http.response.start", "headers": headers})
        await self._tell({"type": "websocket.http.response.body", "body": bytes(self._body), "more_body": False})

    async def _tell(self, message: Message) -> None:
        self._answered = True
        try:
            await self.send_message(message)
        except Exception as exc:
            if says_gone(exc):
                raise ClientDisconnect from None
            raise


@final
class Switch:
    """A WebSocket that begins as a request, and takes over when the upstream has switched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, client: Any, policy: ProxyPolicy) -> None:
        """``client`` is the one that the upstream is asked through."""
        self.request: Scope = as_request(scope)
        self.channel: Channel = Channel(scope, receive, send)
        self.handshake: Handshake = Handshake(policy.websocket_max_message)
        self._client = client
        self._policy = policy
        self._stream: NetworkStream

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
        self.handshake.check(response.headers)
        stream = network_stream_of(response, self._client)
        if stream is None:
            raise HandshakeFailed("the client's transport does not let anybody at its connections")
        self._stream = stream
        return True

    async def run(self, outgoing: Outgoing) -> tuple[ProxyFailure | None, str]:
        """Accept the client's WebSocket, and carry messages until it is over; return what went wrong, if anything."""
        chosen = [value for name, value in outgoing.headers if name == SUBPROTOCOL]
        headers: list[Header] = [line for line in outgoing.headers if line[0] not in _NOT_WITH_101]
        channel = self.channel
        await channel.accept(chosen[0].decode("latin-1") if chosen else None, headers)
        receive, send = channel.receive_message, channel.send_message
        ending = await Bridge(receive, send, self.handshake.protocol, self._stream, self._policy).run()
        if ending.failure is ProxyFailure.CLIENT_STALLED:
            channel.abort()
        return ending.failure, ending.detail
