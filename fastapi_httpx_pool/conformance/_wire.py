"""
One end of a connection, and the messages on it, byte by byte.

Nothing here understands more of HTTP than where a message ends; whatever arrives is kept as it came. Every wait has a
limit: what does not come in time is ``TookTooLong``, which is a ``NotMet``.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

__all__ = (
    "HEAD_END",
    "Client",
    "Message",
    "NotApplicable",
    "NotMet",
    "Request",
    "Response",
    "TookTooLong",
    "UpstreamConnection",
    "Wire",
    "authority",
    "expect",
    "shown",
)

_PIECE = 65536
HEAD_END = b"\r\n\r\n"


class NotMet(Exception):
    """What a row wants is not what was seen; the text says what was."""


class TookTooLong(NotMet):
    """Something did not happen within the limit."""


class NotApplicable(Exception):
    """A row cannot be asked of this proxy; the text says why."""


def expect(condition: object, text: str) -> None:
    """
    Go on if this is so.

    Raises:
        NotMet: It is not; with the text, which says what was seen instead.
    """
    if not condition:
        raise NotMet(text)


def shown(data: bytes, most: int = 60) -> str:
    """Return bytes as a text that can be read, and no longer than it has to be."""
    text = ascii(data)[2:-1].replace("\\'", "'")
    return text if len(text) <= most else text[:most] + "..."


def authority(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Wire:
    """One end of a connection."""

    ended: str
    """How the other side ended it, as far as anybody looked: ``""``, ``"closed"`` or ``"reset"``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float) -> None:
        self.ended = ""
        self._reader = reader
        self._writer = writer
        self._limit = limit
        self._rest = bytearray()
        # So that "sent" means that the kernel has it.
        writer.transport.set_write_buffer_limits(0)

    async def send(self, data: bytes, within: float | None = None) -> bool:
        """Send bytes; whether the kernel took all of them in time. A peer that has gone is no error."""
        try:
            async with asyncio.timeout(self._limit if within is None else within):
                self._writer.write(data)
                await self._writer.drain()
        except OSError:  # of which TimeoutError is one
            return False
        return True

    async def read(self, within: float | None = None, most: int = _PIECE) -> bytes:
        """
        Return what has come, or comes next; ``b""`` when the other side has closed.

        Raises:
            TookTooLong: Nothing came.
        """
        if not self._rest:
            await self._more(within)
        return self._take(most)

    async def read_until(self, mark: bytes, within: float | None = None) -> bytes:
        """Return everything up to and with a mark; less if the other side closed before."""
        while mark not in self._rest and await self._more(within):
            pass
        end = self._rest.find(mark)
        return self._take(len(self._rest) if end < 0 else end + len(mark))

    async def read_exactly(self, count: int, within: float | None = None) -> bytes:
        """Return so many bytes; less if the other side closed before."""
        while len(self._rest) < count and await self._more(within):
            pass
        return self._take(count)

    async def read_to_end(self, within: float | None = None) -> bytes:
        """Return everything until the other side closes; see ``ended`` for how it did."""
        while await self._more(within):
            pass
        return self._take(len(self._rest))

    async def _more(self, within: float | None) -> bool:
        """Wait for more bytes; whether there were any. Without them, nothing that has come is lost."""
        if self.ended:
            return False
        limit = self._limit if within is None else within
        try:
            async with asyncio.timeout(limit):
                data = await self._reader.read(_PIECE)
        except TimeoutError:
            raise TookTooLong(f"nothing came within {limit:g} s") from None
        except OSError:
            self.ended = "reset"
            return False
        self._rest += data
        self.ended = "" if data else "closed"
        return bool(data)

    def _take(self, count: int) -> bytes:
        data = bytes(self._rest[:count])
        del self._rest[:count]
        return data

    async def closed(self, within: float | None = None) -> bool:
        """Wait until the other side closes, whatever else it sends; whether it did in time."""
        try:
            async with asyncio.timeout(self._limit if within is None else within):
                await self.read_to_end()
        except (TimeoutError, TookTooLong):
            return False
        return True

    def close(self) -> None:
        """Close, as one does; what the kernel has not taken is not sent."""
        self._writer.transport.abort()

    def close_sending(self) -> None:
        """Say that nothing more comes, and go on reading."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def tighten(self) -> None:
        """Have the kernel hold little of what passes, so that who is slow is felt soon."""
        sock = self._writer.get_extra_info("socket")
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _PIECE)

    def reset(self) -> None:
        """Break off, so that the other side gets a reset."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@dataclass
class Message:
    """A request or a response as it was on the wire."""

    head: bytes
    """Everything up to and with the empty line."""
    body: bytes = b""
    """Without its framing."""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False
    """Whether the body came to the end that its framing promised."""

    @property
    def start(self) -> bytes:
        """The first line."""
        return self.head.partition(b"\r\n")[0]

    @property
    def lines(self) -> list[tuple[bytes, bytes]]:
        """The header lines in their order: names as they were written, values without the space around them."""
        return _lines_of(self.head.split(b"\r\n")[1:])

    @property
    def names(self) -> set[bytes]:
        """The names of all header lines, in lower case."""
        return {name.lower() for name, _ in self.lines}

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header's lines, in their order."""
        return [value for key, value in self.lines if key.lower() == name.lower()]

    def tokens(self, name: bytes) -> list[bytes]:
        """Return the members of a header's comma-separated lines, in lower case."""
        members = (member.strip().lower() for value in self.values(name) for member in value.split(b","))
        return [member for member in members if member]

    @property
    def chunked(self) -> bool:
        """Whether its body comes in chunks."""
        return self.tokens(b"transfer-encoding")[-1:] == [b"chunked"]

    @property
    def length(self) -> int | None:
        """The length that it promises; None without one, or with one that is no number."""
        values = self.values(b"content-length")
        return int(values[0]) if values and values[0].isdigit() else None


@dataclass
class Request(Message):
    """What the upstream was sent. The body grows while the upstream's script reads it."""

    connection: int = 0
    """The number of the connection over which it came."""
    turn: int = 0
    """0 for the first request on its connection."""

    @property
    def method(self) -> bytes:
        """The method."""
        return self.start.partition(b" ")[0]

    @property
    def target(self) -> bytes:
        """The request target, byte for byte."""
        return self.start.partition(b" ")[2].rpartition(b" ")[0]

    @property
    def version(self) -> bytes:
        """The protocol's version, such as ``HTTP/1.1``."""
        return self.start.rpartition(b" ")[2]


@dataclass
class Response(Message):
    """What the client got."""

    interim: list["Response"] = field(default_factory=list)
    """The 1xx responses before it."""

    @property
    def status(self) -> int:
        """The status; 0 if there was no response, or none that can be understood."""
        parts = self.start.split(b" ", 2)
        return int(parts[1]) if parts[0].startswith(b"HTTP/1.") and parts[1:] and parts[1].isdigit() else 0

    @property
    def version(self) -> bytes:
        """The protocol's version, such as ``HTTP/1.1``."""
        return self.start.partition(b" ")[0]

    def __str__(self) -> str:
        """What the client got, for the texts of ``expect``."""
        if not self.head:
            return "no response: the connection was closed"
        return f'"{shown(self.start)}"' + ("" if self.complete else ", broken off")


def _lines_of(lines: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value.strip(b" \t")) for name, colon, value in (line.partition(b":") for line in lines) if colon]


async def _pieces(wire: Wire, message: Message, within: float | None, *, until_closed: bool) -> AsyncIterator[bytes]:
    """Read a body as its head says where it ends, and tell the message what came of it."""
    if message.chunked:
        async for piece in _chunks(wire, message, within):
            yield piece
    elif message.length is not None:
        left = message.length
        while left and (piece := await wire.read(within, left)):
            left -= len(piece)
            yield piece
        message.complete = not left
    elif until_closed:
        while piece := await wire.read(within):
            yield piece
        message.complete = wire.ended == "closed"
    else:
        message.complete = True


async def _chunks(wire: Wire, message: Message, within: float | None) -> AsyncIterator[bytes]:
    while size := _size_of(await wire.read_until(b"\r\n", within)):
        chunk = await wire.read_exactly(size + 2, within)
        yield chunk[:size]
        if chunk[size:] != b"\r\n":
            return
    if size is None:
        return
    while (line := await wire.read_until(b"\r\n", within)).rstrip(b"\r\n"):
        message.trailers += _lines_of([line.rstrip(b"\r\n")])
    message.complete = line == b"\r\n"


def _size_of(line: bytes) -> int | None:
    """Return a chunk's size; None if there is none."""
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits, 16) if line.endswith(b"\r\n") else None
    except ValueError:
        return None


class Client(Wire):
    """A client's connection to the proxy."""

    async def response(self, method: bytes = b"GET", within: float | None = None) -> Response:
        """
        Read one response with its body; one of status 0 if the proxy closed without any.

        Raises:
            TookTooLong: It did not come, or did not go on.
        """
        response = await self.response_head(within)
        if response.status == 101:  # noqa: PLR2004 -- what comes now is no HTTP
            return response
        await self.rest(response, method, within)
        return response

    async def response_head(self, within: float | None = None) -> Response:
        """Read one response without its body, and the interim responses before it."""
        interim: list[Response] = []
        while True:
            response = Response(await self.read_until(HEAD_END, within), interim=list(interim))
            if response.status // 100 != 1 or response.status == 101:  # noqa: PLR2004 -- the one that is final
                return response
            interim.append(response)

    async def rest(self, response: Response, method: bytes = b"GET", within: float | None = None) -> None:
        """Read the body of a response whose head has been read."""
        if response.status in {0, 204, 304} or method == b"HEAD":
            response.complete = response.status != 0
            return
        async for piece in _pieces(self, response, within, until_closed=True):
            response.body += piece


class UpstreamConnection(Wire):
    """A connection from the proxy, in the hands of the upstream's script: once for each request on it."""

    number: int
    """0 for the first one that the upstream ever accepted."""
    request: Request
    """The one that is to be answered; its head has been read, its body has not."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read the request's body as it comes."""
        async for piece in _pieces(self, self.request, None, until_closed=False):
            self.request.body += piece
            yield piece

    async def read_body(self) -> bytes:
        """Read the request's body to its end, or to that of the connection; see ``request.complete``."""
        async for _ in self.pieces():
            pass
        return self.request.body
