"""The door for WebSocket routes: a WebSocket that is an upstream's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx
from starlette.websockets import WebSocket, WebSocketState

from .._state import client_in
from ..settings import TimeoutSettings
from ._hooks import Hooks, OnFailure, OnRequest, OnResponse
from ._policy import ProxyPolicy
from ._relay import Door, Relay
from ._rules import Rules
from ._source import Source
from ._switch import Switch
from ._way import CLIENTS_OWN, way_to
from ._wishes import timeouts_from, timeouts_of, wishes_from

if TYPE_CHECKING:
    import httpx2

__all__ = ("check_unanswered", "proxy_websocket", "relay_websocket")


async def proxy_websocket(
    websocket: WebSocket,
    url: "str | httpx.URL | httpx2.URL",
    *,
    client: "httpx.AsyncClient | httpx2.AsyncClient | None" = None,
    headers: Mapping[str, str | None] | None = None,
    timeout: "TimeoutSettings | httpx.Timeout | httpx2.Timeout | float | None" = CLIENTS_OWN,  # noqa: ASYNC109 -- httpx's
    policy: ProxyPolicy | None = None,
    on_request: OnRequest | None = None,
    on_response: OnResponse | None = None,
    on_failure: OnFailure | None = None,
) -> None:
    """
    Connect a route's WebSocket with one at a URL, and carry messages until either side ends it.

    The upstream is asked first, with the client's subprotocols, cookies and other headers, and the
    client's WebSocket is accepted with what it has chosen, or refused with its answer. So this comes
    before any ``accept()``. Text, binary, and the codes and reasons of closing pass in both
    directions; whoever is slow slows the other down; a side that dies is told to the other at once.

    Args:
        websocket: The inbound one, not accepted.
        url: ``ws``, ``wss``, ``http`` or ``https``; otherwise as in ``StreamingProxyResponse``.
        client: As there: whose pool the connection counts in.
        headers: As there, for the handshake.
        timeout: For the handshake, in seconds, or as settings, instead of the client's; None for no limit.
        policy: What is done to what passes through.
        on_request: Sees the handshake before it goes out; may change it or refuse it with an answer.
        on_response: Sees the upstream's answer: a 101, or its refusal. May change it or return another.
        on_failure: Sees why there is no WebSocket; may answer.

    Raises:
        RuntimeError: The route has accepted or closed it already.
        ClientNotStarted: No client was given and no lifespan of ours ran.
        TypeError: It is not a WebSocket, or the client is not an ``AsyncClient``; or a hook is no function.
        ValueError: The URL is not one that a request can be sent to, or a header would break the
            request; or the policy rewrites.
        pydantic.ValidationError: The timeout is none.
    """
    check_unanswered(websocket)
    rules, hooks = Rules.of(policy), Hooks(on_request, on_response, on_failure)
    if rules.rewrites:
        raise ValueError(
            "rewrite_location and rewrite_cookies need to know both sides' paths, so they work with "
            "ReverseProxy(...).websocket(websocket), not with proxy_websocket(websocket, url)"
        )
    if client is None:
        client = client_in(websocket)
    limits = timeouts_of(client) if timeout is CLIENTS_OWN else timeouts_from(timeout)
    wishes = wishes_from(client, limits, None, headers)
    switch = Switch(websocket.scope, websocket.receive, websocket.send, client, rules.policy)
    source, door = way_to(str(url), switch.request, wishes, rules, hooks, handshake=switch.handshake)
    await relay_websocket(source, door, switch)


def check_unanswered(websocket: WebSocket) -> None:
    """
    Look whether a route's WebSocket is still to be accepted or refused.

    Raises:
        TypeError: It is not a WebSocket.
        RuntimeError: It is too late.
    """
    if not isinstance(websocket, WebSocket):
        raise TypeError(f"{websocket!r} is not a WebSocket; this is for @app.websocket routes")
    untouched = WebSocketState.CONNECTING
    if websocket.client_state is not untouched or websocket.application_state is not untouched:
        raise RuntimeError(
            "The WebSocket has been accepted or closed, or read from, before the upstream was asked. Remove "
            "`await websocket.accept()`: it is accepted when the upstream accepts, and refused when it refuses."
        )


async def relay_websocket(source: Source, door: Door, switch: Switch) -> None:
    """Relay one WebSocket, from its handshake to its end."""
    channel = switch.channel
    await channel.begin()
    await Relay(switch.request, channel.receive, channel.send, source, door, switch=switch).run()
