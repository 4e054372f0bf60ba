"""
The upstream of all WebSocket contenders: ``python -m benchmarks.echo`` prints its port and sends messages back.

Reads and makes frames by hand, without a library, so that it is never what is measured. A frame of a
client is masked, and comes back unmasked, whatever part of a message it is. Pings are answered.
"""

import asyncio
import base64
import hashlib
import re
import socket
import sys
from typing import NamedTuple, cast

from .loops import run

__all__ = ("CLOSE", "PING", "PONG", "Echo", "Frame", "accept_for", "first_frame", "frame", "masked")

CLOSE, PING, PONG = 8, 9, 10

_FIN = 0x80
_MASKED = 0x80

_LEAST = 2
"""The bytes that every frame has."""

_LENGTH_IN_2 = 126
_LENGTH_IN_8 = 127
_SMALL, _MEDIUM = 126, 65536

_HOST = "127.0.0.1"
_BACKLOG = 4096
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_KEY = re.compile(rb"\r\nsec-websocket-key: *([^\r ]+)", re.IGNORECASE)
_REFUSAL = b"HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Frame(NamedTuple):
    """A frame, unmasked."""

    kind: int
    """Its first byte: the opcode, and whether it is a message's last."""
    payload: bytes
    end: int
    """Where the next one begins."""


def accept_for(key: bytes) -> bytes:
    """Return what a server answers a client's key with."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(kind: int, payload: bytes) -> bytes:
    """Return a server's frame, which is not masked."""
    return _head(kind, len(payload), 0) + payload


def masked(opcode: int, payload: bytes, key: bytes) -> bytes:
    """Return a client's message in one frame."""
    return _head(_FIN | opcode, len(payload), _MASKED) + key + _mask(payload, key)


def first_frame(data: bytes) -> Frame | None:
    """Return the frame that these bytes begin with, once it is whole."""
    if len(data) < _LEAST:
        return None
    length, start = data[1] & 0x7F, 2
    if length == _LENGTH_IN_2:
        length, start = int.from_bytes(data[2:4], "big"), 4
    elif length == _LENGTH_IN_8:
        length, start = int.from_bytes(data[2:10], "big"), 10
    if not data[1] & _MASKED:
        end = start + length
        return Frame(data[0], data[start:end], end) if len(data) >= end else None
    end = start + 4 + length
    if len(data) < end:
        return None
    return Frame(data[0], _mask(data[start + 4 : end], data[start : start + 4]), end)


def _head(kind: int, length: int, mask: int) -> bytes:
    if length < _SMALL:
        return bytes((kind, mask | length))
    if length < _MEDIUM:
        return bytes((kind, mask | _LENGTH_IN_2)) + length.to_bytes(2, "big")
    return bytes((kind, mask | _LENGTH_IN_8)) + length.to_bytes(8, "big")


def _mask(payload: bytes, key: bytes) -> bytes:
    # One number for all of it: there is no faster way without a library.
    length = len(payload)
    repeated = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(length, "little")


class Echo(asyncio.Protocol):
    """One connection: the handshake, then frames."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._data = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the handshake."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Send back all frames that are whole."""
        self._data = self._data + data if self._data else data
        if not self._open and not self._shake_hands():
            return
        while (found := first_frame(self._data)) is not None:
            self._data = self._data[found.end :]
            self._answer(found)

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._transport.resume_reading()

    def _shake_hands(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        key = _KEY.search(head)
        if key is None:
            self._transport.write(_REFUSAL)
            self._transport.close()
            return False
        accept = accept_for(key[1])
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        self._transport.write(b"%bsec-websocket-accept: %b\r\n\r\n" % (upgrade, accept))
        self._open, self._data = True, rest
        return True

    def _answer(self, found: Frame) -> None:
        opcode = found.kind & 0x0F
        if opcode == PING:
            self._transport.write(frame(_FIN | PONG, found.payload))
        elif opcode != PONG:
            self._transport.write(frame(found.kind, found.payload))
        if opcode == CLOSE:
            self._transport.close()


async def _serve() -> None:
    listener = socket.create_server((_HOST, 0), backlog=_BACKLOG)
    await asyncio.get_running_loop().create_server(Echo, sock=listener)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()  # until the harness ends the process


if __name__ == "__main__":
    run(_serve())
