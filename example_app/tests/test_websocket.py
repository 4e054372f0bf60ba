"""The WebSocket routes."""

import json

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.support.server import Running


def test_paths_are_answered_with_first_characters(example: Running) -> None:
    """Each path that is typed is answered by what the upstream's answer begins with."""
    with connect(example.url.replace("http", "ws") + "/ws", proxy=None) as socket:
        for path, begins in (("/json", '{"upstream":"embedded"'), ("/page", "<!doctype html>")):
            socket.send(path)
            answer = json.loads(socket.recv(timeout=10))
            assert answer["status"] == 200
            assert answer["begins"].startswith(begins)
            assert len(answer["begins"]) == 50


def test_only_the_upstream_is_read(example: Running, down: str) -> None:
    """A URL of the browser's own choice is refused, and the conversation goes on."""
    with connect(example.url.replace("http", "ws") + "/ws", proxy=None) as socket:
        for url in (down, "page", ""):
            socket.send(url)
            assert "not a path" in json.loads(socket.recv(timeout=10))["error"]
        socket.send("//127.0.0.1:1/page")  # httpx takes this for a path
        assert json.loads(socket.recv(timeout=10))["error"] is None
        socket.send("/page")
        assert json.loads(socket.recv(timeout=10))["status"] == 200


def test_relay_passes_messages_on(example: Running) -> None:
    """Through the route the upstream's own WebSocket is reached, with its subprotocol."""
    url = example.url.replace("http", "ws") + "/ws/relay"
    with connect(url, proxy=None, subprotocols=[Subprotocol("lighthouse.v2")]) as socket:
        assert socket.subprotocol == "lighthouse.v2"
        for message in ("There and back again", b"\0\xff"):
            socket.send(message)
            assert socket.recv(timeout=10) == message
