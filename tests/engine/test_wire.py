"""
Bytes to a response and a request to bytes, without a socket.

The corpus says what servers send; here stands what is made of it, in whatever pieces it comes.
"""

import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from h11 import SERVER, Connection, Data, EndOfMessage, Request as H11Request

from fastapi_httpx_pool.engine import _wire
from fastapi_httpx_pool.engine._wire import (
    LAST_CHUNK,
    MAX_HEAD_SIZE,
    MAX_INFORMATIONAL,
    ResponseReader,
    chunk_of,
    head_of,
)
from fastapi_httpx_pool.exceptions import LocalProtocolError, RemoteProtocolError
from fastapi_httpx_pool.messages import Header, Origin, Request
from tests.engine.corpus import BAD, CUT, GOOD, Sample
from tests.support.wire import Outcome, Told, from_buffer, h11_told, pieces_of, read, ways_to_split

HOST = (b"Host", b"example.org")
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def request(*headers: Header, method: bytes = b"GET", target: bytes = b"/") -> Request:
    """Make a request of its head."""
    return Request(method, Origin(b"http", b"example.org", 80), target, [HOST, *headers])


# Writing a request.


def test_c2_head() -> None:
    """A head has the lines that it was given, in their order and case, with duplicates."""
    headers = [
        (b"x-FIRST", b"1"),
        HOST,
        (b"Accept", b"*/*"),
        (b"accept", b"a/b"),
        (b"X-First", b""),
        (b"x", b"\xe4\t ~"),
    ]
    head = head_of(Request(b"PATCH", Origin(b"http", b"h", 80), b"/a%20b?c=d&e", headers))

    assert head.data == (
        b"PATCH /a%20b?c=d&e HTTP/1.1\r\n"
        b"x-FIRST: 1\r\nHost: example.org\r\nAccept: */*\r\naccept: a/b\r\nX-First: \r\nx: \xe4\t ~\r\n\r\n"
    )
    assert head[1:] == (0, False, False, False)


def test_c2_one_host() -> None:
    """A request has one Host line, however it is spelled."""
    without, twice = request(), request((b"hOST", b"example.com"))
    without.headers.clear()

    with pytest.raises(LocalProtocolError, match=r"^Missing mandatory Host: header$"):
        head_of(without)
    with pytest.raises(LocalProtocolError, match=r"^Found multiple Host: header$"):
        head_of(twice)


@pytest.mark.parametrize(
    "name", [b"", b" ", b"A B", b"A:", b":A", b"A\r\nB", b"A\n", b"\0", b"A\t", b"\xc3\xa4", b'"A"', b"A\x7f"]
)
def test_c1_names(name: bytes) -> None:
    """A name that is no token is refused, also the second time."""
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match=r"^Illegal header name "):
            head_of(request((name, b"x")))


def test_c1_every_token() -> None:
    """A name may have any character of a token, and no other."""
    allowed = set(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

    for character in range(256):
        line = (b"x" + bytes([character]), b"y")
        if character in allowed:
            assert b"\r\nx%c: y\r\n" % character in head_of(request(line)).data
        else:
            with pytest.raises(LocalProtocolError, match="name"):
                head_of(request(line))


def test_c1_many_names() -> None:
    """However many names there have been, and however long they are, the next one is checked."""
    for number in range(1500):
        head_of(request((b"x-%d" % number, b"y"), (b"x" * 200, b"y")))

    assert len(_wire._known_names) <= 1024
    assert max(map(len, _wire._known_names)) <= 64
    for _ in range(2):
        assert head_of(request((b"x-1500", b"y"), (b"expecT", b"100-continue"))).expects
        with pytest.raises(LocalProtocolError, match="name"):
            head_of(request((b"x-1501 ", b"y")))


@pytest.mark.parametrize(
    "end",
    [b"\r", b"\n", b"\0", b"\v", b"\f", b"\r\n", b"\r\nX-Injected: 1", b"\r\n\r\nGET /admin HTTP/1.1\r\n"],
)
def test_c1_values(end: bytes) -> None:
    """A value in which a line may end is refused, wherever it is; the text does not tell the value."""
    for value in (end, b"Injected" + end, end + b"Injected", b"Injected" + end + b"b"):
        for place in range(3):
            headers = [HOST, (b"Accept", b"*/*")]
            headers.insert(place, (b"X-Secret", value))
            with pytest.raises(LocalProtocolError, match=r"^Illegal header value of X-Secret: it has b'\\") as caught:
                head_of(Request(b"GET", Origin(b"http", b"h", 80), b"/", headers))
            assert "Injected" not in str(caught.value)


def test_c1_two_wrongs() -> None:
    """Two bad values do not make up for each other."""
    with pytest.raises(LocalProtocolError, match="Illegal header value of A"):
        head_of(request((b"A", b"b\r"), (b"C", b"\nd")))


@pytest.mark.parametrize("method", [b"", b"GET /", b"GET\r\n", b"G\0T", b"GE:T", b"G\xc3\x84T", b" GET", b"GET "])
def test_c1_methods(method: bytes) -> None:
    """A method that is no token is refused."""
    with pytest.raises(LocalProtocolError, match=r"^Illegal method characters in "):
        head_of(request(method=method))


def test_c1_targets() -> None:
    """A target has no blank, no control character and nothing beyond ASCII."""
    for character in range(256):
        target = b"/a%cb" % character
        if 0x20 < character < 0x7F:
            assert head_of(request(target=target)).data.startswith(b"GET /a%cb HTTP/1.1\r\n" % character)
        else:
            with pytest.raises(LocalProtocolError, match=r"^Illegal target characters in "):
                head_of(request(target=target))
    with pytest.raises(LocalProtocolError, match=r"^Illegal target characters in b''"):
        head_of(request(target=b""))


@pytest.mark.parametrize("target", [b"*", b"example.org:443", b"http://example.org/a?b", b"/a?b=c#d"])
def test_a5_forms_of_targets(target: bytes) -> None:
    """Whatever form a target has, it is written as it is."""
    assert head_of(request(method=b"OPTIONS", target=target)).data.startswith(b"OPTIONS %b HTTP/1.1\r\n" % target)


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"Content-Length", b"0")], 0),
        ([(b"content-LENGTH", b"17")], 17),
        ([(b"Content-Length", b"007")], 7),
        ([(b"Content-Length", b"9" * 19)], 10**19 - 1),
        ([(b"Transfer-Encoding", b"chunked")], None),
        ([(b"transfer-ENCODING", b"Chunked")], None),
    ],
)
def test_c3_length(headers: list[Header], length: int | None) -> None:
    """A head tells how long the body is that has to follow, whatever the method is."""
    for method in (b"GET", b"POST", b"DELETE"):
        assert head_of(request(*headers, method=method)).length == length


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"+5",
        b"-5",
        b"5 ",
        b" 5",
        b"5,5",
        b"5, 6",
        b"0x5",
        b"5.0",
        b"\xb2",
        b"five",
        b"1_0",
        b"9" * 20,
        b"0" * 5000,
    ],
)
def test_c3_bad_length(value: bytes) -> None:
    """A length that others may read differently is refused."""
    with pytest.raises(LocalProtocolError, match=r"^bad Content-Length: "):
        head_of(request((b"Content-Length", value)))


@pytest.mark.parametrize("second", [b"5", b"6"])
def test_c3_two_lengths(second: bytes) -> None:
    """Two lengths are refused, also if they are the same."""
    with pytest.raises(LocalProtocolError, match=f"^bad Content-Length: b'5, {second.decode()}'"):
        head_of(request((b"Content-Length", b"5"), (b"content-length", second)))


@pytest.mark.parametrize(
    "values",
    [
        [b"gzip"],
        [b"identity"],
        [b"gzip, chunked"],
        [b"chunked, gzip"],
        [b"xchunked"],
        [b" chunked"],
        [b"chunked "],
        [b"chunked\t"],
        [b""],
        [b"chunked", b"chunked"],
        [b"chunked", b"identity"],
    ],
)
def test_c4_encodings(values: list[bytes]) -> None:
    """An encoding that is not plainly chunked is refused."""
    with pytest.raises(LocalProtocolError, match=r"^Only Transfer-Encoding: chunked is supported$"):
        head_of(request(*((b"Transfer-Encoding", value) for value in values)))


@pytest.mark.parametrize("length", [b"5", b"nonsense", b"5\r\nX: y"])
def test_c4_encoding_and_length(length: bytes) -> None:
    """Of a length and an encoding only the encoding is sent, and the request is left as it was."""
    made = request(
        (b"content-LENGTH", length), (b"A", b"b"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"6")
    )
    before = list(made.headers)
    head = head_of(made)

    assert head.data == b"GET / HTTP/1.1\r\nHost: example.org\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert head.length is None
    assert made.headers == before


def test_c4_chunks() -> None:
    """The pieces of a chunked body are what another parser reads."""
    pieces = [b"a", b"b" * 9, b"c" * 10, b"0\r\n\r\n", b"d" * 70_000]
    server = Connection(SERVER)
    server.receive_data(head_of(request((b"Transfer-Encoding", b"chunked"), method=b"POST")).data)
    server.receive_data(b"".join(map(chunk_of, pieces)) + LAST_CHUNK)

    assert isinstance(server.next_event(), H11Request)
    body = b""
    while isinstance(event := server.next_event(), Data):
        body += event.data
    assert isinstance(event, EndOfMessage)
    assert body == b"".join(pieces)
    assert chunk_of(b"d" * 26) == b"1a\r\n" + b"d" * 26 + b"\r\n"


@pytest.mark.parametrize(
    ("headers", "marks"),
    [
        ([(b"Connection", b"keep-alive")], set()),
        ([(b"connection", b"Close")], {"closes"}),
        ([(b"Connection", b"keep-alive, close")], {"closes"}),
        ([(b"Connection", b"close"), (b"Connection", b"keep-alive")], {"closes"}),
        ([(b"Expect", b"100-Continue")], {"expects"}),
        ([(b"Expect", b"else")], set()),
        ([(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")], {"upgrades"}),
        ([(b"X-Close", b"close"), (b"X-Expect", b"100-continue")], set()),
    ],
)
def test_meaning(headers: list[Header], marks: set[str]) -> None:
    """A head tells what else its lines mean for the exchange."""
    head = head_of(request(*headers))

    assert {mark for mark in ("closes", "expects", "upgrades") if getattr(head, mark)} == marks


# Reading a response.


class Expected(NamedTuple):
    """What is made of a response; most of the corpus's say this."""

    status: int = 200
    body: bytes = b"hi"
    reusable: bool = True
    reason: bytes = b"OK"
    http_version: bytes = b"HTTP/1.1"
    surplus: bytes | None = None
    """None if it is no tunnel."""


CLOSED = Expected(reusable=False)
EMPTY = Expected(body=b"")
EXPECTED = {
    "no reason": Expected(reason=b""),
    "no reason and no blank": Expected(reason=b""),
    "a reason in Latin-1": Expected(reason=b"\xe9t\xe9"),
    "a long reason": Expected(404, reason=b"Not here either " * 8),
    "status 999": Expected(999, reason=b"Request denied"),
    "HTTP/1.0": Expected(http_version=b"HTTP/1.0", reusable=False),
    "HTTP/1.0 kept alive": Expected(http_version=b"HTTP/1.0"),
    "connection close": CLOSED,
    "upgrade in a 426": Expected(426, reason=b"Upgrade Required"),
    "length 0": EMPTY,
    "a body like a response": Expected(body=b"HTTP/1.1 200 OK\r\n\r\n"),
    "204": Expected(204, b"", reason=b"No Content"),
    "204 with a length": Expected(204, b"", reason=b"No Content"),
    "204 chunked": Expected(204, b"", reason=b"No Content"),
    "304 with a length": Expected(304, b"", reason=b"Not Modified"),
    "304 chunked": Expected(304, b"", reason=b"Not Modified"),
    "no chunk": EMPTY,
    "chunks of one byte": Expected(body=b"hi!"),
    "sizes in either case": Expected(body=b"01234567890123456789a0123456789ab"),
    "gzip and chunked in two lines": CLOSED,
    "chunked with a length": CLOSED,
    "a length with chunked": CLOSED,
    "HTTP/1.0 chunked": Expected(http_version=b"HTTP/1.0", reusable=False),
    "trailers of the framing": CLOSED,
    "until the end": CLOSED,
    "until the end, empty": Expected(body=b"", reusable=False),
    "HTTP/1.0 until the end": Expected(body=b"hi\r\nho", http_version=b"HTTP/1.0", reusable=False),
    "identity": CLOSED,
    "identity with a length": CLOSED,
    "chunked, gzip": CLOSED,
    "xchunked": CLOSED,
    "chunked with a control character": CLOSED,
    "103, then until the end": Expected(reason=b"Fine", http_version=b"HTTP/1.0", reusable=False),
    "100, then 204": Expected(204, b"", reason=b"No Content"),
    "HEAD with a length": EMPTY,
    "HEAD chunked": EMPTY,
    "HEAD without either": EMPTY,
    "HEAD with connection close": Expected(body=b"", reusable=False),
    "HEAD in HTTP/1.0": Expected(body=b"", http_version=b"HTTP/1.0", reusable=False),
    "HEAD after 103": EMPTY,
    "HEAD with line feeds only": EMPTY,
    "HEAD with line feeds and a CRLF": EMPTY,
    "HEAD with a folded value": EMPTY,
    **{
        f"101{how}": Expected(101, b"", reusable=False, reason=b"Switching Protocols", surplus=surplus)
        for how, surplus in {
            "": b"",
            " with more": b"\x81\x02hi\r\n\r\nHTTP/1.1 ",
            " with a length": b"hello, world",
            " chunked": b"hello, world",
            " without its headers": b"hello, world",
            " after 100": b"hello",
            " to HEAD": b"hello",
            " to CONNECT": b"hello",
        }.items()
    },
    "CONNECT": Expected(body=b"", reusable=False, reason=b"Connection established", surplus=b"\x16\x03\x01\r\n\r\nhi"),
    "CONNECT with a length": Expected(body=b"", reusable=False, surplus=b"hello, world"),
    "CONNECT chunked": Expected(body=b"", reusable=False, surplus=b"hello, world"),
    "CONNECT with 204": Expected(204, b"", reusable=False, reason=b"No Content", surplus=b"hello"),
    "CONNECT after 100": Expected(body=b"", reusable=False, surplus=b"hello"),
    "CONNECT with line feeds only": Expected(body=b"", reusable=False, surplus=b"hello\r\n\r\n"),
    "CONNECT refused": Expected(407, reason=b"Proxy Authentication Required"),
    "CONNECT refused after 100": Expected(503, reason=b"Busy"),
    "CONNECT refused until the end": Expected(502, reason=b"Bad Gateway", reusable=False),
}


def whole(sample: Sample) -> Outcome:
    """Read it in one piece."""
    return read([sample.data] if sample.data else [], sample.method, offers=sample.offers)


def test_expectations_have_samples() -> None:
    """Every expectation is about a sample."""
    assert EXPECTED.keys() <= GOOD.keys()


@pytest.mark.parametrize("name", GOOD)
def test_e1_good(name: str) -> None:
    """A good response is read for what it is."""
    outcome = whole(GOOD[name])
    expected = EXPECTED.get(name, Expected())

    assert outcome.error == ""
    assert outcome.complete
    assert outcome.upgraded == (expected.surplus is not None)
    assert expected == Expected(
        outcome.status,
        outcome.body,
        outcome.reusable,
        outcome.reason,
        outcome.http_version,
        outcome.surplus if outcome.upgraded else None,
    )


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in (GOOD, BAD, CUT) for name in group])
def test_d10_every_split(group: dict[str, Sample], name: str) -> None:
    """Whole, byte by byte, and cut in two everywhere: the outcome is the same."""
    sample = group[name]
    expected = whole(sample)

    for pieces in ways_to_split(sample.data):
        assert read(pieces, sample.method, offers=sample.offers) == expected, pieces
        assert read(from_buffer(pieces), sample.method, offers=sample.offers) == expected, pieces


@pytest.mark.parametrize("name", BAD)
def test_d11_bad(name: str) -> None:
    """What is no response, or one that others could read differently, is refused, and nothing is taken from it."""
    outcome = whole(BAD[name])

    assert not outcome.error.startswith(("peer closed", "Server disconnected"))
    assert outcome.body in (b"", b"hi")
    assert not outcome.reusable


@pytest.mark.parametrize("name", CUT)
def test_b_cut(name: str) -> None:
    """A response that ends too early is never complete."""
    outcome = whole(CUT[name])

    assert outcome.error.startswith(("peer closed connection ", "Server disconnected "))
    assert not outcome.complete


#: Where h11 reads something else, or nothing, and why.
NOT_AS_H11 = {
    "control characters": "it refuses some of them",
    "a folded value": "it makes one blank of all of them",
    "length with zeros": "it refuses more than 20 digits",
    "length in thousands of digits": "it refuses more than 20 digits",
    "chunked in capitals": "it changes the header",
    "gzip, chunked": "it knows no other encoding than chunked",
    "gzip and chunked in two lines": "likewise",
    "chunked twice": "likewise",
    "chunked behind a blank": "likewise",
    "trailers of the framing": "it refuses them",
    "identity": "it knows no other encoding than chunked",
    "identity with a length": "likewise",
    "chunked, gzip": "likewise",
    "xchunked": "likewise",
    "chunked with a control character": "likewise",
}


def told(outcome: Outcome) -> Told:
    """Put it in h11's words."""

    def lowered(headers: list[Header]) -> list[Header]:
        return [(name.lower(), value) for name, value in headers]

    return Told(
        outcome.status,
        outcome.http_version,
        outcome.reason,
        lowered(outcome.headers),
        outcome.body,
        lowered(outcome.trailers),
        [(status, lowered(headers)) for status, headers in outcome.informational],
    )


@pytest.mark.parametrize(
    "name", [name for name, sample in GOOD.items() if not sample.offers and sample.method != b"CONNECT"]
)
def test_e1_as_h11(name: str) -> None:
    """h11 reads the same, but where we know that it does not."""
    sample = GOOD[name]
    same = told(whole(sample)) == h11_told(sample.data, sample.method)

    assert same == (name not in NOT_AS_H11)


def test_a4_headers() -> None:
    """Headers come as they were sent: order, case, duplicates; only the blanks around values go."""
    assert whole(GOOD["case and order"]).headers == [
        (b"sEt-cOoKie", b"a=1"),
        (b"X-A", b"1"),
        (b"Set-Cookie", b"b=2"),
        (b"Content-Length", b"2"),
    ]
    assert whole(GOOD["blanks around values"]).headers[:4] == [(b"A", b"a b"), (b"B", b""), (b"C", b""), (b"D", b"x")]
    assert whole(GOOD["values in Latin-1"]).headers[0] == (b"A", b"\xe4\xf6\xfc\xff")


def test_d11_folded_value() -> None:
    """A folded value is one value, and no line break of it is left to break another line."""
    assert whole(GOOD["a folded value"]).headers[:2] == [(b"A", b"a b\tc"), (b"B", b"d")]


def test_d12_trailers() -> None:
    """Trailers are no headers, and what they say about the framing changes nothing."""
    outcome = whole(GOOD["trailers"])
    framing = whole(GOOD["trailers of the framing"])

    assert outcome.headers == [(b"Transfer-Encoding", b"chunked")]
    assert outcome.trailers == [(b"Digest", b"abc"), (b"digest", b"d"), (b"X", b"")]
    assert framing.headers == outcome.headers
    assert [name for name, _ in framing.trailers] == [b"Content-Length", b"Transfer-Encoding", b"Connection"]


def test_d1_informational() -> None:
    """Informational responses are told apart from the final one, each with its own headers."""
    outcome = whole(GOOD["102, 103 and 199"])

    assert outcome.informational == [
        (102, []),
        (103, [(b"Link", b"</a>; rel=preload"), (b"Link", b"</b>")]),
        (199, [(b"Upgrade", b"x"), (b"Connection", b"upgrade")]),
    ]
    assert outcome.headers == [(b"Transfer-Encoding", b"chunked")]


def test_d1_informational_is_no_head() -> None:
    """An informational response is there at once, and is not the head that is waited for."""
    reader = ResponseReader(b"GET")
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n")

    assert reader.informational == [(103, [(b"A", b"b")])]
    assert not reader.has_head
    assert reader.headers == []
    assert reader.reason == b""
    assert reader.begun
    reader.informational.clear()
    reader.feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert reader.complete
    assert reader.informational == []


@pytest.mark.parametrize("split", [False, True])
def test_d1_number_of_informational(*, split: bool) -> None:
    """So many informational responses may come, and not one more."""
    final = b"HTTP/1.1 204 No Content\r\n\r\n"

    def outcome(number: int) -> Outcome:
        data = CONTINUE * number + final
        return read(pieces_of(data, 1 if split else len(data)))

    assert outcome(MAX_INFORMATIONAL).status == 204
    assert len(outcome(MAX_INFORMATIONAL).informational) == MAX_INFORMATIONAL == 20
    assert outcome(MAX_INFORMATIONAL + 1).error == "the server sent more than 20 informational responses"


def test_head_before_body() -> None:
    """The head is there before the body is, and what has come of that can be taken away."""
    reader = ResponseReader(b"GET")

    assert not reader.begun
    reader.feed(b"HTT")
    assert reader.begun
    reader.feed(b"P/1.1 200 Fine\r\nA: b\r\nContent-Length: 5\r\n\r\nh")
    assert (reader.has_head, reader.status, reader.reason, reader.complete) == (True, 200, b"Fine", False)
    assert reader.chunks == [b"h"]
    reader.chunks.clear()
    reader.feed(b"ell")
    assert reader.chunks == [b"ell"]
    assert reader.received == 4
    reader.feed(b"o")
    assert reader.complete
    assert reader.reusable
    reader.end()
    assert reader.reusable


# Where it ends.

SURPLUS = [b"X", b"\0", OK + b"Content-Length: 4\r\n\r\nEVIL", b"\r\nEVIL", b"0\r\n\r\n", b"HTT", b" "]


@pytest.mark.parametrize("name", [name for name in GOOD if EXPECTED.get(name, Expected()).reusable])
def test_f2_surplus(name: str) -> None:
    """What comes behind a response is no part of it, and the connection is not used again."""
    sample = GOOD[name]
    expected = whole(sample)._replace(reusable=False)

    for surplus in SURPLUS:
        data = sample.data + surplus
        for pieces in ([data], [sample.data, surplus], pieces_of(data, 1)):
            assert read(pieces, sample.method, offers=sample.offers) == expected


@pytest.mark.parametrize(
    "sample",
    [
        Sample(OK + b"Content-Length: 4\r\n\r\nEVIL", b"HEAD"),
        Sample(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n", b"HEAD"),
        Sample(b"HTTP/1.1 200 OK\nContent-Length: 4\n\nEVIL\r\n\r\n", b"HEAD"),
        Sample(CONTINUE + OK + b"Content-Length: 4\r\n\r\nEVIL", b"HEAD"),
        Sample(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nEVIL"),
        Sample(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n"),
        Sample(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nEVIL"),
        Sample(b"HTTP/1.1 304 Not Modified\r\n\r\nEVIL"),
    ],
)
def test_d3_body_of_the_bodiless(sample: Sample) -> None:
    """A body behind a response that has none is not read, and the connection is not used again."""
    for pieces in ([sample.data], *ways_to_split(sample.data)):
        outcome = read(pieces, sample.method)
        assert outcome.error == ""
        assert outcome.complete
        assert outcome.body == b""
        assert not outcome.reusable


@pytest.mark.parametrize("name", ["connection close", "HTTP/1.0", "HEAD with connection close"])
def test_f2_surplus_after_close(name: str) -> None:
    """What comes although the connection should have been closed is no error of the response's."""
    sample = GOOD[name]
    expected = whole(sample)

    for surplus in SURPLUS:
        for pieces in ([sample.data + surplus], [sample.data, surplus]):
            assert read(pieces, sample.method) == expected


def test_f4_line_breaks_behind_the_end() -> None:
    """A line break behind the end is swallowed if it comes along, which leaves nothing; later it is surplus."""
    response = OK + b"Content-Length: 2\r\n\r\nhi"

    assert read([response + b"\r\n"]).reusable
    assert read([response + b"\r\n"]).body == b"hi"
    assert not read([response, b"\r\n"]).reusable


@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_l1_surplus_of_a_tunnel(size: int) -> None:
    """All that comes behind the head of another protocol is kept for it, as it came, however much it is."""
    data = bytes(range(256)) * 1200

    for head, method in ((SWITCHED, b"GET"), (b"HTTP/1.1 200 OK\r\n\r\n", b"CONNECT")):
        at_once = read([head + data], method, offers=True)
        later = read([head, *pieces_of(data, 70_000)], method, offers=True)
        assert at_once.surplus == later.surplus == data
        cut = read(pieces_of(head + data[: 4 * size], size), method, offers=True, max_head_size=200)
        assert cut.surplus == data[: 4 * size]


def test_l1_tunnel_tells_no_body() -> None:
    """What the head of a tunnel says about a body is not about what follows it."""
    reader = ResponseReader(b"CONNECT")
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n\r\n")

    assert (reader.complete, reader.upgraded, reader.reusable, reader.is_chunked) == (True, True, False, False)
    reader.end()
    assert reader.surplus == b""


# Whether the connection can be used again.


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("version", "lines", "reusable"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["CONNECTION: Close"], False),
        ("1.1", ["Connection: keep-alive, close"], False),
        ("1.1", ["Connection: close ,keep-alive"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.1", ["Connection: close", "Connection: keep-alive"], False),
        ("1.1", ["Connection: x-close"], True),
        ("1.1", ["Connection: closed"], True),
        ("1.1", ["Proxy-Connection: close"], False),
        ("1.1", ["X-Connection: close"], True),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["connection: X, Keep-Alive"], True),
        ("1.0", ["Proxy-Connection: keep-alive"], True),
        ("1.0", ["Connection: keep-alive", "Connection: close"], False),
        ("1.0", ["Connection: keep-alives"], False),
    ],
)
def test_f9_connection(method: bytes, version: str, lines: list[str], *, reusable: bool) -> None:
    """A connection is used again if both sides' version and Connection lines say so, to HEAD as to GET."""
    head = "\r\n".join([f"HTTP/{version} 200 OK", *lines, "Content-Length: 0", "", ""])

    for pieces in ([head.encode()], pieces_of(head.encode(), 1)):
        assert read(pieces, method).reusable == reusable


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("timeout=5", 5),
        ("timeout=5, max=100", 5),
        ("max=100,Timeout = 60 ", 60),
        ("timeout=0", 0),
        ("timeout=", None),
        ("timeout=soon", None),
        ("timeout=-5", None),
        ("timeout=1.5", None),
        ("max=100", None),
        ("", None),
        ("timeout=" + "9" * 5000, None),
    ],
)
def test_f7_keep_alive_hint(value: str, seconds: int | None) -> None:
    """The server's word on how long it keeps an idle connection is told, if it makes sense."""
    head = f"HTTP/1.1 200 OK\r\nX-Keep-Al: timeout=7\r\nKEEP-ALIVE: {value}\r\nContent-Length: 0\r\n\r\n"
    outcome = read([head.encode()])

    assert outcome.keep_alive_hint == seconds
    assert outcome.reusable


def test_is_chunked() -> None:
    """A body in chunks is told apart, for it may have trailers; a head alone has none."""

    def is_chunked(data: bytes, method: bytes = b"GET") -> bool:
        reader = ResponseReader(method)
        reader.feed(data)
        return reader.is_chunked

    assert is_chunked(CHUNKED)
    assert not is_chunked(CHUNKED, b"HEAD")
    assert not is_chunked(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert not is_chunked(OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n")
    assert not is_chunked(OK + b"Content-Length: 5\r\n\r\n")


# Limits.


def sized_head(size: int, start: bytes = OK, end: bytes = b"Content-Length: 2\r\n\r\n") -> bytes:
    """Make a head of so many bytes."""
    fill = size - len(start) - len(end) - len(b"A: \r\n")
    return start + b"A: " + b"b" * fill + b"\r\n" + end


def heads() -> dict[str, Callable[[int], tuple[list[bytes], bytes, bool]]]:
    """Ways to send a head of so many bytes: the pieces, the request's method, what it offers."""

    def in_pieces(size: int, piece: int, method: bytes = b"GET", start: bytes = OK) -> Any:
        return pieces_of(sized_head(size, start) + b"hi" * (method == b"GET"), piece), method, start == SWITCHED[:-2]

    def after_informational(size: int, piece: int) -> Any:
        return pieces_of(CONTINUE + sized_head(size - len(CONTINUE)) + b"hi", piece), b"GET", False

    return {
        "whole": lambda size: in_pieces(size, 10**6),
        "in pieces": lambda size: in_pieces(size, 100),
        "byte by byte": lambda size: in_pieces(size, 1),
        "HEAD": lambda size: in_pieces(size, 10**6, b"HEAD"),
        "HEAD in pieces": lambda size: in_pieces(size, 100, b"HEAD"),
        "CONNECT": lambda size: in_pieces(size, 10**6, b"CONNECT"),
        "CONNECT in pieces": lambda size: in_pieces(size, 100, b"CONNECT"),
        "101": lambda size: in_pieces(size, 10**6, start=SWITCHED[:-2]),
        "after 100": lambda size: after_informational(size, 10**6),
        "after 100, in pieces": lambda size: after_informational(size, 100),
        "after 100, byte by byte": lambda size: after_informational(size, 1),
    }


@pytest.mark.parametrize("how", heads())
@pytest.mark.parametrize("limit", [200, 1000, 1024, 5000])
def test_d9_size_of_the_head(how: str, limit: int) -> None:
    """A head, with what came before it, may be as large as the limit, and not a byte larger, however it comes."""
    for size, error in ((limit - 1, ""), (limit, ""), (limit + 1, "the response's head is too large")):
        pieces, method, offers = heads()[how](size)
        outcome = read(pieces, method, offers=offers, max_head_size=limit)
        assert outcome.error == error, size
        assert outcome.complete == (not error)


def test_d9_default_limit() -> None:
    """The limit is 100 KiB, as h11's is."""
    assert MAX_HEAD_SIZE == 102_400
    assert read([sized_head(MAX_HEAD_SIZE) + b"hi"]).body == b"hi"
    assert read([sized_head(MAX_HEAD_SIZE + 1) + b"hi"]).error == "the response's head is too large"


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 200 " + b"OK" * 100_000,
        OK + b"A: b\r\n" * 50_000,
        OK + b"A: " + b"b" * 200_000,
        OK + b"A" * 200_000,
        OK + b"A: " + b"\r\n " * 60_000,
        CONTINUE + b"HTTP/1.1 103 " + b"x" * 200_000,
    ],
)
@pytest.mark.parametrize("size", [1500, 300_000])
def test_d9_endless_head(endless: bytes, size: int) -> None:
    """A head without an end is refused when it has reached the limit, and no byte later."""
    reader = ResponseReader(b"GET")
    fed = 0

    def all_of_it() -> None:
        nonlocal fed
        for piece in pieces_of(endless, size):
            fed += len(piece)
            reader.feed(piece)

    with pytest.raises(RemoteProtocolError, match=r"^the response's head is too large$"):
        all_of_it()

    assert fed < MAX_HEAD_SIZE + max(size, 1500)


@pytest.mark.parametrize("start", [OK, b"HTTP/1.1 103 Early Hints\r\n"])
@pytest.mark.parametrize("size", [1, 50, 500])
def test_d9_no_byte_later(start: bytes, size: int) -> None:
    """A head that has reached the limit without an end is refused then, and waits for no other byte."""
    endless = start + b"A: " + b"b" * 500

    assert read(pieces_of(endless[:299], size), ends=False, max_head_size=300).error == ""
    assert (
        read(pieces_of(endless[:300], size), ends=False, max_head_size=300).error == "the response's head is too large"
    )


@pytest.mark.parametrize("size", [1, 70, 10**6])
def test_d9_size_of_the_trailers(size: int) -> None:
    """Trailers have a limit of their own, of the same size, however much came before them."""

    def outcome(fill: int) -> Outcome:
        data = CHUNKED + chunk_of(b"x" * 3000) + b"0\r\nA: " + b"b" * fill + b"\r\nC: d\r\n\r\n"
        return read(pieces_of(data, size), max_head_size=1000)

    fits = 1000 - len(b"A: \r\nC: d\r\n")
    assert outcome(fits).trailers == [(b"A", b"b" * fits), (b"C", b"d")]
    assert outcome(fits + 1).error == "the response's trailers are too large"


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nA: " + b"b" * 500_000, b"0\r\n" + b"A" * 500_000, b"2;a=" + b"b" * 500_000, b"0;" + b"a" * 500_000],
)
def test_d9_endless_trailer(endless: bytes) -> None:
    """A trailer or a chunk extension without an end is refused, too."""
    outcome = read([CHUNKED, *pieces_of(endless, 10_000)], ends=False)

    assert outcome.error == "the response's trailers or chunk extensions are too large"


def test_d9_many_chunk_extensions() -> None:
    """Chunk extensions that come with chunks are no matter, however many they are."""
    chunk = b"2;" + b"a" * 1500 + b"\r\nhi\r\n"
    outcome = read(pieces_of(CHUNKED + chunk * 40 + LAST_CHUNK, 100), max_head_size=1000)

    assert outcome.error == ""
    assert outcome.body == b"hi" * 40


@pytest.mark.parametrize("size", [7, 10**7])
def test_e5_many_small_chunks(size: int) -> None:
    """A hundred thousand chunks of a byte make one body."""
    number = 100_000
    outcome = read(pieces_of(CHUNKED + b"1\r\nx\r\n" * number + LAST_CHUNK, size))

    assert outcome.body == b"x" * number
    assert outcome.reusable


def test_e5_large_body() -> None:
    """A large body is given on as it comes, piece by piece."""
    piece = bytes(256) * 1024
    reader = ResponseReader(b"GET")
    reader.feed(OK + b"Content-Length: %d\r\n\r\n" % (40 * len(piece)))
    for _ in range(40):
        reader.feed(piece)
        assert reader.chunks == [piece]
        reader.chunks.clear()

    assert reader.complete
    assert reader.received == 40 * len(piece)


# What the errors say.


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Server disconnected without sending a response."),
        (b"H", "peer closed connection before the end of the response's head"),
        (CONTINUE, "peer closed connection before the end of the response's head"),
        (
            OK + b"Content-Length: 10\r\n\r\nhello",
            "peer closed connection without sending complete message body (received 5 bytes, expected 10)",
        ),
        (CHUNKED, "peer closed connection without sending complete message body (incomplete chunked read)"),
        (
            b"<html>" * 9,
            "the response does not begin with an HTTP/1 status line, but with b'<html><html><html><html><html><html><htm'",
        ),
        (b"HTTP/1.1 099 Low\r\n\r\n", "the response has the status 099, which is below 100"),
        (OK + b"A: b\0\r\n\r\n", "the response's head has a NUL in it"),
        (CHUNKED + b"0\r\nA: \0\r\n\r\n", "the response's trailers have a NUL in them"),
        (SWITCHED, "the server switched to a protocol that the request did not offer"),
        (
            b"HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\n\r\n",
            "the informational response 102 announces a body",
        ),
        (
            OK + b"Content-Length : 2\r\n\r\nhi",
            "there is a blank before the colon of the header b'Content-Length '",
        ),
        (OK + b"A\r\n", r"Invalid header token; it came in b'HTTP/1.1 200 OK\r\nA\r\n'"),
        (
            CHUNKED + b"x" * 60,
            r"Invalid character in chunk size; it came in b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxxxxxxxxxxxxx'...",
        ),
    ],
)
def test_b_texts(data: bytes, text: str) -> None:
    """The text of an error says what is wrong, and shows the bytes, but not many."""
    reader = ResponseReader(b"GET")

    def all_of_it() -> None:
        if data:
            reader.feed(data)
        reader.end()

    with pytest.raises(RemoteProtocolError) as caught:
        all_of_it()

    assert str(caught.value) == text
    assert caught.value.__cause__ is None


def test_b_other_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is not about the response comes out as it is, though the parser catches it."""
    error = KeyboardInterrupt()

    def interrupt(reader: ResponseReader, data: bytes) -> None:
        raise error

    monkeypatch.setattr(ResponseReader, "on_body", interrupt)

    with pytest.raises(KeyboardInterrupt) as caught:
        ResponseReader(b"GET").feed(OK + b"Content-Length: 2\r\n\r\nhi")

    assert caught.value is error


def test_readers_are_freed() -> None:
    """A reader that is complete is freed with its last reference, and does not wait for the collector."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(thing, ResponseReader) for thing in gc.get_objects())
        assert all(whole(sample).complete for sample in GOOD.values())
        assert sum(isinstance(thing, ResponseReader) for thing in gc.get_objects()) == before
    finally:
        gc.enable()
