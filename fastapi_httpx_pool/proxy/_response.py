"""The door for routes: a Starlette response that is an upstream's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .._state import client_in
from ..settings import TimeoutSettings
from ._hooks import Hooks, OnFailure, OnRequest, OnResponse
from ._policy import ProxyPolicy
from ._relay import Door, Relay
from ._rules import Rules
from ._source import Opened, Source
from ._via import pseudonym
from ._way import CLIENTS_OWN, way_to
from ._wishes import timeouts_from, timeouts_of, wishes_from

if TYPE_CHECKING:
    import httpx2

__all__ = ("Streamed", "StreamingProxyResponse", "body_of")


class Streamed(Response):
    """A response that is an upstream's, however it was asked for."""

    def __init__(self, source: Source, door: Door, background: BackgroundTask | None) -> None:
        # Not Starlette's __init__: it would give an empty body a Content-Length.
        self.status_code = 200
        self.background = background
        self.init_headers()
        self._source = source
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay the answer, then run the background task."""
        self._door.headers = self.raw_headers
        if await Relay(scope, receive, send, self._source, self._door).run() and self.background is not None:
            await self.background()


class StreamingProxyResponse(Streamed):
    """
    Sends the inbound request to a URL and streams the answer back: status, headers and body as they come.

    The upstream is released when the client has its answer, when it leaves (at any stage, also in a
    silent stream) and when anything fails. Failures before the first byte are answered with 502,
    503 or 504; later ones break the client's connection off, so that nothing cut short looks whole.

    Headers and cookies that are set on this object are added to the upstream's; the status is the
    upstream's, or what ``on_response`` makes of it.
    """

    def __init__(
        self,
        request: Request,
        url: "str | httpx.URL | httpx2.URL",
        *,
        client: "httpx.AsyncClient | httpx2.AsyncClient | None" = None,
        method: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = CLIENTS_OWN,
        policy: ProxyPolicy | None = None,
        on_request: OnRequest | None = None,
        on_response: OnResponse | None = None,
        on_failure: OnFailure | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        """
        Take the route's wishes; nothing is sent before the response is.

        Args:
            request: The inbound request. A body that the route has read already is sent from memory.
            url: Absolute, or a path if the client has a ``base_url``. Its octets are sent as they
                are; without a query of its own it takes the request's. One with a ``..`` segment or
                user information is answered with 400: it was joined from something untrusted.
            client: Whose pool to use, of either family; None for the app's default client from the
                request's state (give the one that a dependency got, so that overrides count). Its
                own layer (auth, cookies, default headers, event hooks) plays no part here.
            method: Instead of the request's.
            headers: Sent upstream in the place of the request's headers of these names; None sends
                none of that name. All others go on as they came: a request to somebody else's
                server may want ``{"cookie": None, "authorization": None}``. Those that belong to a
                connection or to the framing are left out.
            timeout: In seconds, or as settings, instead of the client's; None for no limit.
            policy: What is done to what passes through. Rewriting addresses needs a ``ReverseProxy``,
                which knows both sides.
            on_request: Sees the request before it goes out; may change it or answer it.
            on_response: Sees the answer before it goes out; may change it or return another.
            on_failure: Sees what went wrong before the first byte; may answer.
            background: Runs when the client has its answer.

        Raises:
            ClientNotStarted: No client was given and no lifespan of ours ran.
            TypeError: The client is not an ``AsyncClient`` of either family; or a hook is no function.
            ValueError: The URL is not one that a request can be sent to, or the method or a header
                would break the request; or the policy rewrites.
            RuntimeError: The route has consumed the request's body, by a form for example.
            pydantic.ValidationError: The timeout is none.
        """
        body = body_of(request)
        rules = Rules.of(policy)
        if rules.rewrites:
            raise ValueError(
                "rewrite_location and rewrite_cookies need to know both sides' paths, so they work with "
                "ReverseProxy(...).response(request), not with StreamingProxyResponse(request, url)"
            )
        hooks = Hooks(on_request, on_response, on_failure)
        if client is None:
            client = client_in(request)
        limits = timeouts_of(client) if timeout is CLIENTS_OWN else timeouts_from(timeout)
        wishes = wishes_from(client, limits, method, headers)
        super().__init__(*way_to(str(url), request.scope, wishes, rules, hooks, body=body), background)

    @classmethod
    def from_response(
        cls,
        response: "httpx.Response | httpx2.Response",
        *,
        policy: ProxyPolicy | None = None,
        on_response: OnResponse | None = None,
        background: BackgroundTask | None = None,
    ) -> Self:
        """
        Stream a response that the route has opened with ``client.send(..., stream=True)``, and close it.

        The guarantees are the same, from here on. A response whose body has been read already is
        sent from memory, decompressed.

        Raises:
            TypeError: It is not a response of either family.
            RuntimeError: It was closed before it was read.
        """
        self = cls.__new__(cls)
        rules, hooks = Rules.of(policy), Hooks(None, on_response, None)
        door = Door(rules, hooks, pseudonym(rules.policy.via, "").encode("ascii"), [], None, answers_for_hooks=False)
        Streamed.__init__(self, Opened(response), door, background)
        return self


def body_of(request: Request) -> bytes | None:
    """
    Return the body that a route has read already, if it has.

    Raises:
        TypeError: It is not a request.
        RuntimeError: The body is gone.
    """
    if not isinstance(request, Request):
        raise TypeError(f"{request!r} is not a Request; write StreamingProxyResponse(request, url)")
    body: bytes | None = getattr(request, "_body", None)
    # A form is parsed as it comes and leaves nothing to send; a body that was read whole is kept.
    if request._stream_consumed and body is None:
        raise RuntimeError(
            "The request's body has been consumed before it could be sent on: by a Form() or UploadFile parameter "
            "of the route, or by request.stream(). Declare none, or call `await request.body()` first."
        )
    return body
