"""
Bytes to a response, and a request to bytes; no sockets, no clocks.

Requests are written here, because the parser writes none, and checked: a line break in a header
would be a second request. Responses are read by llhttp (``httptools``) behind the few methods of
``ResponseReader``, so that another parser can be put in its place. The rules:

1. One reader reads one response, and the informational ones before it, and is then thrown away.
   Nothing about a response outlives it.
2. A byte behind the end of a response makes the connection unfit for another request (RFC 9112,
   section 6.3), and so does everything whose meaning two parsers could see differently.
3. llhttp limits nothing, so everything is limited here.
"""

import re
from typing import Final, NamedTuple, final

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from ..exceptions import LocalProtocolError, RemoteProtocolError
from ..messages import Header, Request

__all__ = ("LAST_CHUNK", "MAX_HEAD_SIZE", "Head", "ResponseReader", "chunk_of", "head_of")

MAX_HEAD_SIZE: Final = 100 * 1024
"""Bytes of a response's head, and of its trailers: what h11 allows."""

MAX_INFORMATIONAL: Final = 20
"""Informational responses before the final one."""

LAST_CHUNK: Final = b"0\r\n\r\n"

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

# What a request's header means for the framing; all others mean nothing for it.
_PLAIN, _HOST, _LENGTH, _ENCODING, _CONNECTION, _EXPECT, _UPGRADE = range(7)
_MEANINGS = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _ENCODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
}
_known_names: dict[bytes, int] = {}
_MOST_KNOWN_NAMES = 1024
_LONGEST_KNOWN_NAME = 64
# The last two are for those who split text into lines as Python does.
_LINE_END = re.compile(rb"[\r\n\0\v\f]")
# What both ends count in 64 bits has no more.
_MOST_DIGITS = 19


class Head(NamedTuple):
    """A request's head as bytes, and what it says about what follows."""

    data: bytes
    length: int | None
    """Bytes of the body; None if it goes out in chunks."""
    closes: bool = False
    """Whether it asks for the connection to be closed."""
    expects: bool = False
    """Whether it wants to hear "100 Continue" before the body is sent (RFC 9110, section 10.1.1)."""
    upgrades: bool = False
    """Whether it offers another protocol."""


def head_of(request: Request) -> Head:
    """
    Write a request's head.

    Raises:
        LocalProtocolError: It would break the framing or the syntax; nothing may be sent.
    """
    meant: dict[int, list[bytes]] = {}
    for name, value in request.headers:
        meaning = _known_names.get(name)
        if meaning is None:
            meaning = _meaning_of(name)
        if meaning != _PLAIN:
            meant.setdefault(meaning, []).append(value)
    if len(meant.get(_HOST, ())) != 1:
        raise LocalProtocolError(f"{'Found multiple' if _HOST in meant else 'Missing mandatory'} Host: header")
    headers = request.headers
    if _ENCODING in meant and _LENGTH in meant:
        # Both together is how requests are smuggled; the encoding is what counts (RFC 9112, section 6.3).
        headers = [line for line in headers if line[0].lower() != b"content-length"]
    length = _length_of(meant.get(_LENGTH, []), meant.get(_ENCODING, []))
    lines = b"".join([b"%b: %b\r\n" % line for line in headers])
    lines_ended = lines.count(b"\n") == lines.count(b"\r") == len(headers)
    if not lines_ended or b"\0" in lines or b"\v" in lines or b"\f" in lines:
        _refuse_value(headers)
    _check_line(request.method, request.target)
    data = b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method, request.target, lines)
    return Head(
        data,
        length,
        closes=any(b"close" in value.lower() for value in meant.get(_CONNECTION, ())),
        expects=any(value.lower() == b"100-continue" for value in meant.get(_EXPECT, ())),
        upgrades=_UPGRADE in meant,
    )


def chunk_of(data: bytes) -> bytes:
    """Frame a piece of a chunked body; it must not be empty, because an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _meaning_of(name: bytes) -> int:
    if not name or not _TOKEN.issuperset(name):
        raise LocalProtocolError(f"Illegal header name {name!r}")
    meaning = _MEANINGS.get(name.lower(), _PLAIN)
    if len(_known_names) < _MOST_KNOWN_NAMES and len(name) <= _LONGEST_KNOWN_NAME:
        _known_names[name] = meaning
    return meaning


def _length_of(lengths: list[bytes], encodings: list[bytes]) -> int | None:
    if encodings:
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise LocalProtocolError("Only Transfer-Encoding: chunked is supported")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _MOST_DIGITS:
        raise LocalProtocolError(f"bad Content-Length: {b', '.join(lengths)!r}")
    return int(lengths[0])


def _refuse_value(headers: list[Header]) -> None:
    name, end = next((name, found[0]) for name, value in headers if (found := _LINE_END.search(value)))
    # The value itself may be secret.
    raise LocalProtocolError(
        f"Illegal header value of {name.decode('ascii')}: it has {end!r} in it, where a line may end"
    )


def _check_line(method: bytes, target: bytes) -> None:
    if not method or not _TOKEN.issuperset(method):
        raise LocalProtocolError(f"Illegal method characters in {method!r}")
    # Blanks and controls would end the target early, and what is not ASCII means something else to
    # everybody; what a URL library lets through may hold them.
    if not target or not _is_visible(target):
        raise LocalProtocolError(f"Illegal target characters in {target!r}")


_INVISIBLE = bytes([*range(0x21), *range(0x7F, 0x100)])


def _is_visible(target: bytes) -> bool:
    return len(target.translate(None, _INVISIBLE)) == len(target)


class _Stop(Exception):
    """The message has ended, whatever llhttp thinks of it."""


_START = b"HTTP/1."
# Of the first digit of the status.
_DIGIT_AT = 9
# What a head may end with; at the start, its last line may have come before.
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_BLANK = 0x20
_BODILESS = frozenset((204, 304))
# Names whose lines say something about the framing have one of these lengths.
_FRAMING_LENGTHS = frozenset((10, 14, 16, 17))


@final
class ResponseReader:
    """
    Reads one response. Feed it bytes, and look what it has.

    It is llhttp's callback object itself: one Python call for each header is what parsing costs.
    """

    __slots__ = (
        "_by_heads",
        "_head_left",
        "_held",
        "_informational_left",
        "_is_connect",
        "_is_head",
        "_length",
        "_max_head_size",
        "_may_upgrade",
        "_nul_seen",
        "_overhead",
        "_parser",
        "_reason",
        "_starts",
        "begun",
        "chunks",
        "complete",
        "has_head",
        "headers",
        "http_version",
        "informational",
        "is_chunked",
        "keep_alive_hint",
        "received",
        "reusable",
        "status",
        "surplus",
        "trailers",
        "upgraded",
    )

    def __init__(self, method: bytes, *, may_upgrade: bool = False, max_head_size: int = MAX_HEAD_SIZE) -> None:
        """
        Expect the response to one request.

        Args:
            method: The request's; there is no body after HEAD, and a tunnel after CONNECT.
            may_upgrade: Whether the request offered another protocol, so that a 101 is welcome.
            max_head_size: Bytes of all heads together, and as many for the trailers.
        """
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # As lenient as h11, which is what httpx's users are used to; aiohttp allows the first three too.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_chunked_length=True,
        )
        self._is_head = method == b"HEAD"
        self._is_connect = method == b"CONNECT"
        self._may_upgrade = may_upgrade
        self._max_head_size = self._head_left = max_head_size
        self._overhead = 0
        self._informational_left = MAX_INFORMATIONAL
        self._starts = True
        self._held = b""
        self._by_heads = False
        self._reason = b""
        self._nul_seen = False
        self._length: bytes | None = None
        self.is_chunked = False
        """Whether the body came in chunks, and may have trailers."""
        self.received = 0
        """Bytes of the body so far."""
        self.begun = False
        """Whether any byte has come."""
        self.status = 0
        self.http_version = b"HTTP/1.1"
        self.headers: list[Header] = []
        self.trailers: list[Header] = []
        """Filled in when the body has ended."""
        self.chunks: list[bytes] = []
        """Pieces of the body that nobody has taken yet."""
        self.informational: list[tuple[int, list[Header]]] = []
        """Responses below 200 that nobody has taken yet."""
        self.has_head = False
        self.complete = False
        self.reusable = False
        """Once complete: whether the connection may carry another exchange, as far as the bytes tell."""
        self.keep_alive_hint: int | None = None
        """Seconds after which the server says it will close an idle connection."""
        self.upgraded = False
        """Once complete: whether the connection speaks another protocol from here on."""
        self.surplus = b""
        """What came behind the head of an upgraded connection."""

    @property
    def reason(self) -> bytes:
        """The reason phrase, as sent."""
        return self._reason

    # What the connection calls.

    def feed(self, data: bytes | memoryview) -> None:
        """
        Take bytes as they come, never none; they are not kept.

        Raises:
            RemoteProtocolError: They are no HTTP response, or too much of one.
        """
        if not self.has_head:
            self._feed_head(bytes(data))
            return
        received = self.received
        self._parse(data)
        if self.received != received:
            self._overhead = 0
        elif not self.complete:
            self._count_overhead(len(data))

    def end(self) -> None:
        """
        Take the peer's end of the stream.

        Raises:
            RemoteProtocolError: The response is not complete without what did not come.
        """
        if self.complete:
            return
        if not self.has_head:
            if not self.begun:
                raise RemoteProtocolError("Server disconnected without sending a response.")
            raise RemoteProtocolError("peer closed connection before the end of the response's head")
        if self.is_chunked:
            raise RemoteProtocolError(
                "peer closed connection without sending complete message body (incomplete chunked read)"
            )
        if self._length is not None:
            raise RemoteProtocolError(
                "peer closed connection without sending complete message body "
                f"(received {self.received} bytes, expected {self._length.decode('ascii')})"
            )
        self.complete = True
        self.reusable = False
        self.stop()

    def stop(self) -> None:
        """Parse no more. The parser holds our methods, and would keep us alive."""
        self._parser = None

    # Before the head is whole.

    def _feed_head(self, data: bytes) -> None:
        if self._starts:
            self.begun = True
            data = self._held + data
            if not self._check_start(data):
                self._held = data
                return
            self._held = b""
            self._starts = False
            self._by_heads = self._is_head or self._is_connect or data[_DIGIT_AT : _DIGIT_AT + 1] == b"1"
        if b"\0" in data:
            self._nul_seen = True
        if self._by_heads:
            self._feed_by_heads(data)
            return
        # llhttp limits nothing, and would join a value that comes in pieces in quadratic time.
        rest = b""
        if len(data) > self._head_left:
            data, rest = data[: self._head_left], data[self._head_left :]
        self._head_left -= len(data)
        self._parse(data)
        if not self.has_head and (rest or not self._head_left):
            raise RemoteProtocolError("the response's head is too large")
        if rest:
            self.feed(rest)

    def _check_start(self, data: bytes) -> bool:
        """Whether enough is there to see that it is HTTP/1; llhttp, which sees to 1.0 or 1.1, would take RTSP and 2.0."""
        if data[: len(_START)] != _START[: len(data)]:
            raise RemoteProtocolError(f"the response does not begin with an HTTP/1 status line, but with {data[:40]!r}")
        return len(data) > _DIGIT_AT

    def _feed_by_heads(self, data: bytes) -> None:
        # llhttp does not tell where a head has ended. Where what follows it is no body, but another
        # head, another protocol or nothing at all, it gets no byte beyond.
        while data and not (self.has_head or self._starts):
            blank = _BLANK_LINE.search(data)
            end = len(data) if blank is None else blank.end()
            if end > self._head_left:
                raise RemoteProtocolError("the response's head is too large")
            self._head_left -= end
            self._parse(data[:end])
            data = data[end:]
        if not self.has_head and not self._head_left:
            raise RemoteProtocolError("the response's head is too large")
        if data:
            self.feed(data)

    # Whatever is fed comes through here.

    def _parse(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser is None:
            self._take_surplus(data)
            return
        try:
            parser.feed_data(data)
        except HttpParserCallbackError as exc:
            self._stopped(exc)
        except HttpParserError as exc:
            if not self.complete:
                raise RemoteProtocolError(f"{exc}; it came in {_excerpt(data)}") from None
            self.reusable = False  # the response was good, what came behind it is not
        if self.complete:
            self.stop()

    def _count_overhead(self, size: int) -> None:
        # Trailers and chunk extensions: llhttp tells of them at their end, if they ever end.
        self._overhead += size
        if self._overhead > 2 * self._max_head_size:
            raise RemoteProtocolError("the response's trailers or chunk extensions are too large")

    def _take_surplus(self, data: bytes | memoryview) -> None:
        if self.upgraded:
            self.surplus += data
        else:
            self.reusable = False  # bytes behind the end

    def _stopped(self, stop: HttpParserCallbackError) -> None:
        cause = stop.__context__
        if isinstance(cause, RemoteProtocolError):
            raise cause.with_traceback(None) from None
        if not isinstance(cause, _Stop):
            raise cause or stop  # KeyboardInterrupt, say: httptools wraps everything

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False
            raise _Stop

    def on_status(self, piece: bytes) -> None:
        self._reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if value[-1:] <= b" ":
            value = value.rstrip(b" \t")
        if name[-1] == _BLANK:
            # llhttp lets it through behind the names that it knows, of which some are of the framing.
            raise RemoteProtocolError(f"there is a blank before the colon of the header {name!r}")
        if not self.has_head:
            self.headers.append((name, value))
            return
        self._head_left -= len(name) + len(value) + 4
        if self._head_left < 0:
            raise RemoteProtocolError("the response's trailers are too large")
        if b"\0" in value:
            raise RemoteProtocolError("the response's trailers have a NUL in them")
        self.trailers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 100:  # noqa: PLR2004
            raise RemoteProtocolError(f"the response has the status {status:03}, which is below 100")
        if self._nul_seen:
            self._refuse_nul()
        self.status = status
        if status < 200 and status != 101:  # noqa: PLR2004
            self._check_bodiless()
            return
        if parser.get_http_version() == "1.0":
            self.http_version = b"HTTP/1.0"
        if status == 101 or (self._is_connect and status < 300):  # noqa: PLR2004 -- success
            self._switch()
        self.has_head = True
        self._head_left = self._max_head_size  # for the trailers
        self._read_framing()

    def _check_bodiless(self) -> None:
        # llhttp takes some informational responses' bodies for bodies and others' for the next
        # response; there is no such body (RFC 9110, section 15.2).
        for name, value in self.headers:
            lowered = name.lower()
            if lowered == b"transfer-encoding" or (lowered == b"content-length" and value.strip(b"0")):
                raise RemoteProtocolError(f"the informational response {self.status} announces a body")

    def _switch(self) -> None:
        if self.status == 101 and not self._may_upgrade:  # noqa: PLR2004
            raise RemoteProtocolError("the server switched to a protocol that the request did not offer")
        self.has_head = self.complete = self.upgraded = True
        raise _Stop

    def _read_framing(self) -> None:
        connection = encoding = b""
        encodings = 0
        for name, value in self.headers:
            if len(name) in _FRAMING_LENGTHS:
                lowered = name.lower()
                if lowered == b"content-length":
                    self._length = value
                elif lowered == b"transfer-encoding":
                    encodings += 1
                    encoding = value
                elif lowered in (b"connection", b"proxy-connection"):
                    connection += b"," + value.lower()
                elif lowered == b"keep-alive":
                    self.keep_alive_hint = _timeout_of(value)
        self.reusable = _persists(connection, self.http_version)
        if encodings:
            self.is_chunked = encoding.lower().rpartition(b",")[2].strip(b" \t") == b"chunked"
            # With any of these others may see another end of the body than llhttp does (RFC 9112, section 6.1).
            odd = encodings > 1 or not self.is_chunked or self._length is not None or self.http_version != b"HTTP/1.1"
            self.reusable = self.reusable and not odd
            self._length = None
        if self._is_head or self.status in _BODILESS:
            self.is_chunked = False
        if self._is_head:
            # llhttp would wait for the body that the head tells of.
            self.complete = True
            raise _Stop

    def on_body(self, data: bytes) -> None:
        self.received += len(data)
        self.chunks.append(data)

    def on_message_complete(self) -> None:
        if not self.has_head:
            self._take_informational()
            return
        parser = self._parser
        assert parser is not None
        self.complete = True
        self.reusable = self.reusable and parser.should_keep_alive()

    def _take_informational(self) -> None:
        self._informational_left -= 1
        if self._informational_left < 0:
            raise RemoteProtocolError(f"the server sent more than {MAX_INFORMATIONAL} informational responses")
        self.informational.append((self.status, self.headers))
        self.headers = []
        self._reason = b""
        self._starts = True

    def _refuse_nul(self) -> None:
        # With the leniencies above llhttp lets it through, and others end a value at it.
        if any(b"\0" in value for _, value in self.headers) or b"\0" in self._reason:
            raise RemoteProtocolError("the response's head has a NUL in it")


def _persists(connection: bytes, http_version: bytes) -> bool:
    if not connection:
        return http_version == b"HTTP/1.1"
    tokens = {token.strip() for token in connection.split(b",")}
    return b"close" not in tokens and (http_version == b"HTTP/1.1" or b"keep-alive" in tokens)


def _timeout_of(value: bytes) -> int | None:
    for parameter in value.lower().split(b","):
        name, _, seconds = parameter.strip().partition(b"=")
        seconds = seconds.strip()
        if name.strip() == b"timeout" and seconds.isdigit() and len(seconds) <= _MOST_DIGITS:
            return int(seconds)
    return None


def _excerpt(data: bytes | memoryview) -> str:
    return repr(bytes(data[:60])) + ("..." if len(data) > 60 else "")  # noqa: PLR2004
