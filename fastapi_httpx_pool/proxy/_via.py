"""
The path of a request through proxies: ``Via`` (RFC 9110, section 7.6.3), and ``Max-Forwards`` (section 7.6.2).

A request that comes back to the proxy that sent it would go round for ever. It has our name in its
``Via`` then; and if a proxy on the way has thrown our name out, the list still grows with each round.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2s
from socket import gethostname
from typing import Final

from ..messages import Header
from ._policy import AUTO

__all__ = ("LoopDetected", "check_loop", "max_forwards", "pseudonym", "via_line")

_NAME: Final = "proxy"
_VIA: Final = b"via"
_MAX_FORWARDS: Final = b"max-forwards"
_LIMITED: Final = ("OPTIONS", "TRACE")


class LoopDetected(Exception):
    """The request has been here before, or came through too many proxies."""


def pseudonym(policy_via: str | None, upstream: str) -> str:
    """
    Return the name by which a proxy knows itself.

    Args:
        policy_via: The policy's ``via``. With ``AUTO`` the name is the same for all workers of a
            host, and another one for each host and upstream; it gives neither of them away.
        upstream: URL of what the proxy stands before.
    """
    if policy_via is None:
        return _NAME
    if policy_via != AUTO:
        return policy_via
    digest = blake2s(f"{gethostname()}\n{upstream}".encode("utf-8", "surrogateescape"), digest_size=4)
    return f"{_NAME}-{digest.hexdigest()}"


def check_loop(inbound: Iterable[Header], name: bytes, max_hops: int) -> None:
    """
    Look at where a request has come through.

    Args:
        inbound: Its header lines.
        name: Ours; empty if we do not name ourselves.
        max_hops: Proxies that it may have come through.

    Raises:
        LoopDetected: It must not go on.
    """
    hops = 0
    for key, value in inbound:
        if len(key) == len(_VIA) and key.lower() == _VIA:
            hops += _hops(value, name)
    if hops > max_hops:
        raise LoopDetected(f"the request came through {hops} proxies, which is more than max_hops, {max_hops}")


def _hops(value: bytes, name: bytes) -> int:
    # Comments are not taken out first: an open parenthesis of the client's would hide all that
    # follows it. At worst a comment with commas counts as another proxy.
    members = [words for member in value.split(b",") if (words := member.split(None, 2))]
    if any(len(words) > 1 and words[1].lower() == name.lower() for words in members):
        raise LoopDetected("the request came through this proxy before; its upstream leads back to it")
    return len(members)


@lru_cache(64)
def via_line(version: str, name: bytes) -> Header:
    """Return the line with which a request says that it came through us; ``version`` of HTTP, as ASGI gives it."""
    return _VIA, version.encode("ascii") + b" " + name


def max_forwards(method: str, headers: Collection[Header]) -> int | None:
    """
    Return how many more proxies a request may go through; None if nobody says.

    Methods other than TRACE and OPTIONS have no such limit.

    Raises:
        ValueError: It is not a number.
    """
    if method not in _LIMITED:
        return None
    values = {value for name, value in headers if name.lower() == _MAX_FORWARDS}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit():
        raise ValueError("Max-Forwards is not one number")
    return int(value)
