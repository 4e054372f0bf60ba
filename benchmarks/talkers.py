"""
A load generator for WebSockets: each talker sends a message, waits until it comes back, and sends it again.

Nothing of a message is made anew: its frame is masked once, and what comes back is compared as bytes.
"""

import asyncio
import base64
import os
import time
from collections.abc import Sequence
from typing import Self, cast, final

from .echo import CLOSE, PING, PONG, accept_for, first_frame, frame, masked
from .generator import Measured, percentile

__all__ = ("BINARY", "TEXT", "NoEcho", "Talkers")

TEXT, BINARY = 1, 2

_FIN = 0x80
_KEY = b"\x5a\xc3\x96\x0f"
"""What masks a talker's frames; always the same, which nobody who is measured can use."""

_AT_ONCE = 50
_LIMIT = 20.0
"""Seconds until a handshake, and a message after it, must have come back."""


class NoEcho(Exception):
    """A WebSocket did not open, broke, or sent something else back; the text says which."""


@final
class Talkers:
    """Open WebSockets to one server on 127.0.0.1."""

    def __init__(self, talkers: "Sequence[_Talker]") -> None:
        self._talkers = talkers

    @classmethod
    async def open(cls, port: int, count: int, size: int, opcode: int = BINARY) -> Self:
        """
        Open so many, a few at a time; each has had its message back once.

        Raises:
            NoEcho: One of them did not open, or send its message back.
        """
        message = b"x" * size
        gate = asyncio.Semaphore(_AT_ONCE)
        loop = asyncio.get_running_loop()
        talkers: list[_Talker] = []

        async def one() -> None:
            async with gate:
                _, talker = await loop.create_connection(
                    lambda: _Talker(f"127.0.0.1:{port}", message, opcode), "127.0.0.1", port
                )
                talkers.append(talker)
                await talker.tried

        try:
            async with asyncio.timeout(_LIMIT), asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(one())
        except* (OSError, NoEcho) as errors:  # a timeout, too
            cls(talkers).close()
            raise NoEcho(_said(errors)) from errors
        return cls(talkers)

    async def talk(self, seconds: float) -> Measured:
        """Let all of them send their message again and again for so many seconds."""
        times: list[float] = []
        began = time.perf_counter()
        for talker in self._talkers:
            talker.begin(times)
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        answered = len(times)
        # The last messages come back before anybody else's turn begins.
        await asyncio.wait([talker.end() for talker in self._talkers], timeout=_LIMIT)
        for talker in self._talkers:
            talker.check()
        errors = sum(talker.broken is not None for talker in self._talkers)
        return Measured(answered / took, errors, percentile(times, 50), percentile(times, 99))

    def close(self) -> None:
        """Hang up."""
        for talker in self._talkers:
            talker.hang_up()


def _said(errors: BaseExceptionGroup[BaseException]) -> str:
    first = errors.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or ("it did not answer in time" if isinstance(first, TimeoutError) else repr(first))


@final
class _Talker(asyncio.Protocol):
    """One WebSocket."""

    _transport: asyncio.Transport

    def __init__(self, host: str, message: bytes, opcode: int) -> None:
        self._host = host
        self._key = base64.b64encode(os.urandom(16))
        self._frame = masked(opcode, message, _KEY)
        self._expected = frame(_FIN | opcode, message)
        self._data = b""
        self._open = False
        self._sent = 0.0
        self._times: list[float] | None = None
        self._silent: asyncio.Future[None] | None = None
        self.broken: str | None = None
        """What is wrong with it."""
        self.tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Whether a message has come back."""

    def begin(self, times: list[float]) -> None:
        """Send the message, and again whenever it has come back; note how long each took."""
        self._times = times
        if self.broken is None:
            self._send()

    def end(self) -> asyncio.Future[None]:
        """Send no more; the result comes with the last message."""
        self._silent = asyncio.get_running_loop().create_future()
        self._times = None
        if self.broken is not None:
            self._silent.set_result(None)
        return self._silent

    def check(self) -> None:
        """Note that the last message has not come back."""
        if self._silent is not None and not self._silent.done():
            self.give_up("its last message did not come back")

    def hang_up(self) -> None:
        """Close it without a word."""
        self.broken = self.broken or "hung up"
        self._transport.abort()

    def give_up(self, reason: str) -> None:
        """Note what is wrong, for whoever waits."""
        if self.broken is not None:
            return
        self.broken = reason
        if not self.tried.done():
            self.tried.set_exception(NoEcho(reason))
        if self._silent is not None and not self._silent.done():
            self._silent.set_result(None)
        self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        head = f"GET / HTTP/1.1\r\nhost: {self._host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        head += f"sec-websocket-version: 13\r\nsec-websocket-key: {self._key.decode()}\r\n\r\n"
        self._transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        """Take an answer."""
        self._data = self._data + data if self._data else data
        if not self._open and not self._shake_hands():
            return
        if self._data == self._expected:  # nearly always
            self._data = b""
            self._came_back()
            return
        self._read_frames()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody does this to a talker."""
        self.give_up(f"it broke: {exc}" if exc else "the server hung up")

    def _shake_hands(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101 ") or accept_for(self._key) not in head:
            status = head.partition(b"\r\n")[0].decode("latin-1")
            self.give_up(f"it answers {status!r} to the handshake")
            return False
        self._open, self._data = True, rest
        self._send()
        return True

    def _read_frames(self) -> None:
        while self.broken is None and (found := first_frame(self._data)) is not None:
            data, self._data = self._data[: found.end], self._data[found.end :]
            opcode = found.kind & 0x0F
            if data == self._expected:
                self._came_back()
            elif opcode == PING:
                self._transport.write(masked(PONG, found.payload, _KEY))
            elif opcode == CLOSE:
                self.give_up(f"the server closed it: {found.payload[2:].decode() or found.payload.hex()}")
            elif opcode != PONG:
                self.give_up("it sends back something else")

    def _send(self) -> None:
        self._sent = time.perf_counter()  # uvloop's clock ticks in milliseconds
        self._transport.write(self._frame)

    def _came_back(self) -> None:
        if self._times is not None:
            self._times.append(time.perf_counter() - self._sent)
            self._send()
        elif self._silent is not None and not self._silent.done():
            self._silent.set_result(None)
        elif not self.tried.done():
            self.tried.set_result(None)
