"""
Step 10 of a request: it is written, its response is read, and the connection is given back with the last byte.

Everything about it is here and nothing on the connection, so nothing can pass from one exchange to
the next. The rules:

1. The connection is given back in the moment in which the last byte of the response arrives, by
   the callback that it arrives in. What has not been read yet waits here, and a slow reader, or one
   who forgets to close, keeps no connection.
2. It is given back only if both messages are complete and nothing is left over; in every other
   case it is closed. Giving up is synchronous: no cancellation can come in between.
3. What arrives is bounded: beyond ``HIGH_WATER`` the peer has to wait.
4. Request and response are independent. A final answer of 400 or more stops the upload (RFC 9112,
   section 9.5), any other does not; the response's body ends when the upload has ended too. Either
   way a connection whose response was complete before its request had gone out is closed.
5. Time limits run only while somebody waits.
"""

import asyncio
import warnings
from collections.abc import AsyncIterator
from math import inf
from typing import Any, Final, Protocol, final

from ..exceptions import (
    ReadError,
    ReadTimeout,
    RemoteProtocolError,
    TotalTimeout,
    TransportError,
    WriteError,
    WriteTimeout,
)
from ..messages import Request
from ._bookkeeping import Origin
from ._connection import Connection
from ._statistics import Counters
from ._timer import EARLY, Timer
from ._upload import NOTHING, framed, send_bytes, send_stream
from ._wire import LAST_CHUNK, Head, ResponseReader

__all__ = ("Body", "Exchange", "Keeper")

HIGH_WATER: Final = 64 * 1024
"""Bytes of a response that wait to be read before the peer has to wait."""
SMALL: Final = 64 * 1024
"""Bytes of a request's body that go out together with its head."""
CONTINUE_STATUS: Final = 100
CONTINUE: Final = 1.0
"""Seconds to wait for "100 Continue", which an upstream may never have heard of."""
FIRST_ERROR: Final = 400

_WHILE_WAITING: Final = frozenset(("read", "total"))
_CLOSED: Final = "the response was closed before it had been read"


class Keeper(Protocol):
    """The pool, as far as an exchange knows it."""

    loop: asyncio.AbstractEventLoop
    timer: Timer
    max_head_size: int

    def responded(self, exchange: "Exchange") -> None:
        """Take note: the head of the response is there."""

    def finished(self, exchange: "Exchange", connection: Connection, *, reusable: bool) -> None:
        """Take the connection back, after a complete exchange."""

    def broken_off(self, exchange: "Exchange", connection: Connection, reason: str) -> None:
        """Close the connection, after one that is not complete."""


_UNREAD: Final = ResponseReader(b"GET")
"""The reader of exchanges that have no connection yet: it never reads anything."""


@final
class Exchange:
    """One request and its response; the holder of a connection meanwhile."""

    __slots__ = (
        "_drained",
        "_early",
        "_error",
        "_flushing",
        "_keeper",
        "_limited",
        "_paused",
        "_taken",
        "_unsent",
        "_waiting",
        "_welcome",
        "connection",
        "counters",
        "created_at",
        "end",
        "head",
        "leased",
        "origin",
        "place",
        "reader",
        "request",
        "rest",
        "reused",
        "sending",
        "sent_at",
        "state",
        "upload",
        "uploaded",
    )

    origin: Origin[Connection]
    counters: Counters

    def __init__(self, keeper: Keeper, request: Request, head: Head, now: float) -> None:
        self._keeper = keeper
        self.request = request
        self.head = head
        self.reader = _UNREAD  # what waits in the queue by the thousand should be small
        self.connection: Connection | None = None
        self.created_at = now
        self.sent_at = now
        self.reused = False
        self.state = "queueing"
        self.place: str | None = None
        """Where in the application it was made, in debug mode."""
        total = request.timeouts.total
        self.end = inf if total is None else now + total
        """When the total timeout is over, in the loop's time."""
        self._limited = ""
        self._waiting: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.rest: memoryview | None = None
        """What has not been written yet, as far as it is in memory; empty once everything has been."""
        self._unsent = 0
        self._early = False
        self._flushing = False
        self._taken = 0
        self._paused = False
        self._welcome = False
        self.leased = False
        """Whether it holds a lease of the books'."""
        self.sending = False
        """Whether the request is still on its way."""
        self.upload: asyncio.Task[None] | None = None
        self.uploaded = False
        """Whether all of the request has been written."""

    @property
    def described(self) -> str:
        """What it is doing, for whoever wonders why the pool is full."""
        if self.reader.has_head and self._waiting is None and self.state != "a tunnel":
            return "response never closed" if self._paused else "response not read"
        return self.state

    # Sending.

    def start(self, connection: Connection, now: float) -> None:
        """Take the connection, and write as much as can be written without waiting."""
        self.reader = ResponseReader(
            self.request.method, may_upgrade=self.head.upgrades, max_head_size=self._keeper.max_head_size
        )
        self.connection = connection
        connection.holder = self
        connection.due = inf
        connection.exchanges += 1
        self.sent_at = now
        self.state = "sending the request"
        head, body = self.head, self.request.body
        if body is None or (isinstance(body, bytes) and not body):
            connection.write(head.data if head.length is not None else head.data + LAST_CHUNK)
            self.uploaded = True
        elif not isinstance(body, bytes) or head.expects:
            connection.write(head.data)
            if isinstance(body, bytes):
                self.rest = memoryview(framed(body, head))
        elif len(body) <= SMALL:
            connection.write(head.data + framed(body, head))
            if connection.write_paused:
                self.rest = NOTHING
            else:
                self.uploaded = True
        else:
            connection.write(head.data)
            self.rest = memoryview(framed(body, head))
        self.sending = not self.uploaded

    async def response_head(self) -> None:
        """
        Send what is left to send, and wait for the head of the response.

        Raises:
            TransportError: It did not come.
            BaseException: Whatever the request's body raised.
        """
        if not self.uploaded:
            await self._send_rest()
        reader = self.reader
        self.state = "waiting for the response"
        while not reader.has_head:
            if self._error is not None:
                raise self._take_error()
            await self._wait(self.request.timeouts.read if self.uploaded else None)
        if self.connection is not None:  # otherwise all of it is here
            self.state = "reading the response"

    async def _send_rest(self) -> None:
        if self.head.expects and not await self._is_welcome():
            self._sent()
        elif self.rest is None:
            body = self.request.body
            assert body is not None
            assert not isinstance(body, bytes)
            self._start_upload(send_stream(self, body, self.head.length))
        elif not await send_bytes(self, until_head=True) and self.goes_on():
            # The answer is there, and no refusal: it is read while the rest is sent.
            self._start_upload(send_bytes(self))
        else:
            self._sent()

    def _sent(self) -> None:
        self.sending = False
        if self.reader.complete:
            self._finish()

    async def _is_welcome(self) -> bool:
        """Wait for "100 Continue" for a while; False if the final answer came instead."""
        handle = self._keeper.loop.call_later(CONTINUE, self._wake)
        try:
            if not self.reader.has_head and self._error is None and not self._welcome:
                await self._wait(None)
        finally:
            handle.cancel()
        return not self.reader.has_head and self._error is None

    def _start_upload(self, sending: Any) -> None:
        # The one task that an exchange may cost: the answer may come before the body has been sent,
        # or while whoever makes the body is making it.
        self.upload = self._keeper.loop.create_task(sending)
        self.upload.add_done_callback(self._on_uploaded)

    def _on_uploaded(self, upload: "asyncio.Task[Any]") -> None:
        error = WriteError("the body was cancelled") if upload.cancelled() else upload.exception()
        # If it has been stopped, it matters no more how it ended.
        if error is not None and self.goes_on():
            self.fail(error, "body failed")
        self.upload = None  # its frames may hold this
        self._sent()
        self._wake()

    def goes_on(self) -> bool:
        """Whether it makes sense to send more."""
        connection = self.connection
        if connection is None or connection.is_closing or self._error is not None:
            return False
        return not (self.reader.has_head and self.reader.status >= FIRST_ERROR)

    async def wait_for_drain(self) -> None:
        """Wait until little is left of what has been written, or there is no point any more."""
        connection = self.connection
        assert connection is not None
        write = self.request.timeouts.write
        self._drained = self._keeper.loop.create_future()
        try:
            if write is not None or self.end != inf:
                self._unsent = connection.unsent
                self._limit("write", write)
            await self._drained
        finally:
            self._drained = None
            if self._limited == "write":
                self._limited = ""
                # Whoever waits for the response has no limit but the total one while this is sent.
                connection.due = inf if self._waiting is None else self.end

    # Receiving, in the connection's callbacks.

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes."""
        reader = self.reader
        had_head = reader.has_head
        try:
            reader.feed(data)
        except RemoteProtocolError as exc:
            self.fail(exc.with_traceback(None), "protocol error")
            return
        if reader.informational and not self._inform():
            return
        if reader.has_head and not had_head:
            self._keeper.responded(self)
            if not self.uploaded:
                self._stop_refused_upload()
        if reader.complete:
            self._finish()
        elif reader.received - self._taken > HIGH_WATER:
            self._pause()
        if self._waiting is not None:
            self._receive_in_time()

    def _receive_in_time(self) -> None:
        if self.reader.has_head:
            self._wake()
        elif self._limited == "read" and self.connection is not None:
            # Not enough to go on with, but a sign of life.
            read = self.request.timeouts.read
            assert read is not None
            self.connection.due = min(self._keeper.timer.now() + read, self.end)

    def _inform(self) -> bool:
        """Pass informational responses on; whether the exchange goes on."""
        tell = self.request.extensions.get("informational")
        for status, headers in self.reader.informational:
            if status == CONTINUE_STATUS:
                self._welcome = True
                self._wake()
            if tell is not None:
                try:
                    tell(status, headers)
                except Exception as exc:  # noqa: BLE001 -- raised where the response is awaited
                    self.fail(exc, "callback failed")
                    return False
        self.reader.informational.clear()
        return True

    def _stop_refused_upload(self) -> None:
        if self.reader.status >= FIRST_ERROR:
            self._stop_upload()
        else:
            self.go_on()  # the answer can be read while the rest is sent

    def receive_end(self) -> None:
        """Take the peer's end of the stream."""
        if self.reader.complete:
            self.reader.reusable = False
            return
        error = self._end_of_response(None)
        if error is not None:
            self.fail(error, "peer")
        else:
            self._finish()
            self._wake()

    def lose(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        connection, self.connection = self.connection, None
        assert connection is not None
        if not self.reader.complete:
            self._error = self._error or self._end_of_response(exc)
        if self.reader.complete and self.reader.status < FIRST_ERROR and (self._flushing or not self.uploaded):
            error = WriteError(str(exc or "") or "the connection was lost while the request was being sent")
            error.__cause__ = exc
            self._error = self._error or error
        self.reader.stop()
        self._keeper.broken_off(self, connection, "peer")
        self._stop_upload()
        self._wake()

    def _end_of_response(self, exc: Exception | None) -> TransportError | None:
        """End the response here; what is wrong with that, if anything is."""
        if exc is not None:
            error = ReadError(str(exc) or "the connection was lost")
            error.__cause__ = exc
            return error
        try:
            self.reader.end()
        except RemoteProtocolError as incomplete:
            return incomplete.with_traceback(None)  # which leads here, and from here to it
        return None

    def go_on(self) -> None:
        """Write on."""
        drained = self._drained
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._flushing:
            self._keeper.loop.call_soon(self._finish)  # asyncio must not be closing while it calls this

    @property
    def writes(self) -> bool:
        """Whether it still has something to write."""
        return not self.uploaded

    def expire(self, now: float) -> None:
        """Act: a time limit is over."""
        timeouts = self.request.timeouts
        error: TransportError
        if now + EARLY >= self.end:
            assert timeouts.total is not None
            error = TotalTimeout(timeouts.total)
        elif self._limited == "write":
            if self._has_gone_out():
                self._limit("write", timeouts.write)
                return
            error = WriteTimeout(f"the server took nothing for {timeouts.write:g} s")
        else:
            error = ReadTimeout(f"the server sent nothing for {timeouts.read:g} s")
        self.fail(error, "timeout")

    def _has_gone_out(self) -> bool:
        """Whether the server has taken anything since this was asked last, though less than it takes to go on."""
        connection, before = self.connection, self._unsent
        assert connection is not None
        self._unsent = connection.unsent
        return self._unsent < before

    # Reading.

    def take(self) -> bytes:
        """Return what has arrived and not been taken."""
        chunks = self.reader.chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._taken += len(data)
        if self._paused:
            self._paused = False
            if self.connection is not None:
                self.connection.resume_reading()
        return data

    async def read(self) -> bytes:
        """
        Wait for more of the body.

        Raises:
            StopAsyncIteration: That was all of it, and the request has been sent.
            TransportError: The rest did not come.
        """
        while True:
            data = self.take()
            if data:
                return data
            if self._error is not None:
                raise self._take_error()
            if self.reader.complete and (self.connection is None or self.reader.upgraded):
                raise StopAsyncIteration
            if self.connection is None:
                raise ReadError(_CLOSED)
            await self._wait(self.request.timeouts.read if self.uploaded and not self.reader.complete else None)

    async def _wait(self, seconds: float | None) -> None:
        """Wait until something happens."""
        if self._waiting is not None:
            raise RuntimeError("two tasks read the same response; it comes only once")
        connection = self.connection
        assert connection is not None
        self._waiting = self._keeper.loop.create_future()
        try:
            if (seconds is not None or self.end != inf) and self._limited != "write":
                self._limit("total" if seconds is None else "read", seconds)
            await self._waiting
        finally:
            self._waiting = None
            if self._limited in _WHILE_WAITING:
                self._limited = ""
                if connection.holder is self:
                    connection.due = inf

    def _limit(self, what: str, seconds: float | None) -> None:
        connection = self.connection
        assert connection is not None
        timer = self._keeper.timer
        now = timer.now()
        self._limited = what
        if self.end <= now:
            self.expire(now)
        else:
            timer.set(connection, self.end if seconds is None else min(now + seconds, self.end), now)

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _pause(self) -> None:
        assert self.connection is not None
        self._paused = True
        self.connection.pause_reading()

    def _take_error(self) -> BaseException:
        error = self._error
        assert error is not None
        # It will hold the frames it is raised through, and they hold this.
        self._error = ReadError("the response broke off before") if isinstance(error, TransportError) else None
        return error

    # Ending.

    def _finish(self) -> None:
        """The response is complete: give the connection back, unless the request is still being sent."""
        connection = self.connection
        if connection is None:
            return
        if self.reader.upgraded:
            if len(self.reader.surplus) > HIGH_WATER:
                self._pause()
            return
        if (self.sending or self.rest is not None) and not self._has_been_sent(connection):
            return
        self.connection = None
        connection.holder = None
        connection.due = inf
        self.state = "complete"
        fit = self.reader.reusable and not self.head.closes
        reusable = fit and self.uploaded and not self._paused and not connection.is_closing
        self._keeper.finished(self, connection, reusable=reusable)
        self._stop_upload()
        self._wake()

    def _has_been_sent(self, connection: Connection) -> bool:
        """Whether the request has gone out, as far as it ever will; if not, ``_finish`` is called again."""
        written = self.rest is not None and not self.rest
        if not written or connection.unsent:
            # Whoever answers what it has not read may take the rest of it for another request.
            self.reader.reusable = False
            self._early = True
        if not self.goes_on():
            return True
        if self.sending:
            return False
        if self._early and not self._flushing:
            # Closing the connection would lose what has not gone out.
            self._flushing = True
            connection.flush()
            if self.request.timeouts.write is not None or self.end != inf:
                self._unsent = connection.unsent
                self._limit("write", self.request.timeouts.write)
        return not connection.unsent

    def fail(self, error: BaseException, reason: str) -> None:
        """Close the connection; whoever waits is told why."""
        if self._error is None:
            self._error = error
        self.give_up(reason)

    def give_up(self, reason: str) -> None:
        """Close the connection, if there still is one; what waits is woken. Harmless twice."""
        connection, self.connection = self.connection, None
        if self._keeper.loop.is_closed():
            return  # the pool lets go of its sockets
        if connection is not None:
            self.reader.stop()
            connection.holder = None
            connection.due = inf
            self._keeper.broken_off(self, connection, reason)
        self._stop_upload()
        self._wake()

    def close(self) -> None:
        """Take no more of the response."""
        if self.reader.chunks:
            self.reader.chunks.clear()
            self._error = self._error or ReadError(_CLOSED)
        if self.connection is not None:
            self.give_up("abandoned")

    def _stop_upload(self) -> None:
        self.go_on()
        if self.upload is not None and not self.upload.done() and not self.uploaded:
            self.upload.cancel()

    async def settle(self) -> None:
        """Wait for the end of an upload that has been stopped: the body's generator closes itself."""
        if self.upload is not None and not self.upload.done() and not self._keeper.loop.is_closed():
            await asyncio.wait((self.upload,))


@final
class Body:
    """The body of a response; a plain iterator, so nothing is left to finalize."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        return exchange.take() or await exchange.read()

    def take_whole(self) -> bytes:
        """Return all of it, if all of it has arrived, and nothing otherwise."""
        exchange = self._exchange
        return exchange.take() if exchange.connection is None and exchange.reader.complete else b""

    async def aclose(self) -> None:
        """Take no more of it: a connection that has not been given back is closed."""
        self._exchange.close()
        if self._exchange.upload is not None:
            await self._exchange.settle()

    def __del__(self) -> None:
        exchange = self._exchange
        if exchange.connection is None or exchange.reader.upgraded:
            return
        loop = exchange._keeper.loop
        if not loop.is_closed():
            # This may be another thread, or the middle of anything.
            loop.call_soon_threadsafe(exchange.close)
        url = exchange.request.target.decode("ascii", "replace")
        place = "; run Python with -X dev to see where it was opened" if exchange.place is None else exchange.place
        warnings.warn(f"the response to {url} was dropped without being closed{place}", ResourceWarning, stacklevel=2)
