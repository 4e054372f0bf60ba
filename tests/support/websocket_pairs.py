"""A WebSocket through a proxy, with both of its ends in the test's own hands."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.support.proxies import proxied
from tests.support.websocket_wire import SOON, Handed, Pair, handed, opened


@contextmanager
def open_pair(
    server: str = "sansio", *, by: Callable[[int, Handed], AbstractContextManager[Pair]] = opened, **options: Any
) -> Iterator[Pair]:
    """Open one for a block, with ``by`` in the place of ``opened``; the options are those of ``proxied``."""
    with (
        handed() as upstream,
        proxied(upstream.url, server, **options) as port,
        by(port, upstream) as pair,
    ):
        yield pair


@contextmanager
def beside(action: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread during a block; both must come to their ends."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(action)
        yield
        future.result(30)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so; a socket is asked for it each time."""
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until, "it does not come"
