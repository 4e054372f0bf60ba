"""
The messages on a connection: requests and responses as they came, and the two ends that read them.

Nothing here understands more of HTTP than where a message ends; whatever arrives is kept as it came.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from ._wire import Wire, shown

__all__ = ("HEAD_END", "Client", "Message", "Request", "Response", "UpstreamConnection")

HEAD_END = b"\r\n\r\n"


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
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:  # what comes now is no HTTP
            return response
        await self.rest(response, method, within)
        return response

    async def response_head(self, within: float | None = None) -> Response:
        """Read one response without its body, and the interim responses before it."""
        interim: list[Response] = []
        while True:
            response = Response(await self.read_until(HEAD_END, within), interim=list(interim))
            if response.status // 100 != 1 or response.status == HTTPStatus.SWITCHING_PROTOCOLS:  # the final one
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
