"""Where an answer comes from: the inbound request sent on, or a response that a route has opened."""

from collections.abc import AsyncIterable, Mapping
from typing import Any, Protocol, final

from starlette.requests import Request

from .. import messages
from ..messages import Header, Timeouts
from ..settings import TimeoutSettings
from ..transports import PooledClient, family_of, handler_for, response_over
from ._headers import framing_of, method_in_bytes, replaced, request_headers, sendable, with_one_cookie_line
from ._inbound import Inbound
from ._target import Target, TargetRefused, parse_target

__all__ = ("Forwarded", "Opened", "Source", "check_request", "timeouts_from", "timeouts_of")


class Source(Protocol):
    """Gets one upstream response."""

    method: str
    """Of the upstream's request."""
    url: str

    @property
    def request(self) -> Request | None:
        """Whose body is sent on."""

    async def open(self, inbound: Inbound) -> messages.Response:
        """
        Get it.

        Raises:
            TargetRefused: The URL leads where the route did not mean it to.
            TransportError: The upstream could not be reached, or did not answer.
        """
        ...


@final
class Opened:
    """A response of either family that is open already."""

    request: None = None

    def __init__(self, response: Any) -> None:
        self._response = response_over(response)
        try:
            self.method: str = response.request.method
            self.url = str(response.request.url)
        except RuntimeError:  # made by hand, without a request
            self.method, self.url = "GET", ""

    async def open(self, inbound: Inbound) -> messages.Response:
        """Return it."""
        return self._response


@final
class Forwarded:
    """The inbound request, sent on to a URL."""

    def __init__(
        self,
        request: Request,
        url: str,
        client: Any,
        *,
        method: str | None,
        headers: Mapping[str, str | None] | None,
        timeouts: Timeouts,
    ) -> None:
        self.method = request.method if method is None else method
        self.url = _absolute(url, client)
        self.request = request
        self._client = client
        self._method = method_in_bytes(self.method)
        self._extra, self._removed = sendable(headers or {})
        self._timeouts = timeouts
        self._target: Target | TargetRefused
        try:
            self._target = parse_target(self.url)
        except TargetRefused as exc:
            # Not the route's fault but its caller's, who gets the answer.
            self._target = exc

    async def open(self, inbound: Inbound) -> messages.Response:
        """Send the request on."""
        target = self._target
        if isinstance(target, TargetRefused):
            raise target
        body, chunked = await self._body(inbound)
        request = messages.Request(
            method=self._method,
            origin=target.origin,
            target=target.with_query(self.request.scope["query_string"]),
            headers=self._headers(target, chunked=chunked),
            body=body,
            timeouts=self._timeouts,
        )
        return await handler_for(self._client, target.origin_url)(request)

    async def _body(self, inbound: Inbound) -> tuple[AsyncIterable[bytes] | None, bool]:
        """Return the inbound body, if there is one, and whether it goes out in chunks."""
        framing = framing_of(self.request.headers.raw)
        if framing is not None:
            return inbound, framing == b"transfer-encoding"
        # HTTP/2 and 3 need no header for a body: only looking tells.
        if not self._is_http1 and await inbound.has_body():
            return inbound, True
        return None, False

    def _headers(self, target: Target, *, chunked: bool) -> list[Header]:
        scope = self.request.scope
        inbound = self.request.headers.raw
        headers = request_headers(
            inbound if self._is_http1 else with_one_cookie_line(inbound),
            host=target.host,
            peer=None if scope.get("client") is None else scope["client"][0],
            scheme=scope["scheme"],
            chunked=chunked,
        )
        headers = [line for line in headers if line[0].lower() not in self._removed]
        return replaced(headers, self._extra)

    @property
    def _is_http1(self) -> bool:
        return self.request.scope["http_version"] in ("1.0", "1.1")


def _absolute(url: str, client: Any) -> str:
    if not url.startswith("/") or not client.base_url.host:
        return url
    # User information in a base URL is the client's own way to authenticate.
    base = str(client.base_url.copy_with(userinfo=b""))
    return base.rstrip("/") + url


def check_request(request: Request) -> None:
    """Raise TypeError if it is none, and RuntimeError if its body is gone."""
    if not isinstance(request, Request):
        raise TypeError(f"{request!r} is not a Request; write StreamingProxyResponse(request, url)")
    # A form is parsed as it comes and leaves nothing to send; a body that was read whole is kept.
    if request._stream_consumed and not hasattr(request, "_body"):
        raise RuntimeError(
            "The request's body has been consumed before it could be sent on: by a Form() or UploadFile parameter "
            "of the route, or by request.stream(). Declare none, or call `await request.body()` first."
        )


def timeouts_of(client: Any) -> Timeouts:
    """
    Return a client's own limits in seconds.

    Raises:
        TypeError: It is not an ``AsyncClient`` of either family.
    """
    family_of(client)
    timeouts = timeouts_from(client.timeout)
    # The families know no total.
    return timeouts._replace(total=client.pool_settings.timeout.total) if isinstance(client, PooledClient) else timeouts


def timeouts_from(timeout: Any) -> Timeouts:
    """
    Return limits in seconds for a number, for settings, or for a family's ``Timeout``.

    Raises:
        pydantic.ValidationError: It is none of them, or a number below 0.
    """
    settings = TimeoutSettings.model_validate(timeout)
    return Timeouts(**{name: getattr(settings, name) for name in Timeouts._fields})
