"""
One end of a connection, byte by byte, and how to say that something else came than should have.

Every wait has a limit: what does not come in time is ``TookTooLong``, which is a ``NotMet``.
"""

import asyncio
import contextlib
import socket
import struct

__all__ = ("NotApplicable", "NotMet", "TooMuch", "TookTooLong", "Wire", "authority", "expect", "shown")

_PIECE = 65536


class NotMet(Exception):
    """What a row wants is not what was seen; the text says what was."""


class TookTooLong(NotMet):
    """Something did not happen within the limit."""


class TooMuch(NotMet):
    """More came than there can be; the rest is not read."""


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

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float, most: int | None = None
    ) -> None:
        self.ended = ""
        self._left = most
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
        self._count(data)
        self._rest += data
        self.ended = "" if data else "closed"
        return bool(data)

    def _count(self, data: bytes) -> None:
        """Take bytes off those that may come, if there is a limit."""
        if self._left is None:
            return
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch("more came than there can be")

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
