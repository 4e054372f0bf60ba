"""Row G9: where an upstream's name leads is checked when it is connected to, through each door."""

import logging
import socket

import pytest
from fastapi import Request

from fastapi_httpx_pool import StreamingProxyResponse
from tests.support.answers import Answer, ask, get
from tests.support.connecting import Names
from tests.support.proxies import DOORS, UVICORN, proxied, settings_of
from tests.support.stack import Stack
from tests.support.upstream import answering, ok, scripted

uvicorns = pytest.mark.parametrize("server", UVICORN)
every_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Return the names that a test makes up."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


def assert_forbidden(answer: Answer) -> None:
    """Check that the client learns that the address is prohibited, and nothing else."""
    assert (answer.status, answer.body) == (502, b'{"detail": "Bad Gateway"}')
    assert [value.partition(b"; ")[2] for value in answer.values(b"proxy-status")] == [
        b"error=destination_ip_prohibited"
    ]


@uvicorns
@every_door
def test_g9_forbidden(server: str, door: str) -> None:
    """An upstream outside of the allowed networks is not connected to: 502."""
    settings = settings_of(allowed_addresses="public")
    with (
        scripted(answering(ok())) as upstream,
        proxied(upstream.url, server, door=door, settings=settings) as port,
    ):
        assert_forbidden(ask(port, get(b"/" if door == "alone" else b"/p/")))
    assert upstream.accepted == 0


@uvicorns
@every_door
def test_g9_allowed(server: str, door: str) -> None:
    """One within them is."""
    settings = settings_of(allowed_addresses=["public", "127.0.0.0/8"])
    with (
        scripted(answering(ok())) as upstream,
        proxied(upstream.url, server, door=door, settings=settings) as port,
    ):
        answer = ask(port, get(b"/" if door == "alone" else b"/p/"))
    assert (answer.status, answer.body) == (200, b"ok")


def test_g9_dns_that_changes(stack: Stack, names: Names, caplog: pytest.LogCaptureFixture) -> None:
    """A URL from a stranger, whose name leads inside as soon as it is looked up again: the log names it, the answer does not."""
    names.know_in_turn("rebind.example", "127.0.0.1", "127.0.0.2")
    settings = stack.settings(allowed_addresses=["127.0.0.1"])

    async def fetch(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, request.query_params["url"])

    with scripted(answering(ok(), times=1)) as upstream:
        target = b"/?url=http://rebind.example:%d/" % upstream.port
        with stack.routing(fetch, settings) as port:
            assert ask(port, get(target)).status == 200
        assert names.count("rebind.example") == 1
        # Another start of the app, which looks the name up again.
        with stack.routing(fetch, settings) as port, caplog.at_level(logging.INFO, "fastapi_httpx_pool.proxy"):
            assert_forbidden(ask(port, get(target)))
    assert names.count("rebind.example") == 2
    assert upstream.accepted == 1
    assert [record.name for record in caplog.records if "address_forbidden" in record.getMessage()] == [
        "fastapi_httpx_pool.proxy"
    ]
    assert "127.0.0.2" not in caplog.text
