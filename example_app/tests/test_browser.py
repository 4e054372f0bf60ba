"""The front page in a real browser."""

from collections.abc import Iterator

import pytest

from example_app.tests.devtools import Page, find_chromium, running_browser
from tests.support.server import Running

CHROMIUM = find_chromium()

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"),
    pytest.mark.timeout(90),
]

FINISHED = "['ok', 'error'].includes(document.getElementById('summary').dataset.state)"


@pytest.fixture
def page(example: Running) -> Iterator[Page]:
    """Open the front page."""
    with running_browser(CHROMIUM or "") as browser:
        opened = browser.window()
        opened.open(f"{example.url}/")
        assert opened.wait_for("document.querySelector('#run-all:enabled') !== null"), opened.complaints
        yield opened


def _text(page: Page, selector: str) -> str:
    return str(page.evaluate(f"document.querySelector('{selector}').textContent"))


def test_all_recipes_run_as_expected(page: Page) -> None:
    """ "Run all" runs every card to the answer it should come to, and no script complains."""
    count = "document.querySelectorAll('.card').length"
    assert page.evaluate(f"{count} === document.querySelectorAll('.card[data-state=idle]').length")
    page.evaluate("document.getElementById('run-all').click()")
    assert page.wait_for(FINISHED, seconds=40)
    states = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.card')].map(c => [c.id, c.dataset.state]))"
    )
    assert states == dict.fromkeys(states, "ok")
    assert len(states) == 17
    assert "as expected" in _text(page, "#summary")
    assert "LINE 8 OF 8" in _text(page, "#stream_shout .body")
    assert "10,000,000 bytes" in _text(page, "#stream_file .size")
    assert "those of what was sent" in _text(page, "#upload .verdict")
    assert "squares" in _text(page, "#read_over_websocket .body")
    assert _text(page, "#mount_site .step:last-child .body") == "Ahoy!"
    assert _text(page, "#relay .body") == "There and back again"
    assert "ConnectError" in _text(page, "#five_events .body")
    assert _text(page, "#flaky .step:last-child .verdict") == "broken off, as expected"
    # The browser itself notes the failures that some cards stage.
    staged = ("/flaky", "/site/%2e%2e")
    assert [complaint for complaint in page.complaints if not any(path in complaint for path in staged)] == []


def test_answer_appears_as_it_streams(page: Page) -> None:
    """The first line of a slow answer is on the page before the last one."""
    page.evaluate("document.querySelector('#stream_slow .run').click()")
    body = "document.querySelector('#stream_slow .body').textContent"
    assert page.wait_for(f"{body}.includes('line 1 of 8')")
    assert "line 8 of 8" not in _text(page, "#stream_slow .body")
    assert page.evaluate("document.getElementById('stream_slow').dataset.state") == "running"
    assert page.wait_for("document.getElementById('stream_slow').dataset.state === 'ok'")
    assert "line 8 of 8" in _text(page, "#stream_slow .body")


def test_running_recipe_can_be_stopped(page: Page) -> None:
    """While a card runs, its button stops it."""
    page.evaluate("document.querySelector('#stream_slow .run').click()")
    body = "document.querySelector('#stream_slow .body').textContent"
    assert page.wait_for(f"{body}.includes('line 1 of 8')")
    page.evaluate("document.querySelector('#stream_slow .run').click()")
    assert page.wait_for("document.getElementById('stream_slow').dataset.state === 'idle'")
    assert _text(page, "#stream_slow .verdict") == "stopped by you"


def test_typed_path_is_asked_for(page: Page) -> None:
    """The WebSocket's card asks for what is typed, and shows a refusal as one."""
    page.evaluate("document.querySelector('#read_over_websocket input').value = 'nonsense'")
    page.evaluate("document.querySelector('#read_over_websocket .run').click()")
    assert page.wait_for("document.getElementById('read_over_websocket').dataset.state === 'error'")
    assert "not a path" in _text(page, "#read_over_websocket .verdict")


def test_page_fits_a_phone(page: Page) -> None:
    """On a narrow screen nothing sticks out sideways."""
    page.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
