"""Tables D and E of the conformance suite: what our own proxy does, and that each row finds its fault."""

from typing import Any

import pytest

from fastapi_httpx_pool.conformance import Outcome
from tests.support.conformance import (
    SOON,
    NaiveProxy,
    ask_naive,
    ask_ours,
    assert_all_told,
    assert_met,
    assert_told,
    what_failed,
)
from tests.support.faults import Change, adding, chain, hanging_up, refusing, replacing, without
from tests.support.faulty_proxies import Pooling, Relay

OPTIONS = {
    "E15": "a Location of /base/next became /base/next",
    "E16": "the cookie became a=1; Path=/base/y; Domain=127.0.0.1",
}
HINTS = {"E8": "the client did not get the 103 Early Hints"}  # no server takes them from an app over HTTP/1.1
OURS: dict[str, dict[str, str]] = {
    "httptools": {"E19": "HTTP/1.0: the client got a body in chunks"},  # by the server, for want of a length
    "h11": {},
}


@pytest.mark.parametrize("server", OURS)
def test_our_own_proxy(server: str) -> None:
    """It meets all rows but those that its server forbids; it has no limit for bodies by default."""
    results = ask_ours("D,E", server)

    assert what_failed(results) == HINTS | OPTIONS | OURS[server]
    assert [result.row.id for result in results if result.outcome is Outcome.NOT_APPLICABLE] == ["D11"]


def test_our_options() -> None:
    """What is an option is one of ours, too."""
    results = ask_ours("D11,E15,E16", max_request_body=1000, rewrite_location=True, rewrite_cookies=True)

    assert {result.outcome for result in results} == {Outcome.MET}


def and_hello(head: bytes) -> bytes:
    """Give a GET without a body one."""
    return adding(b"Content-Length: 5")(head) + b"hello" if head.startswith(b"GET") else head


def and_chunks(head: bytes) -> bytes:
    """Give requests without a body one without any bytes."""
    return head if b"Content-Length" in head else adding(b"Transfer-Encoding: chunked")(head) + b"0\r\n\r\n"


def emptied(method: bytes, line: bytes) -> Any:
    """Return what tells the upstream that a method's body is empty."""
    return lambda head: head.replace(line, b"Content-Length: 0") if head.startswith(method) else head


def only(mark: bytes, change: Change) -> Change:
    """Return what makes a change of what has this in it."""
    return lambda data: change(data) if mark in data else data


def instead(answer: bytes, mark: bytes) -> Any:
    """Return what makes that of every response with this in it."""
    return lambda response: answer if mark in response else response


BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nhello"
OLD = refusing(b"HTTP/1.0", b"200 OK", b"final")
CHUNKS = b"Transfer-Encoding: chunked"

SABOTAGE = [
    (
        "D2",
        NaiveProxy(request=adding(b"Content-Length: 5", where=CHUNKS)),
        "a body in chunks went up with content-length and transfer-encoding",
    ),
    ("D2", NaiveProxy(request=without(b"Content-Length")), "a body of known length went up with no framing"),
    ("D2", Relay(request=replacing(b"hello", b"hullo")), "a body of known length did not arrive whole"),
    ("D3", NaiveProxy(request=and_chunks), "a GET without a body went up with Transfer-Encoding"),
    ("D3", NaiveProxy(request=and_hello), "a GET without a body went up with a Content-Length that is not 0"),
    ("D4", NaiveProxy(request=emptied(b"GET", b"Content-Length: 5")), "the body of a GET did not arrive"),
    ("D4", NaiveProxy(request=emptied(b"DELETE", CHUNKS)), "the body of a DELETE in chunks did not arrive"),
    ("D5", Relay(last_words=b"0\r\n\r\n"), "a body of known length that the client broke off was made to look whole"),
    ("D6", Relay(at_once=lambda head: GO_ON), "the client was told something before the upstream said anything"),
    ("D6", Relay(request=without(b"Expect")), "the upstream was not told that the client waits"),
    ("D6", Relay(response=replacing(b"100 Continue", b"102 Processing")), "became something else"),
    (
        "D6",
        Relay(response=replacing(b"HTTP/1.1 403", GO_ON + b"HTTP/1.1 403")),
        "the client was told to go on, and then that it is refused",
    ),
    (
        "D7",
        NaiveProxy(answer=refusing(b"something-else", b"500 Oh")),
        'an unknown expectation: 200 or 417 was due, the client got "HTTP/1.1 500 Oh"',
    ),
    ("D7", NaiveProxy(request=emptied(b"POST", b"Content-Length: 5")), "went up without its body"),
    ("D8", Relay(response=replacing(b"too big", b"so what")), "the refusal's body got lost"),
    ("D8", Relay(response=replacing(b"413", b"500")), "413 was due, the client got"),
    ("D10", Relay(throttles=False), "the proxy took 64 MiB that the upstream had not read"),
    ("D10", Relay(request=replacing(b"x" * 20_000, b"y" * 20_000)), "did not arrive whole"),
    (
        "D11",
        Relay(answer=refusing(b"Content-Length: 1125899906842624", b"500 Oh")),
        'an announced body of 1 PiB: 413 was due, the client got "HTTP/1.1 500 Oh"',
    ),
    ("D12", Relay(request=replacing(b":  1.0", b": 1.0 ")), "a body of application/json ; Charset=UTF-8 arrived"),
    ("D12", NaiveProxy(request=replacing(b" ; Charset", b"; charset")), "the Content-Type application/json ; Charset"),
    ("E1", NaiveProxy(response=replacing(b"\r\nset-cookie: b", b", b")), "two Set-Cookie lines did not stay two"),
    ("E1", NaiveProxy(response=replacing(b"Authenticate: Other", b"Other: ")), "two WWW-Authenticate lines"),
    ("E1", NaiveProxy(response=replacing(b"X-Many: 2", b"X-Many: 1")), "two lines of one name did not stay two"),
    ("E2", NaiveProxy(request=adding(b"Accept-Encoding: gzip")), "the upstream got another Accept-Encoding"),
    ("E2", NaiveProxy(response=without(b"Content-Encoding")), "the response's Content-Encoding is another one"),
    ("E2", NaiveProxy(response=replacing(b"\x1f\x8b", b"\x1f\x8c")), "the bytes of a compressed body are others"),
    ("E2", NaiveProxy(response=replacing(b"not gzip", b"now gzip")), "a body that only claims to be compressed"),
    (
        "E3",
        NaiveProxy(response=only(b"1234", without(b"Content-Length"))),
        "the Content-Length of a HEAD is another one, or gone",
    ),
    ("E3", NaiveProxy(response=without(b"X-Theirs")), "the header lines of the response to a HEAD got lost"),
    ("E3", NaiveProxy(response=replacing(b"204 No", b"304 No")), 'the response to a 204 became "HTTP/1.1 304 No'),
    ("E3", Relay(response=lambda data: data + b"junk" * (b"304 Not" in data)), "after a 304 there was more"),
    ("E4", Relay(), "a body of HTTP/1.0 without a length has no end that the client could check"),
    ("E4", Relay(response=replacing(b"hello", b"hell")), "a body of HTTP/1.0 without a length did not arrive whole"),
    ("E5", Relay(parting=b"0\r\n\r\n"), "a body without its last chunk looks whole to the client"),
    ("E6", Relay(), '502 was due, the client got "HTTP/1.1 201 Created", broken off'),
    (
        "E6",
        Relay(response=chain(replacing(b"201 Created", b"502 Bad"), replacing(b"Length: 100", b"Length: 0"))),
        "the 502 has header lines of the response that failed",
    ),
    ("E7", Pooling(), "what stood behind a body of known length became the response to the next client's request"),
    (
        "E7",
        Relay(response=only(b"POISON", replacing(b"Length: 2\r\n", b"Length: 46\r\n"))),
        "what stood behind a body of known length was taken for a part of it",
    ),
    ("E7", NaiveProxy(answer=refusing(b"/next", b"500 Oh")), 'the next client got "HTTP/1.1 500 Oh"'),
    ("E8", NaiveProxy(), "the client did not get the 103 Early Hints"),
    ("E8", Relay(), "HTTP/1.0 got an interim response"),
    ("E8", NaiveProxy(response=replacing(b"final", b"other")), "the body of a response behind interim ones"),
    ("E8", NaiveProxy(response=adding(b"Link: </a.css>")), "the header lines of an interim response are in the final"),
    ("E8", Relay(answer=OLD, response=replacing(b"HTTP/1.1 102 Processing\r\n\r\n", b"")), "did not get the 102"),
    ("E8", Relay(answer=OLD, response=replacing(b"/b.js", b"/c.js")), "the links of the 103 Early Hints are others"),
    ("E9", Relay(), '502 was due, the client got "HTTP/1.1 101 Switching Protocols"'),
    ("E10", NaiveProxy(), '"600" for a status: 502 was due'),
    ("E10", NaiveProxy(response=replacing(b"299", b"200")), "an upstream's 299: 299 was due"),
    ("E10", NaiveProxy(response=replacing(b"\r\n\r\nok", b"\r\n\r\nno")), "the body of a 200 got lost"),
    ("E11", NaiveProxy(), 'two lengths: 502 was due, the client got "HTTP/1.1 200 OK"'),
    (
        "E11",
        NaiveProxy(response=replacing(b"200 OK\r\nX-T", b"502 Oh\r\nX-T")),
        "header lines of the broken response arrived",
    ),
    ("E12", NaiveProxy(), "both the length and the chunks were passed on"),
    (
        "E12",
        NaiveProxy(response=instead(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n5\r\n", CHUNKS)),
        "the length counted, not the chunks",
    ),
    ("E13", NaiveProxy(), "a folded line was passed on as it is"),
    ("E13", NaiveProxy(response=replacing(b"\r\n b", b"")), "a folded line became another value"),
    (
        "E13",
        NaiveProxy(response=chain(replacing(b"\r\n ", b" "), replacing(b"\r\n\t", b" "))),
        "a blank before the colon was passed on",
    ),
    ("E14", Relay(throttles=False), "a head of 32 MiB was taken"),
    ("E15", NaiveProxy(response=replacing(b"elsewhere", b"here")), "a Location of https://elsewhere.example/base/next"),
    ("E16", NaiveProxy(response=replacing(b"=/base", b"=/q")), "the cookie became a=1; Path=/q/y"),
    ("E18", NaiveProxy(), "the client was invited to the upstream by Alt-Svc"),
    (
        "E18",
        NaiveProxy(response=chain(without(b"Alt-Svc"), adding(b"Strict-Transport-Security: max-age=1"))),
        "there are two Strict-Transport-Security",
    ),
    ("E19", NaiveProxy(), "HTTP/1.0: the client got a body in chunks"),
    (
        "E19",
        NaiveProxy(response=instead(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhullo", CHUNKS)),
        "HTTP/1.0: the body did not arrive as it was",
    ),
]

LATE = [
    ("D1", NaiveProxy(), "a body of known length: the head did not go up before the body came"),
    ("D1", Relay(request=replacing(b"world", b"w")), "a piece of it did not go up before the next one came"),
    ("D5", NaiveProxy(), "a body of known length: the client left, and the upstream is kept waiting for the rest"),
    ("D6", NaiveProxy(), "the head did not go up: the proxy waits for the body, and the client for its leave"),
    ("D6", Relay(response=replacing(GO_ON, b"")), 'the upstream\'s "100 Continue" did not reach the client'),
    ("D8", NaiveProxy(), "a body of known length, refused in the middle: nothing went up before the body was whole"),
    ("D8", Relay(), "the client's connection stays open, with half an upload on it"),
    ("D9", NaiveProxy(), "a body of known length: the head did not go up before the body came"),
    ("D9", Relay(response=replacing(b"HELLO", b"H")), "no response before the request was whole"),
    ("E2", Relay(response=without(b"Content-Length"), lifetime=0.2), "Content-Length is another one, or gone"),
    ("E4", NaiveProxy(), "the client waited for the response"),
    ("E5", Relay(lingers=True), "the client is left waiting for the rest"),
    ("E9", Relay(response=replacing(SWITCHING, BAD_GATEWAY)), "the upstream's connection stays open"),
    (
        "E11",
        Relay(response=lambda data: data if b"ok" in data and b"Theirs" not in data else BAD_GATEWAY),
        "two lengths: the upstream's connection stays open",
    ),
    ("E14", Relay(), "a head without end: no answer"),
    (
        "E19",
        NaiveProxy(response=instead(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", CHUNKS)),
        "HTTP/1.0: the connection stays open",
    ),
]
"""What is found by waiting in vain."""


@pytest.mark.parametrize(("name", "proxy", "text"), SABOTAGE)
def test_a_fault_is_found(name: str, proxy: NaiveProxy, text: str) -> None:
    """A proxy that does one thing wrong is told so, by the row that is about it."""
    assert_told(name, proxy, text)


def test_a_fault_is_found_in_time() -> None:
    """So is one that only shows in what does not come."""
    assert_all_told(LATE)


FAIR = [
    ("D2", NaiveProxy()),
    ("D5", NaiveProxy(answer=hanging_up(b"POST"))),
    ("D7", NaiveProxy(answer=refusing(b"something-else", b"417 Expectation Failed"))),
    ("E3", NaiveProxy(response=only(b"304", without(b"Content-Length")))),
    ("E5", NaiveProxy()),
    ("E12", NaiveProxy(response=instead(BAD_GATEWAY, CHUNKS))),
    ("E13", NaiveProxy(response=instead(BAD_GATEWAY, b"X-"))),
]


@pytest.mark.parametrize(("name", "proxy"), FAIR)
def test_other_right_ways_are_fair(name: str, proxy: NaiveProxy) -> None:
    """What the row allows is not held against a proxy, though ours does it otherwise."""
    assert_met(name, proxy, timeout=SOON)


def test_a_proxy_that_waits_for_a_petabyte() -> None:
    """It has no limit, as far as anybody can tell."""
    [result] = ask_naive("D11", NaiveProxy(), timeout=SOON)

    assert result.outcome is Outcome.NOT_APPLICABLE
