"""Table E: what the upstream answers, and what the client gets of it."""

import asyncio
import gzip
from http import HTTPStatus

from .._kit import Lab, Response, Script, TookTooLong, UpstreamConnection, answering, chunked, expect, ok
from .._rows import MUST, OPTION, SHOULD, WANT, invisible, row
from .._scenes import CHUNKED_OK, MOMENT, Hands, answers, by_path, push, respond

__all__ = ()

_OK = (200, b"ok")


def _head(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Return a response's head of these lines, whatever they say about the body."""
    return b"\r\n".join((start, b"X-Theirs: 1", *lines, b"", b""))


def _and_hang_up(response: bytes, after: float = 0.0) -> Script:
    """Return a script that answers with these bytes, whatever they are, and closes the connection."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.read_body()
        await connection.send(response)
        await asyncio.sleep(after)
        connection.close()

    return script


@row("E1", "Set-Cookie and other repeated lines stay separate, in their order", rfc="RFC 6265 3, 9110 5.3", level=MUST)
async def e1(lab: Lab) -> None:
    """Cookies have commas in them; WWW-Authenticate has, too."""
    cookies, ways = [b"a=1; Path=/, x", b"b=2"], [b'Basic realm="a, b"', b"Other"]
    lines = [b"Set-Cookie: " + cookies[0], b"WWW-Authenticate: " + ways[0], b"X-Many: 1"]
    lines += [b"set-cookie: " + cookies[1], b"WWW-Authenticate: " + ways[1], b"X-Many: 2"]
    response = (await lab.exchange(answer=ok(b"ok", *lines))).response
    expect(response.values(b"set-cookie") == cookies, "two Set-Cookie lines did not stay two")
    expect(response.values(b"www-authenticate") == ways, "two WWW-Authenticate lines did not stay two")
    expect(response.values(b"x-many") == [b"1", b"2"], "two lines of one name did not stay two")


@row(
    "E2", "compressed bodies pass as they are, and nobody but the client asks for them", rfc="RFC 9110 7.7", level=WANT
)
async def e2(lab: Lab) -> None:
    """With Accept-Encoding and without; and a body that is not compressed, though its head says so."""
    packed = gzip.compress(b"hello" * 1000)
    for lines, wants in (([b"Accept-Encoding: gzip;q=1.0, *;q=0"], [b"gzip;q=1.0, *;q=0"]), ([], [])):
        seen = await lab.exchange(*lines, answer=ok(packed, b"Content-Encoding: gzip", b'ETag: "x"'))
        expect(seen.request.values(b"accept-encoding") == wants, "the upstream got another Accept-Encoding")
        response = seen.response
        expect(response.values(b"content-encoding") == [b"gzip"], "the response's Content-Encoding is another one")
        expect(response.body == packed, "the bytes of a compressed body are others")
        expect(response.length == len(packed), "a compressed body's Content-Length is another one, or gone")
    plain = (await lab.exchange(answer=ok(b"not gzip", b"Content-Encoding: gzip"))).response
    expect(plain.body == b"not gzip", "a body that only claims to be compressed did not pass as it is")


_BODILESS: tuple[tuple[bytes, bytes, list[list[bytes]]], ...] = (
    (b"HEAD", _head(b"Content-Length: 1234"), [[b"1234"]]),
    (b"HEAD", _head(), [[]]),
    (b"GET", _head(start=b"HTTP/1.1 204 No Content"), [[]]),
    # A 304 may tell the length that a 200 would have, or not (RFC 9110, section 8.6).
    (b"GET", _head(b"Content-Length: 1234", b'ETag: "x"', start=b"HTTP/1.1 304 Not Modified"), [[b"1234"], []]),
)


@row("E3", "HEAD keeps its Content-Length; HEAD, 204 and 304 have no body", rfc="RFC 9112 6.3", level=MUST)
async def e3(lab: Lab) -> None:
    """Each is followed by another request on the same connection, whose response would show a body that is too much."""
    for method, head, lengths in _BODILESS:
        what = "a HEAD" if method == b"HEAD" else "a " + head[9:12].decode("ascii")
        client = await lab.client()
        lab.upstream.answer_with(head)
        await client.send(lab.request(b'If-None-Match: "x"', method=method))
        response = await respond(client, f"{what} was not answered", method)
        expect(response.start[9:12] == head[9:12], f"the response to {what} became {response}")
        expect(b"x-theirs" in response.names, f"the header lines of the response to {what} got lost")
        expect(response.values(b"content-length") in lengths, f"the Content-Length of {what} is another one, or gone")
        lab.upstream.answer_with(ok())
        await client.send(lab.request())
        second = await respond(client, f"after {what}, the next request on the connection was not answered")
        # Closing the connection is safe as well.
        expect(not second.head or (second.status, second.body) == _OK, f"after {what} there was more: {second}")


@row("E4", "a body that ends with the upstream's connection reaches the client whole", rfc="RFC 9112 6.3", level=MUST)
async def e4(lab: Lab) -> None:
    """Of HTTP/1.0 and 1.1; a client of 1.1 can see that it is whole. For clients of HTTP/1.0 there is E19."""
    for version in (b"HTTP/1.0", b"HTTP/1.1"):
        what = f"a body of {version.decode('ascii')} without a length"
        response = (await lab.exchange(answer=_and_hang_up(_head(start=version + b" 200 OK") + b"hello"))).response
        answers(response, 200, what)
        expect(response.body == b"hello", f"{what} did not arrive whole")
        expect(response.chunked or response.length is not None, f"{what} has no end that the client could check")


_TRUNCATED = {
    b"length": ("a body that is shorter than its length", _head(b"Content-Length: 100") + b"hello"),
    b"no-last-chunk": ("a body without its last chunk", CHUNKED_OK + b"5\r\nhello\r\n"),
    b"in-a-chunk": ("a body that ends in a chunk", CHUNKED_OK + b"50\r\nhello"),
    b"in-the-last-chunk": ("a body that ends in its last chunk", CHUNKED_OK + b"5\r\nhello\r\n0\r\n"),
    b"bad-chunk": ("a body with a broken chunk", CHUNKED_OK + b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"),
}


async def _truncated(connection: UpstreamConnection) -> None:
    """Answer with half a response and, a moment later, end the connection; what and how is in the target."""
    await connection.read_body()
    kind, ending = connection.request.target.rsplit(b"/", 2)[1:]
    await connection.send(_TRUNCATED[kind][1])
    await asyncio.sleep(MOMENT)
    getattr(connection, ending.decode("ascii"))()


@row("E5", "a response that is cut short upstream is cut short for the client, too", rfc="RFC 9112 8", level=MUST)
async def e5(lab: Lab) -> None:
    """Closed or reset in the middle of whatever framing; who has not begun the answer yet may give an error instead."""
    lab.upstream.answer_with(_truncated)
    await asyncio.gather(*(_check_cut(lab, kind, ending) for kind in _TRUNCATED for ending in (b"close", b"reset")))


async def _check_cut(lab: Lab, kind: bytes, ending: bytes) -> None:
    what = _TRUNCATED[kind][0] + (", reset" if ending == b"reset" else "")
    try:
        response = (await lab.exchange(target=b"/%s/%s" % (kind, ending))).response
    except TookTooLong:
        raise TookTooLong(f"{what}: the client is left waiting for the rest") from None
    expect(not response.complete or response.status in range(500, 600), f"{what} looks whole to the client")


@row("E6", "an upstream that fails before the first byte of its body is a clean 502", level=WANT)
async def e6(lab: Lab) -> None:
    """Closed or reset behind a head; nothing of that head is left."""
    head = _head(b"Content-Length: 100", b"Set-Cookie: a=1", start=b"HTTP/1.1 201 Created")
    for ending in ("close", "reset"):

        async def script(connection: UpstreamConnection, ending: str = ending) -> None:
            await connection.read_body()
            await connection.send(head)
            getattr(connection, ending)()

        response = (await lab.exchange(answer=script)).response
        answers(response, 502, "a head, and then the end of the connection")
        left = {b"x-theirs", b"set-cookie"} & response.names
        expect(not left, "the 502 has header lines of the response that failed")


_POISON = ok(b"POISON")
_ENDED = {
    b"length": (b"GET", "a body of known length", ok()),
    b"chunked": (b"GET", "a body in chunks", CHUNKED_OK + chunked(b"ok")),
    b"head": (b"HEAD", "a response to HEAD", _head(b"Content-Length: %d" % len(_POISON))),
    b"304": (b"GET", "a 304", _head(b"Content-Length: %d" % len(_POISON), start=b"HTTP/1.1 304 Not Modified")),
    b"204": (b"GET", "a 204", _head(start=b"HTTP/1.1 204 No Content")),
}


@row("E7", "bytes behind a response are never the response to another request", rfc="RFC 9112 6.3", level=MUST)
async def e7(lab: Lab) -> None:
    """What comes with the end of the response, whatever that is, and what comes later, on the idle connection."""
    for kind, (method, what, response) in _ENDED.items():
        lab.upstream.answer_with(by_path({kind: response + _POISON, b"next": ok(b"clean")}))
        first = await lab.exchange(method=method, target=b"/" + kind)
        expect(b"POISON" not in first.response.body, f"what stood behind {what} was taken for a part of it")
        await _check_next(lab, f"what stood behind {what}")
    late = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.read_body()
        await connection.send(ok())
        await asyncio.sleep(MOMENT / 2)
        await connection.send(_POISON)
        late.set()

    await lab.exchange(target=b"/late", answer=by_path({b"late": script, b"next": ok(b"clean")}))
    await late.wait()
    await asyncio.sleep(MOMENT / 2)
    await _check_next(lab, "what came on an idle connection")


async def _check_next(lab: Lab, what: str) -> None:
    second = (await lab.exchange(target=b"/next")).response
    expect(b"POISON" not in second.body, f"{what} became the response to the next client's request")
    expect((second.status, second.body) == (200, b"clean"), f"after {what}, the next client got {second}")


_HINTS = (
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\r\n"
)


@row("E8", "interim responses (102, 103) are forwarded, but not to HTTP/1.0", rfc="RFC 9110 15.2", level=MUST)
async def e8(lab: Lab) -> None:
    """And the final response is what it is without them."""
    response = (await lab.exchange(answer=_HINTS + ok(b"final"))).response
    answers(response, 200, "a response behind interim ones")
    expect(response.body == b"final", "the body of a response behind interim ones is another one")
    expect(b"link" not in response.names, "the header lines of an interim response are in the final one")
    old = (await lab.exchange(version=b"HTTP/1.0")).response
    expect((old.status, old.body, old.interim) == (200, b"final", []), "HTTP/1.0 got an interim response")
    hints = [interim for interim in response.interim if interim.status == HTTPStatus.EARLY_HINTS]
    expect(hints, "the client did not get the 103 Early Hints")
    links = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
    expect(hints[0].values(b"link") == links, "the links of the 103 Early Hints are others")
    expect([interim.status for interim in response.interim] == [102, 103], "the client did not get the 102")


_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nhello"


@row("E9", "a 101 that was not asked for is a 502, and its connection is closed", rfc="RFC 9110 7.8", level=MUST)
async def e9(lab: Lab) -> None:
    """Without any wish to change the protocol, and with another wish."""
    for lines, what in (
        ((), "a 101 that nobody asked for"),
        ((b"Connection: Upgrade", b"Upgrade: one"), "a 101 to another protocol than was asked for"),
    ):
        hands, client = Hands(lab), await lab.client()
        await client.send(lab.request(*lines))
        upstream = await hands.take(f"{what}: the request did not go up")
        await upstream.send(_SWITCHING)
        answers(await respond(client, f"{what}: no answer"), 502, what)
        expect(await upstream.closed(), f"{what}: the upstream's connection stays open")


@row("E10", "unusual statuses pass; what is no status is a 502", rfc="RFC 9110 15", level=SHOULD)
async def e10(lab: Lab) -> None:
    """All of three digits below 600 are statuses, and redirects are not followed."""
    for status in (200, 218, 299, 301, 399, 418, 499, 599):
        start = b"HTTP/1.1 %d Some reason" % status
        response = (await lab.exchange(answer=_head(b"Content-Length: 2", start=start) + b"ok")).response
        answers(response, status, f"an upstream's {status}")
        expect(response.body == b"ok", f"the body of a {status} got lost")
    for text in (b"600", b"888", b"999", b"099", b"000"):
        answer = _head(b"Content-Length: 2", start=b"HTTP/1.1 " + text + b" X") + b"ok"
        answers((await lab.exchange(answer=answer)).response, 502, f'"{text.decode()}" for a status')


_UNFRAMED = {
    "two lengths": _head(b"Content-Length: 2", b"Content-Length: 3") + b"ok",
    "a list of two lengths": _head(b"Content-Length: 2, 3") + b"ok",
    "a length of +2": _head(b"Content-Length: +2") + b"ok",
    "a length of -2": _head(b"Content-Length: -2") + b"ok",
    "a length of 0x2": _head(b"Content-Length: 0x2") + b"ok",
    "a word for a length": _head(b"Content-Length: two") + b"ok",
    "garbage": b"garbage\r\n\r\n",
    "a body without a head": b"<html>hello</html>",
    "half a head": b"HTTP/1.1 200 OK\r\nX-Theirs: 1\r\n",
}


@row("E11", "a response with broken framing is a 502, and its connection is closed", rfc="RFC 9112 6.3", level=MUST)
async def e11(lab: Lab) -> None:
    """Lengths that are none, or that contradict each other; what is no response at all."""
    for what, broken in _UNFRAMED.items():
        response = (await lab.exchange(answer=_and_hang_up(broken, after=MOMENT / 10))).response
        answers(response, 502, what)
        expect(b"x-theirs" not in response.names, f"{what}: header lines of the broken response arrived")
    hands, client = Hands(lab), await lab.client()
    await client.send(lab.request())
    upstream = await hands.take("the next request did not go up")
    await upstream.send(_UNFRAMED["two lengths"])
    expect(await upstream.closed(), "two lengths: the upstream's connection stays open")


@row("E12", "with a Content-Length beside chunks, the chunks count", rfc="RFC 9112 6.3", level=MUST)
async def e12(lab: Lab) -> None:
    """An error is as good; passing both on is not."""
    both = _head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + chunked(b"hello")
    response = (await lab.exchange(answer=both)).response
    answers(response, {200, 502}, "a response with a length and chunks")
    bad = response.chunked and response.length is not None
    expect(not bad, "both the length and the chunks were passed on")
    expect(response.status == HTTPStatus.BAD_GATEWAY or response.body == b"hello", "the length counted, not the chunks")


@row("E13", "folded lines and blanks before a colon are mended or refused", rfc="RFC 9112 5.1, 5.2", level=MUST)
async def e13(lab: Lab) -> None:
    """A folded line becomes one with a blank in it; a name has none behind it."""
    for fold in (b"\r\n ", b"\r\n\t"):
        response = (await lab.exchange(answer=ok(b"ok", b"X-Folded: a" + fold + b"b", b"X-Next: 1"))).response
        answers(response, {200, 502}, "a folded line")
        raw = response.head.split(b"\r\n")[1:]
        expect(not any(line[:1] in {b" ", b"\t"} for line in raw[:-2]), "a folded line was passed on as it is")
        _check_parts(response)
    for line in (b"X-Blank : 1", b"X-Blank\t: 1"):
        response = (await lab.exchange(answer=ok(b"ok", line))).response
        answers(response, {200, 502}, "a blank before the colon")
        expect(not {b"x-blank ", b"x-blank\t"} & response.names, "a blank before the colon was passed on")


def _check_parts(response: Response) -> None:
    parts = [value.split() for value in response.values(b"x-folded")]
    mended = parts == [[b"a", b"b"]] and response.values(b"x-next") == [b"1"]
    expect(response.status == HTTPStatus.BAD_GATEWAY or mended, "a folded line became another value")


_ENDLESS = 32 * 1024 * 1024


@row("E14", "a response's head that does not end is a 502 before it is too large", level=WANT)
async def e14(lab: Lab) -> None:
    """At 32 MiB at the latest; Go's limit, the largest known, is 10."""
    hands, client = Hands(lab), await lab.client()
    await client.send(lab.request())
    upstream = await hands.take("the request did not go up")
    await upstream.send(b"HTTP/1.1 200 OK\r\n")
    taken = await push(upstream, b"X-Endless: %s\r\n" % (b"a" * 1000) * 64, _ENDLESS)
    expect(taken < _ENDLESS, f"a head of {_ENDLESS >> 20} MiB was taken")
    answers(await respond(client, "a head without end: no answer"), 502, "a head without end")


@row("E15", "a Location at the upstream becomes one at the proxy", level=OPTION)
async def e15(lab: Lab) -> None:
    """Absolute, and relative to the host; what is elsewhere stays as it is."""
    ours = (lab.target(b"/next"), b"http://" + lab.authority + lab.target(b"/next"))
    elsewhere = b"https://elsewhere.example" + lab.based(b"/next")
    for location, wanted in (
        (elsewhere, (elsewhere,)),
        (lab.based(b"/next"), ours),
        (b"http://" + lab.upstream_authority + lab.based(b"/next"), ours),
    ):
        answer = _head(b"Content-Length: 0", b"Location: " + location, start=b"HTTP/1.1 302 Found")
        response = (await lab.exchange(answer=answer)).response
        became = b", ".join(response.values(b"location"))
        expect(became in wanted, f"a Location of {location.decode()} became {became.decode('latin-1')}")


@row("E16", "a cookie's Path at the upstream becomes one at the proxy", level=OPTION)
async def e16(lab: Lab) -> None:
    """The browser would not send it back otherwise; a Domain that is the upstream's host would hinder it as well."""
    host = lab.upstream_authority.rpartition(b":")[0]
    cookie = b"a=1; Path=%s; Domain=%s" % (lab.based(b"/y"), host)
    response = (await lab.exchange(answer=ok(b"ok", b"Set-Cookie: " + cookie))).response
    became = b"".join(response.values(b"set-cookie"))
    attributes = [attribute.strip().lower() for attribute in became.split(b";")]
    expect(b"path=" + lab.target(b"/y").lower() in attributes, f"the cookie became {became.decode('latin-1')}")
    public = lab.authority.rpartition(b":")[0]
    domains = {attribute for attribute in attributes if attribute.startswith(b"domain=")}
    expect(domains <= {b"domain=" + public.lower()}, f"the cookie became {became.decode('latin-1')}")


invisible(
    "E17", "hooks can change a response, replace its body, or answer themselves", "they are functions in the proxy"
)


@row("E18", "Alt-Svc is dropped, and Strict-Transport-Security does not come twice", level=WANT)
async def e18(lab: Lab) -> None:
    """A client that believed the first would go to the upstream directly."""
    lines = (b'Alt-Svc: h2="upstream.example:443"', b"Strict-Transport-Security: max-age=60")
    response = (await lab.exchange(answer=ok(b"ok", *lines))).response
    answers(response, 200, "a response with Alt-Svc")
    expect(b"alt-svc" not in response.names, "the client was invited to the upstream by Alt-Svc")
    expect(len(response.values(b"strict-transport-security")) <= 1, "there are two Strict-Transport-Security")


@row("E19", "a client of HTTP/1.0 gets no chunks, and the end of the connection", rfc="RFC 9112 6.1, 9.3", level=MUST)
async def e19(lab: Lab) -> None:
    """For a body in chunks, and for one that ends with the connection."""
    for answer in (answering(CHUNKED_OK + chunked(b"hello")), _and_hang_up(_head() + b"hello")):
        lab.upstream.answer_with(answer)
        client = await lab.client()
        await client.send(lab.request(version=b"HTTP/1.0"))
        response = await respond(client, "HTTP/1.0: no end of the response")
        expect(response.status == HTTPStatus.OK, f"HTTP/1.0: the client got {response}")
        expect(b"transfer-encoding" not in response.names, "HTTP/1.0: the client got a body in chunks")
        expect(response.body == b"hello", "HTTP/1.0: the body did not arrive as it was")
        expect(await client.closed(), "HTTP/1.0: the connection stays open")
