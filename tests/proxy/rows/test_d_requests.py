"""Table 1D: request bodies are streamed, framed as they came, and never cut short in a way that looks whole."""

import hashlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from fastapi_httpx_pool import ClientSettings, ReverseProxy, TimeoutSettings, create_lifespan
from fastapi_httpx_pool.proxy import ProxyRequest
from tests.support.answers import Answer, ask, get, post, read_answer, read_chunk
from tests.support.back_pressure import MEGABYTE, kernel_holds
from tests.support.bodies import tighten
from tests.support.patience import with_patience
from tests.support.proxies import EVERY_SERVER, UVICORN, proxied, serving_by, settings_of
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.raw_client import RawClient, raw_client
from tests.support.recording import RecordingUpstream
from tests.support.uploads import (
    LAST_CHUNK,
    AbortedUpstream,
    SteppingUpstream,
    announcing,
    chunk,
    dechunked,
    piece,
)
from tests.support.upstream import LIMIT, Connection, Script, ok, scripted

every_server = pytest.mark.parametrize("server", EVERY_SERVER)
uvicorn = pytest.mark.parametrize("server", UVICORN)
every_door = pytest.mark.parametrize(
    ("server", "door"), [*((server, "alone") for server in EVERY_SERVER), ("httptools", "mounted"), ("h11", "route")]
)
framed = pytest.mark.parametrize("length", [10, None], ids=["known-length", "chunked"])
"""With a body of ten bytes, announced, or of any length, in chunks."""

FRAMING = {b"content-length", b"transfer-encoding"}
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsofar\r\n"
"""An answer that has begun, and does not end."""
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big"

SAYS_CONTINUE_ITSELF = {
    "hypercorn": 'hypercorn sends "100 Continue" when it has read the head, before any app is asked'
}


def at(door: str) -> bytes:
    """Return the target that reaches the upstream's root."""
    return b"/" if door == "alone" else b"/p/"


def framing_of(seen: RecordingUpstream, index: int = 0) -> list[tuple[bytes, bytes]]:
    """Return the header lines that frame a request's body."""
    return [line for line in seen.headers(index) if line[0] in FRAMING]


def patient(**options: Any) -> ClientSettings:
    """Return settings without time limits, so that only what is tested can end the waiting."""
    return settings_of(timeout=TimeoutSettings(default=None), **options)


def assert_nothing_pooled(port: int, *, opened: int = 1) -> None:
    """Check that no connection is in use, and none kept for others."""
    held = held_at(port)
    assert (held.active, held.idle, held.queued) == (0, 0, 0)
    assert (held.opened, held.closed) == (opened, opened)


def assert_error(answer: Answer, status: int, *, error: bytes) -> None:
    """Check one of the proxy's own answers."""
    assert answer.status == status
    assert answer.complete
    assert answer.body.startswith(b'{"detail":')
    assert [value.partition(b"; error=")[2] for value in answer.values(b"proxy-status")] == [error]


def assert_hung_up(server: str, client: RawClient) -> None:
    """Check that the server closes the connection behind its answer."""
    if server != "granian":  # which leaves it to the client now and then, if its app was waiting for more of the body
        assert client.read_to_end() == b""


def assert_refused(server: str, client: RawClient, status: int) -> None:
    """Check that the proxy answers before it has read the whole body, and that the connection ends with that."""
    answer = read_answer(client)
    assert_error(answer, status, error=b"http_request_error")
    assert answer.values(b"connection") == [b"close"]
    assert_hung_up(server, client)


def assert_upload_aborted(script: AbortedUpstream, watch: ProxyWatch, port: int) -> None:
    """Check that the upstream has seen no end of the body, and that its connection is not kept."""
    assert script.ended.wait(LIMIT)
    watch.wait_for_end()
    assert_nothing_pooled(port)
    assert script.rest in (b"", b"\r\n")


# D1


@every_server
@framed
def test_d1_bodies_are_streamed(server: str, length: int | None) -> None:
    """The head goes up before any byte of the body, and each piece as it comes."""
    script = SteppingUpstream(piece(b"first", length), piece(b"other", length))
    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(announcing(length))
        assert script.head.wait(LIMIT)
        client.send(piece(b"first", length))
        assert script.arrived[0].wait(LIMIT)
        client.send(piece(b"other", length) + (LAST_CHUNK if length is None else b""))
        assert script.arrived[1].wait(LIMIT)
        assert read_answer(client).status == 200


@uvicorn
@pytest.mark.parametrize("length", [4 * 1024 * 1024, None], ids=["known-length", "chunked"])
def test_d1_large_bodies_arrive_whole(server: str, length: int | None) -> None:
    """Four megabytes arrive as they were sent."""
    body = bytes(range(256)) * 4096 * 4
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(announcing(length))
        for start in range(0, len(body), 100_000):
            client.send(piece(body[start : start + 100_000], length))
        if length is None:
            client.send(LAST_CHUNK)
        assert read_answer(client).status == 200

    received = seen.bodies[0] if length else dechunked(seen.bodies[0])
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


# D2


@every_door
def test_d2_a_body_keeps_its_framing(server: str, door: str) -> None:
    """A known length stays one, chunks stay chunks; a request has either, and no body's end is left open."""
    seen = RecordingUpstream()
    bodies = [post(b"hello", target=at(door)), announcing(None, target=at(door)) + chunk(b"hel") + chunk(b"lo")]
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port, raw_client(port) as client:
        for request in (bodies[0], bodies[1] + LAST_CHUNK, bodies[0]):
            client.send(request)
            assert read_answer(client).status == 200

    assert [framing_of(seen, index) for index in range(3)] == [
        [(b"content-length", b"5")],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5")],
    ]
    assert [seen.bodies[0], dechunked(seen.bodies[1]), seen.bodies[2]] == [b"hello"] * 3


@every_server
def test_d2_an_empty_body_is_framed(server: str) -> None:
    """A length of 0 stays; chunks without data stay what they are, or become a length of 0."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, post(b"")).status == 200
        assert ask(port, announcing(None) + LAST_CHUNK).status == 200

    assert framing_of(seen, 0) == [(b"content-length", b"0")]
    assert framing_of(seen, 1) in ([(b"transfer-encoding", b"chunked")], [(b"content-length", b"0")])
    assert seen.bodies[1] in (b"", LAST_CHUNK)


@every_server
@pytest.mark.parametrize("first", sorted(FRAMING))
def test_d2_never_both_framings(server: str, first: bytes) -> None:
    """A request with a length and with chunks is refused, or goes up in chunks and without the length."""
    seen = RecordingUpstream()
    lines = sorted(
        (b"Content-Length: 4", b"Transfer-Encoding: chunked"), key=lambda line: not line.lower().startswith(first)
    )
    request = get(b"/", *lines, method=b"POST") + chunk(b"hello") + LAST_CHUNK
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        answer = ask(port, request)

    if seen.heads:
        assert framing_of(seen) == [(b"transfer-encoding", b"chunked")]
        assert dechunked(seen.bodies[0]) == b"hello"
    else:
        assert answer.status == 400


# D3


@every_door
def test_d3_no_body_stays_none(server: str, door: str) -> None:
    """A request without a body goes up without chunks, and a GET without any framing."""
    seen = RecordingUpstream()
    methods = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port, raw_client(port) as client:
        for method in methods:
            client.send(get(at(door), method=method))
            assert read_answer(client).status == 200

    assert seen.methods == methods
    assert seen.bodies == [b""] * len(methods)
    assert framing_of(seen, 0) == []
    for index, method in enumerate(methods):
        assert framing_of(seen, index) in ([], [(b"content-length", b"0")]), method


# D4


@every_door
def test_d4_every_method_may_have_a_body(server: str, door: str) -> None:
    """A body on GET, DELETE and OPTIONS arrives, in either framing."""
    seen = RecordingUpstream()
    methods = [b"GET", b"DELETE", b"OPTIONS"]
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port:
        for method in methods:
            assert ask(port, post(b"hello", method=method, target=at(door))).status == 200
            chunked = announcing(None, method=method, target=at(door)) + chunk(b"hello") + LAST_CHUNK
            assert ask(port, chunked).status == 200

    assert seen.methods == [method for method in methods for _ in range(2)]
    assert seen.bodies[::2] == [b"hello"] * 3
    assert [dechunked(body) for body in seen.bodies[1::2]] == [b"hello"] * 3


@uvicorn
def test_d4_a_body_on_a_method_of_ones_own(server: str) -> None:
    """A method that nobody has heard of has its body, too."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, post(b"hello", method=b"PROPFIND")).status == 200

    assert (seen.methods, seen.bodies) == ([b"PROPFIND"], [b"hello"])


# D5


@every_server
@framed
@pytest.mark.parametrize("leaving", ["close", "reset"])
def test_d5_an_aborted_upload_is_aborted(server: str, length: int | None, leaving: str) -> None:
    """A client that leaves during its upload takes the upstream's connection with it: no last chunk, nothing pooled."""
    script, watch = AbortedUpstream(b"hello"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length) + piece(b"hello", length))
        assert script.begun.wait(LIMIT)
        getattr(client, leaving)()
        assert_upload_aborted(script, watch, port)
        assert ask(port, get()).body == b"next"

    assert watch.failures == []


@every_server
@framed
def test_d5_an_upload_that_is_left_between_two_pieces(server: str, length: int | None) -> None:
    """An answer that has begun changes nothing: an upload that breaks off is broken off upstream."""
    script, watch = AbortedUpstream(b"hello", BEGUN), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length) + piece(b"hello", length))
        client.read_until(b"sofar")
        client.close()
        assert_upload_aborted(script, watch, port)


@uvicorn
def test_d5_a_client_that_leaves_before_any_of_its_body(server: str) -> None:
    """So is an upload of which nothing has come yet."""
    script, watch = AbortedUpstream(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(None))
        assert script.begun.wait(LIMIT)
        client.close()
        assert_upload_aborted(script, watch, port)

    assert script.rest == b""


# D6


def expecting(length: int | None = 10) -> bytes:
    """Return the head of a request that waits for a "100 Continue"."""
    return announcing(length, b"Expect: 100-continue")


def skip_if_it_says_so_itself(server: str) -> None:
    """Skip a test where the server answers an Expect in the app's place."""
    if server in SAYS_CONTINUE_ITSELF:
        pytest.skip(SAYS_CONTINUE_ITSELF[server])


@every_server
@framed
def test_d6_a_continue_of_the_upstreams_is_passed_on(server: str, length: int | None) -> None:
    """The client is told to go on when the upstream says so, and the body arrives."""
    skip_if_it_says_so_itself(server)
    expected, says_continue, bodies = threading.Event(), threading.Event(), []

    def script(connection: Connection) -> None:
        if b"\r\nexpect: 100-continue\r\n" in connection.read_head().lower():
            expected.set()
        assert says_continue.wait(LIMIT)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(connection.read_exactly(10) if length else connection.read_until(LAST_CHUNK))
        connection.send(ok())

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient()) as port,
        raw_client(port) as client,
    ):
        client.send(expecting(length))
        assert expected.wait(LIMIT)
        assert nothing_came(client)
        says_continue.set()
        assert client.read_head().startswith(b"HTTP/1.1 100 ")
        client.send(piece(b"helloworld", length) + (LAST_CHUNK if length is None else b""))
        assert read_answer(client).status == 200

    assert (bodies[0] if length else dechunked(bodies[0])) == b"helloworld"


def nothing_came(client: RawClient) -> bool:
    """Whether the client has been sent nothing so far."""
    client.sock.setblocking(False)
    try:
        client.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        client.sock.settimeout(LIMIT)
    return False


@every_server
@framed
def test_d6_a_refusal_comes_without_a_continue(server: str, length: int | None) -> None:
    """The upstream's refusal is the first that the client sees; its body is not asked for, and nothing is pooled."""
    script, watch = AbortedUpstream(response=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(expecting(length))
        if server in SAYS_CONTINUE_ITSELF:
            assert client.read_head().startswith(b"HTTP/1.1 100 ")
        answer = read_answer(client)
        assert (answer.status, answer.body) == (403, b"no")
        assert_upload_aborted(script, watch, port)

    assert script.rest == b""


@every_server
def test_d6_a_refusal_that_takes_its_time(server: str) -> None:
    """No "100 Continue" slips in between the head of a refusal and its body, which comes later."""
    skip_if_it_says_so_itself(server)
    may_end = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n")
        # More than the proxy's patience before it begins to look after its client.
        assert not may_end.wait(0.15)
        connection.send(b"no")

    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient()) as port,
        raw_client(port) as client,
    ):
        client.send(expecting())
        answer = read_answer(client)

    assert (answer.status, answer.body) == (403, b"no")


@every_server
def test_d6_a_failure_comes_without_a_continue(server: str) -> None:
    """An upstream that hangs up instead is answered with 502, and the body is not asked for."""

    def script(connection: Connection) -> None:
        connection.read_head()

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(expecting())
        if server in SAYS_CONTINUE_ITSELF:
            assert client.read_head().startswith(b"HTTP/1.1 100 ")
        answer = read_answer(client)

    assert (answer.status, answer.complete) == (502, True)


@uvicorn
def test_d6_a_client_that_does_not_wait(server: str) -> None:
    """A client that sends its body at once, as it may, is served like any other."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(ok(connection.read_exactly(10)))

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(expecting() + b"helloworld")
        head = client.read_head()
        if head.startswith(b"HTTP/1.1 100 "):
            head = client.read_head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert client.read_exactly(10) == b"helloworld"


def test_d6_an_upstream_that_never_says_continue() -> None:
    """An upstream that only waits for the body gets it after a while, as RFC 9110 has it in section 10.1.1."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url) as port, raw_client(port) as client:
        client.send(expecting())
        assert client.read_head().startswith(b"HTTP/1.1 100 ")
        client.send(b"helloworld")
        assert read_answer(client).status == 200

    assert seen.bodies == [b"helloworld"]


@every_server
def test_d6_a_client_that_leaves_while_it_waits_for_a_continue(server: str) -> None:
    """The upstream's connection does not outlive the client that waits; the server may tell of its leaving late."""
    hangs_up = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        if connection.number:
            connection.send(ok(b"next"))
            return
        came.set()
        # Nobody may read the channel before the upstream asks for the body, so that only its answer
        # brings to light that the client has gone.
        assert hangs_up.wait(LIMIT)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.wait_until_closed()

    came, watch = threading.Event(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(expecting())
        assert came.wait(LIMIT)
        client.close()
        hangs_up.set()
        watch.wait_for_end()
        assert_nothing_pooled(port)
        assert ask(port, get()).body == b"next"


# D7


@every_server
@pytest.mark.parametrize("value", [b"something-else", b"100-continue, more"])
def test_d7_an_unknown_expectation_is_refused_or_ignored(server: str, value: bytes) -> None:
    """An expectation that nobody knows is answered with 417, or the request goes its way as without it."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(post(b"hello", b"Expect: " + value))
        head = client.read_head()
        if head.startswith(b"HTTP/1.1 100 "):
            head = client.read_head()
        status = int(head.split(b" ")[1])

    assert (status, seen.bodies) in [(200, [b"hello"]), (417, []), (417, [b""])]


# D8


@every_server
@framed
def test_d8_an_early_refusal_is_relayed_at_once(server: str, length: int | None) -> None:
    """A refusal that comes before the upload is over reaches the client then; upload and both connections end."""
    script, watch = AbortedUpstream(b"hello", REFUSAL), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length) + piece(b"hello", length))
        answer = read_answer(client)
        assert (answer.status, answer.body, answer.complete) == (413, b"too big", True)
        assert answer.values(b"connection") == [b"close"]
        assert_hung_up(server, client)
        assert_upload_aborted(script, watch, port)
        assert ask(port, get()).body == b"next"

    assert watch.failures == []


@every_server
def test_d8_an_early_refusal_of_an_upload_in_full_flow(server: str) -> None:
    """A client that pushes as fast as it can gets the refusal of an upstream that has read nothing but the head."""
    script = AbortedUpstream(response=REFUSAL)
    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        pusher = Pusher(client, announcing(64 * 1024 * 1024), 64 * 1024 * 1024)
        pusher.start()
        answer = read_answer(client)
        assert (answer.status, answer.body) == (413, b"too big")
        pusher.join(LIMIT)
        assert not pusher.is_alive(), "nobody closed the connection that the upload is on"

    assert pusher.pushed < 64 * 1024 * 1024


def too_much(request: ProxyRequest) -> Response:
    """Answer at once."""
    return PlainTextResponse("no", 403)


def truncated(connection: Connection) -> None:
    """Begin an answer, and hang up."""
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    connection.reset()


IN_FULL_FLOW: dict[str, tuple[int, Script, dict[str, Any]]] = {
    "too-large": (413, AbortedUpstream(), {"max_request_body": 1000}),
    "refused-by-a-hook": (403, AbortedUpstream(), {"on_request": too_much}),
    "broken-off": (200, truncated, {}),
}


@every_server
@pytest.mark.parametrize("case", IN_FULL_FLOW)
def test_d8_whatever_ends_an_upload_in_full_flow(server: str, case: str) -> None:
    """However an exchange ends before its upload does, its client is told, and the app is done with it."""
    if (server, case) == ("hypercorn", "broken-off"):
        pytest.skip("hypercorn may wait for its own queue, which is full, before it closes the connection")
    status, script, options = IN_FULL_FLOW[case]
    watch = ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around, **options) as port,
        raw_client(port) as client,
    ):
        pusher = ChunkPusher(client, announcing(None), 64 * 1024 * 1024)
        pusher.start()
        answer = read_answer(client)
        assert (answer.status, answer.complete) == (status, status != 200)
        watch.wait_for_end()
        assert held_at(port).active == 0
        pusher.join(LIMIT)
        assert not pusher.is_alive(), "nobody closed the connection that the upload is on"


@uvicorn
@framed
def test_d8_an_upstream_that_refuses_and_hangs_up(server: str, length: int | None) -> None:
    """The refusal arrives also if the upstream closes its connection behind it, with the upload unread."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(REFUSAL)

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(announcing(length) + piece(b"hello", length))
        answer = read_answer(client)

    assert (answer.status, answer.body, answer.complete) == (413, b"too big", True)


class Content(AbortedUpstream):
    """A script that answers before it has read a body, and then reads on until the body's end."""

    def __init__(self, response: bytes, length: int) -> None:
        super().__init__()
        self._early = response
        self._length = length

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_head()
        connection.send(self._early)
        self.rest = connection.read_exactly(self._length)
        self.begun.set()
        if connection.wait_until_closed():
            self.ended.set()


@every_server
@pytest.mark.parametrize("early", [b"", b"enough", None], ids=["empty", "known-length", "chunked"])
def test_d8_an_early_answer_that_is_no_refusal(server: str, early: bytes | None) -> None:
    """An answer below 400 is relayed at once, too, and what is sent on behind it still arrives."""
    if server == "granian" and early is not None:
        pytest.skip("granian takes no more of a request that has been answered with all bytes of a known length")
    body = b"0123456789abcdef" * 16384
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"enough") + LAST_CHUNK
    script = Content(response if early is None else ok(early), len(body))
    watch = ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(len(body)) + body[:10])
        head = client.read_head()
        assert head.startswith(b"HTTP/1.1 200 ")
        if early is None:
            assert read_chunk(client) == b"enough"
        else:
            assert client.read_exactly(len(early)) == early
        client.send(body[10:])
        assert script.begun.wait(LIMIT)
        assert script.ended.wait(LIMIT)
        watch.wait_for_end()
        # Whoever answers before it has read may take what follows for another request.
        assert_nothing_pooled(port)

    assert script.rest == body


@uvicorn
@framed
def test_d8_an_early_answer_of_an_upstream_that_leaves(server: str, length: int | None) -> None:
    """An upstream that says 200 and hangs up, with the upload unread, has answered; nothing is left in use."""

    def script(connection: Connection) -> None:
        connection.read_until(b"hello")
        connection.send(ok(b"enough", b"Connection: close"))

    watch = ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length) + piece(b"hello", length))
        answer = read_answer(client)
        assert (answer.status, answer.body, answer.complete) == (200, b"enough", True)
        client.close()
        watch.wait_for_end()
        assert_nothing_pooled(port)

    assert watch.failures == []


@uvicorn
def test_d8_an_early_answer_of_an_upstream_that_breaks_off(server: str) -> None:
    """What becomes of the rest of an upload takes nothing from an answer that is whole, and the client may go on."""

    def script(connection: Connection) -> None:
        if connection.number:
            connection.read_request()
            connection.send(ok(b"next"))
            return
        connection.read_until(b"hello")
        connection.send(ok(b"enough"))
        assert answered.wait(LIMIT)
        connection.reset()

    answered, watch = threading.Event(), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(10) + b"hello")
        answer = read_answer(client)
        assert (answer.status, answer.body, answer.complete) == (200, b"enough", True)
        answered.set()
        watch.wait_for_end()
        assert_nothing_pooled(port)
        client.send(b"world" + get())
        assert read_answer(client).body == b"next"

    assert watch.failures == []


class Pusher(threading.Thread):
    """Sends a request's head, and then its body as fast as it is taken, until nobody takes it."""

    def __init__(self, client: RawClient, head: bytes, limit: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._head = head
        self._limit = limit
        self.pushed = 0

    block = b"x" * 65536

    def run(self) -> None:
        """Push."""
        try:
            self._client.send(self._head)
            while self.pushed < self._limit:
                piece_of_it = self.block[: self._limit - self.pushed]
                self._client.sock.sendall(piece_of_it)
                self.pushed += len(piece_of_it)
        except OSError:
            pass  # the connection has been closed, or nothing has been taken for too long


class ChunkPusher(Pusher):
    """Sends its body in chunks."""

    block = chunk(b"x" * 65000)


# D9


def shouting(connection: Connection) -> None:
    """Answer each piece of a chunked body with the same in capitals, as soon as it comes."""
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int(connection.read_until(b"\r\n"), 16):
        data = connection.read_exactly(size + 2)[:-2]
        connection.send(chunk(data.upper()))
    connection.read_until(b"\r\n")
    connection.send(LAST_CHUNK)
    connection.wait_until_closed()


@every_server
@pytest.mark.parametrize("kind", ["chunked", "known-length"])
def test_d9_both_directions_at_once(server: str, kind: str) -> None:
    """The answer to one piece of an upload arrives before the client sends the next; at the end nothing is in use."""

    def counting(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.send(chunk(connection.read_exactly(5).upper()))
        connection.send(LAST_CHUNK)
        connection.wait_until_closed()

    length, script = (15, counting) if kind == "known-length" else (None, shouting)
    watch = ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length))
        assert client.read_head().startswith(b"HTTP/1.1 200 ")
        for said in (b"hello", b"again", b"there"):
            client.send(piece(said, length))
            assert read_chunk(client) == said.upper()
        if length is None:
            client.send(LAST_CHUNK)
        assert read_chunk(client) == b""
        watch.wait_for_end()
        assert held_at(port).active == 0

    assert watch.failures == []


@every_server
def test_d9_an_upload_goes_on_behind_the_head_of_the_answer(server: str) -> None:
    """A head that comes early does not cut the upload short: what is sent behind it arrives, to its last byte."""
    body = b"0123456789abcdef" * 65536
    received = []

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        received.append(connection.read_exactly(len(body)))
        connection.send(chunk(b"got it") + LAST_CHUNK)

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(announcing(len(body)))
        assert client.read_head().startswith(b"HTTP/1.1 200 ")
        client.send(body)
        assert read_chunk(client) == b"got it"
        assert read_chunk(client) == b""

    assert received == [body]


# D10


class Thirsty:
    """A script that reads nothing of a body until it is let, and then all of it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.may_read = threading.Event()
        self.received = 0

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        connection.read_head()
        assert self.may_read.wait(LIMIT)
        while data := connection.read_exactly(min(MEGABYTE, self._length - self.received)):
            self.received += len(data)
        connection.send(ok())


@every_server
def test_d10_a_slow_upstream_throttles_the_client(server: str) -> None:
    """A client cannot push more at an upstream that reads nothing than kernels hold, and a little more."""
    limit = kernel_holds(1) + 4 * MEGABYTE  # of two connections, but two of the four buffers are small
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # those that it accepts inherit it
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        script = Thirsty(limit)
        with (
            scripted(script, listener=listener) as upstream,
            proxied(upstream.url, server, settings=patient()) as port,
            raw_client(port) as client,
        ):
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.send(announcing(limit))
            pushed = push_until_it_stalls(client, limit)
            assert pushed < limit, "everything was taken, though nobody has read it"
            script.may_read.set()
            Pusher(client, b"", limit - pushed).run()
            assert read_answer(client).status == 200

    assert script.received == limit


def push_until_it_stalls(client: RawClient, limit: int) -> int:
    """Send up to so many bytes; stop when nothing has been taken for a while, and say how many there were."""
    client.sock.settimeout(0.25)
    pushed = 0
    try:
        while pushed < limit:
            pushed += client.sock.send(b"x" * min(65536, limit - pushed))
    except TimeoutError:
        pass
    finally:
        client.sock.settimeout(LIMIT)
    return pushed


# D11


@every_door
def test_d11_a_body_that_is_announced_too_long(server: str, door: str) -> None:
    """A length beyond the limit is answered with 413 before any byte of it is read, and the upstream hears nothing."""
    with (
        scripted(RecordingUpstream()) as upstream,
        proxied(upstream.url, server, door=door, max_request_body=9) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(10, target=at(door)))
        assert_refused(server, client, 413)
        accepted = upstream.accepted

    assert accepted == 0


@every_server
def test_d11_an_expected_body_that_is_too_long(server: str) -> None:
    """A client that waits for leave to send too much gets the 413 in its place."""
    with (
        scripted(RecordingUpstream()) as upstream,
        proxied(upstream.url, server, max_request_body=9) as port,
        raw_client(port) as client,
    ):
        client.send(expecting())
        if server in SAYS_CONTINUE_ITSELF:
            assert client.read_head().startswith(b"HTTP/1.1 100 ")
        assert_error(read_answer(client), 413, error=b"http_request_error")


@every_door
def test_d11_a_body_that_turns_out_to_be_too_long(server: str, door: str) -> None:
    """Chunks beyond the limit are answered with 413; the upstream sees no end of the body, and nothing is pooled."""
    script, watch = AbortedUpstream(b"hello"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, door=door, around=watch.around, max_request_body=9) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(None, target=at(door)) + chunk(b"hello"))
        assert script.begun.wait(LIMIT)
        client.send(chunk(b"hello"))
        assert_refused(server, client, 413)
        assert_upload_aborted(script, watch, port)

    assert watch.failures == []


@every_server
def test_d11_a_body_that_grows_too_long_behind_the_answers_head(server: str) -> None:
    """If the answer has begun, it is broken off, on both sides."""
    script, watch = AbortedUpstream(b"hello", BEGUN), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, around=watch.around, max_request_body=9) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(None) + chunk(b"hello"))
        client.read_until(b"sofar\r\n")
        client.send(chunk(b"hello"))
        assert client.read_to_end() == b""
        assert_upload_aborted(script, watch, port)


@uvicorn
@pytest.mark.parametrize("limit", [0, 5])
def test_d11_what_is_as_long_as_the_limit_passes(server: str, limit: int) -> None:
    """The limit itself is allowed, also if it is nothing."""
    seen = RecordingUpstream()
    body = b"hello"[:limit]
    with scripted(seen) as upstream, proxied(upstream.url, server, max_request_body=limit) as port:
        assert ask(port, post(body)).status == 200
        assert ask(port, announcing(None) + (chunk(body) if body else b"") + LAST_CHUNK).status == 200
        assert ask(port, get()).status == 200
        assert ask(port, post(b"hello!")).status == 413

    assert len(seen.heads) == 3
    assert seen.bodies[0] == body


@uvicorn
def test_d11_a_large_answer_is_no_large_request(server: str) -> None:
    """The limit is for requests only."""
    with (
        scripted(RecordingUpstream(ok(b"x" * 1000))) as upstream,
        proxied(upstream.url, server, max_request_body=5) as port,
    ):
        assert ask(port, post(b"hello")).body == b"x" * 1000


# D12


PADDED_JSON = b'{ "a" :  1.0,\r\n "b": "\xc3\xa9"  }\n'


class Item(BaseModel):
    """A body model."""

    a: float
    b: str


async def read_whole(request: Request) -> None:
    """Read a body as bytes."""
    assert await request.body() == PADDED_JSON


async def read_json(request: Request) -> None:
    """Read a body as JSON."""
    assert (await request.json())["a"] == 1


async def parsed(request: Request, item: Item) -> None:
    """Have a body parsed by FastAPI."""
    assert item.b == "é"


def a_route_that(reads: Callable[..., Awaitable[None]], upstream: str, script_settings: ClientSettings) -> FastAPI:
    """Return an app whose route reads the body in one way, and then sends it on."""
    app = FastAPI(lifespan=create_lifespan(script_settings))
    proxy = ReverseProxy(upstream)
    if reads is parsed:

        @app.post("/")
        async def with_a_model(request: Request, item: Item) -> Response:
            await parsed(request, item)
            return proxy.response(request)

    else:

        @app.post("/")
        async def without(request: Request) -> Response:
            await reads(request)
            return proxy.response(request)

    return app


@uvicorn
@framed
@pytest.mark.parametrize("reads", [read_whole, read_json, parsed])
def test_d12_a_body_that_the_framework_has_parsed(
    server: str, length: int | None, reads: Callable[..., Awaitable[None]]
) -> None:
    """Whatever has read the body first, the upstream gets the client's own octets and its Content-Type."""
    seen = RecordingUpstream()
    kind = b"Content-Type: application/json  ; Charset=UTF-8"
    head = announcing(len(PADDED_JSON) if length else None, kind)
    body = PADDED_JSON if length else chunk(PADDED_JSON) + LAST_CHUNK
    with scripted(seen) as upstream, serving_by(server, a_route_that(reads, upstream.url, settings_of())) as port:
        assert ask(port, head + body).status == 200

    assert seen.values(b"content-type") == [b"application/json  ; Charset=UTF-8"]
    ((name, _),) = framing_of(seen)
    assert (seen.bodies[0] if name == b"content-length" else dechunked(seen.bodies[0])) == PADDED_JSON


@uvicorn
def test_d12_an_aborted_body_is_not_parsed_and_sent_on(server: str) -> None:
    """A body that breaks off while the route reads it never goes upstream."""
    watch = ProxyWatch()
    with scripted(RecordingUpstream()) as upstream:
        app = watch.around(a_route_that(read_whole, upstream.url, settings_of()))
        with serving_by(server, app) as port, raw_client(port) as client:
            client.send(announcing(10) + b"hello")
            assert watch.begun.acquire(timeout=LIMIT)
            client.close()
            watch.wait_for_end()
            accepted = upstream.accepted

    assert accepted == 0


# Limits of time


@every_server
@framed
def test_a_client_that_stalls_is_answered_with_408(server: str, length: int | None) -> None:
    """A client that stops in the middle of its body is told so; the upstream sees no end of it, and nothing is pooled."""
    script, watch = AbortedUpstream(b"hello"), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around, client_idle=0.1) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(length) + piece(b"hello", length))
        assert_refused(server, client, 408)
        assert_upload_aborted(script, watch, port)

    assert watch.failures == []


@uvicorn
@with_patience(0.1)
def test_a_client_that_stalls_behind_the_answers_head(server: str, limit: float) -> None:
    """If the answer has begun, it is broken off, on both sides."""
    script, watch = AbortedUpstream(b"hello", BEGUN), ProxyWatch()
    with (
        scripted(script) as upstream,
        proxied(upstream.url, server, settings=patient(), around=watch.around, client_idle=limit) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(10) + b"hello")
        client.read_until(b"sofar\r\n")
        assert client.read_to_end() == b""
        assert_upload_aborted(script, watch, port)


def slow_to_answer(connection: Connection, pause: float) -> None:
    """Take the whole request, and think for a while."""
    connection.read_request()
    time.sleep(pause)
    connection.send(ok())


def slow_to_read(connection: Connection, pause: float) -> None:
    """Take nothing for a while, then the whole request."""
    tighten(connection)
    time.sleep(pause)
    connection.read_request()
    connection.send(ok())


def slow_to_continue(connection: Connection, pause: float) -> None:
    """Let the client wait for its "100 Continue" for a while."""
    connection.read_head()
    time.sleep(pause)
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.read_exactly(len(LARGE))
    connection.send(ok())


LARGE = b"x" * (16 * 1024 * 1024)


@uvicorn
@pytest.mark.parametrize("script", [slow_to_answer, slow_to_read, slow_to_continue])
@with_patience(0.1)
def test_a_client_is_not_to_blame_for_a_slow_upstream(
    server: str, script: Callable[[Connection, float], None], limit: float
) -> None:
    """Who has sent all, who cannot send more now, or who waits for leave to send, has not stalled."""
    extra = [b"Expect: 100-continue"] if script is slow_to_continue else []
    with (
        scripted(lambda connection: script(connection, 3 * limit)) as upstream,
        proxied(upstream.url, server, settings=patient(), client_idle=limit) as port,
        raw_client(port) as client,
    ):
        client.send(announcing(len(LARGE), *extra))
        if extra:
            assert client.read_head().startswith(b"HTTP/1.1 100 ")
        client.send(LARGE)
        assert read_answer(client).status == 200


@with_patience(0.3)
def test_each_piece_gives_a_client_more_time(limit: float) -> None:
    """The limit is for one wait, not for the whole upload."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, client_idle=limit) as port, raw_client(port) as client:
        client.send(announcing(20))
        for _ in range(4):
            time.sleep(limit / 3)
            client.send(b"hello")
        assert read_answer(client).status == 200

    assert seen.bodies == [b"hello" * 4]
