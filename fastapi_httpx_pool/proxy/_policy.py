"""What a proxy does to what passes through it: plain data, which several doors may share."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from math import inf
from typing import Final, Literal, final, get_args

from ._headers import sendable

__all__ = ("AUTO", "ForwardedMode", "ForwardedStyle", "ProxyPolicy")

ForwardedMode = Literal["set", "append", "off"]
ForwardedStyle = Literal["x-forwarded", "forwarded", "both"]

AUTO: Final = "auto"
UNIX: Final = "unix"

_TIMES = ("first_byte", "stream_idle", "client_idle", "heartbeat")
_WEBSOCKET_TIMES = ("websocket_ping_interval", "websocket_ping_timeout", "websocket_idle")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@final
@dataclass(frozen=True, kw_only=True)
class ProxyPolicy:
    """
    The rules of one proxy, or of several; every one has a safe default.

    Sizes are in bytes and times in seconds; None is no limit.

    Raises:
        ValueError: Something is impossible; the text says what, and what would be possible.
        TypeError: One network where there should be a list of them.
    """

    forwarded: ForwardedMode = "set"
    """
    What upstreams are told about the client.

    ``set``: what the client says about forwarding is removed, and ours put in its place (RFC 7239,
    section 8.1). ``append``: the same, but what a trusted proxy says is kept and added to.
    ``off``: nothing is added and nothing removed; only for upstreams that believe none of it.
    """
    forwarded_style: ForwardedStyle = "x-forwarded"
    """In which lines: ``X-Forwarded-For``, ``-Host``, ``-Proto`` and ``-Prefix``, or RFC 7239's ``Forwarded``, or both."""
    trusted_proxies: Sequence[str] = ()
    """Networks whose word about forwarding is believed: ``10.0.0.0/8``, ``::1``; ``unix`` for peers without an address."""
    preserve_host: bool = False
    """Send the client's ``Host`` upstream, not the upstream's own."""
    via: str | None = AUTO
    """
    Our name in ``Via`` (RFC 9110, section 7.6.3), and in ``Proxy-Status``.

    A request that comes back with it is answered with 508. By default a name that is different for
    each host and upstream. With None there is no ``Via``, and only ``max_hops`` stops a loop.
    """
    via_in_responses: bool = False
    """Name ourselves in answers, too."""
    max_hops: int = 20
    """Proxies that a request may have come through, by its ``Via``; a loop of others ends there, with 508."""
    request_headers: Mapping[str, str | None] = field(default_factory=dict)
    """Sent upstream in the place of the client's lines of these names; None removes them."""
    response_headers: Mapping[str, str | None] = field(default_factory=dict)
    """Sent to the client in the place of the upstream's lines of these names; None removes them."""
    rewrite_location: bool = False
    """Turn the upstream's own address in ``Location`` and ``Content-Location`` into the public one."""
    rewrite_cookies: bool = False
    """Turn ``Path`` and ``Domain`` of the upstream's cookies into the public ones."""
    max_request_body: int | None = None
    """What is longer is answered with 413; what turns out to be longer is broken off."""
    max_response_body: int | None = None
    """What is longer is answered with 502; what turns out to be longer is broken off."""
    first_byte: float | None = None
    """How long the head of the answer may take; by default as long as the client's ``read`` timeout says."""
    stream_idle: float | None = None
    """How long server-sent events may be silent, in the place of the ``read`` timeout."""
    client_idle: float | None = 100.0
    """
    How long a client may neither send what it has announced (408) nor take what it is sent (broken off).

    A WebSocket's message may take a second longer for each MiB.
    """
    heartbeat: float | None = None
    """Send a comment to the client when server-sent events have been silent for so long."""
    websocket_max_message: int | None = 64 * 1024 * 1024
    """What an upstream sends in a longer one closes the WebSocket with 1009; servers have a limit for clients."""
    websocket_ping_interval: float | None = 20.0
    """An upstream that has sent nothing for so long is pinged; servers do the same with clients."""
    websocket_ping_timeout: float | None = 20.0
    """An upstream that has not even answered a ping for so long is dead: 1011."""
    websocket_idle: float | None = None
    """Without a message in either direction for so long, a WebSocket is closed with 1001; pings do not count."""
    server_timing: bool = False
    """Tell the client how long the upstream took for its head: ``Server-Timing: upstream;dur=12.3`` (milliseconds)."""
    proxy_status: bool = True
    """Tell the client what went wrong in one word: ``Proxy-Status`` (RFC 9209), on our own answers only."""
    allow_trace: bool = False
    """Pass TRACE on, which shows its sender all headers that were added on the way."""
    strict_paths: bool = False
    """Refuse a ``..`` also if it only appears when a path is decoded more than once, or parameters are cut off: ``..;x``."""

    def __post_init__(self) -> None:
        _check_choice("forwarded", self.forwarded, get_args(ForwardedMode))
        _check_choice("forwarded_style", self.forwarded_style, get_args(ForwardedStyle))
        if isinstance(self.trusted_proxies, str):
            raise TypeError(f"trusted_proxies is {self.trusted_proxies!r}; give a list of networks: ['10.0.0.0/8']")
        for network in self.trusted_proxies:
            _check_network(network)
        if self.via is not None and not _TOKEN.fullmatch(self.via):
            raise ValueError(f"via is {self.via!r}; a name in Via has only letters, digits and !#$%&'*+-.^_`|~")
        for name in ("max_request_body", "max_response_body", "websocket_max_message"):
            _check_limit(name, getattr(self, name), "bytes")
        for name in _WEBSOCKET_TIMES:
            _check_time(name, getattr(self, name))
        for name in _TIMES:
            _check_limit(name, getattr(self, name), "seconds")
        if self.max_hops < 1:
            raise ValueError(f"max_hops is {self.max_hops}; it must be at least 1")
        sendable(self.request_headers)
        sendable(self.response_headers)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _check_network(network: str) -> None:
    if network == UNIX:
        return
    try:
        ip_network(network)
    except ValueError as exc:
        raise ValueError(
            f"trusted_proxies has {network!r}: {exc}; write networks like '10.0.0.0/8', or 'unix'"
        ) from None


def _check_limit(name: str, value: float | None, unit: str) -> None:
    if value is not None and value < 0:
        raise ValueError(f"{name} is {value}; it must be a number of {unit} from 0, or None for no limit")


def _check_time(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < inf:
        raise ValueError(f"{name} is {value}; it must be a number of seconds above 0, or None for no limit")
