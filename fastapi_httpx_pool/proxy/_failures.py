"""
What can go wrong while relaying: a closed vocabulary, by stage and side.

One name serves the status, ``Proxy-Status`` (RFC 9209), the log line and labels. Answers say no
more than the status and that one word do: what the upstream is and why it failed is for the log.
"""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from enum import Enum
from http import HTTPStatus
from typing import final

from ..exceptions import (
    AddressForbidden,
    ClientClosed,
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    NetworkError,
    PoolTimeout,
    ProtocolError,
    ReadError,
    TimeoutException,
    TotalTimeout,
    TransportError,
    WriteError,
    WriteTimeout,
)
from ..messages import Header

__all__ = ("ProxyFailure", "answer", "failure_of")


@final
class ProxyFailure(Enum):
    """One way to fail: its label, the status of the answer, and its error type in ``Proxy-Status``."""

    TARGET_REFUSED = ("target_refused", 400, "http_request_error")
    """The URL leads where the route, or the mount, did not mean it to."""
    REQUEST_INVALID = ("request_invalid", 400, "http_request_error")
    """The client's request cannot be sent on as it is."""
    METHOD_REFUSED = ("method_refused", 501, "http_request_denied")
    """The method is not passed on: CONNECT, or TRACE."""
    REQUEST_TOO_LARGE = ("request_too_large", 413, "http_request_error")
    """The client's body is longer than the policy lets it be."""
    CLIENT_STALLED = ("client_stalled", 408, "http_request_error")
    """The client stopped sending the body that it had announced, or taking the answer."""
    CLIENT_LEFT = ("client_left", 499, "http_request_error")
    """The client disconnected; nobody reads the answer."""
    POOL_FULL = ("pool_full", 503, "connection_limit_reached")
    """No connection became free in time."""
    SHUTTING_DOWN = ("shutting_down", 503, "destination_unavailable")
    """The client pool takes no new requests."""
    DNS_FAILED = ("dns_failed", 502, "dns_error")
    """The upstream's name has no address."""
    CONNECT_REFUSED = ("connect_refused", 502, "connection_refused")
    """Nobody listens where the upstream should."""
    ADDRESS_FORBIDDEN = ("address_forbidden", 502, "destination_ip_prohibited")
    """The upstream's name leads to an address that is not allowed."""
    TLS_FAILED = ("tls_failed", 502, "tls_protocol_error")
    """The upstream does not speak TLS, or not ours."""
    CERTIFICATE_REFUSED = ("certificate_refused", 502, "tls_certificate_error")
    """The upstream's certificate is not to be trusted."""
    CONNECT_FAILED = ("connect_failed", 502, "destination_unavailable")
    """No connection could be made, for another reason."""
    CONNECT_TIMEOUT = ("connect_timeout", 504, "connection_timeout")
    """No connection could be made in time."""
    REQUEST_UPSTREAM_BROKE = ("request_upstream_broke", 502, "connection_terminated")
    """The upstream hung up while it was being sent to."""
    REQUEST_UPSTREAM_TIMEOUT = ("request_upstream_timeout", 504, "connection_write_timeout")
    """The upstream stopped taking the request."""
    RESPONSE_HEAD_BROKE = ("response_head_broke", 502, "http_response_incomplete")
    """The upstream hung up before the head of its answer was complete."""
    RESPONSE_INVALID = ("response_invalid", 502, "http_protocol_error")
    """The upstream's answer is not HTTP, or has a status that cannot be passed on."""
    RESPONSE_HEAD_TIMEOUT = ("response_head_timeout", 504, "connection_read_timeout")
    """The upstream did not answer in time."""
    RESPONSE_BODY_BROKE = ("response_body_broke", 502, "http_response_incomplete")
    """The answer ended early; after its first byte, the client's connection is broken off too."""
    RESPONSE_BODY_TIMEOUT = ("response_body_timeout", 504, "connection_read_timeout")
    """The upstream stopped in the middle of its answer."""
    RESPONSE_TOO_LARGE = ("response_too_large", 502, "http_response_body_size")
    """The upstream's body is longer than the policy lets it be."""
    TOTAL_TIMEOUT = ("total_timeout", 504, "http_response_timeout")
    """The whole exchange took too long."""
    LOOP_DETECTED = ("loop_detected", 508, "proxy_loop_detected")
    """The request has been here before, or came through too many proxies."""
    HOOK_FAILED = ("hook_failed", 502, "proxy_internal_error")
    """A hook of the application's raised an exception."""

    def __init__(self, label: str, status: int, error_type: str) -> None:
        self.label = label
        self.status = status
        self.error_type = error_type


# RFC 9110, sections 15.6.3 to 15.6.5: 502 for a bad answer, 503 for no room, 504 for none in time.
# The first class that fits counts. What is not here is told apart by its cause, or is of connecting.
_ANYWHERE: tuple[tuple[type[Exception], ProxyFailure], ...] = (
    (ClientClosed, ProxyFailure.SHUTTING_DOWN),
    (PoolTimeout, ProxyFailure.POOL_FULL),
    (TotalTimeout, ProxyFailure.TOTAL_TIMEOUT),
    (ConnectTimeout, ProxyFailure.CONNECT_TIMEOUT),
    (WriteTimeout, ProxyFailure.REQUEST_UPSTREAM_TIMEOUT),
    (LocalProtocolError, ProxyFailure.REQUEST_INVALID),
    (WriteError, ProxyFailure.REQUEST_UPSTREAM_BROKE),
)

_HUNG_UP = re.compile(r"disconnected|closed connection")
"""
In texts of a ``RemoteProtocolError``: the end came too early, and what came before it was HTTP.

The class says no more. The words are those of httpcore and of h11, which the engine uses too.
"""


def failure_of(error: ClientClosed | TransportError, *, in_body: bool, uploading: bool = False) -> ProxyFailure:
    """
    Return what an error means.

    Args:
        error: What was raised.
        in_body: Whether the response's head had come.
        uploading: Whether there was still something of the request's body to be sent.
    """
    if not in_body and isinstance(error, NetworkError):
        finer = _of_cause(error)
        if finer is not None:
            return finer
    for error_class, failure in _ANYWHERE:
        if isinstance(error, error_class):
            return failure
    if in_body:
        return _in_body(error)
    failure = _before_body(error)
    return ProxyFailure.REQUEST_UPSTREAM_BROKE if uploading and failure is ProxyFailure.RESPONSE_HEAD_BROKE else failure


def _in_body(error: Exception) -> ProxyFailure:
    if isinstance(error, TimeoutException):
        return ProxyFailure.RESPONSE_BODY_TIMEOUT
    return ProxyFailure.RESPONSE_BODY_BROKE


def _before_body(error: Exception) -> ProxyFailure:
    if isinstance(error, TimeoutException):
        return ProxyFailure.RESPONSE_HEAD_TIMEOUT
    if isinstance(error, ProtocolError):
        return ProxyFailure.RESPONSE_HEAD_BROKE if _HUNG_UP.search(str(error)) else ProxyFailure.RESPONSE_INVALID
    if isinstance(error, ReadError):
        return ProxyFailure.RESPONSE_HEAD_BROKE
    return ProxyFailure.CONNECT_FAILED


def _of_cause(error: NetworkError) -> ProxyFailure | None:
    """Return what the causes of a network's error tell, if they tell more than its class."""
    connecting = isinstance(error, ConnectError)
    for cause in _causes(error):
        if isinstance(cause, AddressForbidden):
            return ProxyFailure.ADDRESS_FORBIDDEN
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ProxyFailure.CERTIFICATE_REFUSED
        # Later, too, a peer may refuse our certificate; but one that just ends there has hung up.
        if isinstance(cause, ssl.SSLError) and (connecting or not isinstance(cause, ssl.SSLEOFError)):
            return ProxyFailure.TLS_FAILED
        if connecting and isinstance(cause, socket.gaierror):
            return ProxyFailure.DNS_FAILED
        if connecting and isinstance(cause, ConnectionRefusedError):
            return ProxyFailure.CONNECT_REFUSED
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it came from, nearest first, even if a traceback would not show it."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):  # one for each address that was tried
            waiting.extend(cause.exceptions)
        # httpcore's pool raises its errors "from None", which leaves only the context.
        earlier = cause.__cause__ or cause.__context__
        if earlier is not None:
            waiting.append(earlier)


def answer(failure: ProxyFailure, *, proxy_status: str | None) -> tuple[list[Header], bytes]:
    """
    Return headers and body of the answer: as FastAPI's errors look, and without any detail.

    Args:
        failure: What to tell.
        proxy_status: Our name in ``Proxy-Status``; None leaves the line out.
    """
    body = json.dumps({"detail": _phrase(failure.status)}).encode("ascii")
    headers: list[Header] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
    ]
    if failure.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    if proxy_status is not None:
        headers.append((b"proxy-status", f"{_member(proxy_status)}; error={failure.error_type}".encode("ascii")))
    return headers, body


def _member(name: str) -> str:
    # RFC 8941, section 3.3: HTTP's tokens may begin with what those of structured fields may not.
    return name if name[0].isalpha() or name[0] == "*" else f'"{name}"'


def _phrase(status: int) -> str:
    # The one that no RFC knows, and that no client reads.
    return "Client Closed Request" if status == ProxyFailure.CLIENT_LEFT.status else HTTPStatus(status).phrase
