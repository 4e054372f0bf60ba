"""Tables A, B and C of the conformance suite: what our own proxy does, and that each row finds its fault."""

import re
from collections.abc import Callable

import pytest

from fastapi_httpx_pool.conformance import Outcome
from tests.support.conformance import NaiveProxy, ask_naive, ask_ours, assert_met, assert_told, what_failed
from tests.support.faults import adding, chain, hanging_up, refusing, replacing, without

TRAILERS = {"A7": "an announced trailer got lost"}  # no server takes them from an app over HTTP/1.1
BARE = {"C2": "/p/x? arrived as /base/x"}  # ASGI has no word for the difference
HOST_OF_THE_LINE = "the upstream was told the host of the Host line, which does not count"
OURS = {
    # httptools does not say which host a target had, and knows a list of methods.
    "httptools": {
        "B10": HOST_OF_THE_LINE,
        "C12": 'nothing arrived at the upstream, and the client got "HTTP/1.1 400 Bad Request"',
    },
    # The app's router knows no path that begins with http://.
    "h11": {"B10": 'nothing arrived at the upstream, and the client got "HTTP/1.1 404 Not Found"'},
}


@pytest.mark.parametrize("server", OURS)
def test_our_own_proxy(server: str) -> None:
    """It meets all rows but those that its server forbids, and none does not apply."""
    results = ask_ours("A,B,C", server)

    assert what_failed(results) == TRAILERS | BARE | OURS[server]
    assert not [result.row.id for result in results if result.outcome is Outcome.NOT_APPLICABLE]


NAIVE = {
    "A1": "the upstream got x-a, x-b, which Connection had named",
    "A2": "the upstream got the client's Proxy-Connection",
    "A3": "the client got x-a, x-b, which the response's Connection had named",
    "A6": "for gzip;q=0.5, trailers, the upstream got TE: gzip;q=0.5, trailers",
    "A11": r"the upstream got X-A: a\x00b as the client had sent it",
    "B1": "the upstream got what the client said in X-Forwarded-For, X-Forwarded-Host",
    "B3": "the upstream got 2 of them",
    "B6": "the upstream got none",
    "B9": "a request without Host reached the upstream",
    "B10": "the upstream was asked for http://127.0.0.1:",
    "B11": "the upstream got Via: 1.0 alpha, 1.1 beta (x)",
    "B12": "after 30 rounds, it is still forwarded",
    "B13": "OPTIONS with Max-Forwards: 0 reached the upstream",
    "C5": "/p/../secret arrived as /base/../secret, which means /secret",
    "C8": "arrived as //127.0.0.1:",
    "C9": ' got "HTTP/1.1 200 OK", and arrived as @127.0.0.1:',
    "C10": "/%70/a%2Fb arrived as /%70/a%2Fb",
    "C13": "CONNECT to a host reached another server",
    "C14": '/p/%00 got "HTTP/1.1 200 OK", and arrived as /base/%00',
}


def test_a_naive_proxy() -> None:
    """A proxy that passes everything on fails where it should, and nowhere else."""
    failed = what_failed(ask_naive("A,B,C"))

    assert failed.keys() == NAIVE.keys()
    assert [name for name, text in NAIVE.items() if text not in failed[name]] == []


def test_what_a_naive_proxy_cannot_be_asked() -> None:
    """It adds nothing that could be named, or imitated; without a path there is nothing to take away."""
    results = ask_naive("A,B,C", NaiveProxy(prefix="", base=""))
    unasked = {result.row.id for result in results if result.outcome is Outcome.NOT_APPLICABLE}

    assert unasked == {"A4", "A13", "B4", "B6", "C5", "C10"}
    assert {result.outcome for result in results if result.row.id == "C4"} == {Outcome.MET}


def stripping_what_it_added(head: bytes) -> bytes:
    """Add a line, and then strip what Connection names."""
    named = b"connection: x-added" in head.lower()
    return head if named else adding(b"X-Added: 1")(head)


def port_in(pattern: bytes) -> Callable[[bytes], int | None]:
    """Return what finds the port of another upstream in a head."""

    def find(head: bytes) -> int | None:
        found = re.search(pattern, head)
        return int(found[1]) if found else None

    return find


def to_path(head: bytes) -> bytes:
    """Leave the host of a target out."""
    return re.sub(rb"GET http://[^/]*/p", b"GET /base", head)


def taking_the_host(head: bytes) -> bytes:
    """Put the host of a target in the place of Host."""
    return re.sub(rb"GET http://([^/]*)/p(\S*)(.*\r\n)Host: .*", rb"GET /base\2\3Host: \1\r", head)


NO_HOP = without(b"Proxy-Connection", b"Keep-Alive", b"Proxy-Auth[a-z]*", b"Trailer", b"Upgrade")
NO_NAMED = without(b"Connection", b"X-A", b"X-B")
ELSEWHERE = rb"GET http://127.0.0.1:(\d+)/p/\S+ HTTP/1.1\r\nHost: 127.0.0.1:(?!\1)"
LAST = re.compile(rb"Trailer: X-Sum\r\n")

SABOTAGE = [
    ("A1", NaiveProxy(request=without(b"X-A", b"X-B")), "the upstream got the client's Connection"),
    ("A1", NaiveProxy(request=without(b"Connection", b"X-.")), "a line that was not named stayed behind, too"),
    ("A2", NaiveProxy(request=chain(NO_HOP, without(b"X-Kept"))), "another line stayed behind, too"),
    ("A3", NaiveProxy(response=without(b"Connection", b"X-.")), "a line that was not named stayed behind, too"),
    ("A3", NaiveProxy(response=NO_NAMED), "the client got the upstream's Proxy-Connection, Keep-Alive"),
    (
        "A3",
        NaiveProxy(response=chain(NO_NAMED, NO_HOP, without(b"Connection"), replacing(b"\r\n\r\nok", b"\r\n\r\nno"))),
        'the client got "HTTP/1.1 200 OK"',
    ),
    (
        "A3",
        NaiveProxy(response=lambda data: data if b"chunked" in data else chain(NO_NAMED, NO_HOP)(data)),
        "in the trailers",
    ),
    ("A4", NaiveProxy(request=stripping_what_it_added), "the client kept x-added from the upstream"),
    ("A5", NaiveProxy(request=without(b"Content-Length")), "the body got lost when Content-Length was named"),
    ("A5", NaiveProxy(request=without(b"Host")), "the upstream got no Host when Host was named"),
    ("A6", NaiveProxy(request=replacing(b"TE: gzip;q=0.5, trailers", b"TE: gzip")), "the upstream got TE: gzip"),
    (
        "A6",
        NaiveProxy(request=chain(without(b"Connection"), replacing(b"gzip;q=0.5, ", b""))),
        "the upstream got TE without Connection: TE",
    ),
    ("A7", NaiveProxy(response=replacing(b"X-Sum: 1\r\n", b"")), "an announced trailer got lost"),
    (
        "A7",
        NaiveProxy(response=lambda data: data if LAST.search(data) else data.replace(b"X-Sum: 1\r\n", b"")),
        "a trailer that nothing announced got lost",
    ),
    ("A7", NaiveProxy(response=adding(b"X-Sum: 1")), "the trailer arrived among the header lines"),
    ("A7", NaiveProxy(response=replacing(b"hello", b"hullo")), 'the client got "HTTP/1.1 200 OK"'),
    ("A8", NaiveProxy(request=replacing(b"X-M: a\r\n", b"")), "of the lines a, c and b the upstream got c, b"),
    ("A8", NaiveProxy(request=without(b"X-M")), "of the lines a, c and b the upstream got none"),
    ("A8", NaiveProxy(request=replacing(b"Cookie: a=1\r\n", b"")), "of two Cookie lines the upstream got b=2"),
    ("A9", NaiveProxy(request=without(b"X-Empty")), "the upstream did not get a request's empty field"),
    ("A9", NaiveProxy(response=without(b"X-Void")), "the client did not get a response's empty field"),
    ("A10", NaiveProxy(request=replacing(b"\xe9", b"\xc3\xa9")), "the upstream got "),
    ("A10", NaiveProxy(response=replacing(b"\xe9", b"?")), "the client got "),
    ("A11", NaiveProxy(request=replacing(b"\x00", b" ")), r"the client got X-A: a\x00b as the upstream had sent it"),
    (
        "A11",
        NaiveProxy(request=replacing(b"\x00", b" "), response=replacing(b"\x00", b" ")),
        r"the upstream got X-A: a\rb as the client had sent it",
    ),
    ("A12", NaiveProxy(request=adding(b"User-Agent: x", b"Accept: */*")), "the upstream got accept, user-agent"),
    ("A12", NaiveProxy(response=adding(b"Content-Type: text/plain")), "the client got content-type"),
    ("A13", NaiveProxy(request=adding(b"X-Forwarded-For: ::1")), "the upstream got the client's x_forwarded_for"),
    ("B4", NaiveProxy(request=adding(b"X-Forwarded-For: ::ffff:127.0.0.1")), "X-Forwarded-For says ::ffff:127.0.0.1"),
    ("B4", NaiveProxy(request=adding(b"X-Forwarded-For: 127.0.0.1:80")), "X-Forwarded-For says 127.0.0.1:80"),
    ("B4", NaiveProxy(request=adding(b"X-Forwarded-For: fe80::1%eth0")), "X-Forwarded-For says fe80::1%eth0"),
    ("B4", NaiveProxy(request=adding(b"Forwarded: for=::1")), "Forwarded says for=::1"),
    ("B8", NaiveProxy(request=adding(b"Host: other")), "the upstream got 2 Host lines"),
    ("B8", NaiveProxy(request=without(b"Host")), "the upstream got 0 Host lines"),
    ("B8", NaiveProxy(request=lambda head: re.sub(rb"Host: .*", b"Host: a:80\r", head)), "the upstream got Host: a:80"),
    (
        "B9",
        NaiveProxy(answer=lambda head: None if head.count(b"Host") == 1 else refusing(b"", status=b"404 No")(head)),
        'a request without Host got "HTTP/1.1 404 No"',
    ),
    ("B10", NaiveProxy(detour=port_in(ELSEWHERE), request=to_path), "the proxy connected to the host in the target"),
    ("B10", NaiveProxy(request=to_path), "the upstream was told the host of the Host line"),
    ("B11", NaiveProxy(request=chain(without(b"Via"), adding(b"Via: 1.1 me"))), "the upstream got Via: 1.1 me"),
    (
        "B12",
        NaiveProxy(answer=refusing(b"X-Twice", status=b"200 OK"), request=adding(b"X-Twice: 1")),
        "the client got ",
    ),
    ("B13", NaiveProxy(answer=hanging_up(b"Max-Forwards: 0")), "got no response"),
    ("B13", NaiveProxy(answer=refusing(b"Max-Forwards: 0")), "of OPTIONS with Max-Forwards: 5 the upstream got 5"),
    ("B14", NaiveProxy(response=adding(b"Date: now")), "the client got 2 Date lines"),
    (
        "B14",
        NaiveProxy(response=replacing(b"upstream/1", b"proxy/1")),
        "the client got another Server than the upstream's",
    ),
    ("C1", NaiveProxy(request=replacing(b"%2F", b"/")), "/p/a%2Fb%2fc arrived as /base/a/b%2fc"),
    ("C1", NaiveProxy(request=replacing(b"[", b"%5B")), "/p/a[b] arrived as /base/a%5Bb]"),
    ("C2", NaiveProxy(request=replacing(b";", b"%3B")), "/p/x?z;w=%zz&&= arrived as /base/x?z%3Bw=%zz&&="),
    ("C2", NaiveProxy(request=replacing(b"|", b"%7C")), "/p/x?a|b arrived as /base/x?a%7Cb"),
    ("C2", NaiveProxy(request=replacing(b"? HTTP", b" HTTP")), "/p/x? arrived as /base/x"),
    ("C4", NaiveProxy(request=replacing(b"/base/ HTTP", b"/base// HTTP")), "/p/ arrived as /base//"),
    ("C4", NaiveProxy(request=replacing(b"/base HTTP", b"/basex HTTP")), "/p arrived as /basex, and the client got"),
    ("C4", NaiveProxy(answer=refusing(b"/p HTTP")), "/p arrived as no request, and the client got"),
    ("C6", NaiveProxy(answer=refusing(rb"\.\.")), "nothing arrived at the upstream, and the client got"),
    ("C7", NaiveProxy(request=replacing(b"%25", b"%")), "/p/%252e%252e/x arrived as /base/%2e%2e/x"),
    ("C8", NaiveProxy(detour=port_in(rb" //127.0.0.1:(\d+)/p/")), "the proxy connected to that host"),
    ("C8", NaiveProxy(answer=hanging_up(b"//")), "the client got no response"),
    ("C9", NaiveProxy(detour=port_in(rb" @127.0.0.1:(\d+)/x")), "the proxy connected to another host"),
    ("C12", NaiveProxy(request=replacing(b"PURGE", b"POST")), "PURGE arrived as POST"),
    ("C13", NaiveProxy(detour=port_in(rb"CONNECT 127.0.0.1:(\d+) ")), "CONNECT to a host reached another server"),
    (
        "C13",
        NaiveProxy(answer=refusing(b"CONNECT|TRACE", status=b"200 OK")),
        'CONNECT to a host got "HTTP/1.1 200 OK"',
    ),
    (
        "C13",
        NaiveProxy(answer=refusing(b"CONNECT|TRACE"), request=replacing(b" * ", b" /* ")),
        "OPTIONS * arrived as /*",
    ),
]


@pytest.mark.parametrize(("name", "proxy", "text"), SABOTAGE)
def test_a_fault_is_found(name: str, proxy: NaiveProxy, text: str) -> None:
    """A proxy that does one thing wrong is told so, by the row that is about it."""
    assert_told(name, proxy, text)


FAIR = [
    ("A5", NaiveProxy(answer=refusing(b"Connection: Host"))),
    ("B8", NaiveProxy(request=lambda head: re.sub(rb"Host: .*", b"Host: [::1]:8000\r", head))),
    ("B4", NaiveProxy(request=adding(b'Forwarded: for="[::1]:2";host=a, by=b'))),
    ("B10", NaiveProxy(request=taking_the_host)),
    ("B11", NaiveProxy(request=lambda head: head.replace(b"beta (x)\r\n", b"beta (x)\r\nVia: HTTP/1.1 me\r\n"))),
    ("C4", NaiveProxy(answer=refusing(b"/p HTTP", status=b"301 Moved"))),
    ("C5", NaiveProxy(answer=refusing(rb"\.\.|%"))),
    ("C7", NaiveProxy(answer=refusing(b"%25"))),
    ("C8", NaiveProxy(answer=refusing(b"//"))),
]


@pytest.mark.parametrize(("name", "proxy"), FAIR)
def test_other_right_ways_are_fair(name: str, proxy: NaiveProxy) -> None:
    """What the row allows is not held against a proxy, though ours does it otherwise."""
    assert_met(name, proxy)
