"""The embedded upstream's site in a real browser: at the upstream itself, and through the mounted proxy."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.sync.client import connect

from example_app.tests.devtools import Browser, Exchange, Page, find_chromium, running_browser
from example_app.tests.support import PLACES
from tests.support.server import Running

CHROMIUM = find_chromium()

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"),
    pytest.mark.timeout(90),
]

FINISHED = "['ok', 'error'].includes(document.getElementById('summary').dataset.state)"
CONNECTED = "document.getElementById('state').dataset.state === 'ok'"
GIVEN_UP = "!document.getElementById('again').hidden"
CHECKS = 18


class Visit(NamedTuple):
    """What the site's front page found and did, with all that names its place taken out."""

    results: dict[str, Any]
    exchanges: set[Exchange]
    complaints: list[str]
    picture: bytes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start one browser for all tests here."""
    with running_browser(CHROMIUM or "") as running:
        yield running


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return what opens a window, in a profile of its own or in a given one; all are closed after the test."""
    opened: list[Page] = []

    def open_window(profile: str | None = None) -> Page:
        opened.append(browser.window(profile or browser.profile()))
        return opened[-1]

    yield open_window
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def places(upstream: Running, example: Running) -> dict[str, str]:
    """Return where the site is: at the upstream, and under a path of the application."""
    return {"directly": f"{upstream.url}/", "through the proxy": f"{example.url}/site/"}


@pytest.fixture(scope="module")
def visits(browser: Browser, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Visit]:
    """Visit the site at both places, each with a profile of its own, and let it check everything."""
    folder = tmp_path_factory.mktemp("pictures")
    return {how: visit(browser, url, folder / f"{how}.png") for how, url in places.items()}


def visit(browser: Browser, url: str, picture: Path) -> Visit:
    """Let the front page run its checks."""
    page = browser.window(browser.profile())
    page.open(url)
    assert page.wait_for_page(url)
    assert page.wait_for(FINISHED, seconds=40), page.complaints
    assert page.wait_for_silence()
    page.screenshot(picture)
    results = json.loads(text_of(page, "#results"))
    page.close()
    # What remains is the same wherever the site is.
    host, _, path = url.removeprefix("http://").partition("/")
    exchanges = {exchange._replace(path=exchange.path.removeprefix(f"/{path}")) for exchange in page.exchanges()}
    exchanges = {exchange._replace(path=exchange.path.lstrip("/")) for exchange in exchanges}
    complaints = [complaint.replace(f"{host}/{path}", "SITE/") for complaint in page.complaints]
    return Visit(results, exchanges, complaints, picture.read_bytes())


def text_of(page: Page, selector: str) -> str:
    """Return what an element says."""
    return str(page.evaluate(f"document.querySelector('{selector}').textContent"))


@pytest.mark.parametrize("how", ["directly", "through the proxy"])
def test_everything_works(visits: dict[str, Visit], how: str) -> None:
    """Each of the page's checks finds what it expects, and nothing else complains than what is staged."""
    results = visits[how].results
    assert {name: result["found"] for name, result in results.items() if not result["ok"]} == {}
    assert len(results) == CHECKS
    (refused,) = visits[how].complaints
    assert "ws://SITE/socket/closed" in refused
    assert "403" in refused


def test_both_ways_are_the_same(visits: dict[str, Visit]) -> None:
    """The proxy shows neither in what the page found, nor in what the browser complained about."""
    assert visits["through the proxy"].results == visits["directly"].results
    assert visits["through the proxy"].complaints == visits["directly"].complaints


def test_requests_and_statuses_are_the_same(visits: dict[str, Visit]) -> None:
    """The same is asked for, with the same statuses, from 101 to 403."""
    direct, proxied = visits["directly"].exchanges, visits["through the proxy"].exchanges
    assert proxied == direct
    assert {exchange.status for exchange in direct} >= {101, 200, 204, 206, 302, 303, 304, 307, "net::ERR_ABORTED"}
    assert Exchange("GET", "sea.png", 200) in direct
    assert Exchange("GET", "beacon.ttf", 200) in direct
    assert Exchange("WebSocket", "chat/room", 101) in direct


def test_both_look_the_same(visits: dict[str, Visit]) -> None:
    """Down to the last dot, the page looks the same through the proxy."""
    assert visits["through the proxy"].picture == visits["directly"].picture


@pytest.mark.parametrize("how", ["directly", "through the proxy"])
def test_signing_in_with_the_form(
    browser: Browser, window: Callable[..., Page], places: dict[str, str], how: str
) -> None:
    """A stranger is sent to the form, signs in by keyboard, is known, also to the next window, and signs out."""
    profile = browser.profile()
    page = window(profile)
    page.open(places[how] + "members")
    assert page.wait_for_page("/login")
    page.type("#name", "Grace <Hopper>")
    assert page.wait_for_page("/members")
    assert text_of(page, "#member") == "Grace <Hopper>"
    again = window(profile)
    again.open(places[how] + "members")
    assert again.wait_for_page("/members")
    assert text_of(again, "#member") == "Grace <Hopper>"
    page.evaluate("document.querySelector('form button').click()")
    assert page.wait_for_page(places[how])
    again.open(places[how] + "members")
    assert again.wait_for_page("/login")
    assert (page.complaints, again.complaints) == ([], [])


def test_two_windows_chat_through_the_proxy(
    window: Callable[..., Page], places: dict[str, str], tmp_path: Path
) -> None:
    """What is typed in one window appears in the other, both ways, and each hears the other come and go."""
    ada, grace = (window() for _ in range(2))
    for page, name in ((ada, "Ada"), (grace, "Grace")):
        page.open(f"{places['through the proxy']}chat?name={name}")
        assert page.wait_for_page(name)
        assert page.wait_for(CONNECTED), page.complaints
    assert heard(ada, "Grace came in.")
    ada.type("#text", "Do you see the light?")
    assert heard(grace, "Ada: Do you see the light?")
    grace.type("#text", "Yes, and <b>hear</b> you, too. Grüße!")
    assert heard(ada, "Grace: Yes, and <b>hear</b> you, too. Grüße!")
    assert text_of(ada, "#address").startswith(places["through the proxy"].replace("http", "ws"))
    for page, name in ((ada, "ada"), (grace, "grace")):
        page.screenshot(tmp_path / f"{name}.png", width=760)
    grace.open("about:blank")
    assert heard(ada, "Grace left.")
    assert text_of(ada, "#state") == "connected, alone"
    assert (ada.complaints, grace.complaints) == ([], [])


def test_long_name_is_cut(window: Callable[..., Page], places: dict[str, str]) -> None:
    """A name that is too long for the server is cut, also where the server adds a number to it."""
    pages = [window() for _ in range(2)]
    for page in pages:
        page.open(f"{places['through the proxy']}chat?room=long&name={'x' * 50}")
        assert page.wait_for_page("xxx")
        assert page.wait_for(CONNECTED), page.complaints
    assert [text_of(page, "#me") for page in pages] == ["x" * 40, "x" * 40 + " 2"]


def test_refusal_is_told_and_left_at_that(window: Callable[..., Page], small: Running, tmp_path: Path) -> None:
    """Who is refused is told why, and not tried again behind their back; a click is another try."""
    page = window()
    page.open(f"{small.url}/site/chat?room=full")
    assert page.wait_for_page("full")
    assert page.wait_for(CONNECTED), page.complaints
    page.evaluate("history.pushState(null, '', '/nowhere/'); dispatchEvent(new Event('pagehide'))")
    assert page.wait_for(GIVEN_UP)
    assert text_of(page, "#state") == "not connected: the server refuses (404)"
    page.evaluate("history.pushState(null, '', '/site/chat?room=full')")
    with ExitStack() as stack:
        address = f"{small.url.replace('http', 'ws')}/site/chat/room?room=full"
        first, *_ = [stack.enter_context(connect(address, proxy=None)) for _ in range(PLACES)]
        page.evaluate("document.getElementById('again').click()")
        assert page.wait_for(GIVEN_UP)
        assert text_of(page, "#state") == "not connected: all places are taken"
        page.screenshot(tmp_path / "full.png", width=760)
        first.close()
        page.evaluate("document.getElementById('again').click()")
        assert page.wait_for(CONNECTED), page.complaints
    assert page.evaluate("document.getElementById('again').hidden")


def heard(page: Page, text: str) -> bool:
    """Wait until the chat shows a line; whether it did."""
    return page.wait_for(f"[...document.querySelectorAll('#said li')].some((li) => li.textContent === {text!r})")


@pytest.mark.parametrize("path", ["", "chat", "login"])
def test_pages_fit_a_phone(window: Callable[..., Page], places: dict[str, str], path: str) -> None:
    """On a narrow screen nothing sticks out sideways."""
    page = window()
    page.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    page.open(places["directly"] + path)
    assert page.wait_for_page(f"/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
