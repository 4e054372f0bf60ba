"""One Date and one Server in each answer, as far as servers let themselves be told."""

import asyncio
from types import SimpleNamespace
from typing import Any

import hypercorn.config
import pytest

from fastapi_httpx_pool.messages import Header
from fastapi_httpx_pool.proxy._servers import with_one_of_each

DATED: list[Header] = [(b"date", b"then"), (b"x-a", b"1"), (b"server", b"origin")]
OWN = [(b"date", b"now"), (b"server", b"uvicorn"), (b"x-a", b"2")]
"""What uvicorn is told to write, by the names of its options."""


class Uvicorn:
    """What uvicorn makes for each request, as far as it matters here."""

    def __init__(self) -> None:
        self.default_headers = list(OWN)

    async def receive(self) -> Any:
        """Give a message."""

    async def send(self, message: Any) -> None:
        """Take a message."""


class Hypercorn:
    """What hypercorn makes for each request, as far as it matters here."""

    def __init__(self, **options: bool) -> None:
        self.config = hypercorn.config.Config()
        for name, value in options.items():
            setattr(self.config, name, value)

    async def send(self, message: Any) -> None:
        """Take a message."""


def test_uvicorn_leaves_out_what_is_there() -> None:
    """It is told for this one answer; its other lines stay."""
    server = Uvicorn()

    assert with_one_of_each(DATED, server.receive, server.send) == DATED
    assert server.default_headers == [OWN[2]]


def test_uvicorn_writes_what_is_not_there() -> None:
    """A line that the upstream has not sent is the server's."""
    server = Uvicorn()

    assert with_one_of_each(DATED[1:], server.receive, server.send) == DATED[1:]
    assert server.default_headers == [OWN[0], OWN[2]]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, [DATED[1]]),
        ({"include_server_header": False}, DATED[1:]),
        ({"include_date_header": False, "include_server_header": False}, DATED),
    ],
)
def test_hypercorns_own_stand(options: dict[str, bool], left: list[Header]) -> None:
    """It writes them in any case, so that the upstream's go; but not those that it was told not to write."""
    assert with_one_of_each(DATED, asyncio.Queue[Any]().get, Hypercorn(**options).send) == left


async def wrapping_send(message: Any) -> None:
    """Take a message, as middleware does in front of a server."""


def test_hypercorn_behind_middleware_is_taken_for_the_usual_one() -> None:
    """Its options cannot be seen from there."""
    assert with_one_of_each(DATED, asyncio.Queue[Any]().get, wrapping_send) == [DATED[1]]


async def of_nobody() -> Any:
    """Give a message."""


@pytest.mark.parametrize("receive", [of_nobody, len, SimpleNamespace(default_headers=None).__repr__])
def test_what_is_not_known_is_left_alone(receive: Any) -> None:
    """Other servers are given the upstream's lines."""
    assert with_one_of_each(DATED, receive, Uvicorn().send) == DATED
