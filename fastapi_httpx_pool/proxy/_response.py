"""The door for routes: a Starlette response that is an upstream's."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Self

import httpx
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .. import messages
from .._state import client_in
from ..messages import Header
from ..settings import TimeoutSettings
from ._headers import check_values, replaced
from ._relay import Outgoing, Relay, is_usable
from ._source import Forwarded, Opened, Source, check_request, timeouts_from, timeouts_of

if TYPE_CHECKING:
    import httpx2

__all__ = ("StreamingProxyResponse", "UpstreamResponse")


class UpstreamResponse:
    """
    An upstream's answer on its way to the client, for ``on_response`` to read and change.

    Hop-by-hop headers are gone already. To rewrite the body, put another async iterator around it:
    ``response.body = upper(response.body)``. The ``Content-Length`` of a replaced body is dropped.

    The chunks are as on the wire. If the upstream might compress what you want to read, send it
    ``headers={"accept-encoding": "identity"}``.
    """

    status_code: int
    headers: MutableHeaders
    """Changed in place; repeated lines and bytes beyond ASCII are kept."""
    body: AsyncIterator[bytes]

    def __init__(self, status_code: int, headers: list[Header], body: AsyncIterator[bytes]) -> None:
        self.status_code = status_code
        self.headers = MutableHeaders(raw=headers)
        self.body = body


Answer = Response | UpstreamResponse | None
OnResponse = Callable[[UpstreamResponse], Answer | Awaitable[Answer]]
"""Changes the answer that it is given, or returns another one; a function or an async one."""


class _ClientsOwn(TimeoutSettings):
    """Stands for "as the client has it", because None means no limit."""

    def __repr__(self) -> str:
        return "the client's own"


_CLIENTS_OWN = _ClientsOwn()


class StreamingProxyResponse(Response):
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
        timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = _CLIENTS_OWN,
        on_response: OnResponse | None = None,
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
            on_response: Sees the answer before it goes out; may change it or return another.
            background: Runs when the client has its answer.

        Raises:
            ClientNotStarted: No client was given and no lifespan of ours ran.
            TypeError: The client is not an ``AsyncClient`` of either family.
            ValueError: The URL is not one that a request can be sent to, or the method or a header
                would break the request.
            RuntimeError: The route has consumed the request's body, by a form for example.
            pydantic.ValidationError: The timeout is none.
        """
        check_request(request)
        if client is None:
            client = client_in(request)
        source = Forwarded(
            request,
            str(url),
            client,
            method=method,
            headers=headers,
            timeouts=timeouts_of(client) if timeout is _CLIENTS_OWN else timeouts_from(timeout),
        )
        self._take(source, on_response, background)

    @classmethod
    def from_response(
        cls,
        response: "httpx.Response | httpx2.Response",
        *,
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
        self._take(Opened(response), on_response, background)
        return self

    def _take(self, source: Source, on_response: OnResponse | None, background: BackgroundTask | None) -> None:
        # Not Starlette's __init__: it would give an empty body a Content-Length.
        self.status_code = 200
        self.background = background
        self.init_headers()
        self._source = source
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay the answer, then run the background task."""

        async def prepare(response: messages.Response) -> Outgoing | Response:
            return await self._prepare(response, head_request=scope["method"] == "HEAD")

        if await Relay(scope, receive, send, self._source, prepare).run() and self.background is not None:
            await self.background()

    async def _prepare(self, response: messages.Response, *, head_request: bool) -> Outgoing | Response:
        outgoing = Outgoing(response, to_head=head_request, from_head=self._source.method == "HEAD")
        if self._on_response is not None:
            replacement = await self._ask_hook(outgoing, self._on_response)
            if replacement is not None:
                return replacement
        if self.raw_headers:
            # Cookies are added to the upstream's; other headers stand in their place.
            cookies = [line for line in self.raw_headers if line[0] == b"set-cookie"]
            others = [line for line in self.raw_headers if line[0] != b"set-cookie"]
            outgoing.headers = replaced(outgoing.headers, others) + cookies
        return outgoing

    async def _ask_hook(self, outgoing: Outgoing, hook: OnResponse) -> Response | None:
        given = UpstreamResponse(outgoing.status, outgoing.headers, outgoing.body)
        length = given.headers.get("content-length")
        result = hook(given)
        answer: Answer = await result if inspect.isawaitable(result) else result
        if isinstance(answer, Response):
            return answer
        if answer is None:
            answer = given
        _check_answer(answer)
        if answer.body is not outgoing.body and answer.headers.get("content-length") == length:
            del answer.headers["content-length"]
        outgoing.status, outgoing.headers, outgoing.body = answer.status_code, answer.headers.raw, aiter(answer.body)
        return None


def _check_answer(answer: UpstreamResponse) -> None:
    if not isinstance(answer, UpstreamResponse):
        raise TypeError(
            f"on_response returned {answer!r}; it may change the response that it is given and return nothing, "
            "or return that one, or another starlette.responses.Response"
        )
    if not is_usable(answer.status_code):
        raise ValueError(f"on_response set the status {answer.status_code}; it must be from 200 to 599")
    check_values(answer.headers.raw)
