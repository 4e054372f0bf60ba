"""
One TCP, TLS or Unix domain socket connection, as asyncio calls it.

It carries one exchange after the other and knows nothing of any of them: what comes goes to
whoever has the connection now. Bytes that come while nobody has it are nobody's response, so it is
closed. It is always aborted, never closed: nothing is left to be written that anybody waits for,
and a TLS peer may take its time to say goodbye.
"""

import asyncio
import select
import socket
import ssl
from math import inf
from typing import Any, Final, Protocol, cast, final

from ._bookkeeping import Origin
from ._statistics import Counters
from ._timer import Alarm, Timer

__all__ = ("Connection", "Holder", "Owner")

HIGH_WATER: Final = 64 * 1024
"""Bytes that wait to be written before whoever writes is told to wait."""
LAST_WORDS: Final = 64 * 1024


class Holder(Protocol):
    """Whoever has a connection: an exchange, or a tunnel."""

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes, and keep none that is not copied."""

    def receive_end(self) -> None:
        """Take the peer's end of the stream; it may still be reading."""

    def lose(self, exc: Exception | None) -> None:
        """Take the end of the connection."""

    def go_on(self) -> None:
        """Write on: what was written has gone out."""

    def expire(self, now: float) -> None:
        """Act: a time limit is over."""

    @property
    def writes(self) -> bool:
        """Whether it still has something to write."""
        ...


class Owner(Protocol):
    """The pool, as far as a connection knows it."""

    buffer: memoryview
    """Where all connections read to, one at a time."""

    timer: Timer

    def lost_idle(self, connection: "Connection", reason: str) -> None:
        """Take note: an idle connection is closed."""

    def closed(self, connection: "Connection", reason: str) -> None:
        """Take note, for the statistics."""


@final
class Connection(asyncio.BufferedProtocol, Alarm):
    """One connection of a pool."""

    __slots__ = (
        "_closed",
        "_flushed",
        "_owner",
        "_poll",
        "_reading",
        "bytes_in",
        "bytes_out",
        "counters",
        "ends",
        "exchanges",
        "holder",
        "idle_since",
        "origin",
        "rest",
        "since",
        "sock",
        "transport",
        "write_paused",
    )

    due: float
    transport: asyncio.Transport
    sock: socket.socket
    counters: Counters

    def __init__(self, owner: Owner, origin: Origin["Connection"]) -> None:
        super().__init__()
        self._owner = owner
        self._poll: Any = None
        self._closed = False
        self._flushed = False
        self._reading = True
        self.origin: Origin[Connection] = origin
        self.holder: Holder | None = None
        self.write_paused: bool = False
        self.exchanges: int = 0
        """How many it has carried or carries."""
        self.since: float = 0.0
        """When it was opened, in the loop's time."""
        self.ends: float = inf
        """When it is too old to be used again, likewise."""
        self.idle_since: float = 0.0
        """When it was given back last, likewise."""
        self.rest: float = inf
        """Seconds that it may be idle."""
        self.bytes_in: int = 0
        self.bytes_out: int = 0

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all: what is in it is taken out before anything else is read.
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._owner.buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """Take bytes that are there for the time of this call."""
        self.bytes_in += len(data)
        holder = self.holder
        if holder is None:
            self._lose_idle("unsolicited")
        else:
            holder.receive(data)

    def eof_received(self) -> bool:
        holder = self.holder
        if holder is None:
            self._lose_idle("peer")
            return False
        holder.receive_end()
        # The peer may have said all it has to say, and still be reading what is uploaded. TLS has
        # no such state.
        return self.holder is holder and holder.writes and not self.is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self.due = inf
        holder = self.holder
        if holder is not None and exc is not None and not self.is_tls:
            self._receive_last_words(holder)
            holder = self.holder
        if holder is not None:
            self.holder = None
            holder.lose(exc)
            self.close("peer")
        elif not self._closed:
            self._lose_idle("peer")

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.holder is not None:
            self.holder.go_on()

    # What a holder does with it.

    def write(self, data: "bytes | memoryview") -> None:
        """Send bytes; look at ``write_paused`` and ``is_closing`` afterwards."""
        self.bytes_out += len(data)
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Let the peer wait."""
        if self._reading and not self.is_closing:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._reading:
            self._reading = True
            if not self.is_closing:
                self.transport.resume_reading()

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closed or self.transport.is_closing()

    @property
    def is_tls(self) -> bool:
        """Whether it is encrypted."""
        return self.ssl_object is not None

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS side of it."""
        found: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return found

    def close(self, reason: str) -> None:
        """Close it at once. Harmless twice; the first reason counts."""
        if self._closed:
            return
        self._closed = True
        self.due = inf
        self.holder = None
        self._poll = None
        self._owner.closed(self, reason)
        if self._flushed and not self.unsent:
            self.transport.close()  # TLS has a buffer of its own below, which it flushes within ``GOODBYE``
        else:
            self._abort()

    def give_up(self) -> None:
        """Close what there is of it, before the pool has had it."""
        self._closed = True
        if hasattr(self, "transport"):
            self._abort()

    def _abort(self) -> None:
        try:
            self.transport.abort()
        except RuntimeError:  # the event loop is closed
            self.sock.close()

    def is_readable(self) -> bool:
        """Whether anything has come that the loop has not read yet: bytes, or the peer's end. Not once it is closing."""
        poll = self._poll
        if poll is None:
            poll = self._poll = _poll_of(self.sock)
        return bool(poll.poll(0))

    def flush(self) -> None:
        """Let whoever has it go on when everything has gone out, not when little is left."""
        self._flushed = True
        self.transport.set_write_buffer_limits(0)

    @property
    def unsent(self) -> int:
        """Bytes that were written and have not gone out."""
        return self.transport.get_write_buffer_size()

    def account(self) -> None:
        """Add what has been carried to the statistics."""
        counters = self.counters
        counters.bytes_in += self.bytes_in
        counters.bytes_out += self.bytes_out
        self.bytes_in = self.bytes_out = 0

    # What the books ask for.

    def is_usable(self) -> bool:
        """Whether it can carry another request, as far as can be seen from here."""
        if self._closed or self.transport.is_closing() or self._owner.timer.now() >= self.due:
            return False
        # What the loop has not read yet would be taken for the next response: stray bytes that came
        # while the loop was busy, or the peer's end.
        return not self.is_readable()

    def retire(self, reason: str) -> None:
        """Close it; the books have struck it off already."""
        now = self._owner.timer.now()
        self.close(reason if now < self.due else self._outlived(now))

    # What the timer does.

    def expire(self, now: float) -> None:
        """Act: whoever has it has waited too long, or nobody has had it for too long."""
        if self.holder is not None:
            self.holder.expire(now)
        else:
            self._lose_idle(self._outlived(now))

    def expire_in(self, seconds: float) -> None:
        """Have whoever has it act in so many seconds, unless ``due`` is put off before."""
        timer = self._owner.timer
        now = timer.now()
        timer.set(self, now + seconds, now)

    def _outlived(self, now: float) -> str:
        return "lifetime" if now >= self.ends else "expired"

    def _receive_last_words(self, holder: Holder) -> None:
        # It may have been a failed send that ended it. What the peer said before is still there, and
        # often tells why it wants no more.
        data = self._unread()
        while data:
            holder.receive(data)
            data = self._unread() if self.holder is holder else b""

    def _unread(self) -> bytes:
        try:
            return self.sock.recv(LAST_WORDS)
        except OSError:
            return b""

    def _lose_idle(self, reason: str) -> None:
        self._owner.lost_idle(self, reason)
        self.close(reason)


def _poll_of(sock: socket.socket) -> Any:
    if not hasattr(select, "poll"):  # pragma: no cover -- Windows
        return _Select(sock)
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll


@final
class _Select:  # pragma: no cover -- Windows
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def poll(self, _: float) -> bool:
        return bool(select.select([self._sock], [], [], 0)[0])
