"""
Responses, byte by byte, that the tests of the wire read, split and damage.

``GOOD`` are complete and read without an error; ``BAD`` are refused; ``CUT`` end too early. A
response that once was read wrongly is added to the one that it belongs to.
"""

from typing import NamedTuple

__all__ = ("BAD", "CUT", "GOOD", "Sample")


class Sample(NamedTuple):
    """What a server sends until it closes the connection, and what it answers."""

    data: bytes
    method: bytes = b"GET"
    offers: bool = False
    """Whether the request offers another protocol."""


_OK = b"HTTP/1.1 200 OK\r\n"
_TWO = b"Content-Length: 2\r\n\r\nhi"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNKS = b"2\r\nhi\r\n0\r\n\r\n"
_SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"

GOOD: dict[str, Sample] = {
    # The status line.
    "no reason": Sample(b"HTTP/1.1 200 \r\n" + _TWO),
    "no reason and no blank": Sample(b"HTTP/1.1 200\r\n" + _TWO),
    "a reason in Latin-1": Sample(b"HTTP/1.1 200 \xe9t\xe9\r\n" + _TWO),
    "a long reason": Sample(b"HTTP/1.1 404 " + b"Not here either " * 8 + b"\r\n" + _TWO),
    "status 999": Sample(b"HTTP/1.1 999 Request denied\r\n" + _TWO),
    "HTTP/1.0": Sample(b"HTTP/1.0 200 OK\r\n" + _TWO),
    "HTTP/1.0 kept alive": Sample(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + _TWO),
    # Headers.
    "case and order": Sample(_OK + b"sEt-cOoKie: a=1\r\nX-A:1\r\nSet-Cookie: b=2\r\n" + _TWO),
    "blanks around values": Sample(_OK + b"A: \t a b \t \r\nB:\r\nC: \r\nD:x\r\n" + _TWO),
    "values in Latin-1": Sample(_OK + b"A: \xe4\xf6\xfc\xff\r\n" + _TWO),
    "control characters": Sample(_OK + b"A: a\x01b\x0bc\x1bd\x7f\r\n" + _TWO),
    "a folded value": Sample(_OK + b"A: a\r\n b\r\n\tc\r\nB: d\r\n" + _TWO),
    "line feeds only": Sample(b"HTTP/1.1 200 OK\nA: b\nContent-Length: 2\n\nhi"),
    "connection close": Sample(_OK + b"Connection: close\r\n" + _TWO),
    "keep-alive with a hint": Sample(_OK + b"Connection: keep-alive\r\nKeep-Alive: timeout=5, max=9\r\n" + _TWO),
    "upgrade in a 200": Sample(_OK + b"Upgrade: h2c\r\nConnection: upgrade\r\n" + _TWO, offers=True),
    "upgrade in a 426": Sample(
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n" + _TWO, offers=True
    ),
    # Bodies by length.
    "length 0": Sample(_OK + b"Content-Length: 0\r\n\r\n"),
    "length 2": Sample(_OK + _TWO),
    "length with zeros": Sample(_OK + b"Content-Length: " + b"0" * 60 + b"2\r\n\r\nhi"),
    "length in thousands of digits": Sample(_OK + b"Content-Length: " + b"0" * 5000 + b"2\r\n\r\nhi"),
    "a body like a response": Sample(_OK + b"Content-Length: 19\r\n\r\n" + b"HTTP/1.1 200 OK\r\n\r\n"),
    "204": Sample(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with a length": Sample(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    "204 chunked": Sample(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "304 with a length": Sample(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n'),
    "304 chunked": Sample(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    # In chunks.
    "no chunk": Sample(_CHUNKED + b"0\r\n\r\n"),
    "one chunk": Sample(_CHUNKED + _CHUNKS),
    "chunks of one byte": Sample(_CHUNKED + b"1\r\nh\r\n1\r\ni\r\n1\r\n!\r\n0\r\n\r\n"),
    "sizes in either case": Sample(
        _CHUNKED + b"A\r\n0123456789\r\nb\r\n0123456789a\r\n00c\r\n0123456789ab\r\n000\r\n\r\n"
    ),
    "blanks behind a size": Sample(_CHUNKED + b"2  \r\nhi\r\n0 \r\n\r\n"),
    "chunk extensions": Sample(_CHUNKED + b'2;a=b;c="d \\" ;e";f\r\nhi\r\n0;last\r\n\r\n'),
    "chunked in capitals": Sample(_OK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + _CHUNKS),
    "gzip, chunked": Sample(_OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNKS),
    "gzip and chunked in two lines": Sample(
        _OK + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS
    ),
    "chunked twice": Sample(_OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + _CHUNKS),
    "chunked behind a blank": Sample(_OK + b"Transfer-Encoding: gzip , \tchunked \r\n\r\n" + _CHUNKS),
    "chunked with a length": Sample(_OK + b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS),
    "a length with chunked": Sample(_OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n" + _CHUNKS),
    "HTTP/1.0 chunked": Sample(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS
    ),
    "trailers": Sample(_CHUNKED + b"2\r\nhi\r\n0\r\nDigest: abc \r\ndigest:d\r\nX:\r\n\r\n"),
    "trailers of the framing": Sample(
        _CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 7\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n"
    ),
    # Until the end.
    "until the end": Sample(_OK + b"\r\nhi"),
    "until the end, empty": Sample(_OK + b"\r\n"),
    "HTTP/1.0 until the end": Sample(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhi\r\nho"),
    "identity": Sample(_OK + b"Transfer-Encoding: identity\r\n\r\nhi"),
    "identity with a length": Sample(_OK + b"Transfer-Encoding: identity\r\nContent-Length: 50\r\n\r\nhi"),
    "chunked, gzip": Sample(_OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nhi"),
    "xchunked": Sample(_OK + b"Transfer-Encoding: xchunked\r\n\r\nhi"),
    "chunked with a control character": Sample(_OK + b"Transfer-Encoding: \x0bchunked\r\n\r\nhi"),
    # Informational ones before it.
    "100": Sample(b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + _TWO),
    "100 without a reason": Sample(b"HTTP/1.1 100\r\n\r\n" + _OK + _TWO),
    "100 of length 0": Sample(b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + _OK + _TWO),
    "100 with line feeds only": Sample(b"HTTP/1.1 100 Continue\nA: b\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nhi"),
    "102, 103 and 199": Sample(
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
        b"HTTP/1.1 199 Whatever\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + _CHUNKED + _CHUNKS
    ),
    "103, then until the end": Sample(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.0 200 Fine\r\n\r\nhi"),
    "100, then 204": Sample(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    # To HEAD.
    "HEAD with a length": Sample(_OK + b"Content-Length: 500\r\n\r\n", b"HEAD"),
    "HEAD chunked": Sample(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"HEAD"),
    "HEAD without either": Sample(_OK + b"\r\n", b"HEAD"),
    "HEAD with connection close": Sample(_OK + b"Content-Length: 5\r\nConnection: close\r\n\r\n", b"HEAD"),
    "HEAD in HTTP/1.0": Sample(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD"),
    "HEAD after 103": Sample(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + _OK + b"Content-Length: 5\r\n\r\n", b"HEAD"),
    "HEAD with line feeds only": Sample(b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", b"HEAD"),
    "HEAD with line feeds and a CRLF": Sample(b"HTTP/1.1 200 OK\nContent-Length: 5\n\r\n", b"HEAD"),
    "HEAD with a folded value": Sample(_OK + b"A: b\r\n \r\n c\r\nContent-Length: 5\r\n\r\n", b"HEAD"),
    # Another protocol.
    "101": Sample(_SWITCHED + b"\r\n", offers=True),
    "101 with more": Sample(_SWITCHED + b"\r\n\x81\x02hi\r\n\r\nHTTP/1.1 ", offers=True),
    "101 with a length": Sample(_SWITCHED + b"Content-Length: 5\r\n\r\nhello, world", offers=True),
    "101 chunked": Sample(_SWITCHED + b"Transfer-Encoding: chunked\r\n\r\nhello, world", offers=True),
    "101 without its headers": Sample(b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello, world", offers=True),
    "101 after 100": Sample(b"HTTP/1.1 100 Continue\r\n\r\n" + _SWITCHED + b"\r\nhello", offers=True),
    "101 to HEAD": Sample(_SWITCHED + b"\r\nhello", b"HEAD", offers=True),
    "101 to CONNECT": Sample(_SWITCHED + b"\r\nhello", b"CONNECT", offers=True),
    "CONNECT": Sample(b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x01\r\n\r\nhi", b"CONNECT"),
    "CONNECT with a length": Sample(_OK + b"Content-Length: 5\r\n\r\nhello, world", b"CONNECT"),
    "CONNECT chunked": Sample(_CHUNKED + b"hello, world", b"CONNECT"),
    "CONNECT with 204": Sample(b"HTTP/1.1 204 No Content\r\n\r\nhello", b"CONNECT"),
    "CONNECT after 100": Sample(b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + b"\r\nhello", b"CONNECT"),
    "CONNECT with line feeds only": Sample(b"HTTP/1.1 200 OK\n\nhello\r\n\r\n", b"CONNECT"),
    "CONNECT refused": Sample(b"HTTP/1.1 407 Proxy Authentication Required\r\n" + _TWO, b"CONNECT"),
    "CONNECT refused after 100": Sample(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n" + _TWO, b"CONNECT"),
    "CONNECT refused until the end": Sample(b"HTTP/1.1 502 Bad Gateway\r\n\r\nhi", b"CONNECT"),
}

BAD: dict[str, Sample] = {
    # No HTTP/1.
    "an SSH server": Sample(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a TLS alert": Sample(b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTML": Sample(b"<html>hello</html>"),
    "HTTP/2": Sample(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80"),
    "RTSP": Sample(b"RTSP/1.0 200 OK\r\n" + _TWO),
    "ICE": Sample(b"ICE/1.0 200 OK\r\n" + _TWO),
    "ICY": Sample(b"ICY 200 OK\r\n" + _TWO),
    "a request": Sample(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": Sample(b"HTTP/0.9 200 OK\r\n" + _TWO),
    "HTTP/1.2": Sample(b"HTTP/1.2 200 OK\r\n" + _TWO),
    "HTTP/1.10": Sample(b"HTTP/1.10 200 OK\r\n" + _TWO),
    "HTTP/1.": Sample(b"HTTP/1. 200 OK\r\n" + _TWO),
    "HTTP/2.0": Sample(b"HTTP/2.0 200 OK\r\n" + _TWO),
    "http/1.1": Sample(b"http/1.1 200 OK\r\n" + _TWO),
    "a line before": Sample(b"\r\n" + _OK + _TWO),
    "a blank before": Sample(b" " + _OK + _TWO),
    "status 099": Sample(b"HTTP/1.1 099 Low\r\n" + _TWO),
    "status 000": Sample(b"HTTP/1.1 000 Nothing\r\n" + _TWO),
    "status 20": Sample(b"HTTP/1.1 20 OK\r\n" + _TWO),
    "status 2000": Sample(b"HTTP/1.1 2000 OK\r\n" + _TWO),
    "status 1000": Sample(b"HTTP/1.1 1000 OK\r\n" + _TWO),
    "status -20": Sample(b"HTTP/1.1 -20 OK\r\n" + _TWO),
    "status abc": Sample(b"HTTP/1.1 abc OK\r\n" + _TWO),
    "no status": Sample(b"HTTP/1.1\r\n\r\n"),
    "two blanks": Sample(b"HTTP/1.1  200 OK\r\n" + _TWO),
    "a tab": Sample(b"HTTP/1.1\t200 OK\r\n" + _TWO),
    "NUL in the reason": Sample(b"HTTP/1.1 200 O\0K\r\n" + _TWO),
    "CR in the reason": Sample(b"HTTP/1.1 200 O\rK\r\n" + _TWO),
    # Headers.
    "NUL in a value": Sample(_OK + b"A: b\0c\r\n" + _TWO),
    "NUL in a name": Sample(_OK + b"A\0: b\r\n" + _TWO),
    "NUL before HEAD's end": Sample(_OK + b"A: b\0\r\nContent-Length: 2\r\n\r\n", b"HEAD"),
    "NUL before a tunnel": Sample(_OK + b"A: b\0c\r\n\r\nhello", b"CONNECT"),
    "NUL in a 103": Sample(b"HTTP/1.1 103 Early Hints\r\nA: b\0c\r\n\r\n" + _OK + _TWO),
    "NUL in a trailer": Sample(_CHUNKED + b"0\r\nA: b\0c\r\n\r\n"),
    "CR in a value": Sample(_OK + b"A: b\rc: d\r\n" + _TWO),
    "CR, CR, LF": Sample(_OK + b"A: b\r\r\n" + _TWO),
    "a blank before the colon": Sample(_OK + b"Content-Length : 2\r\n\r\nhi"),
    "a tab before the colon": Sample(_OK + b"A\t: b\r\n" + _TWO),
    "a blank in a name": Sample(_OK + b"A B: c\r\n" + _TWO),
    "no name": Sample(_OK + b": b\r\n" + _TWO),
    "no colon": Sample(_OK + b"A\r\n" + _TWO),
    "a name beyond ASCII": Sample(_OK + b"\xc3\xa4: b\r\n" + _TWO),
    "a name in quotes": Sample(_OK + b'"A": b\r\n' + _TWO),
    # Lengths.
    "two lengths": Sample(_OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!"),
    "the same length twice": Sample(_OK + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\nhi"),
    "2, 2": Sample(_OK + b"Content-Length: 2, 2\r\n\r\nhi"),
    "+2": Sample(_OK + b"Content-Length: +2\r\n\r\nhi"),
    "-2": Sample(_OK + b"Content-Length: -2\r\n\r\nhi"),
    "0x2": Sample(_OK + b"Content-Length: 0x2\r\n\r\nhi"),
    "2.0": Sample(_OK + b"Content-Length: 2.0\r\n\r\nhi"),
    "no length": Sample(_OK + b"Content-Length:\r\n\r\nhi"),
    "a folded length": Sample(_OK + b"Content-Length: 2\r\n 2\r\n\r\nhi"),
    "a length of 65 bits": Sample(_OK + b"Content-Length: 18446744073709551616\r\n\r\nhi"),
    # Chunks.
    "an empty encoding": Sample(_OK + b"Transfer-Encoding: \r\n\r\n" + _CHUNKS),
    "a size of words": Sample(_CHUNKED + b"two\r\nhi\r\n0\r\n\r\n"),
    "a size of 0x2": Sample(_CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n"),
    "a size of -2": Sample(_CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n"),
    "a size of 65 bits": Sample(_CHUNKED + b"10000000000000002\r\nhi\r\n0\r\n\r\n"),
    "no size": Sample(_CHUNKED + b"\r\nhi\r\n0\r\n\r\n"),
    "a blank before a size": Sample(_CHUNKED + b" 2\r\nhi\r\n0\r\n\r\n"),
    "a size with a line feed only": Sample(_CHUNKED + b"2\nhi\r\n0\r\n\r\n"),
    "a chunk longer than its size": Sample(_CHUNKED + b"2\r\nhiho\r\n0\r\n\r\n"),
    "a chunk without its end": Sample(_CHUNKED + b"2\r\nhi0\r\n\r\n"),
    "a line break in an extension": Sample(_CHUNKED + b'2;a="b\r\nc"\r\nhi\r\n0\r\n\r\n'),
    "a bad trailer": Sample(_CHUNKED + b"2\r\nhi\r\n0\r\nA B: c\r\n\r\n"),
    # Informational ones.
    "101 not offered": Sample(_SWITCHED + b"\r\n"),
    "101 without its headers, not offered": Sample(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    "101 to HEAD, not offered": Sample(_SWITCHED + b"\r\n", b"HEAD"),
    "101 to CONNECT, not offered": Sample(_SWITCHED + b"\r\n", b"CONNECT"),
    "100 with a length": Sample(b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhi" + _OK + _TWO),
    "104 with a length": Sample(b"HTTP/1.1 104 Upload Resumption\r\nContent-Length: 5\r\n\r\n" + _OK + _TWO),
    "103 chunked": Sample(b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _OK + _TWO),
    "100 with connection close": Sample(b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + _OK + _TWO),
    "100, then garbage": Sample(b"HTTP/1.1 100 Continue\r\n\r\ngarbage"),
    "100, then a line": Sample(b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + _OK + _TWO),
    "100, then RTSP": Sample(b"HTTP/1.1 100 Continue\r\n\r\nRTSP/1.0 200 OK\r\n" + _TWO),
    "100, then HTTP/2.0": Sample(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200 OK\r\n" + _TWO),
}

CUT: dict[str, Sample] = {
    "nothing": Sample(b""),
    "the first letters": Sample(b"HTT"),
    "the version": Sample(b"HTTP/1.1"),
    "the status line": Sample(_OK),
    "a name": Sample(_OK + b"Conte"),
    "a head": Sample(_OK + b"Content-Length: 2\r\n"),
    "a head of HEAD": Sample(_OK + b"Content-Length: 2\r\n", b"HEAD"),
    "a head of a tunnel": Sample(_OK + b"A: b\r\n", b"CONNECT"),
    "a head but for a byte": Sample(_OK + b"Content-Length: 2\r\n\r"),
    "an informational head": Sample(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n"),
    "behind an informational head": Sample(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"),
    "all of a body": Sample(_OK + b"Content-Length: 2\r\n\r\n"),
    "half a body": Sample(_OK + b"Content-Length: 2\r\n\r\nh"),
    "all chunks": Sample(_CHUNKED),
    "half a size": Sample(_CHUNKED + b"2"),
    "half a chunk": Sample(_CHUNKED + b"2\r\nh"),
    "the end of a chunk": Sample(_CHUNKED + b"2\r\nhi"),
    "a chunk of 64 bits": Sample(_CHUNKED + b"ffffffffffffffff\r\nhi"),
    "the last chunk": Sample(_CHUNKED + b"2\r\nhi\r\n"),
    "the last line": Sample(_CHUNKED + b"2\r\nhi\r\n0\r\n"),
    "the last line, which has no CR": Sample(_CHUNKED + b"2\r\nhi\r\n0\n\n"),
    "a trailer": Sample(_CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\n"),
    "chunked as llhttp does not see it": Sample(_OK + b"Transfer-Encoding: chunked\r\n \r\n\r\n" + _CHUNKS),
}
