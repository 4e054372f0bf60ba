"""From a URL that a route has named to where its request goes, and by which door its answer comes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import Scope

from ..settings import TimeoutSettings
from ._forwarded import Forwarded
from ._handshake import Handshake
from ._hooks import Hooks
from ._opening import Opening, parse_websocket_target
from ._relay import Door
from ._rules import Rules
from ._source import Where
from ._target import Target, TargetRefused, parse_target
from ._via import pseudonym
from ._wishes import Wishes

__all__ = ("CLIENTS_OWN", "way_to")


class _ClientsOwn(TimeoutSettings):
    """Stands for "as the client has it", because None means no limit."""

    def __repr__(self) -> str:
        return "the client's own"


CLIENTS_OWN = _ClientsOwn()


def way_to(
    url: str,
    scope: Scope,
    wishes: Wishes,
    rules: Rules,
    hooks: Hooks,
    *,
    body: bytes | None = None,
    handshake: Handshake | None = None,
) -> tuple[Forwarded, Door]:
    """
    Return what asks, and what answers.

    Args:
        url: Absolute, or a path if the client has a ``base_url``.
        scope: Of the inbound request.
        wishes: Of this one request.
        rules: Of all.
        hooks: The application's.
        body: What the route has read already; all of it.
        handshake: Of the WebSocket that it begins.

    Raises:
        ValueError: The URL is not one that a request can be sent to.
    """
    parse = parse_target if handshake is None else parse_websocket_target
    target = _target_of(parse, _absolute(url, wishes.client), strict=rules.policy.strict_paths)
    via = pseudonym(rules.policy.via, "" if isinstance(target, TargetRefused) else _place(target)).encode("ascii")

    def where() -> Where:
        if isinstance(target, TargetRefused):
            raise target
        return Where(target.origin, target.host, target.with_query(scope["query_string"]))

    make: Callable[..., Forwarded] = Forwarded if handshake is None else partial(Opening, handshake)
    source = make(scope, where, wishes, rules=rules, hooks=hooks, via=via, url=url, body=body)
    return source, Door(rules, hooks, via, [], None, answers_for_hooks=False)


def _target_of(parse: Callable[..., Target], url: str, *, strict: bool) -> Target | TargetRefused:
    try:
        return parse(url, strict=strict)
    except TargetRefused as exc:
        # Not the route's fault but its caller's, who gets the answer.
        return exc


def _place(target: Target) -> str:
    return target.origin_url + target.path.decode("latin-1")


def _absolute(url: str, client: Any) -> str:
    if not url.startswith("/") or not client.base_url.host:
        return url
    # User information in a base URL is the client's own way to authenticate.
    base = str(client.base_url.copy_with(userinfo=b""))
    return base.rstrip("/") + url
