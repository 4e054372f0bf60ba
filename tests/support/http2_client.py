"""A client that speaks HTTP/2 over a plain socket, and keeps all that it is told: interim answers and trailers, too."""

from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.support.raw_client import RawClient

__all__ = ("Http2Answer", "Http2WebSocket", "ask_http2")

Lines = list[tuple[bytes, bytes]]


@dataclass
class Http2Answer:
    """What came on one stream."""

    informational: list[Lines] = field(default_factory=list)
    """Interim answers, with their ``:status``."""
    headers: Lines = field(default_factory=list)
    body: bytes = b""
    trailers: Lines = field(default_factory=list)
    complete: bool = False
    """Whether the stream ended, and was not reset."""

    @property
    def status(self) -> int:
        """The final status; 0 if none came."""
        return int(dict(self.headers).get(b":status", b"0"))

    def take(self, event: h2.events.Event) -> bool:
        """Take one event; whether it was the stream's last."""
        match event:
            case h2.events.InformationalResponseReceived():
                self.informational.append(_lines(event.headers))
            case h2.events.ResponseReceived():
                self.headers = _lines(event.headers)
            case h2.events.DataReceived():
                self.body += event.data
            case h2.events.TrailersReceived():
                self.trailers = _lines(event.headers)
            case h2.events.StreamEnded():
                self.complete = True
        return isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated)


def ask_http2(port: int, path: bytes = b"/", *lines: tuple[bytes, bytes]) -> Http2Answer:
    """Send one GET with prior knowledge, over a connection of its own, and read all of the answer, which must be short."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    target = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"front.example"), (b":path", path)]
    connection.send_headers(1, [*target, *lines], end_stream=True)
    client = RawClient(port)
    answer = Http2Answer()
    try:
        client.send(connection.data_to_send())
        while data := client.sock.recv(65536):
            if any(answer.take(event) for event in connection.receive_data(data)):
                break
            client.send(connection.data_to_send())
    finally:
        client.close()
    return answer


def _lines(headers: object) -> Lines:
    return [(bytes(name), bytes(value)) for name, value in headers]  # type: ignore[attr-defined]


class Http2WebSocket:
    """A WebSocket on a stream of HTTP/2 with prior knowledge (RFC 8441)."""

    def __init__(self, port: int, path: bytes, *lines: tuple[bytes, bytes]) -> None:
        """Ask for it."""
        self._client = RawClient(port)
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._connection.initiate_connection()
        self._send()
        self._wait_for(h2.events.RemoteSettingsChanged)
        target = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", path)]
        version = (b"sec-websocket-version", b"13")
        self._connection.send_headers(1, [*target, (b":authority", b"front.example"), version, *lines])
        self._send()

    def answer(self) -> Lines:
        """Wait for the head of the answer."""
        return _lines(self._wait_for(h2.events.ResponseReceived).headers)

    def write(self, data: bytes) -> None:
        """Write frames."""
        self._connection.send_data(1, data)
        self._send()

    def read(self) -> bytes:
        """Wait for frames."""
        data: bytes = self._wait_for(h2.events.DataReceived).data
        return data

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _wait_for(self, kind: type[h2.events.Event]) -> Any:
        while data := self._client.sock.recv(65536):
            found = [event for event in self._connection.receive_data(data) if isinstance(event, kind)]
            self._send()
            if found:
                return found[0]
        raise EOFError("the server hung up")

    def _send(self) -> None:
        self._client.send(self._connection.data_to_send())
