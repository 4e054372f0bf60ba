"""The door for apps: an upstream, mounted under a path or alone under a server."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

import httpx
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from .._state import client_in
from ..clients import ClientFactory, check_settings
from ..exceptions import ClientNotStarted
from ..messages import Header, Timeouts
from ..settings import ClientSettings, TimeoutSettings
from ..transports import family_of
from ._forwarded import Forwarded
from ._handshake import Handshake
from ._headers import check_values
from ._hooks import Hooks, OnFailure, OnRequest, OnResponse
from ._lifespan import run_lifespan
from ._opening import Opening
from ._paths import Base, below_mount, inbound_path, public_prefix
from ._policy import ProxyPolicy
from ._relay import Door, Relay
from ._response import Streamed, body_of
from ._rewriting import Rewriting
from ._rules import Rules
from ._source import Where
from ._switch import Switch
from ._target import TargetRefused
from ._via import pseudonym
from ._way import CLIENTS_OWN
from ._websocket import check_unanswered, relay_websocket
from ._wishes import Wishes, timeouts_from, timeouts_of, wishes_from

if TYPE_CHECKING:
    import httpx2

__all__ = ("ReverseProxy",)

_ADDRESSES = frozenset((b"location", b"content-location"))


@final
class ReverseProxy:
    """
    An ASGI app that is an upstream: every request under it is sent on, and the answer streamed back.

    ``app.mount("/api", ReverseProxy("https://api.internal/v2"))`` sends ``/api/users?page=2`` to
    ``https://api.internal/v2/users?page=2``, octet by octet, and nothing outside of ``/v2``. Alone
    under a server, ``uvicorn module:proxy``, it opens a client of its own.

    What comes back is streamed, and the guarantees are those of ``StreamingProxyResponse``.
    """

    def __init__(
        self,
        upstream: "str | httpx.URL | httpx2.URL",
        *,
        client: "httpx.AsyncClient | httpx2.AsyncClient | str | None" = None,
        settings: ClientSettings | None = None,
        timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = CLIENTS_OWN,
        policy: ProxyPolicy | None = None,
        on_request: OnRequest | None = None,
        on_response: OnResponse | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        """
        Take where requests go; nothing is opened yet.

        Args:
            upstream: Scheme, host, and the path that nothing leaves; a query is put before each
                request's own. ``ws`` and ``wss`` mean ``http`` and ``https``, for requests go there, too.
            client: Whose pool to use: the name of a client of the app's, or a client of either
                family, which stays open. By default the app's default client; or alone under a
                server, one of its own.
            settings: Of its own client; only alone under a server, where its lifespan runs.
            timeout: In seconds, or as settings, instead of the client's; None for no limit.
            policy: What is done to what passes through.
            on_request: Sees each request before it goes out; may change it or answer it.
            on_response: Sees each answer before it goes out; may change it or return another.
            on_failure: Sees what went wrong before the first byte; may answer.

        Raises:
            ValueError: The URL is not absolute, or of another scheme, or has what a base cannot have.
            TypeError: The client is neither a name nor an ``AsyncClient``; or something else is not
                what it should be.
            pydantic.ValidationError: The timeout is none.
        """
        check_settings(settings, None)
        if client is not None and settings is not None:
            raise TypeError("give a client, or settings for one of its own; not both")
        if client is not None and not isinstance(client, str):
            family_of(client)
        self._base = Base.parse(str(upstream))
        self._client = client
        self._settings = settings
        self._own_timeouts = None if timeout is CLIENTS_OWN else timeouts_from(timeout)
        self._rules = Rules.of(policy)
        self._hooks = Hooks(on_request, on_response, on_failure)
        self._via = pseudonym(self._rules.policy.via, str(upstream)).encode("ascii")
        self._own: Any = None
        """The client that it has opened itself."""
        self._door = Door(self._rules, self._hooks, self._via, [], None, answers_for_hooks=True)
        self._wishes = Wishes(None, Timeouts())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket; or the lifespan, if it is alone under a server."""
        if scope["type"] == "http":
            prefix: str = scope.get("root_path", "")
            source = self._source(scope, prefix)
            await Relay(scope, receive, send, source, self._door_of(scope, prefix, self._base)).run()
        elif scope["type"] == "websocket":
            client = self._client_for(scope)
            switch = Switch(scope, receive, send, client, self._rules.policy)
            wishes = Wishes(client, self._timeouts(client))
            await self._relay_websocket(switch, scope.get("root_path", ""), wishes, base=self._base)
        else:
            await run_lifespan(self._own_client(scope), receive, send)

    def response(
        self,
        request: Request,
        *,
        path: str | None = None,
        prefix: str = "",
        upstream: "str | httpx.URL | httpx2.URL | None" = None,
        client: "httpx.AsyncClient | httpx2.AsyncClient | str | None" = None,
        method: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = CLIENTS_OWN,
        background: BackgroundTask | None = None,
    ) -> Response:
        """
        Return the upstream's answer to a route's request, for a route that wants a say in it.

        What is given here counts for this one request, so that it may come from dependencies.

        Args:
            request: The inbound request.
            path: Under the upstream's base, octet by octet; by default the request's own.
            prefix: What is taken from the request's own path, as a mount would; decoded.
            upstream: Instead of the proxy's.
            client: Instead of the proxy's.
            method: Instead of the request's.
            headers: As in ``StreamingProxyResponse``.
            timeout: Instead of the proxy's.
            background: Runs when the client has its answer.

        Raises:
            TypeError: It is not a request, or the client is neither a name nor an ``AsyncClient``.
            ValueError: As in the constructor; or the method or a header would break the request.
            RuntimeError: The route has consumed the request's body, by a form for example.
            ClientNotStarted: No lifespan of ours ran.
        """
        body = body_of(request)
        scope = request.scope
        prefix = scope.get("root_path", "") + prefix
        wishes = self._wishes_of(scope, client, timeout, method, headers)
        base = self._base if upstream is None else Base.parse(str(upstream))
        source = self._forwarded(scope, prefix, wishes, base=base, path=path, body=body)
        return Streamed(source, replace(self._door_of(scope, prefix, base)), background)

    async def websocket(
        self,
        websocket: WebSocket,
        *,
        path: str | None = None,
        prefix: str = "",
        upstream: "str | httpx.URL | httpx2.URL | None" = None,
        client: "httpx.AsyncClient | httpx2.AsyncClient | str | None" = None,
        headers: Mapping[str, str | None] | None = None,
        timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = CLIENTS_OWN,  # noqa: ASYNC109 -- httpx's
    ) -> None:
        """
        Connect a route's WebSocket with the upstream's, for a route that wants a say in it.

        What is given here counts for this one WebSocket, as in ``response``; the rest is as in
        ``proxy_websocket``.

        Args:
            websocket: The inbound one, not accepted.
            path: Under the upstream's base, octet by octet; by default the WebSocket's own.
            prefix: What is taken from the WebSocket's own path, as a mount would; decoded.
            upstream: Instead of the proxy's.
            client: Instead of the proxy's.
            headers: As in ``StreamingProxyResponse``, for the handshake.
            timeout: For the handshake, instead of the proxy's.

        Raises:
            TypeError: It is not a WebSocket, or the client is neither a name nor an ``AsyncClient``.
            ValueError: As in the constructor; or a header would break the request.
            RuntimeError: The route has accepted or closed it already.
            ClientNotStarted: No lifespan of ours ran.
        """
        check_unanswered(websocket)
        scope = websocket.scope
        prefix = scope.get("root_path", "") + prefix
        wishes = self._wishes_of(scope, client, timeout, None, headers)
        base = self._base if upstream is None else Base.parse(str(upstream))
        switch = Switch(scope, websocket.receive, websocket.send, wishes.client, self._rules.policy)
        await self._relay_websocket(switch, prefix, wishes, base=base, path=path)

    async def _relay_websocket(
        self, switch: Switch, prefix: str, wishes: Wishes, *, base: Base, path: str | None = None
    ) -> None:
        request = switch.request
        source = self._forwarded(request, prefix, wishes, base=base, path=path, handshake=switch.handshake)
        await relay_websocket(source, self._door_of(request, prefix, base), switch)

    def _wishes_of(
        self, scope: Scope, client: Any, timeout: Any, method: str | None, headers: Mapping[str, str | None] | None
    ) -> Wishes:
        chosen = self._client_for(scope) if client is None else self._given(scope, client)
        limits = self._timeouts(chosen) if timeout is CLIENTS_OWN else timeouts_from(timeout)
        return wishes_from(chosen, limits, method, headers)

    def _door_of(self, scope: Scope, prefix: str, base: Base) -> Door:
        if not self._rules.rewrites:
            return self._door
        return replace(self._door, rewrite=self._rewriting(scope, prefix, base))

    # Where it goes.

    def _source(self, scope: Scope, prefix: str) -> Forwarded:
        client = self._client_for(scope)
        timeouts = self._timeouts(client)
        wishes = self._wishes
        if wishes.client is not client or wishes.timeouts is not timeouts:
            wishes = self._wishes = Wishes(client, timeouts)  # the same for most requests
        return self._forwarded(scope, prefix, wishes, base=self._base)

    def _forwarded(
        self,
        scope: Scope,
        prefix: str,
        wishes: Wishes,
        *,
        base: Base,
        path: str | None = None,
        body: bytes | None = None,
        handshake: Handshake | None = None,
    ) -> Forwarded:
        make: Callable[..., Forwarded] = Forwarded if handshake is None else partial(Opening, handshake)
        return make(
            scope,
            partial(self._where, scope, prefix, base, None if path is None else path.encode("utf-8")),
            wishes,
            rules=self._rules,
            hooks=self._hooks,
            via=self._via,
            prefix=prefix,
            body=body,
            host=_authority_in(scope),
        )

    def _where(self, scope: Scope, prefix: str, base: Base, path: bytes | None) -> Where:
        rest = below_mount(scope, inbound_path(scope)[0], prefix) if path is None else path
        strict = self._rules.policy.strict_paths
        return Where(base.origin, base.host, base.target(rest, scope["query_string"], strict=strict))

    def _rewriting(self, scope: Scope, prefix: str, base: Base) -> Callable[[list[Header]], list[Header]]:
        policy = self._rules.policy

        def rewrite(headers: list[Header]) -> list[Header]:
            host, client = _host_asked_for(scope), scope.get("client")
            peer = None if client is None else client[0]
            public_origin, before = self._rules.forwarding.public_side(
                scope["headers"], peer=peer, scheme=scope["scheme"], host=host
            )
            rewriting = Rewriting(
                # What it was called is what it calls itself.
                upstream=(base.origin.scheme, host if policy.preserve_host and host else base.host),
                base_path=base.path,
                public_origin=public_origin,
                prefix=before + public_prefix(scope, prefix),
            )
            rewritten = []
            for name, value in headers:
                if policy.rewrite_location and name in _ADDRESSES:
                    value = rewriting.location(value)  # noqa: PLW2901 -- the same line
                elif policy.rewrite_cookies and name == b"set-cookie":
                    value = rewriting.set_cookie(value)  # noqa: PLW2901 -- likewise
                rewritten.append((name, value))
            check_values(rewritten)
            return rewritten

        return rewrite

    # Through whom.

    def _client_for(self, scope: Scope) -> Any:
        if self._client is not None:
            return self._given(scope, self._client)
        if self._own is not None:
            return self._own
        try:
            return client_in(HTTPConnection(scope))
        except ClientNotStarted as exc:
            exc.add_note(
                "A ReverseProxy that is mounted uses the app's client: FastAPI(lifespan=create_lifespan()). "
                "Settings of its own count only where its own lifespan runs, alone under a server."
            )
            raise

    def _given(self, scope: Scope, client: Any) -> Any:
        return client_in(HTTPConnection(scope), client) if isinstance(client, str) else client

    def _timeouts(self, client: Any) -> Timeouts:
        return timeouts_of(client) if self._own_timeouts is None else self._own_timeouts

    # Alone under a server.

    @asynccontextmanager
    async def _own_client(self, scope: Scope) -> AsyncIterator[None]:
        """Open a client for the time of the lifespan, unless there is one already."""
        if self._client is not None or (self._settings is None and _has_client(scope)):
            yield
            return
        try:
            async with ClientFactory(self._settings or ClientSettings(trust_env=False)) as factory:
                self._own = factory.get(None, object)
                yield
        finally:
            # Not before it is closed: what comes while it drains is refused by the client itself.
            self._own = None

    def __repr__(self) -> str:
        return f"<ReverseProxy [{self._base.origin_url}{self._base.path.decode('latin-1')}]>"


def _has_client(scope: Scope) -> bool:
    try:
        client_in(HTTPConnection({"type": "http", "state": scope.get("state", {})}))
    except ClientNotStarted:
        return False
    return True


def _authority_in(scope: Scope) -> bytes | None:
    """Return the host of an absolute-form target, which counts in the place of ``Host`` (RFC 9112, section 3.2.2)."""
    raw_path: bytes = scope.get("raw_path") or b"/"
    if raw_path.startswith(b"/"):
        return None
    try:
        return inbound_path(scope)[1]
    except TargetRefused:
        return None  # it is answered in its turn


def _host_asked_for(scope: Scope) -> bytes | None:
    hosts = [_authority_in(scope)] + [value for name, value in scope["headers"] if name.lower() == b"host"]
    return next((host for host in hosts if host), None)
