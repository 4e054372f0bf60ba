"""The inbound request, sent on."""

from collections.abc import AsyncIterable, Callable
from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from .. import messages
from ..messages import Header, Timeouts
from ..transports import handler_for
from ._admission import admit, answer_here
from ._headers import (
    check_values,
    has_token,
    method_in_bytes,
    replaced,
    sift,
    with_one_cookie_line,
    without_twins,
)
from ._hooks import Hooks, ProxyRequest, ask
from ._inbound import Inbound
from ._rules import Rules
from ._source import NOT_THEIRS, HookFailed, Informed, Where
from ._target import Target, TargetRefused, parse_target
from ._via import via_line
from ._wishes import Wishes

__all__ = ("Forwarded",)

_HTTP1 = frozenset(("1.0", "1.1"))
_EVENTS = b"text/event-stream"
_CONTINUE = b"100-continue"


class Forwarded:
    """The inbound request, sent on."""

    def __init__(
        self,
        scope: Scope,
        where: Callable[[], Where],
        wishes: Wishes,
        *,
        rules: Rules,
        hooks: Hooks,
        via: bytes,
        url: str = "",
        prefix: str = "",
        body: bytes | None = None,
        host: bytes | None = None,
    ) -> None:
        """
        Take the request and where it is to go.

        Args:
            scope: The request's.
            where: Says where; may raise TargetRefused.
            wishes: Of this one request.
            rules: Of all.
            hooks: The application's.
            via: Our name.
            url: Where it is to go, for the log; by default the inbound path, until it is known.
            prefix: Of the public path.
            body: What the route has read already; all of it.
            host: What the client asked for, if that is not what ``Host`` says.
        """
        self._scope = scope
        self._where = where
        self._wishes = wishes
        self._rules = rules
        self._hooks = hooks
        self._via = via
        self._url = url
        self._prefix = prefix
        self._body = body
        self._authority = host
        self._is_http1 = scope.get("http_version", "1.1") in _HTTP1
        inbound: list[Header] = scope["headers"]
        if not self._is_http1:
            inbound = with_one_cookie_line(inbound)
        self._inbound = inbound
        self._headers, self._special = self._sifted(inbound)
        # uvicorn with httptools takes the body of such a request for the next request.
        self.must_close: bool = b"upgrade" in self._special and self._is_framed
        self._found: Where | None = None
        self.method = scope["method"] if wishes.method is None else wishes.method.decode("ascii")
        self.asked_at = 0.0

    @property
    def url(self) -> str:
        """Where it goes, as far as that has been found out."""
        return (self._url or str(self._scope["path"])) if self._found is None else self._found.url

    def _sifted(self, inbound: list[Header]) -> tuple[list[Header], dict[bytes, list[bytes]]]:
        """Return the lines that go on, and the values of those that have to be looked at."""
        return sift(inbound, self._rules.special, self._rules.ours)

    def inbound(self, receive: Receive) -> Inbound:
        """Return the inbound side."""
        return Inbound(
            receive,
            body=self._body,
            expected=self._is_framed or not self._is_http1 or self._body is not None,
            reserved=b"expect" in self._special,
            doubtful=self.must_close,
            limit=self._rules.policy.max_request_body,
        )

    @property
    def _is_framed(self) -> bool:
        return b"transfer-encoding" in self._special or b"content-length" in self._special

    async def open(self, inbound: Inbound, informed: Informed | None) -> messages.Response | Response:
        """Send the request on."""
        local = self._answer_here()
        if local is not None:
            return local
        where = self._found = self._where()
        body, framing = await self._framed(inbound)
        request = messages.Request(
            self.method.encode("ascii"),
            where.origin,
            where.target,
            self._lines(where),
            body,
            self._wishes.timeouts,
            {} if informed is None else {"informational": informed},
        )
        if self._hooks.on_request is not None:
            answer = await self._ask_hook(request)
            if answer is not None:
                return answer
        handler, is_engine = handler_for(self._wishes.client, self._found.origin_url)
        if not is_engine and b"te" in self._special:  # nothing else gives us trailers, nor waits for a 100
            request.headers = [line for line in request.headers if line[0] not in (b"te", b"connection")]
        request.headers += framing
        if is_engine and framing and self._expects():
            request.headers.append((b"expect", _CONTINUE))
        return await self._sent(handler, request)

    async def _sent(self, handler: messages.Handler, request: messages.Request) -> messages.Response:
        policy, patience = self._rules.policy, request.timeouts
        if policy.first_byte is not None:
            request.timeouts = patience._replace(read=policy.first_byte)
        self.asked_at = perf_counter() if policy.server_timing else 0.0
        response = await handler(request)
        # The engine asks for its limits each time that it waits.
        request.timeouts = self._patience(response, patience)
        return response

    def _patience(self, response: messages.Response, limits: Timeouts) -> Timeouts:
        """Return the limits from an answer on."""
        return limits._replace(read=self._rules.policy.stream_idle) if _is_events(response) else limits

    def _answer_here(self) -> Response | None:
        """Return the answer to a request that is for us; raise for one that is for nobody."""
        admit(self._scope, self.method, self._special, self._rules.policy, self._via)
        if self.method not in ("OPTIONS", "TRACE"):
            return None
        response, left = answer_here(self._scope, self.method, self._inbound)
        if left is not None:
            self._special[b"max-forwards"] = [b"%d" % left]
        return response

    # What is sent.

    async def _framed(self, inbound: Inbound) -> tuple[bytes | AsyncIterable[bytes] | None, list[Header]]:
        """Return the body, if there is one, and the line that says how it ends."""
        special = self._special
        if self._body is not None:
            return await self._kept(inbound, self._body)
        if b"transfer-encoding" in special:
            return inbound, [(b"transfer-encoding", b"chunked")]
        if b"content-length" in special:
            return inbound, [(b"content-length", special[b"content-length"][0])]
        # HTTP/2 and 3 need no header for a body: only looking tells.
        if not self._is_http1 and await inbound.has_body():
            return inbound, [(b"transfer-encoding", b"chunked")]
        return None, []

    async def _kept(self, inbound: Inbound, body: bytes) -> tuple[bytes | None, list[Header]]:
        async for _ in inbound:
            pass  # it is counted
        framed = body or not {b"content-length", b"transfer-encoding"}.isdisjoint(self._special)
        return (body, [(b"content-length", b"%d" % len(body))]) if framed else (None, [])

    def _expects(self) -> bool:
        if self._body is not None or self._scope.get("http_version", "1.1") != "1.1":
            return False  # RFC 9110, section 10.1.1: from HTTP/1.0 it means nothing
        return any(value.lower() == _CONTINUE for value in self._special.get(b"expect", ()))

    def _lines_named(self, name: bytes) -> list[Header]:
        return [(name, value) for value in self._special.get(name, ())]

    def _lines(self, where: Where) -> list[Header]:
        rules, special = self._rules, self._special
        hosts = special.get(b"host")
        public_host = self._authority or (hosts[0] if hosts else None)
        keeps_host = rules.policy.preserve_host and bool(public_host)
        headers: list[Header] = [(b"host", public_host if keeps_host else where.host), *self._headers]  # type: ignore[list-item] # not None
        ours = self._ours(public_host) if len(special) == 1 else [*self._still_true(), *self._ours(public_host)]
        if rules.removed:
            ours = [line for line in ours if line[0] not in rules.removed]
            headers = replaced(headers, rules.to_upstream)
        headers += ours
        given, removed = self._wishes.headers
        if given or removed:
            headers = without_twins(headers, removed.union(name for name, _ in given))
            headers = [line for line in headers if line[0].lower() not in removed]
            headers = replaced(headers, given)
        return headers

    def _still_true(self) -> list[Header]:
        """Return those lines that go on although they are about the way."""
        headers = self._lines_named(b"via") + self._lines_named(b"max-forwards")
        extensions = self._scope.get("extensions") or ()
        if b"te" in self._special and "http.response.trailers" in extensions:
            headers += self._te()
        return headers

    def _ours(self, public_host: bytes | None) -> list[Header]:
        """Return what we say about the way ourselves."""
        scope, rules = self._scope, self._rules
        client = scope.get("client")
        headers = rules.forwarding.lines(
            self._inbound,
            peer=None if client is None else client[0],
            scheme=scope["scheme"],
            host=public_host,
            prefix=self._prefix,
        )
        if rules.policy.via is not None:
            headers.append(via_line(scope.get("http_version", "1.1"), self._via))
        return headers

    def _te(self) -> list[Header]:
        # The server can pass trailers on, so the upstream may send some (RFC 9110, section 10.1.4).
        return [(b"te", b"trailers"), (b"connection", b"te")] if has_token(self._special[b"te"], b"trailers") else []

    # The hook.

    def shown(self) -> ProxyRequest:
        """Return the request as it came, for whoever wonders what has become of it."""
        return ProxyRequest(self.method, self.url, list(self._headers), self._wishes.timeouts, Request(self._scope))

    async def _ask_hook(self, request: messages.Request) -> Response | None:
        assert self._found is not None
        hook = self._hooks.on_request
        assert hook is not None
        url = self._found.url
        before = list(request.headers)
        given = ProxyRequest(self.method, url, request.headers, request.timeouts, Request(self._scope))
        try:
            answer = await ask(hook, given)
            if isinstance(answer, Response):
                return answer
            self._take_over(given if answer is None else answer, request, url, before)
        except (*NOT_THEIRS, TargetRefused):
            raise
        except Exception as exc:
            raise HookFailed from exc
        return None

    def _take_over(self, given: ProxyRequest, request: messages.Request, url: str, before: list[Header]) -> None:
        if not isinstance(given, ProxyRequest):
            raise TypeError(
                f"on_request returned {given!r}; it may change the request that it is given and return nothing, "
                "or return that one, or a starlette.responses.Response to answer at once"
            )
        request.method = method_in_bytes(given.method)
        self.method = given.method
        request.timeouts = given.timeouts
        headers = given.headers.raw
        check_values(headers)
        # What the client sent is no twin of what the hook has set, or removed.
        names = {name.lower() for name, _ in [*before, *headers]}
        headers = [line for line in headers if without_twins([line], names) or line not in before]
        if given.url != url:
            target = self._parsed(given.url)
            self._found = Where(target.origin, target.host, target.with_query(b""))
            request.origin, request.target = target.origin, self._found.target
            if not self._rules.policy.preserve_host:
                headers = replaced(headers, [(b"host", target.host)])
        # How the body ends is not for a hook to say.
        request.headers = [line for line in headers if line[0] not in (b"content-length", b"transfer-encoding")]

    def _parsed(self, url: str) -> Target:
        return parse_target(url, strict=self._rules.policy.strict_paths)


def _is_events(response: messages.Response) -> bool:
    return any(name.lower() == b"content-type" and value[:17].lower() == _EVENTS for name, value in response.headers)
