"""
The machine behind the proxy's doors: one exchange, from the upstream's answer to the client.

The rules:

1. This owns the upstream's response from the moment it exists, and closes it whatever happens.
2. While anything is awaited, a task listens for the client's departure and then cancels the
   exchange, wherever it is: queueing, connecting, waiting for the head, or in a silent stream.
3. Until the first byte has gone to the client, a failure is answered with a clean error. With a
   known length the head is held back until the first piece of the body is there, so that more
   failures are; without one (server-sent events) it goes out at once.
4. After that, a failure must break the client's connection off: a truncated answer that ends
   cleanly looks complete. ASGI has no word for it, but servers do it when the app raises.
5. Nothing is read ahead: the next piece is taken when the server has taken the last one.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import NoReturn, final

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response as StarletteResponse
from starlette.types import Message, Receive, Scope, Send

from ..exceptions import ClientClosed, TransportError
from ..messages import Response
from ._failures import Failure, answer, failure_of
from ._headers import response_headers
from ._inbound import Inbound
from ._source import Source
from ._target import TargetRefused

__all__ = ("Outgoing", "Relay", "UpstreamAborted", "is_usable")

FIRST_FINAL_STATUS = 200
"""A 101 would need a tunnel."""
LAST_STATUS = 599
"""RFC 9110, section 15; and servers know no phrase for what is beyond."""

_logger = logging.getLogger("fastapi_httpx_pool.proxy")


class UpstreamAborted(Exception):
    """
    The upstream's answer broke off after its beginning had gone to the client.

    Raised to the server, which then breaks off the client's connection.
    """


class UnusableStatus(Exception):
    """The upstream answered with a status that cannot be passed on."""


@final
class Outgoing:
    """What goes to the client: the upstream's answer, after stripping; the route may change it."""

    def __init__(self, response: Response, *, to_head: bool, from_head: bool) -> None:
        """
        Take an answer.

        Args:
            response: The upstream's.
            to_head: Whether the client asked with HEAD.
            from_head: Whether the upstream was asked with HEAD.

        Raises:
            UnusableStatus: It cannot be passed on.
        """
        if not is_usable(response.status):
            raise UnusableStatus(f"the upstream answered with status {response.status}")
        self.status = response.status
        self.headers = response_headers(response.headers)
        self.body: AsyncIterator[bytes] = aiter(response.body)
        self._to_head = to_head
        self.has_body_to_read = not from_head and response.status not in (204, 304)

    @property
    def bodiless(self) -> bool:
        """Whether no body may follow (RFC 9112, section 6.3)."""
        return self._to_head or not self.has_body_to_read or self.status in (204, 304)

    @property
    def length(self) -> int | None:
        """How many bytes of body the client is told to expect, if it is told."""
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return int(lengths[0]) if lengths and not self.bodiless else None

    def settle(self) -> None:
        """Drop a length that the status forbids, or that no body will follow."""
        if self.bodiless and not self._to_head:
            # Not on a 204, and on a 304 servers that count would take it for a body cut short.
            self.headers = [line for line in self.headers if line[0] != b"content-length"]


def is_usable(status: int) -> bool:
    """Whether servers can send this status as a final one."""
    return FIRST_FINAL_STATUS <= status <= LAST_STATUS


@final
class Relay:
    """One exchange."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        source: Source,
        prepare: Callable[[Response], Awaitable[Outgoing | StarletteResponse]],
    ) -> None:
        """
        Take the inbound request's channel, and what differs between the doors.

        Args:
            scope: Of the inbound request.
            receive: Of the inbound request.
            send: Of the inbound request.
            source: Gets the upstream's response.
            prepare: Makes of it what goes to the client; may be another response altogether.
        """
        self._scope = scope
        self._receive = receive
        self._send = send
        self._source = source
        self._prepare = prepare
        self._inbound = Inbound(source.request, receive)
        self._has_head = False
        self._started = False
        self._complete = False
        self._client_left = False
        self._error: Exception | None = None

    async def run(self) -> bool:
        """
        Relay one answer.

        Returns:
            Whether the client got one, be it an error's; False if it left.

        Raises:
            UpstreamAborted: The answer broke off after its beginning had been sent.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen, group.cancel_scope)
                try:
                    await self._exchange()
                except ClientDisconnect:
                    self._client_left = True
                except Exception as exc:  # noqa: BLE001 -- told to the client, or raised again below
                    self._error = exc
                group.cancel_scope.cancel()
        finally:
            self._inbound.close()
        if self._client_left:
            await self._note_departure()
        elif self._error is not None:
            await self._fail(self._error)
        return not self._client_left

    async def _listen(self, scope: anyio.CancelScope) -> None:
        left = await self._inbound.listen()
        # Servers say "disconnect" when the answer is complete, too.
        if left and not self._complete:
            self._client_left = True
            scope.cancel()

    async def _exchange(self) -> None:
        response = await self._source.open(self._inbound)
        try:
            self._has_head = True
            outgoing = await self._prepare(response)
            if isinstance(outgoing, Outgoing):
                await self._stream(outgoing)
            else:
                await outgoing(self._scope, self._receive, self._send_message)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _stream(self, outgoing: Outgoing) -> None:
        outgoing.settle()
        try:
            await self._stream_settled(outgoing)
        finally:
            # A generator of the route's own, around the upstream's body, has clean-up of its own.
            if isinstance(outgoing.body, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await outgoing.body.aclose()

    async def _stream_settled(self, outgoing: Outgoing) -> None:
        chunks, left = outgoing.body, outgoing.length
        first = await anext(chunks, b"") if left else b""
        await self._send_message(
            {"type": "http.response.start", "status": outgoing.status, "headers": outgoing.headers}
        )
        self._inbound.listen_now()
        if outgoing.bodiless and outgoing.has_body_to_read:
            await self._send_body(b"", more=False)
            return  # nobody wants it, so the connection is closed on it
        if first:
            left = await self._send_piece(first, left)
        async for chunk in chunks:
            if chunk and not outgoing.bodiless:
                left = await self._send_piece(chunk, left)
        if not self._complete:
            await self._send_body(b"", more=False)

    async def _send_piece(self, chunk: bytes, left: int | None) -> int | None:
        """Send a piece of the body; return how much of it is left, if that is known."""
        if left is not None:
            left -= len(chunk)
        # Whoever has all the bytes it was told of may leave, so that is the end of the answer.
        await self._send_body(chunk, more=left != 0)
        return left

    async def _send_body(self, chunk: bytes, *, more: bool) -> None:
        await self._send_message({"type": "http.response.body", "body": chunk, "more_body": more})

    async def _send_message(self, message: Message) -> None:
        self._started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        try:
            await self._send(message)
        except OSError:
            # How servers of ASGI 2.4 say that the client has left.
            raise ClientDisconnect from None

    async def _fail(self, error: Exception) -> None:
        if isinstance(error, TargetRefused):
            failure = Failure.TARGET_REFUSED
        elif isinstance(error, UnusableStatus):
            failure = Failure.RESPONSE_HEAD_BROKE
        elif isinstance(error, TransportError | ClientClosed):
            failure = failure_of(error, in_body=self._has_head)
        else:
            raise error  # not the upstream's fault: the app's own handlers see it
        detail = f"{type(error).__name__}: {str(error) or error.__doc__}"
        if self._complete:
            self._log(logging.DEBUG, failure, f"after the end of the answer: {detail}")
        elif self._started:
            self._log(logging.WARNING, failure, f"after the beginning of the answer, which is broken off: {detail}")
            await self._break_off(failure)
        else:
            self._log(logging.WARNING, failure, f"answered with {failure.status}: {detail}")
            headers, body = answer(failure)
            await self._send({"type": "http.response.start", "status": failure.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _break_off(self, failure: Failure) -> NoReturn:
        # Starlette's BaseHTTPMiddleware ends an answer properly even if the app inside has raised,
        # but not if it meets a message that it does not know. Servers refuse one, which is fine.
        with suppress(Exception):
            await self._send({"type": "http.response.abort", "more_body": True})
        # The log has said why; the server's traceback need not say it again.
        raise UpstreamAborted(
            f"{failure.label}: the upstream's answer ended early, so the client's connection is broken off, "
            "lest the answer look whole; the log of fastapi_httpx_pool.proxy has the reason"
        ) from None

    async def _note_departure(self) -> None:
        self._log(logging.DEBUG, Failure.CLIENT_LEFT, "recorded as 499")
        if not self._started:
            # Servers ignore this, but middleware in between counts on an answer and records its status.
            with suppress(Exception):
                await self._send({"type": "http.response.start", "status": Failure.CLIENT_LEFT.status, "headers": []})
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self, level: int, failure: Failure, detail: str) -> None:
        # User information and queries may hold secrets, and a line break would forge another line.
        url = _USER_INFORMATION.sub("//", self._source.url.partition("?")[0])
        url, detail = (_CONTROLS.sub("?", text) for text in (url, detail))
        _logger.log(level, "%s %s: %s, %s", self._source.method, url, failure.label, detail)


_USER_INFORMATION = re.compile(r"//[^/]*@")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
