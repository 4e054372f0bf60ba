"""The routes around an upstream that fails."""

import httpx
import pytest

from example_app.settings import ExampleSettings
from example_app.tests.support import example_over
from tests.support.server import Running
from tests.support.upstream import Connection, scripted


@pytest.mark.parametrize(("fault", "status"), [("unavailable", 503), ("hang", 504), ("early", 502)])
def test_failures_before_the_first_byte_get_a_status(example: Running, fault: str, status: int) -> None:
    """What fails before the body is answered with the status that says how, never with 500."""
    assert httpx.get(f"{example.url}/flaky", params={"fault": fault}).status_code == status


def test_half_an_answer_does_not_look_whole(example: Running) -> None:
    """What breaks off in the middle is broken off for the browser too."""
    with httpx.stream("GET", f"{example.url}/flaky?fault=cut") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()


def test_faults_take_turns(settings: ExampleSettings, example: Running) -> None:
    """Whoever asks for no fault in particular gets one after the other."""
    seen = []
    for _ in range(4):
        try:
            seen.append(httpx.get(f"{example.url}/flaky").status_code)
        except httpx.RemoteProtocolError:
            seen.append(0)
    assert sorted(seen) == [0, 502, 503, 504]


@pytest.mark.parametrize(("fault", "status"), [("hang", 504), ("early", 502), ("cut", 502)])
def test_exceptions_of_the_client_get_a_status(example: Running, fault: str, status: int) -> None:
    """What httpx raises in a route becomes the status that says how the upstream failed."""
    assert httpx.get(f"{example.url}/flaky/read", params={"fault": fault}).status_code == status


def test_what_the_upstream_answers_is_the_routes_affair(example: Running) -> None:
    """A 503 of the upstream is an answer like any other to a route that reads it."""
    answer = httpx.get(f"{example.url}/flaky/read?fault=unavailable")
    assert answer.status_code == 200
    assert answer.json()["status"] == 503


def test_full_pool_is_told_as_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no connection becomes free in time, the answer is 503 and not 504."""
    monkeypatch.setenv("EXAMPLE_CLIENT_LIMITS__MAX_CONNECTIONS", "1")
    monkeypatch.setenv("EXAMPLE_CLIENT_LIMITS__MAX_KEEPALIVE_CONNECTIONS", "1")
    monkeypatch.setenv("EXAMPLE_CLIENT_TIMEOUT__POOL", "0.1")

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nbegun")
        connection.wait_until_closed()

    with (
        scripted(script) as upstream,
        example_over(upstream.url) as example,
        httpx.stream("GET", f"{example.url}/stream/page") as response,
    ):
        pieces = response.iter_raw()
        assert next(pieces) == b"begun"
        assert httpx.get(f"{example.url}/read").status_code == 503


def test_upstream_that_is_down_is_told_as_502(down: str) -> None:
    """When nobody listens, both a proxied route and one that reads answer 502."""
    with example_over(down.rstrip("/")) as example:
        for path in ("/read", "/stream/page", "/stream/opened"):
            assert httpx.get(example.url + path).status_code == 502
