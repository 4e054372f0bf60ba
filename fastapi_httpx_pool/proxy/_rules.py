"""A policy, prepared for use: everything about it that can be worked out before the first request."""

from typing import final

from ..messages import Header
from ._forwarding import Forwarding
from ._handshake import OURS, SUBPROTOCOL
from ._headers import HOP_BY_HOP, sendable
from ._policy import ProxyPolicy

__all__ = ("DEFAULT", "Rules")

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_LOOKED_AT = HOP_BY_HOP | _FRAMING | {b"host", b"max-forwards", b"via"}


@final
class Rules:
    """One policy's."""

    def __init__(self, policy: ProxyPolicy) -> None:
        self.policy: ProxyPolicy = policy
        self.forwarding: Forwarding = Forwarding(policy)
        self.to_upstream: list[Header]
        self.to_upstream, removed = sendable(policy.request_headers)
        set_names = frozenset(name for name, _ in self.to_upstream)
        self.removed: frozenset[bytes] = removed | set_names
        """Names of which not even a line of our own passes, but for those that the policy sets."""
        self.ours: frozenset[bytes] = _FRAMING | self.forwarding.dropped | self.removed
        """Names of which no line of the client's passes, whether written with hyphens or underscores."""
        self.special: frozenset[bytes] = _LOOKED_AT | self.ours
        self.special_in_handshakes: frozenset[bytes] = self.special | OURS
        """The same for the request that a WebSocket begins as."""
        self.ours_in_handshakes: frozenset[bytes] = self.ours | OURS | {SUBPROTOCOL}
        self.to_client: list[Header]
        self.to_client, removed = sendable(policy.response_headers)
        self.kept_from_client: frozenset[bytes] = removed | {name for name, _ in self.to_client}
        self.rewrites: bool = policy.rewrite_location or policy.rewrite_cookies

    @staticmethod
    def of(policy: ProxyPolicy | None) -> "Rules":
        """Return a policy's rules, the same ones each time; None stands for the default policy."""
        if policy is None:
            return DEFAULT
        if not isinstance(policy, ProxyPolicy):
            raise TypeError(f"{policy!r} is not a ProxyPolicy; write policy=ProxyPolicy(forwarded='append')")
        rules: Rules | None = vars(policy).get(_KEY)
        if rules is None:
            rules = vars(policy)[_KEY] = Rules(policy)
        return rules


_KEY = "_rules"
DEFAULT = Rules(ProxyPolicy())
