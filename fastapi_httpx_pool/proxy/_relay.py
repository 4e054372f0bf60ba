"""
The machine behind the proxy's doors: one exchange, from the upstream's answer to the client.

The rules:

1. This owns the upstream's response from the moment it exists, and closes it whatever happens.
2. A client that leaves, or does nothing for too long, ends the exchange wherever it is: queueing,
   connecting, waiting for the head, or in a silent stream (``_watch``).
3. Until the first byte has gone to the client, a failure is answered with a clean error. With a
   known length the head is held back until the first piece of the body is there, so that more
   failures are; without one (server-sent events) it goes out at once.
4. After that, a failure must break the client's connection off: a truncated answer that ends
   cleanly looks complete. ASGI has no word for it, but servers do it when the app raises.
5. Nothing is read ahead: the next piece is taken when the server has taken the last one. A body that
   has arrived whole goes out as a whole.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, NoReturn, final

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response as StarletteResponse
from starlette.types import Message, Receive, Scope, Send

from .._cancellation import runs_asyncio
from ..exceptions import ClientClosed, TransportError
from ..messages import Header, Response, Timeouts
from ._admission import RequestRefused
from ._failures import ProxyFailure, answer, failure_of
from ._handshake import SWITCHING, HandshakeFailed
from ._headers import response_headers
from ._heartbeat import with_heartbeat
from ._hooks import Hooks, OnFailure, ProxyRequest, ask
from ._inbound import BodyLost, RequestTooLarge
from ._outgoing import Outgoing, ResponseTooLarge, UnusableResponse, ask_about
from ._rules import Rules
from ._servers import abort, with_one_of_each
from ._source import NOT_THEIRS, HookFailed, Source
from ._switch import Switch
from ._target import TargetRefused
from ._via import LoopDetected
from ._watch import ClientStalled, watch_over

__all__ = ("Door", "Relay", "UpstreamAborted")

FIRST_ERROR = 400
EARLY_HINTS = 103

_logger = logging.getLogger("fastapi_httpx_pool.proxy")


class UpstreamAborted(Exception):
    """
    The upstream's answer broke off after its beginning had gone to the client.

    Raised to the server, which then breaks off the client's connection.
    """


@dataclass(slots=True)
class Door:
    """What differs between the ways in."""

    rules: Rules
    hooks: Hooks
    via: bytes
    """Our name."""
    headers: list[Header]
    """The route's own, for the answer."""
    rewrite: Callable[[list[Header]], list[Header]] | None
    """Turns the upstream's addresses into public ones."""
    answers_for_hooks: bool
    """Whether a hook's exception is answered here; otherwise the app's own handlers see it."""


@final
class Relay:
    """One exchange."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, source: Source, door: Door, *, switch: Switch | None = None
    ) -> None:
        """``switch`` takes over if the upstream switches protocols; without it, none may."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._source = source
        self._door = door
        self._switch = switch
        self._switched: Outgoing | None = None
        self._inbound = source.inbound(receive)
        self._watch = watch_over(self._inbound, door.rules.policy.client_idle)
        self._response: Response | None = None
        self._made: list[AsyncGenerator[bytes, Any]] = []
        """Generators around the upstream's body."""
        self._started = False
        self._hints: asyncio.Task[None] | None = None

    async def run(self) -> bool:
        """
        Relay one answer.

        Returns:
            Whether the client got one, be it an error's; False if it left.

        Raises:
            UpstreamAborted: The answer broke off after its beginning had been sent.
        """
        error: Exception | None = None
        try:
            await self._watch.run(self._exchange())
            if self._switched is not None:
                await self._go_over(self._switched)
        except Exception as exc:  # noqa: BLE001 -- told to the client, or raised again below
            error = exc
        finally:
            await self._close()
        if error is None:
            return True
        if isinstance(error, ClientDisconnect):
            await self._note_departure()
            return False
        await self._fail(error)
        return True

    async def _close(self) -> None:
        self._inbound.stop()
        if self._hints is not None:
            self._hints.cancel()
        try:
            for generator in reversed(self._made):  # they have clean-up of their own
                with anyio.CancelScope(shield=True):
                    await generator.aclose()
        finally:
            if self._response is not None:
                await self._response.aclose()

    async def _exchange(self) -> None:
        response = await self._source.open(self._inbound, self._informed())
        if isinstance(response, Response):
            self._response = response
            outgoing = await self._prepare(response)
        else:
            outgoing = response
        if isinstance(outgoing, Outgoing) and outgoing.status == SWITCHING:
            self._switched = outgoing
        elif isinstance(outgoing, Outgoing):
            await self._stream(outgoing, response.extensions if isinstance(response, Response) else {})
        else:
            await self._give(outgoing)

    async def _go_over(self, outgoing: Outgoing) -> None:
        """Leave the rest to whoever speaks the other protocol."""
        assert self._switch is not None
        self._started = True
        failure, detail = await self._switch.run(outgoing)
        if failure is not None:
            self._log(logging.WARNING, failure, f"after the handshake: {detail}")

    async def _give(self, response: StarletteResponse) -> None:
        """Send an answer of the application's own; with its head, nobody wants the rest of the request any more."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._dismissal()]
            await self._send_message(message)

        await response(self._scope, self._receive, send)

    def _dismissal(self) -> list[Header]:
        """Take no more of the request's body; return what tells that to the client (RFC 9112, section 9.6)."""
        # Some servers take no answer before somebody has taken what they have read; the watcher does.
        self._inbound.stop()
        must_close = self._inbound.unwanted or self._source.must_close
        return [_CLOSE] if must_close and self._scope.get("http_version") == "1.1" else []

    # What goes out.

    async def _prepare(self, response: Response) -> Outgoing | StarletteResponse:
        door, policy = self._door, self._door.rules.policy
        outgoing = Outgoing(
            response,
            door.rules,
            to_head=self._scope["method"] == "HEAD",
            from_head=self._source.method == "HEAD",
            switches=self._switch is not None and self._switch.is_made(response),
        )
        self._counted(outgoing.length or 0)
        if door.rewrite is not None:
            outgoing.headers = door.rewrite(outgoing.headers)
        if policy.via_in_responses and policy.via is not None:
            version = response.extensions.get("http_version", b"HTTP/1.1")
            outgoing.name_us(version.decode("ascii").removeprefix("HTTP/"), door.via)
        if policy.server_timing:
            outgoing.time_upstream(self._source.asked_at)
        if door.hooks.on_response is not None:
            replacement = await self._ask_about(outgoing)
            if replacement is not None:
                return replacement
        if door.headers:
            outgoing.put(door.headers)
        return outgoing

    async def _ask_about(self, outgoing: Outgoing) -> StarletteResponse | None:
        before = outgoing.body
        assert self._door.hooks.on_response is not None
        try:
            replacement = await ask_about(outgoing, self._door.hooks.on_response)
        except NOT_THEIRS:
            raise
        except Exception as exc:
            raise HookFailed from exc
        if outgoing.body is not before and isinstance(outgoing.body, AsyncGenerator):
            self._made.append(outgoing.body)
        return replacement

    async def _stream(self, outgoing: Outgoing, extensions: dict[str, Any]) -> None:
        outgoing.settle()
        if outgoing.status >= FIRST_ERROR:
            outgoing.headers += self._dismissal()
        elif self._source.must_close:
            outgoing.headers.append(_CLOSE)
        if self._door.rules.policy.heartbeat is not None and outgoing.is_stream_of_events and runs_asyncio():
            outgoing.body = beating = with_heartbeat(outgoing.body, self._door.rules.policy.heartbeat)
            self._made.append(beating)
        left = outgoing.length
        trailers = extensions.get("trailers") if self._may_send_trailers() else None
        first = b""
        if left:
            first = await anext(outgoing.body, b"")
        elif left is None and outgoing.take_whole is not None and not outgoing.bodiless:
            first = outgoing.take_whole()
            left = len(first) or None
        await self._send_head(outgoing, trailers=trailers is not None)
        if not first and not (self._inbound.complete and (outgoing.bodiless or left == 0)):
            # Some servers send the head with the first piece of the body, for which the client may have to wait.
            await self._send_body(b"", more=True)
        await self._send_rest(outgoing, first, left)
        if trailers is not None:
            await self._send_trailers(trailers)

    async def _send_rest(self, outgoing: Outgoing, first: bytes, left: int | None) -> None:
        if outgoing.bodiless:
            if not outgoing.has_body_to_read:
                # The engine knows that nothing follows; whatever else carried it has to be told.
                await anext(outgoing.body, b"")
            await self._send_body(b"", more=False)
            return  # a body that nobody wants is closed on
        sent = 0
        if first:
            sent = self._counted(len(first))
            left = await self._send_piece(first, left)
        try:
            async for chunk in outgoing.body:
                if chunk:
                    sent = self._counted(sent + len(chunk))
                    left = await self._send_piece(chunk, left)
        except TransportError:
            if left != 0 or self._watch.over:
                raise
            # The answer is whole, and what has failed is the rest of the request.
            self._inbound.stop()
        if not self._watch.over:
            await self._send_body(b"", more=False)

    def _counted(self, length: int) -> int:
        """Return a number of bytes of the body, if it may have as many."""
        limit = self._door.rules.policy.max_response_body
        if limit is not None and length > limit:
            raise ResponseTooLarge(f"the body is longer than the {limit} bytes that max_response_body allows")
        return length

    async def _send_piece(self, chunk: bytes, left: int | None) -> int | None:
        """Send a piece of the body; return how much of it is left, if that is known."""
        if left is not None:
            left -= len(chunk)
        # Whoever has all the bytes it was told of may leave, so that is the end of the answer; unless
        # it is still sending: to servers that would be the end of the request, too.
        await self._send_body(chunk, more=left != 0 or not self._inbound.complete)
        return left

    async def _send_head(self, outgoing: Outgoing, *, trailers: bool) -> None:
        if self._hints is not None:
            hints, self._hints = self._hints, None
            await hints
        message: Message = {
            "type": "http.response.start",
            "status": outgoing.status,
            "headers": with_one_of_each(outgoing.headers, self._receive, self._send),
        }
        if trailers:
            message["trailers"] = True
        await self._send_message(message)

    async def _send_body(self, chunk: bytes, *, more: bool) -> None:
        await self._send_message({"type": "http.response.body", "body": chunk, "more_body": more})

    async def _send_message(self, message: Message) -> None:
        self._started = True
        watch = self._watch
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            watch.over = True
        watch.sending_since = monotonic()
        try:
            await self._send(message)
        except OSError:
            # How servers of ASGI 2.4 say that the client has left.
            raise ClientDisconnect from None
        finally:
            watch.sending_since = None
        if message["type"] == "http.response.start":
            # Earlier, servers would answer an Expect with "100 Continue".
            self._inbound.listen_now()

    # What only some servers can pass on.

    async def _send_trailers(self, trailers: list[Header]) -> None:
        assert self._response is not None
        # What the head's Connection names ends here, too, and no length is to be told so late.
        named = [line for line in self._response.headers if line[0].lower() == b"connection"]
        headers = response_headers([*named, *trailers], frozenset((b"content-length",)))
        await self._send_message({"type": "http.response.trailers", "headers": headers, "more_trailers": False})

    def _may_send_trailers(self) -> bool:
        return "http.response.trailers" in (self._scope.get("extensions") or ())

    def _informed(self) -> Callable[[int, list[Header]], None] | None:
        if "http.response.early_hint" not in (self._scope.get("extensions") or ()):
            return None
        # RFC 9110, section 15.2: HTTP/1.0 knows no informational responses.
        return None if self._scope.get("http_version") == "1.0" else self._inform

    def _inform(self, status: int, headers: list[Header]) -> None:
        links = [value for name, value in headers if name.lower() == b"link"]
        if status == EARLY_HINTS and links and not self._started:
            self._hints = asyncio.get_running_loop().create_task(self._send_hints(self._hints, links))

    async def _send_hints(self, earlier: "asyncio.Task[None] | None", links: list[bytes]) -> None:
        if earlier is not None:
            await earlier
        try:
            await self._send({"type": "http.response.early_hint", "links": links})
        except OSError:
            raise ClientDisconnect from None

    # What goes wrong.

    async def _fail(self, error: Exception) -> None:
        failure = self._failure_of(error)
        if self._switch is not None and self._switch.channel.take_back():
            self._started = False
        if failure is None:
            if self._started and not self._watch.over:
                await self._spoil()
            raise error if not isinstance(error, HookFailed) else _cause_of(error)
        if failure is ProxyFailure.HOOK_FAILED:
            error = _cause_of(error)
        detail = f"{type(error).__name__}: {str(error) or error.__doc__}"
        if self._watch.over:
            self._log(logging.DEBUG, failure, f"after the end of the answer: {detail}")
        elif self._started:
            self._log(logging.WARNING, failure, f"after the beginning of the answer, which is broken off: {detail}")
            await self._break_off(failure)
        else:
            trace = error if failure is ProxyFailure.HOOK_FAILED else None
            self._log(logging.WARNING, failure, f"answered with {failure.status}: {detail}", trace)
            await self._answer_watched(failure, error)

    async def _answer_watched(self, failure: ProxyFailure, error: Exception) -> None:
        self._watch = watch_over(self._inbound, self._door.rules.policy.client_idle)
        try:
            await self._watch.run(self._answer(failure, error))
        except ClientDisconnect:
            await self._note_departure()
        except ClientStalled:
            await self._break_off(ProxyFailure.CLIENT_STALLED)

    def _failure_of(self, error: Exception) -> ProxyFailure | None:
        """Return what it means; None if the app's own handlers are to see it."""
        if isinstance(error, TransportError | ClientClosed):
            return failure_of(error, in_body=self._response is not None, uploading=self._inbound.unwanted)
        if isinstance(error, RequestRefused):
            return error.failure
        if isinstance(error, HookFailed):
            return ProxyFailure.HOOK_FAILED if self._door.answers_for_hooks else None
        return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), None)

    async def _answer(self, failure: ProxyFailure, error: Exception) -> None:
        door = self._door
        if door.hooks.on_failure is not None:
            response = await self._ask_instead(door.hooks.on_failure, failure, error)
            if response is not None:
                await self._give(response)
                return
        name = door.via.decode("ascii") if door.rules.policy.proxy_status else None
        headers, body = answer(failure, proxy_status=name)
        headers += self._dismissal()
        await self._send_message({"type": "http.response.start", "status": failure.status, "headers": headers})
        await self._send_body(body, more=False)

    async def _ask_instead(self, hook: OnFailure, failure: ProxyFailure, error: Exception) -> StarletteResponse | None:
        try:
            response: StarletteResponse | None = await ask(hook, self._shown(), failure, error)
            _check_instead(response)
        except Exception as exc:
            if not self._door.answers_for_hooks:
                raise
            detail = f"on_failure itself has failed: {type(exc).__name__}: {exc}"
            self._log(logging.WARNING, ProxyFailure.HOOK_FAILED, detail, exc)
            return None
        return response

    def _shown(self) -> ProxyRequest:
        return self._source.shown() or ProxyRequest(
            self._source.method, self._source.url, [], Timeouts(), Request(self._scope)
        )

    async def _break_off(self, failure: ProxyFailure) -> NoReturn:
        if failure is ProxyFailure.CLIENT_STALLED:
            abort(self._receive)
        await self._spoil()
        # The log has said why; the server's traceback need not say it again.
        raise UpstreamAborted(
            f"{failure.label}: the upstream's answer ended early, so the client's connection is broken off, "
            "lest the answer look whole; the log of fastapi_httpx_pool.proxy has the reason"
        ) from None

    async def _spoil(self) -> None:
        # Starlette's BaseHTTPMiddleware ends an answer properly even if the app inside has raised,
        # but not one that ends in a file for the server to send: that it passes on, also through
        # another one around it. No server takes one here, so the outermost fails, and all is well.
        with suppress(Exception):
            await self._send({"type": "http.response.pathsend", "path": _NO_FILE})

    async def _note_departure(self) -> None:
        self._log(logging.DEBUG, ProxyFailure.CLIENT_LEFT, "recorded as 499")
        if not self._started:
            # Servers ignore this, but middleware in between counts on an answer and records its status.
            status = ProxyFailure.CLIENT_LEFT.status
            with suppress(Exception):
                await self._send({"type": "http.response.start", "status": status, "headers": []})
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self, level: int, failure: ProxyFailure, detail: str, error: Exception | None = None) -> None:
        if not _logger.isEnabledFor(level):
            return
        # User information and queries may hold secrets, and a line break would forge another line.
        url = _USER_INFORMATION.sub("//", self._source.url.partition("?")[0])
        url, detail = (_CONTROLS.sub("?", text) for text in (url, detail))
        what = self._source.method if self._switch is None else "WebSocket"
        _logger.log(level, "%s %s: %s, %s", what, url, failure.label, detail, exc_info=error)


_FAILURES: tuple[tuple[type[Exception], ProxyFailure], ...] = (
    (TargetRefused, ProxyFailure.TARGET_REFUSED),
    (LoopDetected, ProxyFailure.LOOP_DETECTED),
    (UnusableResponse, ProxyFailure.RESPONSE_INVALID),
    (HandshakeFailed, ProxyFailure.RESPONSE_INVALID),
    (RequestTooLarge, ProxyFailure.REQUEST_TOO_LARGE),
    (BodyLost, ProxyFailure.REQUEST_INVALID),
    (ResponseTooLarge, ProxyFailure.RESPONSE_TOO_LARGE),
    (ClientStalled, ProxyFailure.CLIENT_STALLED),
)
_NO_FILE = "/\0"
"""Not even if a server takes it."""
_CLOSE: Header = (b"connection", b"close")
_USER_INFORMATION = re.compile(r"//[^/]*@")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _check_instead(response: object) -> None:
    if not isinstance(response, StarletteResponse | None):
        raise TypeError(
            f"on_failure returned {response!r}; it may return a starlette.responses.Response to answer instead, "
            "or nothing"
        )


def _cause_of(error: Exception) -> Exception:
    cause = error.__cause__
    return cause if isinstance(cause, Exception) else error
