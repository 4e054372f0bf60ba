"""Tables F and G of the conformance suite: what our own proxy does, and that each row finds its fault."""

from collections.abc import Callable

import pytest

from fastapi_httpx_pool.conformance import Outcome
from fastapi_httpx_pool.conformance.rows import _f_failures
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
from tests.support.faults import adding, chain, hanging_up, later, refusing, replacing, without
from tests.support.faulty_proxies import Pooling, Relay, Retrying, after


@pytest.mark.parametrize(("server", "tables"), [("httptools", "F,G"), ("h11", "G")])
def test_our_own_proxy(server: str, tables: str) -> None:
    """It meets all rows; of those about time it does not matter which server they are asked under."""
    results = ask_ours(tables, server, timeout=1.0)

    assert what_failed(results) == {}
    assert [result.row.id for result in results if result.outcome is not Outcome.MET] == ["G9"]


def failing(method: bytes = b"") -> Callable[[bytes, bytes], bool]:
    """Return what tries again whatever failed with that method, or with any."""
    return lambda head, answer: head.startswith(method) and not answer


def answered(mark: bytes) -> Callable[[bytes, bytes], bool]:
    """Return what tries again if the answer has this in it."""
    return lambda head, answer: mark in answer


def no_chunks(head: bytes) -> bytes:
    """Answer a body in chunks as if it were fine, and any other with 502."""
    return b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"200 OK" if b"chunked" in head else b"502 Oh")


MUTE = Relay(request=lambda data: b"" if b"/x " in data else data)
"""Nobody hears of what it is asked."""
TELLING = b"Error: connect ECONNREFUSED"
BAD_LINES = rb"|\0|\r[^\n]|X A|X-A[ \t]|\x01|\n:|\n[ \t]"
BROKEN_CHUNKS = (b"0x5\r\n", b"+5\r\n", b"helloXX", b"1" + b"0" * 20)
UNHEARD = b"(?s)Content-Length: (?![0-9]{1,20}\r)"
TRACE = b"0af7651916cd43dd8448eb211c80319c"
TOO_LATE = b"HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n"
NO_FEEDS = chain(lambda head: head.replace(b"\r\n", b"\n").rstrip(b"\n").replace(b"\n", b"\r\n") + b"\r\n\r\n")

SABOTAGE = [
    ("F1", NaiveProxy(), "a refused connection: 502 was due, the client got no response"),
    (
        "F5",
        NaiveProxy(answer=refusing(b"/x", b"500 Oh")),
        'a request without room: 503 was due, the client got "HTTP/1.1 500',
    ),
    ("F5", NaiveProxy(answer=refusing(b"/x", b"503 Oh")), "a 503 for want of room has no Retry-After"),
    ("F6", NaiveProxy(), "an empty reply: 502 was due, the client got no response"),
    ("F7", NaiveProxy(), "an upload that the upstream broke off: the client got no response"),
    (
        "F7",
        NaiveProxy(answer=lambda head: no_chunks(head) if b"POST" in head else None),
        "a broken chunk from the client",
    ),
    ("F8", NaiveProxy(), "no error to look into: no response"),
    ("F8", NaiveProxy(answer=refusing(b"/x", b"502 Oh", TELLING)), "the body of a 502 tells of the inside: ECONN"),
    ("F12", Relay(parting=b"0\r\n\r\n"), 'the end of the upstream looks like "HTTP/1.1 200 OK"'),
    (
        "F12",
        NaiveProxy(answer=after(150, hanging_up(b"/x"))),
        "after 150 upstreams that died, the client got no response",
    ),
    ("F13", Relay(throttles=False), "the proxy took 64 MiB that the client had not read"),
    ("F13", Relay(response=replacing(b"x" * 20_000, b"y" * 20_000)), "did not arrive whole"),
    ("F16", Pooling(), "a GET on a connection that had become stale: 200 was due"),
    ("F16", Retrying(tries_again=failing()), "a POST was sent 2 times"),
    ("F16", Retrying(tries_again=failing(b"GET")), "a GET was sent again over 3 new connections, one after the other"),
    ("F17", Pooling(), "a GET after an idle connection was closed: 200 was due"),
    ("F18", Retrying(tries_again=answered(b" 503 ")), "the upstream said 503, and was asked 3 times"),
    ("F18", NaiveProxy(response=replacing(b" 429 ", b" 503 ")), "an upstream's 429: 429 was due"),
    ("F18", NaiveProxy(response=replacing(b"\r\n\r\nno", b"\r\n\r\nNo")), "an upstream's 429 lost its body"),
    ("F18", NaiveProxy(response=without(b"Retry-After")), "an upstream's 429 lost its Retry-After"),
    ("F19", NaiveProxy(request=adding(b"traceparent: 00-1-2-01")), "the upstream got 2 lines of traceparent"),
    ("F19", NaiveProxy(request=replacing(TRACE, TRACE[::-1])), "the upstream got the traceparent of another trace"),
    ("G1", NaiveProxy(), "the upstream got content-length and transfer-encoding"),
    ("G1", NaiveProxy(request=without(b"Transfer-Encoding")), "the upstream got another body"),
    ("G1", NaiveProxy(answer=refusing(b"POST", b"500 Oh")), 'chunked: the client got "HTTP/1.1 500 Oh"'),
    ("G2", NaiveProxy(), 'Content-Length: 5, Content-Length: 6: 400 was due, the client got "HTTP/1.1 200 OK"'),
    (
        "G2",
        Relay(response=later(replacing(b"200 OK", b"400 No")), lifetime=0.2),
        "it was refused, and something went up",
    ),
    ("G3", NaiveProxy(), "'Transfer-Encoding: xchunked': 400 or 501 was due, the client got"),
    ("G4", NaiveProxy(), "Content-Length: +5: 400 or 413 was due, the client got"),
    ("G4", Relay(answer=hanging_up(UNHEARD)), "NUL in a value was passed on"),
    ("G4", Relay(answer=hanging_up(UNHEARD + rb"|\0|\r[^\n]")), "a blank in a name was passed on"),
    (
        "G4",
        Relay(answer=hanging_up(UNHEARD + rb"|\0|\r[^\n]|X A|X-A[ \t]|\x01|\n:")),
        "a folded line was passed on",
    ),
    ("G5", Relay(), '0x before a chunk\'s size: the client got "HTTP/1.1 200 OK"'),
    ("G5", Relay(response=later(replacing(b"200 OK", b"400 No"))), "the upstream got it as a whole body"),
    (
        "G5",
        Relay(request=replacing(b"hel\r\n", b"hal\r\n")),
        "chunks with extensions and a trailer: other data arrived",
    ),
    ("G6", NaiveProxy(), "a bare line feed was passed on"),
    ("G6", NaiveProxy(request=chain(without(b"X-B"), NO_FEEDS)), "a line that ended with a bare line feed got lost"),
    ("G6", NaiveProxy(answer=refusing(b"feeds", b"500 Oh")), 'the client got "HTTP/1.1 500 Oh"'),
    ("G7", NaiveProxy(), "a CONNECT went up"),
    ("G7", NaiveProxy(request=adding(b"Authorization: x", where=b"secret")), "the upstream got a password"),
    ("G8", Retrying(tries_again=answered(b" 307 ")), "the proxy followed a redirect"),
    ("G8", NaiveProxy(response=replacing(b" 307 ", b" 200 ")), "a redirect: 307 was due"),
    ("G8", NaiveProxy(request=adding(b"Authorization: x")), "the upstream got an Authorization that nobody had sent"),
    ("G10", NaiveProxy(request=adding(b"Cookie: jar=1")), "the upstream got a cookie that was another client's"),
    ("G10", NaiveProxy(response=without(b"Set-Cookie")), "a cookie for the client got lost"),
    ("G10", NaiveProxy(response=replacing(b"n7", b"n8")), "of sixteen at once, one got"),
]

LATE = [
    ("F10", NaiveProxy(), "the client left (close) before the answer to its GET, and the upstream is kept busy"),
    ("F11", Relay(lingers=True), "the client left (close), and the silent upstream is kept"),
    ("F2", NaiveProxy(), "a connection that is not taken: nothing within 4 s; if the proxy's own timeout is longer"),
    ("F3", Relay(), "an upstream that is silent: nothing within 4 s; if the proxy's own timeout is longer"),
    ("F4", Relay(), "a body that stalls: nothing within 4 s; if the proxy's own timeout is longer"),
    ("F4", NaiveProxy(answer=refusing(b"/x", b"500 Oh")), "the request did not go up"),
    (
        "F4",
        Relay(at_once=lambda head: TOO_LATE * (b"/x " in head)),
        "the client was told, and the upstream's connection stays open",
    ),
    ("F5", MUTE, "no room for 128 requests: nothing within 4 s"),
    ("F9", NaiveProxy(answer=after(8, hanging_up(b"/x"))), "clients that left, a request did not go up"),
    ("F11", NaiveProxy(), "the beginning of the body did not come down before its end"),
    ("F14", Relay(lifetime=0.2), "a response that takes its time: 200 was due"),
    ("F14", Relay(response=replacing(b"piece", b"peace")), "a response that takes its time did not arrive whole"),
    ("F15", NaiveProxy(), "events in chunks: the head did not come down before the first of them"),
    (
        "F15",
        Relay(response=replacing(b"data: 2", b"data: 3")),
        "events in chunks: one did not come down before the next",
    ),
    ("G2", NaiveProxy(answer=refusing(b"POST")), "it was refused, and its connection goes on"),
    ("G5", NaiveProxy(), "the client waited for the response"),
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
    ("F9", NaiveProxy()),
    ("F12", NaiveProxy()),
    ("G1", NaiveProxy(answer=hanging_up(b"chunked"))),
    ("G4", Relay(answer=hanging_up(UNHEARD + BAD_LINES))),
    ("G6", NaiveProxy(request=NO_FEEDS)),
    ("G8", NaiveProxy()),
]


@pytest.mark.parametrize(("name", "proxy"), FAIR)
def test_other_right_ways_are_fair(name: str, proxy: NaiveProxy) -> None:
    """What the row allows is not held against a proxy, though ours does it otherwise."""
    assert_met(name, proxy)


def test_room_for_all() -> None:
    """A proxy that takes as many connections as it is asked for cannot be asked what it does with more."""
    [result] = ask_naive("F5", Relay(), timeout=20 * SOON)  # which nobody waits for

    assert (result.outcome, result.text[:24]) == (Outcome.NOT_APPLICABLE, "128 requests at once all")


def test_a_kernel_that_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where connections are taken that nobody accepts, no proxy has to wait for one."""
    monkeypatch.setattr(_f_failures, "_QUEUE", 100)
    [result] = ask_naive("F2")

    assert result.outcome is Outcome.NOT_APPLICABLE


def test_waiting_for_more_of_a_broken_chunk() -> None:
    """A proxy that says nothing to a broken chunk has not made a whole body of it."""
    silent = Relay(request=lambda data: b"" if any(broken in data for broken in BROKEN_CHUNKS) else data)

    assert_met("G5", silent, timeout=SOON / 2)
