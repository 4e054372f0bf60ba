"""Many open chats: the mounted site has a client of its own, and says so when that one is full."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from example_app.settings import ExampleSettings
from example_app.tests.support import PLACES
from tests.support.server import Running

LIMIT = 10.0
Opens = Callable[[Running], ClientConnection]


@pytest.fixture
def chat() -> Iterator[Opens]:
    """Return what takes part in a chat through the mounted proxy; all leave after the test."""
    with ExitStack() as stack:

        def take_part(app: Running) -> ClientConnection:
            url = f"{app.url.replace('http', 'ws')}/site/chat/room?room=many"
            socket = stack.enter_context(connect(url, proxy=None, max_queue=None))
            assert json.loads(socket.recv(timeout=LIMIT))["kind"] == "welcome"
            return socket

        yield take_part


def test_open_chats_take_nothing_from_other_routes(example: Running, settings: ExampleSettings, chat: Opens) -> None:
    """With more chats open than the shared client has connections, everything else answers, the site, too."""
    most = settings.shared_client().limits.max_connections
    assert most is not None
    for _ in range(most + 2):
        chat(example)
    for path in ("/read", "/site/json"):
        assert httpx.get(example.url + path, timeout=LIMIT).status_code == 200


def test_full_site_says_so(small: Running, chat: Opens) -> None:
    """One chat too many is refused with 503; so is a request, which tells the page why. Other routes answer."""
    for _ in range(PLACES):
        chat(small)
    with pytest.raises(InvalidStatus) as refused:
        chat(small)
    assert refused.value.response.status_code == 503
    response = httpx.get(f"{small.url}/site/chat/room")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.text.startswith("All places are taken")
    assert httpx.get(f"{small.url}/read").status_code == 200
