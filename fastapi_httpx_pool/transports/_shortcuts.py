"""
The way of a plain request through the family's client, without the detours.

Most requests have no auth, hooks, redirects, parameters or body, and the family's client takes them
through all of these all the same; building its ``Request`` and ``Response`` alone costs more than
the exchange. So for plain requests both are put together directly, from parts that are kept. What
comes out is the same, attribute for attribute. The rules:

1. A shortcut is taken only where the long way would do exactly this and nothing else.
2. Before the first one, one request and one response are made both ways and compared. A release of
   the family that makes them differently goes the long way, always.
3. Whoever has replaced a method of the family's client (tracing does) meant to see every request:
   while one is replaced, every request goes the long way.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from inspect import signature
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, final

from ..messages import Header, Response
from ._family import Family
from ._native import is_own

__all__ = ("Shortcuts", "shortcuts_of")

MOST_URLS: Final = 1024
"""URLs that are kept parsed."""

_SENDING = ("send", "_send_handling_auth", "_send_handling_redirects", "_send_single_request")
_BUILDING = ("build_request", "_merge_url", "_merge_headers", "_merge_cookies", "_merge_queryparams")

_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))
_CODED = len(b"content-encoding")
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


@final
class Shortcuts:
    """One family's."""

    def __init__(self, family: Family) -> None:
        module = family.module
        private = import_module(f"{family.name}._client")
        self.family = family
        self._client_class: Any = module.AsyncClient
        self._request_class: Any = module.Request
        self._response_class: Any = module.Response
        self._headers_class: Any = module.Headers
        self._url_class: Any = module.URL
        self._empty: Any = module.ByteStream
        self._bound: Callable[..., Any] = private.BoundAsyncStream
        self._bound_to_response = "response" in signature(private.BoundAsyncStream).parameters
        self.default: Any = private.USE_CLIENT_DEFAULT
        self._logger = logging.getLogger(family.name)
        self._methods = attrgetter(*_SENDING, *_BUILDING)
        self._genuine = self._methods(self._client_class)
        self._usable = all(is_own(method, family.name) for method in self._genuine) and self._makes_the_same()
        self._urls: dict[str, Any] = {}

    def may_be_taken(self) -> bool:
        """Whether nobody has put themselves in the way."""
        return self._usable and bool(self._methods(self._client_class) == self._genuine)

    # A request.

    def url(self, client: Any, text: str) -> Any:
        """Return a URL, merged with the client's base URL; absolute ones are parsed once."""
        url = self._urls.get(text)
        if url is None:
            url = client._merge_url(text)
            if self._url_class(text).is_relative_url:
                return url
            if len(self._urls) >= MOST_URLS:
                self._urls.clear()
            self._urls[text] = url
        return url

    def request(self, method: str, url: Any, headers: Any, timeout: Any) -> Any | None:
        """
        Return a request without a body, or None if the long way would do more.

        Args:
            method: In capitals.
            url: The family's, absolute.
            headers: The client's, merged with the call's.
            timeout: The family's ``Timeout``.
        """
        lines = headers._list
        if not _FRAMING.isdisjoint([lowered for _, lowered, _ in lines]) or not url.host:
            return None
        request = self._request_class.__new__(self._request_class)
        request.method = method
        request.url = url
        request.headers = self._headers([(b"Host", b"host", url.netloc), *lines])
        request.extensions = {"timeout": timeout.as_dict()}
        request.stream = self._empty(b"")
        request._content = b""
        return request

    # Its response.

    def response(self, ours: Response, request: Any, body: Any, default_encoding: Any) -> Any:
        """
        Return the family's response, still to be read.

        Args:
            ours: The response.
            request: The family's.
            body: The family's stream over ours.
            default_encoding: The client's.
        """
        response = self._response_class.__new__(self._response_class)
        response.status_code = ours.status
        response.headers = self._headers([(name, name.lower(), value) for name, value in ours.headers])
        response._request = request
        response.next_request = None
        response.extensions = ours.extensions
        response.history = []
        response.is_closed = False
        response.is_stream_consumed = False
        response.default_encoding = default_encoding
        response.stream = body
        response._num_bytes_downloaded = 0
        return response

    def bind(self, response: Any, start: float) -> None:
        """Have the stream take the time, if others read it."""
        arguments = {"response": response} if self._bound_to_response else {}
        response.stream = self._bound(response.stream, start=start, **arguments)

    async def read(self, response: Any, start: float) -> None:
        """
        Read a response to its end and close it.

        Args:
            response: The family's.
            start: When the request was sent, by ``perf_counter``.
        """
        response.is_stream_consumed = True
        body = response.stream
        content = await body.read()
        response._num_bytes_downloaded = len(content)
        response._content = content
        response.is_closed = True
        response.elapsed = timedelta(seconds=perf_counter() - start)
        await body.aclose()

    def is_plain(self, ours: Response) -> bool:
        """Whether the body is what it seems to be, and leads nowhere else."""
        if ours.status in _REDIRECTS:
            return False
        return not any(len(name) == _CODED and name.lower() == b"content-encoding" for name, _ in ours.headers)

    def log(self, request: Any, response: Any) -> None:
        """Log what the family's client logs."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info(
                'HTTP Request: %s %s "%s %d %s"',
                request.method,
                request.url,
                response.http_version,
                response.status_code,
                response.reason_phrase,
            )

    def _headers(self, lines: list[tuple[bytes, bytes, bytes]]) -> Any:
        headers = self._headers_class.__new__(self._headers_class)
        headers._list = lines
        headers._encoding = None
        return headers

    # Whether all this is still true.

    def _makes_the_same(self) -> bool:
        try:
            return self._requests_are_the_same() and self._responses_are_the_same()
        except Exception:  # noqa: BLE001 -- whatever it is, it is not what this was written for
            return False

    def _requests_are_the_same(self) -> bool:
        client = self._client_class(transport=_NoTransport(), headers={"X-Probe": "1"})
        theirs = client.build_request("GET", "http://probe.invalid:81/a%20b?c=d")
        ours = self.request("GET", theirs.url, client.headers, client.timeout)
        return ours is not None and _described(ours) == _described(theirs)

    def _responses_are_the_same(self) -> bool:
        lines: list[Header] = [(b"Content-Type", b"text/plain"), (b"X-Probe", b"1")]
        family = self.family
        extensions = {"http_version": b"HTTP/1.1"}
        request = self._request_class("GET", "http://probe.invalid/")
        theirs = self._response_class(200, headers=lines, stream=family.module.ByteStream(b"x"), extensions=extensions)
        theirs.request = request
        theirs.default_encoding = "utf-8"
        message = Response(200, lines, None, extensions)  # type: ignore[arg-type] # is not read
        ours = self.response(message, request, theirs.stream, "utf-8")
        return _described(ours) == _described(theirs)


class _NoTransport:
    """Stands where a transport would, and is not used."""


def _described(thing: Any) -> dict[str, Any]:
    """Return the attributes of a request or response, comparably."""
    described = dict(vars(thing))
    described["headers"] = vars(described["headers"])
    described["stream"] = None
    return described


_shortcuts: dict[str, Shortcuts] = {}


def shortcuts_of(family: Family) -> Shortcuts:
    """Return a family's shortcuts."""
    if family.name not in _shortcuts:
        _shortcuts[family.name] = Shortcuts(family)
    return _shortcuts[family.name]
