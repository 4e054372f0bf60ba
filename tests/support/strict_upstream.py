"""An upstream as strict as any: what it is sent must be HTTP that nobody could read in two ways."""

from tests.support.raw_client import headers_of
from tests.support.upstream import Connection, ok

FRAMING = (b"content-length", b"transfer-encoding")


class StrictUpstream:
    """A script that reads requests octet by octet, answers those that come whole, and keeps what it was sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        """Of the requests that came whole; without the framing."""
        self.faults: list[str] = []
        """What was wrong."""

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        while head := connection.read_head():
            self.heads.append(head)
            self._check(head)
            body = self._body(connection, dict(headers_of(head)))
            if body is None:
                return
            self.bodies.append(body)
            connection.send(ok())

    @property
    def targets(self) -> list[bytes]:
        """The request targets, in their order."""
        return [head.split(b" ")[1] for head in self.heads]

    def names(self, index: int = 0) -> set[bytes]:
        """Return the names of a request's headers, in lower case."""
        return {name for name, _ in headers_of(self.heads[index])}

    def _check(self, head: bytes) -> None:
        lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        if sum(names.count(name) for name in FRAMING) > 1:
            self.faults.append("more than one framing")
        if names.count(b"host") != 1:
            self.faults.append("not one Host")
        if lines[0].count(b" ") != 2 or not lines[0].endswith(b" HTTP/1.1"):
            self.faults.append("not a request line")
        if any(not name or name != name.strip() or b" " in name for name in names):
            self.faults.append("not a name")
        if any(octet in line for line in lines for octet in (b"\r", b"\n", b"\0")):
            self.faults.append("control characters")

    def _body(self, connection: Connection, headers: dict[bytes, bytes]) -> bytes | None:
        if b"transfer-encoding" in headers:
            if headers[b"transfer-encoding"] != b"chunked":
                self.faults.append("another coding than chunked")
                return None
            return self._chunks(connection)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            self.faults.append("a length that is no number")
            return None
        body = connection.read_exactly(int(length))
        return body if len(body) == int(length) else None

    def _chunks(self, connection: Connection) -> bytes | None:
        body = b""
        while (size := connection.read_until(b"\r\n")).endswith(b"\r\n"):
            try:
                count = int(size[:-2].decode("ascii"), 16)
            except ValueError:
                self.faults.append("a chunk with something beside its size")
                return None
            chunk = connection.read_exactly(count + 2)
            if not count:
                if chunk != b"\r\n":
                    self.faults.append("trailers")
                return body
            body += chunk[:-2]
            if not chunk.endswith(b"\r\n"):
                break
        return None
