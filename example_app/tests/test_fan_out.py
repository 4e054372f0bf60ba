"""The routes that ask five sites at once."""

import json
import threading
from collections.abc import Iterator

import httpx

from example_app.settings import ExampleSettings
from example_app.tests.support import example_over
from tests.support.server import Running
from tests.support.upstream import LIMIT, Connection, ok, scripted


def _events(response: httpx.Response) -> Iterator[dict[str, object]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_gathered_in_the_order_of_the_list(example: Running, settings: ExampleSettings) -> None:
    """Four sites tell their first 50 characters, and the one that is down is told beside them."""
    answers = httpx.get(f"{example.url}/five").json()
    assert [answer["url"] for answer in answers] == list(settings.sites)
    *up, down = answers
    assert [answer["status"] for answer in up] == [200] * 4
    assert [len(answer["begins"]) for answer in up] == [50, 50, len("line 1 of 2\n") * 2, 50]
    assert down["status"] is None
    assert down["error"].startswith("ConnectError")


def test_streamed_answers_are_the_same(example: Running) -> None:
    """As server-sent events come the same five answers, in whatever order they finish."""
    gathered = httpx.get(f"{example.url}/five").json()
    with httpx.stream("GET", f"{example.url}/five/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        streamed = list(_events(response))
    assert sorted(streamed, key=str) == sorted(gathered, key=str)


def test_each_is_streamed_when_it_finishes(down: str) -> None:
    """The fast sites' answers arrive while the slow one, first in the list, has not answered yet."""
    seen = threading.Event()

    def script(connection: Connection) -> None:
        head, _ = connection.read_request()
        if b"/last" in head:
            assert seen.wait(LIMIT), "the other answers did not arrive before"
        connection.send(ok(head.split()[1], b"Connection: close"))

    sites = ("/last", "/b", "/c", "/d", down)
    with (
        scripted(script) as upstream,
        example_over(upstream.url, sites=sites) as example,
        httpx.stream("GET", f"{example.url}/five/events") as response,
    ):
        events = _events(response)
        first_four = {next(events)["url"] for _ in range(4)}
        assert first_four == {"/b", "/c", "/d", down}
        seen.set()
        assert [event["begins"] for event in events] == ["/last"]


def test_browser_that_leaves_cancels_what_still_runs(down: str) -> None:
    """When the browser leaves, the request to the site that has not answered is broken off."""
    left = threading.Event()
    broken_off = []

    def script(connection: Connection) -> None:
        connection.read_request()
        broken_off.append(connection.wait_until_closed())
        left.set()

    with scripted(script) as upstream, example_over(upstream.url, sites=("/silent", down)) as example:
        with httpx.stream("GET", f"{example.url}/five/events") as response:
            events = _events(response)
            assert next(events)["url"] == down
        assert left.wait(LIMIT / 2), "the request went on without anybody who waits for it"
    assert broken_off == [True]


def test_no_more_than_needed_is_read() -> None:
    """Of an endless answer the first 50 characters are read, and then its connection is closed."""
    closed = []

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60)
        closed.append(connection.wait_until_closed())

    with scripted(script) as upstream, example_over(upstream.url, sites=("/",)) as example:
        assert httpx.get(f"{example.url}/five").json()[0]["begins"] == "x" * 50
    assert closed == [True]


def test_connections_are_given_back(example: Running) -> None:
    """Far more fan-outs than the pool has connections all succeed."""
    for _ in range(15):
        answers = httpx.get(f"{example.url}/five").json()
        assert [answer["status"] for answer in answers] == [200, 200, 200, 200, None]
