"""The routes that read an answer as a whole."""

import httpx
import pytest

from example_app.tests.support import example_over
from tests.support.server import Running


def test_shared_client_reads_the_page(example: Running) -> None:
    """One shared client reads the upstream's page."""
    answer = httpx.get(f"{example.url}/read").json()
    assert answer["status"] == 200
    assert answer["begins"].startswith("<!doctype html>")
    assert len(answer["begins"]) == 50 < answer["characters"]


def test_named_client_has_its_own_timeouts(example: Running) -> None:
    """The route gets the client named "slow", with the timeout of that one."""
    assert httpx.get(f"{example.url}/named").json() == {"status": 200, "seconds to read": 60.0}


def test_cookies_stay_with_their_caller(example: Running) -> None:
    """What the upstream sets for one caller is told to that one, and not sent for the next."""
    answers = [httpx.get(f"{example.url}/cookies", params={"user": user}).json() for user in ("ada", "grace")]
    assert [answer["set for this caller"] for answer in answers] == [{"user": "ada"}, {"user": "grace"}]
    assert [answer["sent upstream"] for answer in answers] == [{}, {}]


def test_upstream_tells_which_cookies_it_got(upstream: Running) -> None:
    """The upstream that the cookies test relies on does send back what it gets."""
    received = httpx.get(f"{upstream.url}/cookies", headers={"cookie": "user=ada"}).json()
    assert received == {"received": {"user": "ada"}}


def test_shared_jar_would_mix_them(upstream: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """With httpx's own jar, which settings can restore, the second caller does send the first one's cookie."""
    monkeypatch.setenv("EXAMPLE_CLIENT_COOKIES", "shared")
    with example_over(upstream.url) as example:
        answers = [httpx.get(f"{example.url}/cookies", params={"user": user}).json() for user in ("ada", "grace")]
    assert [answer["sent upstream"] for answer in answers] == [{}, {"user": "ada"}]
