"""Where the contenders' apps find their upstream."""

import os
from itertools import cycle

__all__ = ("ANSWER_TYPE", "CONNECTIONS", "KEEPALIVE", "address", "first")

ANSWER_TYPE = "application/octet-stream"

_ORIGINS = os.environ["BENCH_UPSTREAM"].split(",")

CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "100"))
"""``max_connections`` of all clients."""

KEEPALIVE = int(os.environ.get("BENCH_KEEPALIVE", "20"))
"""``max_keepalive_connections`` of httpx's clients, with or without this package; 20 is what they all have by default."""

_next_origin = cycle(_ORIGINS).__next__


def address(size: int) -> str:
    """Return the URL of an answer of so many bytes; with many origins, the next one's."""
    return f"{_next_origin()}/{size}"


def first() -> str:
    """Return the first origin."""
    return _ORIGINS[0]
