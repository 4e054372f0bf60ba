"""The server behind the proxy: it answers every request as the row says, and keeps what it was sent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from ._messages import HEAD_END, Request, UpstreamConnection
from ._wire import TookTooLong, authority

__all__ = ("Script", "Upstream", "answering", "chunk", "chunked", "ok")

_FOREVER = 86400.0
"""Seconds for which an idle connection stays open."""

_BACKLOG = 1024
"""Connections that may wait to be accepted; a proxy can open many at once."""

_SETTLES = 0.02
"""Seconds for what a proxy still sends on for clients that it has refused, so that it is not the next row's."""

Script = Callable[[UpstreamConnection], Awaitable[None]]
"""
Answers one request. If it returns with the connection open and the body read, the next request may come on it; if it
has not read the body, the connection is closed. What it raises is the row's.
"""


def ok(body: bytes = b"ok", *lines: bytes) -> bytes:
    """Return a 200 with a known length."""
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *lines, b"", body))


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body in chunks."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*pieces: bytes, trailers: Iterable[bytes] = ()) -> bytes:
    """Return a body in chunks, with its end."""
    return b"".join(map(chunk, pieces)) + b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


def answering(response: bytes) -> Script:
    """Return a script that reads the request to its end and then sends these bytes."""

    async def script(connection: UpstreamConnection) -> None:
        await connection.read_body()
        await connection.send(response)

    return script


class Upstream:
    """The server behind the proxy: answers every request as the row says, and keeps what it was sent."""

    requests: list[Request]
    """All whose heads have come since the row began."""
    accepted: int
    """How many connections there have been, since the upstream was started."""
    address: bytes
    """Host and port on which it listens."""

    def __init__(self, limit: float) -> None:
        self.requests = []
        self.accepted = 0
        self._limit = limit
        self._script = answering(ok())
        self._errors: list[Exception] = []
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], UpstreamConnection] = {}
        self._busy: set[UpstreamConnection] = set()
        self._arrived = asyncio.Event()

    async def start(self, host: str, port: int) -> None:
        """Listen; an OSError if that cannot be."""
        self._server = await asyncio.start_server(self._accept, host, port, backlog=_BACKLOG)
        self.address = authority(host, self._server.sockets[0].getsockname()[1]).encode("ascii")

    async def stop(self) -> None:
        """Listen no more, and break off what is open."""
        if self._server is not None:
            self._server.close()
        await self._break_off(set(self._serving))

    def answer_with(self, answer: bytes | Script) -> None:
        """Say how requests are answered from now on: by these bytes, or by a script."""
        self._script = answering(answer) if isinstance(answer, bytes) else answer

    async def request(self, index: int = 0, within: float | None = None) -> Request:
        """
        Wait for the head of a request, which may be there already.

        Raises:
            TookTooLong: It did not come.
        """
        limit = self._limit if within is None else within
        try:
            async with asyncio.timeout(limit):
                while len(self.requests) <= index:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise TookTooLong(f"no request arrived at the upstream within {limit:g} s") from None
        return self.requests[index]

    async def begin_row(self) -> None:
        """Forget the row before: what still runs is broken off; connections that are idle stay for the next."""
        await asyncio.sleep(_SETTLES)
        await self._break_off({task for task, connection in self._serving.items() if connection in self._busy})
        self.requests = []
        self._errors = []
        self.answer_with(ok())

    def raise_errors(self) -> None:
        """Raise what a script of this row raised first."""
        if self._errors:
            raise self._errors[0]

    async def _break_off(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._serving[task].reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin to serve a connection; from here on it is known, so that it cannot be forgotten."""
        connection = UpstreamConnection(reader, writer, self._limit)
        connection.number, self.accepted = self.accepted, self.accepted + 1
        task = asyncio.create_task(self._serve(connection))
        self._serving[task] = connection
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._serving.pop(task)
        self._busy.discard(connection)
        connection.close()

    async def _serve(self, connection: UpstreamConnection) -> None:
        try:
            turn = 0
            while await self._serve_one(connection, turn):
                turn += 1
        except Exception as error:  # noqa: BLE001 -- raised again in the row
            self._errors.append(error)

    async def _serve_one(self, connection: UpstreamConnection, turn: int) -> bool:
        """Serve one request; whether there can be another on this connection."""
        head = await connection.read_until(HEAD_END, within=_FOREVER)
        if not head.endswith(HEAD_END):
            return False
        self._busy.add(connection)
        connection.request = Request(head, connection=connection.number, turn=turn)
        connection.request.complete = not connection.request.chunked and not connection.request.length
        self.requests.append(connection.request)
        self._arrived.set()
        await self._script(connection)
        self._busy.discard(connection)
        return connection.request.complete and not connection._writer.is_closing()
