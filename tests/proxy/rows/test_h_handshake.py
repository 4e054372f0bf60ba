"""Rows H1 to H4: the upstream's handshake first, its refusal relayed, its choice of subprotocol, and headers both ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from fastapi_httpx_pool import ReverseProxy, TLSSettings
from fastapi_httpx_pool.proxy._via import pseudonym
from tests.support.answers import Answer, read_answer
from tests.support.asgi import started
from tests.support.asgi_websocket import serving_websocket
from tests.support.patience import with_patience
from tests.support.ports import deaf_port, refusing_port
from tests.support.proxies import (
    POOL_OF_ONE,
    WEBSOCKET_DOORS,
    WEBSOCKET_SERVERS,
    hasty,
    impatient,
    proxied,
    settings_of,
)
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.tls import Authority
from tests.support.websocket_pairs import wait_for
from tests.support.websocket_wire import (
    KEY,
    SOON,
    TEXT,
    Handed,
    accept_line,
    asking,
    exchange,
    handed,
    opened,
    part,
    switching,
    switching_with,
)

every_server = pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
every_door = pytest.mark.parametrize("door", WEBSOCKET_DOORS)

TELLING = tuple(server for server in WEBSOCKET_SERVERS if server != "granian")
"""Servers that tell an app of a client that leaves before it is accepted."""
WITH_HEADERS = tuple(server for server in WEBSOCKET_SERVERS if server != "granian")
"""Servers that send the headers with which an app accepts."""


def at(door: str, path: bytes = b"/") -> bytes:
    """Return the target that reaches a path of the upstream's."""
    return path if door == "alone" else b"/p" + path


def refused_with(port: int, upstream: Handed, response: bytes, *lines: bytes, target: bytes = b"/") -> Answer:
    """Return what a client is told if this is the upstream's answer to its handshake."""
    with asking(port, target, *lines) as client:
        asked = upstream.asked()
        asked.answer(response)
        answer = read_answer(client)
        asked.connection.close()
    return answer


def assert_failed(answer: Answer, status: int, error: bytes) -> None:
    """Check one of the proxy's own answers."""
    assert (answer.status, answer.complete) == (status, True), answer.head
    assert [value.partition(b"; ")[2] for value in answer.values(b"proxy-status")] == [b"error=" + error]
    for secret in (b"127.0.0.1", b"Errno", b"Traceback"):
        assert secret not in answer.head + answer.body


# H1: the upstream's handshake first.


@every_server
@every_door
def test_h1_the_client_is_accepted_after_the_upstream_has(server: str, door: str) -> None:
    """Nothing is answered to a client before the upstream's 101; then messages pass."""
    watch = ProxyWatch()
    with (
        handed() as upstream,
        proxied(upstream.url, server, door=door, around=watch.around) as port,
        asking(port, at(door)) as client,
    ):
        asked = upstream.asked()
        # By the time that something else has been answered, an early 101 would be here, too.
        assert held_at(port).active == 1
        assert client.is_waiting()
        far = asked.accept()
        near = client.taken()
        near.text("hello")
        assert far.message() == (TEXT, b"hello")


@every_server
def test_h1_what_the_upstream_is_asked(server: str) -> None:
    """The upstream gets a GET that asks for WebSocket 13 with a key of our own, for no extensions, and has no body."""
    with handed() as upstream, proxied(upstream.url + "/base", server) as port:
        keys = []
        for _ in range(2):
            with opened(port, upstream, b"/chat", b"Sec-WebSocket-Extensions: permessage-deflate") as pair:
                assert pair.upstream.head.startswith(b"GET /base/chat HTTP/1.1\r\n")
                assert pair.upstream.values(b"host") == [upstream.url.removeprefix("http://").encode()]
                assert [value.lower() for value in pair.upstream.values(b"upgrade")] == [b"websocket"]
                assert [value.lower() for value in pair.upstream.values(b"connection")] == [b"upgrade"]
                assert pair.upstream.values(b"sec-websocket-version") == [b"13"]
                for name in (b"sec-websocket-extensions", b"content-length", b"transfer-encoding", b"expect"):
                    assert pair.upstream.values(name) == [], name
                keys += pair.upstream.values(b"sec-websocket-key")
                part(pair)
    assert len({*keys, KEY}) == 3
    assert {len(key) for key in keys} == {24}


def test_h1_an_answer_byte_by_byte() -> None:
    """The 101 may come in as many pieces as it has bytes, and with a frame at its end."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port, asking(port) as client:
        asked = upstream.asked()
        for byte in switching(asked.head) + b"\x81\x05hello":
            asked.answer(bytes((byte,)))
        assert client.taken().message() == (TEXT, b"hello")


@every_server
def test_h1_messages_right_behind_the_answer(server: str) -> None:
    """What the upstream sends in the same packet as its 101 arrives, in its order."""
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        opened(port, upstream, and_send=b"\x81\x05hello\x82\x02\x00\xff\x81\x00") as pair,
    ):
        assert [pair.client.message() for _ in range(3)] == [(1, b"hello"), (2, b"\x00\xff"), (1, b"")]
        exchange(pair)


def test_h1_early_hints_before_the_answer() -> None:
    """What the upstream says before its 101 is not the answer."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port, asking(port) as client:
        asked = upstream.asked()
        asked.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + switching(asked.head))
        assert client.taken().values(b"link") == []


UPGRADE, CONNECTION = b"Upgrade: websocket", b"Connection: Upgrade"

BAD_SWITCHES: dict[str, Callable[[bytes], bytes]] = {
    "no-accept": lambda accept: switching_with(UPGRADE, CONNECTION),
    "accept-of-another-key": lambda accept: switching_with(UPGRADE, CONNECTION, accept_line(b"x" * 22 + b"==")),
    "accept-twice": lambda accept: switching_with(UPGRADE, CONNECTION, accept, accept),
    "accept-in-lower-case": lambda accept: switching_with(UPGRADE, CONNECTION, accept.lower()),
    "no-upgrade": lambda accept: switching_with(CONNECTION, accept),
    "no-connection": lambda accept: switching_with(UPGRADE, accept),
    "to-something-else": lambda accept: switching_with(b"Upgrade: h2c", CONNECTION, accept),
    "an-extension": lambda accept: switching_with(
        UPGRADE, CONNECTION, accept, b"Sec-WebSocket-Extensions: permessage-deflate"
    ),
    "a-subprotocol": lambda accept: switching_with(UPGRADE, CONNECTION, accept, b"Sec-WebSocket-Protocol: chat"),
}


def bad_switch(head: bytes, kind: str) -> bytes:
    """Return a 101 that does not answer this handshake."""
    [key] = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-key")]
    return BAD_SWITCHES[kind](accept_line(key))


@pytest.mark.parametrize(
    ("server", "kind"),
    [*(("sansio", kind) for kind in BAD_SWITCHES), *((server, "no-accept") for server in WEBSOCKET_SERVERS[1:])],
)
def test_h1_a_switch_that_was_not_asked_for(server: str, kind: str) -> None:
    """A 101 that breaks the handshake's rules is a 502, and the connection is closed at once."""
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        asking(port, b"/", b"Sec-WebSocket-Extensions: permessage-deflate") as client,
    ):
        asked = upstream.asked()
        asked.answer(bad_switch(asked.head, kind))
        assert_failed(read_answer(client), 502, b"http_protocol_error")
        assert asked.was_let_go()


@every_server
def test_h1_a_refused_connection(server: str) -> None:
    """An upstream that is not there is a 502."""
    with proxied(f"http://127.0.0.1:{refusing_port()}", server) as port, asking(port) as client:
        assert_failed(read_answer(client), 502, b"connection_refused")


@every_door
def test_h1_a_refused_connection_at_each_door(door: str) -> None:
    """At each door it is the same answer."""
    with proxied(f"http://127.0.0.1:{refusing_port()}", "sansio", door=door) as port, asking(port, at(door)) as client:
        assert_failed(read_answer(client), 502, b"connection_refused")


def test_h1_a_connection_that_takes_too_long() -> None:
    """An upstream to which no connection comes about is a 504."""
    with (
        deaf_port() as deaf,
        proxied(f"http://127.0.0.1:{deaf}", "sansio", settings=hasty(connect=0.1)) as port,
        asking(port) as client,
    ):
        assert_failed(read_answer(client), 504, b"connection_timeout")


@every_server
def test_h1_a_handshake_that_takes_too_long(server: str) -> None:
    """An upstream that does not answer in the ``read`` timeout is a 504, and the connection is closed."""
    with (
        handed() as upstream,
        proxied(upstream.url, server, settings=hasty(read=0.1)) as port,
        asking(port) as client,
    ):
        asked = upstream.asked()
        assert_failed(read_answer(client), 504, b"connection_read_timeout")
        assert asked.was_let_go()


@pytest.mark.parametrize("which", ["first_byte", "total"])
@with_patience(0.1)
def test_h1_other_limits_of_the_handshake(which: str, limit: float) -> None:
    """``first_byte`` and ``total`` limit the handshake, too."""
    limits: Any = {"first_byte": limit} if which == "first_byte" else {"settings": hasty(total=limit)}
    with handed() as upstream, proxied(upstream.url, "sansio", **limits) as port, asking(port) as client:
        asked = upstream.asked()
        answer = read_answer(client)
        assert answer.status == 504
        assert asked.was_let_go()


@with_patience(0.1)
def test_h1_limits_of_the_handshake_do_not_reach_beyond_it(limit: float) -> None:
    """An open WebSocket may be silent for longer than any limit of requests, and its client, too."""
    settings = hasty(read=limit, write=limit, pool=limit, total=3 * limit)
    limits: Any = {"first_byte": limit, "client_idle": limit, "stream_idle": limit, "heartbeat": limit}
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", settings=settings, **limits) as port,
        opened(port, upstream) as pair,
    ):
        pair.client.sock.settimeout(5 * limit)
        with pytest.raises(TimeoutError):
            pair.client.read()
        pair.client.sock.settimeout(SOON)
        assert pair.upstream.is_silent()
        exchange(pair)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Switch"], ids=["nothing", "half-a-head"])
def test_h1_an_upstream_that_hangs_up(sent: bytes) -> None:
    """An upstream that hangs up instead of answering is a 502."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port:
        assert_failed(refused_with_hang_up(port, upstream, sent), 502, b"http_response_incomplete")


def refused_with_hang_up(port: int, upstream: Handed, sent: bytes) -> Answer:
    """Return what a client is told if the upstream hangs up so early."""
    with asking(port) as client:
        asked = upstream.asked()
        asked.answer(sent)
        asked.connection.close()
        return read_answer(client)


def test_h1_an_answer_that_is_no_http() -> None:
    """An upstream that speaks something else is a 502."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port:
        assert_failed(refused_with(port, upstream, b"SMTP 220 hello\r\n\r\n"), 502, b"http_protocol_error")


@every_server
def test_h1_a_full_pool(server: str) -> None:
    """When all connections are WebSockets that stay open, another one is a 503, which says when to come back."""
    settings = settings_of(limits=POOL_OF_ONE, timeout={"pool": SOON})
    with handed() as upstream, proxied(upstream.url, server, settings=settings, on_request=impatient) as port:
        with opened(port, upstream) as pair:
            with asking(port, b"/impatient") as client:
                answer = read_answer(client)
                assert_failed(answer, 503, b"connection_limit_reached")
                assert answer.values(b"retry-after") == [b"1"]
            exchange(pair)
            part(pair)
        with opened(port, upstream) as pair:
            exchange(pair)


def test_h1_a_loop() -> None:
    """A handshake that comes back to the proxy is a 508, and goes nowhere."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port:
        ours = pseudonym("auto", upstream.url).encode()
        with asking(port, b"/", b"Via: 1.1 " + ours) as client:
            assert_failed(read_answer(client), 508, b"proxy_loop_detected")
        assert upstream.accepted == 0


HOW_TO_LEAVE = {"fin": "close", "reset": "reset"}


@pytest.mark.parametrize("server", TELLING)
@pytest.mark.parametrize("leave", HOW_TO_LEAVE.values(), ids=HOW_TO_LEAVE)
def test_h1_a_client_that_leaves_during_the_handshake(server: str, leave: str) -> None:
    """The upstream's connection is closed at once, and its slot is free; granian does not tell."""
    settings = settings_of(limits=POOL_OF_ONE, timeout={"default": None})
    with handed() as upstream, proxied(upstream.url, server, settings=settings) as port:
        with asking(port) as client:
            asked = upstream.asked()
            asked.answer(b"HTTP/1.1 101 Swit")
            getattr(client, leave)()
            assert asked.was_let_go()
        with opened(port, upstream) as pair:
            exchange(pair)


@pytest.mark.parametrize("server", ["sansio", "hypercorn"])
def test_h1_a_client_that_leaves_while_waiting_for_a_connection(server: str) -> None:
    """Who leaves while the pool is full does not get the next connection, and nothing is sent for it."""
    watch = ProxyWatch()
    settings = settings_of(limits=POOL_OF_ONE, timeout={"default": None})
    with handed() as upstream, proxied(upstream.url, server, settings=settings, around=watch.around) as port:
        with opened(port, upstream, b"/first") as pair:
            with asking(port, b"/second"):
                wait_for(lambda: held_at(port).queued == 1)
            wait_for(lambda: held_at(port).queued == 0)
            part(pair)
        with opened(port, upstream, b"/third") as pair:
            assert pair.upstream.head.startswith(b"GET /third ")
            exchange(pair)


def test_h1_an_upstream_over_tls(tmp_path: Path) -> None:
    """An upstream at https gets its WebSocket over TLS."""
    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.certificate_of_its_own)
    settings = settings_of(tls=TLSSettings(ca_file=tmp_path / "authority.pem"))
    with (
        handed(authority.server()) as upstream,
        proxied(upstream.url, "sansio", settings=settings) as port,
        opened(port, upstream) as pair,
    ):
        exchange(pair)
        part(pair)


# H2: refusals.

REFUSALS: dict[str, tuple[bytes, int, list[tuple[bytes, bytes]], bytes]] = {
    "401": (
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nno",
        401,
        [(b"www-authenticate", b"Basic realm=x")],
        b"no",
    ),
    "403-in-chunks": (
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n2\r\nno\r\n3\r\nway\r\n0\r\n\r\n",
        403,
        [(b"x-a", b"1")],
        b"noway",
    ),
    "302": (
        b"HTTP/1.1 302 Found\r\nLocation: /login?next=%2Fchat\r\nContent-Length: 0\r\n\r\n",
        302,
        [(b"location", b"/login?next=%2Fchat")],
        b"",
    ),
    "503": (
        (
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Type: text/html\r\n"
            b"Content-Length: 5\r\n\r\n<hr/>"
        ),
        503,
        [(b"retry-after", b"7"), (b"content-type", b"text/html")],
        b"<hr/>",
    ),
    "426": (
        (
            b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Content-Length: 0\r\n\r\n"
        ),
        426,
        [],
        b"",
    ),
    "200": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\nhello", 200, [(b"etag", b"x")], b"hello"),
    "until-the-end": (b"HTTP/1.0 404 Not Found\r\nX-A: 1\r\n\r\ngone", 404, [(b"x-a", b"1")], b"gone"),
    "compressed": (
        b"HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff",
        500,
        [(b"content-encoding", b"gzip")],
        b"\x1f\x8b\x00\xff",
    ),
}


@every_server
@pytest.mark.parametrize("kind", REFUSALS)
def test_h2_a_refusal_is_relayed(server: str, kind: str) -> None:
    """The client gets the upstream's status, its headers and its body, and no proxy's word about it."""
    response, status, headers, body = REFUSALS[kind]
    with handed() as upstream, proxied(upstream.url, server) as port, asking(port) as client:
        asked = upstream.asked()
        asked.answer(response)
        if kind == "until-the-end":
            asked.connection.close()
        answer = read_answer(client)
    assert (answer.status, answer.body, answer.complete) == (status, body, True)
    for name, value in headers:
        assert answer.values(name) == [value]
    assert answer.values(b"proxy-status") == []


@every_server
def test_h2_repeated_lines_of_a_refusal(server: str) -> None:
    """Cookies that come with a refusal are set, each of them; granian can say only one line of each name."""
    response = b"HTTP/1.1 401 No\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    with handed() as upstream, proxied(upstream.url, server) as port:
        answer = refused_with(port, upstream, response)
    assert answer.status == 401
    expected = [b"a=1"] if server == "granian" else [b"a=1", b"b=2"]
    assert answer.values(b"set-cookie") == expected


@every_door
def test_h2_at_each_door(door: str) -> None:
    """At each door a refusal is the upstream's."""
    response, status, headers, body = REFUSALS["401"]
    with handed() as upstream, proxied(upstream.url, "sansio", door=door) as port:
        answer = refused_with(port, upstream, response, target=at(door))
    assert (answer.status, answer.body, answer.values(headers[0][0])) == (status, body, [headers[0][1]])


@every_server
def test_h2_a_long_refusal(server: str) -> None:
    """A refusal's body may be long."""
    body = b"0123456789abcdef" * 16_000
    with handed() as upstream, proxied(upstream.url, server) as port:
        answer = refused_with(port, upstream, b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert answer.status == 403
    assert answer.body == body


@every_server
def test_h2_a_refusal_that_is_broken_off(server: str) -> None:
    """A refusal whose body ends early never looks complete with the upstream's status."""
    watch = ProxyWatch()
    with handed() as upstream, proxied(upstream.url, server, around=watch.around) as port:
        answer = refused_with_hang_up(port, upstream, b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nhello")
        assert not (answer.status == 401 and answer.complete)
        wait_for(lambda: held_at(port).active == 0)


@every_server
def test_h2_a_refused_client_is_left_alone(server: str) -> None:
    """After a refusal nothing of the upstream's connection is in use, and the client's is closed or free for more."""
    watch = ProxyWatch()
    with handed() as upstream, proxied(upstream.url, server, around=watch.around) as port:
        before = held_at(port)
        with asking(port) as client:
            asked = upstream.asked()
            asked.answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            assert read_answer(client).status == 403
        wait_for(lambda: held_at(port).active == 0)
        wait_for(lambda: held_at(port).tasks == before.tasks)


def test_h2_addresses_of_a_refusal_are_rewritten() -> None:
    """With ``rewrite_location`` and ``rewrite_cookies`` the client is led to the public address."""
    with (
        handed() as upstream,
        proxied(upstream.url + "/base", "sansio", door="mounted", rewrite_location=True, rewrite_cookies=True) as port,
    ):
        answer = refused_with(
            port,
            upstream,
            b"HTTP/1.1 302 Found\r\nLocation: %b/base/login?x=1\r\nSet-Cookie: a=1; Path=/base\r\n"
            b"Content-Length: 0\r\n\r\n" % upstream.url.encode(),
            target=b"/p/chat",
        )
    assert answer.status == 302
    assert answer.values(b"location") == [b"http://front.example/p/login?x=1"]
    assert answer.values(b"set-cookie") == [b"a=1; Path=/p"]


def test_h2_response_headers_of_the_policy() -> None:
    """What the policy puts into answers, and takes out of them, holds for a refusal and for an accepted WebSocket."""
    with (
        handed() as upstream,
        proxied(
            upstream.url, "sansio", response_headers={"x-ours": "1", "x-theirs": None}, via_in_responses=True
        ) as port,
    ):
        answer = refused_with(
            port, upstream, b"HTTP/1.1 401 No\r\nX-Theirs: 1\r\nX-Ours: 0\r\nContent-Length: 0\r\n\r\n"
        )
        assert (answer.values(b"x-ours"), answer.values(b"x-theirs")) == ([b"1"], [])
        assert len(answer.values(b"via")) == 1
        with opened(port, upstream, answer=(b"X-Theirs: 1", b"X-Ours: 0")) as pair:
            assert (pair.client.values(b"x-ours"), pair.client.values(b"x-theirs")) == ([b"1"], [])
            assert len(pair.client.values(b"via")) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("response", [b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno", b"nonsense\r\n\r\n"])
async def test_h2_a_server_that_knows_one_refusal_only(response: bytes) -> None:
    """A server without ``websocket.http.response`` is told to close, which it does with 403."""
    with handed() as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        async with started(proxy) as driver, serving_websocket(proxy, driver.scope, answers=False) as websocket:
            await anyio.to_thread.run_sync(lambda: upstream.asked().answer(response))
            assert (await websocket.sent_next())["type"] == "websocket.close"
            await websocket.returned.wait()
            assert websocket.error is None
            assert websocket.nothing_more()


# H3: subprotocols.


@every_server
def test_h3_the_choice_is_the_upstreams(server: str) -> None:
    """Everything that the client offers goes upstream in the same lines, and the upstream's choice comes back."""
    lines: tuple[bytes, ...] = (b"Sec-WebSocket-Protocol: v1.chat, v2.chat", b"Sec-WebSocket-Protocol: graphql-ws,x+y")
    if server in {"hypercorn", "wsproto"}:
        lines = lines[:1]  # they read one line only
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        opened(port, upstream, b"/", *lines, answer=(b"Sec-WebSocket-Protocol: v2.chat",)) as pair,
    ):
        offered = pair.upstream.values(b"sec-websocket-protocol")
        assert offered == [line.partition(b": ")[2] for line in lines]
        assert pair.client.values(b"sec-websocket-protocol") == [b"v2.chat"]
        exchange(pair)


@every_server
def test_h3_no_choice(server: str) -> None:
    """An upstream may choose none, and then none is chosen."""
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        opened(port, upstream, b"/", b"Sec-WebSocket-Protocol: a, b") as pair,
    ):
        assert pair.client.values(b"sec-websocket-protocol") == []
        exchange(pair)


@pytest.mark.parametrize("choice", [(b"c",), (b"A",), (b"a, b",), (b"a", b"b"), (b"",)], ids=repr)
def test_h3_a_choice_that_was_not_offered(choice: tuple[bytes, ...]) -> None:
    """A choice that the client has not offered, or more than one, is a 502."""
    lines = tuple(b"Sec-WebSocket-Protocol: " + one for one in choice)
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio") as port,
        asking(port, b"/", b"Sec-WebSocket-Protocol: a, b") as client,
    ):
        asked = upstream.asked()
        asked.answer(switching(asked.head, *lines))
        assert_failed(read_answer(client), 502, b"http_protocol_error")
        assert asked.was_let_go()


# H4: headers.


@every_server
def test_h4_headers_of_the_client(server: str) -> None:
    """Cookies, Origin, credentials and headers of the client's own go upstream as they came."""
    lines = (
        b"Origin: https://front.example",
        b"Cookie: a=1; b=2",
        b"Authorization: Bearer x",
        b"User-Agent: me/1.0",
        b"X-Custom: 1",
        b"X-Custom: 2",
        b"Accept-Language: de",
    )
    with handed() as upstream, proxied(upstream.url, server) as port, opened(port, upstream, b"/", *lines) as pair:
        for line in lines:
            name, _, value = line.partition(b": ")
            assert value in pair.upstream.values(name.lower()), name
        assert pair.upstream.values(b"x-custom") == [b"1", b"2"]


@pytest.mark.parametrize("server", [server for server in WEBSOCKET_SERVERS if server != "legacy"])
def test_h4_bytes_beyond_ascii(server: str) -> None:
    """Values may have bytes beyond ASCII, which arrive as they are; uvicorn's older implementation answers with 500 itself."""
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        opened(port, upstream, b"/", b"X-Name: caf\xe9 \xc3\xa9", answer=(b"X-Name: caf\xe9 \xc3\xa9",)) as pair,
    ):
        assert pair.upstream.values(b"x-name") == [b"caf\xe9 \xc3\xa9"]
        assert pair.client.values(b"x-name") == ([b"caf\xe9 \xc3\xa9"] if server in WITH_HEADERS else [])


@every_server
def test_h4_headers_of_the_upstream(server: str) -> None:
    """Each cookie, and headers of the upstream's own, come with the 101; granian sends none that an app gives it."""
    lines = (b"Set-Cookie: a=1; Path=/", b"X-Custom: 1", b"Set-Cookie: b=2; HttpOnly", b"X-Custom: 2")
    with handed() as upstream, proxied(upstream.url, server) as port, opened(port, upstream, answer=lines) as pair:
        there = server in WITH_HEADERS
        assert pair.client.values(b"set-cookie") == ([b"a=1; Path=/", b"b=2; HttpOnly"] if there else [])
        assert pair.client.values(b"x-custom") == ([b"1", b"2"] if there else [])


@every_server
def test_h4_what_concerns_one_connection_ends_here(server: str) -> None:
    """Hop-by-hop headers do not pass, either way, nor do those that they name; what servers write is there once."""
    asked_with = (
        b"Connection: Upgrade, X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: 5",
        b"TE: trailers",
        b"Proxy-Authorization: x",
    )
    answered_with = (b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"Date: x", b"Server: theirs")
    with (
        handed() as upstream,
        proxied(upstream.url, server) as port,
        opened(port, upstream, b"/", *asked_with, answer=answered_with) as pair,
    ):
        for name in (b"x-hop", b"keep-alive", b"te", b"proxy-authorization"):
            assert pair.upstream.values(name) == [], name
        for name in (b"x-hop", b"keep-alive"):
            assert pair.client.values(name) == [], name
        for name in (b"date", b"server", b"upgrade", b"connection", b"sec-websocket-accept"):
            assert len(pair.client.values(name)) <= 1, name


@pytest.mark.parametrize("server", TELLING)
def test_h4_compression_is_between_the_client_and_its_server(server: str) -> None:
    """A client that offers permessage-deflate gets it from the server, and what it sends arrives upstream plain."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
    with handed() as upstream, proxied(upstream.url, server) as port, opened(port, upstream, b"/", offer) as pair:
        assert b"permessage-deflate" in b"".join(pair.client.values(b"sec-websocket-extensions"))
        assert pair.upstream.values(b"sec-websocket-extensions") == []
        # "Hello", compressed (RFC 7692, section 7.2.3.1).
        pair.client.send_raw(b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00")
        found = pair.upstream.read()
        assert found is not None
        assert (found.opcode, found.payload, found.rsv) == (TEXT, b"Hello", 0)


@every_server
@every_door
def test_h4_who_is_told_about(server: str, door: str) -> None:
    """The upstream is told for whom it is, as in requests: ``X-Forwarded-*`` and ``Via``, with the scheme of a request."""
    lines = (b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"Forwarded: for=6.6.6.6", b"X-Real-IP: 6.6.6.6")
    with (
        handed() as upstream,
        proxied(upstream.url, server, door=door) as port,
        opened(port, upstream, at(door), *lines) as pair,
    ):
        far = pair.upstream
        assert far.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert far.values(b"x-forwarded-host") == [b"front.example"]
        assert far.values(b"x-forwarded-proto") == [b"http"]
        assert (far.values(b"forwarded"), far.values(b"x-real-ip")) == ([], [])
        prefix = {"alone": [], "mounted": [b"/p"], "route": [b"/p"], "helper": []}[door]
        assert far.values(b"x-forwarded-prefix") == prefix
        assert len(far.values(b"via")) == 1
        assert far.values(b"via")[0].startswith(b"1.1 ")


def test_h4_headers_of_the_policy() -> None:
    """What the policy puts into requests, and takes out of them, holds for handshakes; Host may be kept, too."""
    with (
        handed() as upstream,
        proxied(
            upstream.url,
            "sansio",
            request_headers={"authorization": "Bearer ours", "cookie": None},
            preserve_host=True,
            forwarded_style="forwarded",
        ) as port,
        opened(port, upstream, b"/", b"Cookie: a=1", b"Authorization: theirs") as pair,
    ):
        assert pair.upstream.values(b"authorization") == [b"Bearer ours"]
        assert pair.upstream.values(b"cookie") == []
        assert pair.upstream.values(b"host") == [b"front.example"]
        [forwarded] = pair.upstream.values(b"forwarded")
        assert b"proto=http;" in forwarded + b";"


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Upgrade", b"Connection"])
def test_h4_headers_that_a_policy_cannot_break(name: bytes) -> None:
    """Whatever a policy does with the handshake's own lines, the handshake stays one."""
    with handed() as upstream:
        try:
            with (
                proxied(upstream.url, "sansio", request_headers={name.decode(): "x"}) as port,
                opened(port, upstream) as pair,
            ):
                assert b"x" not in pair.upstream.values(name.lower())
                exchange(pair)
        except ValueError as exc:
            assert name.decode().lower() in str(exc).lower()  # noqa: PT017 -- either is right
