"""Hundreds of WebSockets whose ends leave at random: nobody gets another's messages, and nothing is left of them."""

import asyncio

import pytest

from fastapi_httpx_pool import ClientSettings, LimitSettings, TimeoutSettings
from tests.support.chaos import waiting_for
from tests.support.proxies import WEBSOCKET_SERVERS, proxied, settings_of
from tests.support.proxy_watch import ProxyWatch, at_rest, held_at
from tests.support.websocket_chaos import EchoingChaos, visit

WEBSOCKETS = 200
AT_ONCE = 40
SLOTS = 30
"""Fewer, so that some wait."""


def settings() -> ClientSettings:
    """Return settings with few connections and short limits for handshakes."""
    return settings_of(
        limits=LimitSettings(max_connections=SLOTS, max_keepalive_connections=SLOTS, keepalive_expiry=30),
        timeout=TimeoutSettings(connect=5, read=0.15, write=5, pool=2),
    )


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
def test_h5_stress(server: str) -> None:
    """Afterwards no connection is in use, nobody waits, no task is left, and every slot serves."""
    watch = ProxyWatch()
    with (
        EchoingChaos(17) as upstream,
        proxied(
            upstream.url, server, settings=settings(), around=watch.around, on_request=waiting_for(upstream)
        ) as port,
    ):
        before = held_at(port)
        outcomes = asyncio.run(visit(port, WEBSOCKETS, AT_ONCE))
        assert outcomes.total() == WEBSOCKETS
        assert outcomes["refused"] > 10, outcomes
        assert sum(number for way, number in outcomes.items() if way.startswith("left by")) > 30, outcomes
        assert outcomes["told"] + outcomes["broken off"] > 10, outcomes
        assert upstream.done["told"] > 10
        assert watch.failures == []

        at_rest(port, upstream, before)

        upstream.behaves = True
        assert asyncio.run(visit(port, SLOTS, SLOTS, behaving=True)) == {"well": SLOTS}
