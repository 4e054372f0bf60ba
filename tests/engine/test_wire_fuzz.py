"""
Requests and responses that nobody thought of.

Whatever a server sends, reading it ends, with a response or with our error, and says the same in
whatever pieces it came; and what is well-formed is read, and written, as h11 does it.
"""

from typing import NamedTuple

import h11
from hypothesis import HealthCheck, example, given, settings, strategies as st

from fastapi_httpx_pool.engine._wire import LAST_CHUNK, MAX_INFORMATIONAL, ResponseReader, chunk_of, head_of
from fastapi_httpx_pool.exceptions import LocalProtocolError, RemoteProtocolError
from fastapi_httpx_pool.messages import Header, Origin, Request
from tests.engine.corpus import BAD, CUT, GOOD, Sample
from tests.support.wire import Told, cut_at, h11_told, pieces_of, read

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SAMPLES = [sample for group in (GOOD, BAD, CUT) for sample in group.values() if len(sample.data) < 1000]
# What framing is made of, and what breaks it.
SHARDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b'"', b"\x0b", b"\xff", b"0", b"1", b"f", b"-"),
    *(b"chunked", b"identity", b"close", b"HTTP/1.1 ", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 \r\n\r\n", b"\r\n\r\n"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: x\r\n"),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"101", b"204", b"099", b"999", b"18446744073709551616", b"9" * 5000),
]

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
tokens = st.lists(st.sampled_from(list(TOKEN)), min_size=1, max_size=12).map(bytes)
places = st.lists(st.integers(0, 10**6), max_size=6)


# Damaged responses.


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Take one of the corpus, and cut, repeat, join and overwrite."""
    data = draw(st.sampled_from(SAMPLES)).data
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        data = draw(
            st.sampled_from(
                [
                    data[:start],
                    data[start:],
                    data[:start] + data[end:],
                    data[:end] + data[start:],
                    data[:start] + draw(st.sampled_from(SHARDS)) + data[start:],
                    data[:start] + draw(st.sampled_from(SHARDS)) + data[end:],
                    data[:start] + draw(st.binary(max_size=3)) + data[end:],
                    data[:start] + draw(st.sampled_from(SAMPLES)).data[start:],
                ]
            )
        )
    return data


methods = st.sampled_from([b"GET", b"GET", b"HEAD", b"CONNECT"])


@settings(BOUNDED, max_examples=400)
@given(damaged(), methods, st.booleans(), places, st.sampled_from([300, 100_000]))
@example(b"HTTP/1.1 200 OK\nContent-Length: 5\n\r\nEVIL\r\n\r\n", b"HEAD", False, [17], 300)
@example(b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n", b"HEAD", False, [21], 300)
@example(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=" + b"9" * 5000 + b"\r\n\r\n", b"GET", False, [], 100_000)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nhi\r\n0", b"GET", False, [], 300)
def test_damaged(data: bytes, method: bytes, offers: bool, at: list[int], limit: int) -> None:
    """A damaged response is read or refused, never with another error, in whatever pieces it comes."""
    outcome = read([data] if data else [], method, offers=offers, max_head_size=limit)

    for pieces in (cut_at(data, at), pieces_of(data, 1)):
        split = read(pieces, method, offers=offers, max_head_size=limit)
        assert bool(split.error) == bool(outcome.error)
        # A line break behind the end is swallowed if it comes along. What is wrong with a trailer
        # is found with it, or before, with what is wrong behind it.
        assert split._replace(reusable=False, error="") == outcome._replace(reusable=False, error="")
        assert outcome.reusable >= split.reusable

    assert len(outcome.body) + len(outcome.surplus) <= len(data)
    assert len(outcome.informational) <= MAX_INFORMATIONAL
    assert outcome.complete or outcome.error
    assert not (outcome.reusable and (outcome.upgraded or outcome.error))
    assert not any(byte in value for _, value in outcome.headers + outcome.trailers for byte in b"\r\n\0")
    assert all(set(name) <= set(TOKEN) for name, _ in outcome.headers + outcome.trailers)


@settings(BOUNDED, max_examples=300)
@given(st.sampled_from([sample for sample in GOOD.values() if len(sample.data) < 1000]), st.binary(min_size=1), places)
def test_nothing_beyond_the_end(sample: Sample, surplus: bytes, at: list[int]) -> None:
    """Bytes behind a response change nothing but whether the connection is used again."""
    alone = read([sample.data], sample.method, offers=sample.offers, ends=False)
    data = sample.data + surplus
    both = read(cut_at(data, at), sample.method, offers=sample.offers, ends=False)

    if alone.upgraded:
        assert both == alone._replace(surplus=alone.surplus + surplus)
    elif alone.complete:
        assert both._replace(reusable=False) == alone._replace(reusable=False)
        assert not both.reusable or not surplus.strip(b"\r\n")
    else:
        assert both == alone._replace(body=alone.body + surplus)


@settings(BOUNDED, max_examples=300)
@given(st.sampled_from(list(GOOD.values())), st.integers(0, 10**6), places)
def test_truncated(sample: Sample, length: int, at: list[int]) -> None:
    """A response that ends too early is never complete, unless it is one that ends with the connection."""
    alone = read([sample.data], sample.method, offers=sample.offers)
    data = sample.data[: length % len(sample.data)]
    reader = ResponseReader(sample.method, may_upgrade=sample.offers)
    for piece in cut_at(data, at):
        reader.feed(piece)

    until_the_end = not read([sample.data], sample.method, offers=sample.offers, ends=False).complete
    if reader.complete:
        assert reader.upgraded
        assert alone.surplus.startswith(reader.surplus)
        return
    try:
        reader.end()
    except RemoteProtocolError as exc:
        assert str(exc).startswith(("peer closed connection ", "Server disconnected "))  # noqa: PT017
        assert not reader.complete
    else:
        assert until_the_end
        assert alone.body.startswith(b"".join(reader.chunks))


@settings(BOUNDED, max_examples=300)
@given(damaged(), st.sampled_from([b"GET", b"HEAD"]))
def test_damaged_as_h11(data: bytes, method: bytes) -> None:
    """What both h11 and we make a response of is the same response."""
    theirs, ours = h11_told(data, method), read([data] if data else [], method)

    if theirs is not None and not ours.error:
        assert (ours.status, ours.http_version, ours.reason, ours.body) == (*theirs[:3], theirs.body)
        assert [name.lower() for name, _ in ours.headers] == [name for name, _ in theirs.headers]
        assert [status for status, _ in ours.informational] == [status for status, _ in theirs.informational]


# Well-formed responses.


def _is_value(value: bytes) -> bool:
    return value == value.strip(b" \t")


values = (
    st.lists(st.sampled_from([*range(0x21, 0x7F), 0x20, 0x09, 0x80, 0xE9, 0xFF]), max_size=20)
    .map(bytes)
    .filter(_is_value)
)
# What means something is added where it belongs.
_MEANINGFUL = {
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"upgrade",
    b"host",
}
names = tokens.filter(lambda name: name.lower() not in _MEANINGFUL)
headers = st.lists(st.tuples(names, values), max_size=5)
reasons = st.lists(st.sampled_from([*range(0x21, 0x7F), 0x20, 0xE9]), max_size=20).map(bytes).filter(_is_value)


class Made(NamedTuple):
    """A response as it was made, and its bytes."""

    data: bytes
    told: Told
    until_the_end: bool


def _lines(headers: list[Header], draw: st.DrawFn) -> bytes:
    blanks = st.sampled_from([b"", b" ", b" ", b"\t "])
    ends = st.sampled_from([b"\r\n", b"\r\n", b" \r\n"])
    return b"".join(name + b":" + draw(blanks) + value + draw(ends) for name, value in headers)


def _lowered(headers: list[Header]) -> list[Header]:
    return [(name.lower(), value) for name, value in headers]


def _in_chunks(body: bytes, draw: st.DrawFn) -> bytes:
    sizes = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b'%x;a="b c";d'])
    pieces = [piece for piece in cut_at(body, draw(places)) if piece]
    return b"".join(draw(sizes) % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces)


@st.composite
def made(draw: st.DrawFn, method: bytes) -> Made:
    """Make a response to a method."""
    informational = draw(st.lists(st.tuples(st.sampled_from([100, 102, 103, 199]), headers), max_size=2))
    before = b"".join(b"HTTP/1.1 %d Wait\r\n%b\r\n" % (status, _lines(lines, draw)) for status, lines in informational)
    status = draw(st.one_of(st.sampled_from([200, 204, 304]), st.integers(200, 999)))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]))
    reason, lines = draw(reasons), draw(headers)
    body = draw(st.binary(max_size=200))
    trailers: list[Header] = []
    framing = draw(st.sampled_from(["length", "chunks", "end"]))
    if framing == "length":
        lines.insert(draw(st.integers(0, len(lines))), (b"Content-Length", b"%d" % len(body)))
        after = body
    elif framing == "chunks" and version == b"HTTP/1.1":
        lines.insert(draw(st.integers(0, len(lines))), (b"Transfer-Encoding", b"chunked"))
        trailers = draw(headers)
        after = _in_chunks(body, draw) + b"0\r\n" + _lines(trailers, draw) + b"\r\n"
    else:
        framing, after = "end", body
    bodiless = method == b"HEAD" or status in (204, 304)
    if bodiless:
        body, after, trailers = b"", b"", []
    told = Told(
        status,
        version,
        reason,
        _lowered(lines),
        body,
        _lowered(trailers),
        [(code, _lowered(given)) for code, given in informational],
    )
    head = b"%b %d %b\r\n%b\r\n" % (version, status, reason, _lines(lines, draw))
    return Made(before + head + after, told, until_the_end=framing == "end" and not bodiless)


@settings(BOUNDED, max_examples=100)
@given(st.data(), st.sampled_from([b"GET", b"GET", b"HEAD"]), places)
def test_well_formed_as_h11(data: st.DataObject, method: bytes, at: list[int]) -> None:
    """A well-formed response is read as it was made, and as h11 reads it, and ends where it ends."""
    response = data.draw(made(method))
    pieces = cut_at(response.data, at)
    outcome = read(pieces, method)

    assert outcome.error == ""
    told = Told(
        outcome.status,
        outcome.http_version,
        outcome.reason,
        _lowered(outcome.headers),
        outcome.body,
        _lowered(outcome.trailers),
        [(status, _lowered(lines)) for status, lines in outcome.informational],
    )
    assert told == response.told
    assert told == h11_told(response.data, method)
    assert read(pieces, method, ends=False).complete == (not response.until_the_end)
    assert outcome.reusable == (response.told.http_version == b"HTTP/1.1" and not response.until_the_end)


# Requests.

anything = st.binary(max_size=8)
wild_names = st.one_of(
    names, anything, st.sampled_from([b"Connection", b"Expect", b"Upgrade", b"Content-Length", b"Host"])
)
wild_values = st.one_of(values, anything, st.sampled_from([b"0", b"5", b"close", b"chunked", b"\r\n", b" x ", b"\v"]))
framings: list[list[Header]] = [
    [],
    [(b"Content-Length", b"5")],
    [(b"Transfer-Encoding", b"Chunked")],
    [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")],
]


def _request(line: tuple[bytes, bytes], headers: list[Header]) -> Request:
    return Request(line[0], Origin(b"http", b"h", 80), line[1], headers)


def _as_server(head: bytes, body: bytes) -> tuple[h11.Request, bytes]:
    server = h11.Connection(h11.SERVER)
    server.receive_data(head + body)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    received = b""
    while isinstance(event := server.next_event(), h11.Data):
        received += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    return request, received


@settings(BOUNDED, max_examples=300)
@given(
    st.tuples(st.one_of(tokens, anything), st.one_of(st.just(b"/a?b=c"), anything.map(lambda path: b"/" + path))),
    st.lists(st.tuples(wild_names, wild_values), max_size=4),
    st.sampled_from(framings),
    st.lists(st.binary(min_size=1, max_size=20), max_size=3),
)
@example((b"GET", b"/"), [(b"A", b"\r\nB: c")], [], [])
@example((b"GET", b"/\xe4"), [], [], [])
@example((b"GET", b"/"), [(b"Content-Length", b"5")], framings[1], [])
@example((b"GET", b"/"), [(b"Content-Length", b"5 ")], [], [])
def test_accepted_requests_as_h11(
    line: tuple[bytes, bytes], more: list[Header], framing: list[Header], pieces: list[bytes]
) -> None:
    """Whatever we write, h11 reads as one request: the one that was meant, and its body."""
    headers = [(b"Host", b"h"), *more, *framing]
    try:
        head = head_of(_request(line, headers))
    except LocalProtocolError:
        return
    if head.length is None:
        body = b"".join(pieces)
        request, received = _as_server(head.data, b"".join(map(chunk_of, pieces)) + LAST_CHUNK)
    else:
        body = bytes(min(head.length, 1000))
        if head.length > len(body):
            return
        request, received = _as_server(head.data, body)

    assert (request.method, request.target, received) == (*line, body)
    meant = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    if head.length is None:
        meant = [(name, value) for name, value in meant if name != b"content-length"]
        meant = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in meant]
    assert list(request.headers) == meant


@settings(BOUNDED, max_examples=80)
@given(st.tuples(tokens, st.just(b"/")), headers, st.sampled_from(framings))
def test_well_formed_requests_are_accepted(
    line: tuple[bytes, bytes], lines: list[Header], framing: list[Header]
) -> None:
    """What is well-formed is not refused."""
    head = head_of(_request(line, [*lines, (b"Host", b"h"), *framing]))

    assert head.length == (None if framing and framing[0][0] == b"Transfer-Encoding" else 5 if framing else 0)
    assert head.data.count(b"\r\n\r\n") == 1
    assert head.data.endswith(b"\r\n\r\n")
