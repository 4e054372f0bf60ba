"""Reads an answer off a raw connection by its own framing, and says whether it came to its proper end."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.raw_client import RawClient, headers_of, raw_client


@dataclass(frozen=True)
class Answer:
    """What a client understood of an answer."""

    status: int
    head: bytes
    body: bytes
    complete: bool
    """Whether the body ended as its framing said, not just because the server hung up."""

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header's lines, in their order."""
        return [value for key, value in headers_of(self.head) if key == name]


def read_answer(client: RawClient, *, to_head_request: bool = False) -> Answer:
    """Read one answer, head and body."""
    head = client.read_head()
    if not head.endswith(b"\r\n\r\n"):
        return Answer(0, head, b"", complete=False)
    status = int(head.split(b" ", 2)[1])
    headers = dict(headers_of(head))
    if to_head_request or status in {204, 304}:
        return Answer(status, head, b"", complete=True)
    if b"transfer-encoding" in headers:
        body, complete = _read_chunks(client)
        return Answer(status, head, body, complete)
    if b"content-length" in headers:
        length = int(headers[b"content-length"])
        body = client.read_exactly(length)
        return Answer(status, head, body, complete=len(body) == length)
    return Answer(status, head, client.read_to_end(), complete=True)


def read_chunk(client: RawClient) -> bytes | None:
    """Read one chunk; ``b""`` is the last one, None is a connection that was broken off."""
    size = client.read_until(b"\r\n")
    if not size.endswith(b"\r\n"):
        return None
    data = client.read_exactly(int(size, 16) + 2)
    return data[:-2] if data.endswith(b"\r\n") else None


def _read_chunks(client: RawClient) -> tuple[bytes, bool]:
    parts = []
    while chunk := read_chunk(client):
        parts.append(chunk)
    return b"".join(parts), chunk is not None


def ask(port: int, request: bytes) -> Answer:
    """Send a request over a connection of its own and read the answer."""
    with raw_client(port) as client:
        client.send(request)
        return read_answer(client, to_head_request=request.startswith(b"HEAD "))


def begun_in_time(asking: Callable[[float], Answer], limit: float) -> Answer:
    """Ask with a short limit, and with longer ones if the machine was too slow for the answer to begin within it."""
    for seconds in (limit, 4 * limit, 16 * limit):
        answer = asking(seconds)
        if answer.status == 200:
            break
    return answer


def get(target: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> bytes:
    """Return a request without a body."""
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: front.example", *headers, b"", b""))


def post(body: bytes, *headers: bytes, target: bytes = b"/", method: bytes = b"POST") -> bytes:
    """Return a request with a body of a known length."""
    return get(target, b"Content-Length: %d" % len(body), *headers, method=method) + body
