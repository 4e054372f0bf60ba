"""The embedded upstream's site without a browser, at the upstream and through the mounted proxy."""

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from example_app.site import chat
from example_app.site.files import SIZE, content
from tests.support.patience import with_patience
from tests.support.server import Running

LIMIT = 10.0


@pytest.fixture(params=["directly", "through the proxy"])
def site(request: pytest.FixtureRequest, upstream: Running, example: Running) -> str:
    """Return where the site is."""
    return f"{upstream.url}/" if request.param == "directly" else f"{example.url}/site/"


@contextmanager
def socket_at(site: str, path: str, **options: Any) -> Iterator[ClientConnection]:
    """Open a WebSocket."""
    with connect(site.replace("http", "ws") + path, proxy=None, **options) as socket:
        yield socket


def heard(socket: ClientConnection) -> dict[str, Any]:
    """Return the next message of a chat."""
    return dict(json.loads(socket.recv(timeout=LIMIT)))


def heard_to_the_end(socket: ClientConnection) -> None:
    """Hear a few messages, after which the connection should be closed."""
    for _ in range(5):
        socket.recv(timeout=LIMIT)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, SIZE),
        ("bytes=-33", SIZE - 33, SIZE),
        ("bytes=7999990-9999999", 7999990, SIZE),
    ],
)
def test_parts_of_the_download(site: str, asked: str, start: int, end: int) -> None:
    """Each part that can be asked for is the part of the file that it says."""
    response = httpx.get(f"{site}tide-table.txt", headers={"range": asked})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.content == content(start, end)


def test_what_is_no_part_of_the_download(site: str) -> None:
    """Behind the end there is nothing; of a file that has changed, or in parts that nobody knows, all is sent."""
    url = f"{site}tide-table.txt"
    beyond = httpx.get(url, headers={"range": f"bytes={SIZE}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{SIZE}")
    for headers in ({"range": "bytes=5-", "if-range": '"older"'}, {"range": "bytes=-"}, {"range": "lines=1-2"}):
        with httpx.stream("GET", url, headers=headers) as response:
            assert (response.status_code, response.headers["content-length"]) == (200, str(SIZE))


def test_picture_and_font_are_whole(site: str) -> None:
    """The picture has as many pixels as it says; the checksums of the font, and of its tables, are right."""
    picture = httpx.get(f"{site}sea.png").content
    width, height = struct.unpack(">II", picture[16:24])
    (length,) = struct.unpack(">I", picture[33:37])
    assert len(zlib.decompress(picture[41 : 41 + length])) == height * (1 + 3 * width)
    font = httpx.get(f"{site}beacon.ttf").content
    assert sum(struct.unpack(f">{len(font) // 4}I", font)) % 2**32 == 0xB1B0AFBA
    tables = [struct.unpack_from(">4sIII", font, 12 + 16 * number) for number in range(font[5])]
    for tag, checksum, start, size in tables:
        table = font[start : start + size + -size % 4]
        if tag == b"head":
            table = table[:8] + bytes(4) + table[12:]
        assert sum(struct.unpack(f">{len(table) // 4}I", table)) % 2**32 == checksum


def test_text_is_compressed_for_those_who_understand(site: str) -> None:
    """The text is the same with and without compression."""
    plain = httpx.get(f"{site}story", headers={"accept-encoding": "identity"})
    packed = httpx.get(f"{site}story")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text


def test_nobody_signs_in_without_a_name(site: str) -> None:
    """An empty form leads back to the form; names are shown as text."""
    with httpx.Client(base_url=site, follow_redirects=True) as visitor:
        assert str(visitor.post("login", data={"name": " "}).url) == f"{site}login"
        page = visitor.post("login", data={"name": "<i>Ada</i>"})
        assert str(page.url) == f"{site}members"
        assert "&lt;i&gt;Ada&lt;/i&gt;" in page.text
        assert str(visitor.post("logout").url) == site
        assert str(visitor.get("members").url) == f"{site}login"


@with_patience(0.2)
def test_who_leaves_a_hanging_answer_is_noticed(site: str, limit: float) -> None:
    """The upstream hears it when nobody waits any more."""
    key = f"hang at {site} for {limit}"
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{site}hang", params={"key": key}, timeout=httpx.Timeout(LIMIT, read=limit))
    for what in ("waits", "left"):
        assert httpx.get(f"{site}seen", params={"key": f"{key} {what}"}, timeout=15).json() == {"seen": "yes"}


def test_socket_negotiates_and_sends_back(site: str) -> None:
    """The subprotocol is chosen by the upstream, its cookie arrives, and so does what is sent."""
    offered = [Subprotocol("lighthouse.v1"), Subprotocol("lighthouse.v2")]
    with socket_at(site, "socket", subprotocols=offered) as socket:
        assert socket.subprotocol == "lighthouse.v2"
        assert socket.response is not None
        assert socket.response.headers["set-cookie"].startswith("berth=7")
        for message in ("close", b"\0\xff", ""):
            socket.send(message)
            assert socket.recv(timeout=LIMIT) == message


def test_refusal_is_a_refusal(site: str) -> None:
    """Who is turned away is told so instead of a handshake."""
    with pytest.raises(InvalidStatus) as refused, socket_at(site, "socket/closed"):
        pass
    assert refused.value.response.status_code == 403


def test_chat_tells_everybody(site: str) -> None:
    """All in a room hear who comes, speaks and leaves; a name that is taken gets a number; newcomers hear the last words."""
    path = "chat/room?room=one&name=Ada"
    with socket_at(site, path) as first:
        assert heard(first) == {"kind": "welcome", "name": "Ada"}
        assert heard(first) == {"kind": "came", "name": "Ada", "people": 1}
        first.send("  Anybody?  ")
        first.send("   ")
        said = {"kind": "said", "name": "Ada", "text": "Anybody?"}
        assert heard(first) == said | {"people": 1}
        with socket_at(site, path) as second:
            assert heard(second) == {"kind": "welcome", "name": "Ada 2"}
            assert heard(second) == said
            came = {"kind": "came", "name": "Ada 2", "people": 2}
            assert heard(first) == heard(second) == came
            second.send("x" * (chat.LONGEST + 1))
            assert heard(first)["text"] == "x" * chat.LONGEST
        assert heard(first) == {"kind": "left", "name": "Ada 2", "people": 1}


def test_rooms_are_apart_and_forgotten(site: str) -> None:
    """What is said in one room is not heard in another, nor by those who come when all have left."""
    with socket_at(site, "chat/room?room=two&name=Ada") as ada, socket_at(site, "chat/room?room=three") as other:
        for socket in (ada, other):
            assert [heard(socket)["kind"] for _ in range(2)] == ["welcome", "came"]
        ada.send("secret")
        assert heard(ada)["text"] == "secret"
        other.send("public")
        assert heard(other)["text"] == "public"
    with socket_at(site, "chat/room?room=three") as later:
        assert [heard(later)["kind"] for _ in range(2)] == ["welcome", "came"]


def test_chat_is_text(site: str) -> None:
    """Who sends binary data is told that it is not understood, and the others that somebody left."""
    with socket_at(site, "chat/room?room=four") as socket:
        socket.send(b"\0")
        with pytest.raises(ConnectionClosed) as closed:
            heard_to_the_end(socket)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1003, "only text here")


@pytest.mark.parametrize(("name", "status"), [("Ada", 204), ("x" * 40, 204), ("x" * 41, 422), ("", 422)])
def test_refusal_of_a_chat_has_a_reason(site: str, name: str, status: int) -> None:
    """A request to the chat's URL is answered for pages, which are not told why a WebSocket was refused."""
    path = f"chat/room?room=five&name={name}"
    assert httpx.get(site + path).status_code == status
    if status == 204:
        with socket_at(site, path) as socket:
            assert heard(socket)["name"] == name
    else:
        with pytest.raises(InvalidStatus), socket_at(site, path):
            pass


def test_who_is_too_slow_is_let_go() -> None:
    """Messages are not kept without end for somebody who does not take them."""
    room = chat.Room()
    _, slow = room.enter("Slow")
    name, quick = room.enter("Quick")
    for number in range(chat.WAITING + chat.REMEMBERED):
        room.say(name, f"{number}")
        while not quick.empty():
            last = quick.get_nowait()
    assert last is not None
    assert (last["kind"], last["people"]) == ("said", 1)
    waiting = [slow.get_nowait() for _ in range(slow.qsize())]
    assert waiting[-1] is None
    room.leave("Slow")
    room.leave(name)
    assert room.empty
