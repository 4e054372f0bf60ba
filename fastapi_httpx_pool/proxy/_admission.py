"""
Which requests are sent on: not those that two servers would read in two ways, nor those that go round in circles.

And a few are for ourselves, and answered here.
"""

from collections.abc import Iterable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from ..messages import Header
from ._failures import ProxyFailure
from ._inbound import RequestTooLarge
from ._paths import is_authority
from ._policy import ProxyPolicy
from ._via import check_loop, max_forwards

__all__ = ("RequestRefused", "Special", "admit", "answer_here")

Special = Mapping[bytes, list[bytes]]
"""Values of the lines that need a look, by their names in lower case."""

# RFC 9110, section 9.3.8: a TRACE must not tell its sender's own secrets to whoever reads the answer.
_SECRET = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


class RequestRefused(Exception):
    """The inbound request is not sent on."""

    def __init__(self, failure: ProxyFailure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def admit(scope: Scope, method: str, special: Special, policy: ProxyPolicy, via: bytes) -> None:
    """
    Look at a request before it is sent on.

    Args:
        scope: Of the request.
        method: That it is sent on with.
        special: Of its header lines.
        policy: What is allowed.
        via: Our name.

    Raises:
        RequestRefused: It is not one that is sent on.
        RequestTooLarge: Its body is longer than it may be.
        LoopDetected: It has been here before, or through too many others.
    """
    # Some upstreams do not look at the case.
    upper = method.upper()
    if upper == "CONNECT" or (upper == "TRACE" and not policy.allow_trace):
        raise RequestRefused(ProxyFailure.METHOD_REFUSED, f"{method} is not sent on")
    version = scope.get("http_version", "1.1")
    _check_host(special.get(b"host", []), version)
    if b"transfer-encoding" in special:
        _check_coding(special, version)
    elif b"content-length" in special:
        _check_length(special[b"content-length"], policy.max_request_body)
    if b"via" in special:
        name = b"" if policy.via is None else via
        check_loop([(b"via", value) for value in special[b"via"]], name, policy.max_hops)


def _check_host(hosts: list[bytes], version: str) -> None:
    # RFC 9112, section 3.2.
    if len(hosts) == 1 and is_authority(hosts[0]):
        return
    # Others may have none; HTTP/2's servers give an empty one for it.
    if version == "1.1" or any(hosts) or len(hosts) > 1:
        raise _invalid("the request has no Host, or several, or one that is none")


def _check_coding(special: Special, version: str) -> None:
    """Refuse a body whose end one server sees here and the other there (RFC 9112, sections 6.1 to 6.3)."""
    codings = special[b"transfer-encoding"]
    if b"content-length" in special or version == "1.0":
        raise _invalid("the request has chunks, and a length or a version that forbids them")
    if len(codings) != 1 or codings[0].lower() != b"chunked":
        raise _invalid("the request has another transfer coding than chunked")


def _check_length(lengths: list[bytes], limit: int | None) -> None:
    if len(lengths) != 1 or not lengths[0].isdigit():
        raise _invalid("the request has several lengths, or one that is none")
    if limit is not None and int(lengths[0]) > limit:
        raise RequestTooLarge(f"the body is longer than the {limit} bytes that max_request_body allows")


def answer_here(scope: Scope, method: str, inbound: Iterable[Header]) -> tuple[Response | None, int | None]:
    """
    Return the answer to an OPTIONS or a TRACE that is for us; else how often it may still be sent on, if it says so.

    Raises:
        RequestRefused: It says so in a way that nobody understands.
    """
    if scope.get("raw_path", scope["path"].encode()) == b"*":
        return Response(status_code=204), None  # a ping of the server that it was sent to (RFC 9110, section 9.3.7)
    lines = list(inbound)
    try:
        left = max_forwards(method, lines)
    except ValueError as exc:
        raise _invalid(str(exc)) from None
    if left != 0:
        return None, None if left is None else left - 1
    return Response() if method == "OPTIONS" else _reflection(scope, lines), None


def _reflection(scope: Scope, inbound: Iterable[Header]) -> Response:
    """Return what a TRACE asks for."""
    target: bytes = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    lines = [b"TRACE %b HTTP/%b" % (target, scope["http_version"].encode("ascii"))]
    lines += [name + b": " + value for name, value in inbound if name.lower() not in _SECRET]
    return Response(b"\r\n".join([*lines, b"", b""]), media_type="message/http")


def _invalid(text: str) -> RequestRefused:
    return RequestRefused(ProxyFailure.REQUEST_INVALID, text)
