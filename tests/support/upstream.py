"""A scripted upstream: each connection is a Python function over a plain socket, byte by byte."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.reading import SocketReader

LIMIT = 30.0
"""Seconds after which a script that still waits gives up, so that no test hangs."""


class Connection(SocketReader):
    """One accepted connection, in the hands of a script."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        super().__init__(sock)
        self.number = number
        """0 for the first connection that the upstream accepted."""

    def read_request(self) -> tuple[bytes, bytes]:
        """Return a request's head and its body as it is on the wire (chunks with their framing)."""
        head = self.read_head()
        names = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
        if b"transfer-encoding" in names:
            return head, self.read_until(b"0\r\n\r\n")
        return head, self.read_exactly(int(names.get(b"content-length", b"0")))

    def send(self, data: bytes) -> None:
        """Send bytes; a peer that is gone is no error."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def wait_until_closed(self) -> bool:
        """Wait until the peer hangs up; whether it did."""
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Close cleanly."""
        self.sock.close()


Script = Callable[[Connection], None]


class Upstream:
    """A listening socket, on 127.0.0.1 unless another is given, and a thread for each connection that runs the script."""

    def __init__(
        self,
        script: Script,
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        listener: socket.socket | None = None,
    ) -> None:
        self._script = script
        self._ssl_context = ssl_context
        self._listener = socket.create_server((host, 0)) if listener is None else listener
        self.host = host
        # A Unix domain socket has none.
        self.port: int = 0 if self._listener.family == socket.AF_UNIX else self._listener.getsockname()[1]
        self.accepted = 0
        """Connections so far."""
        self.errors: list[BaseException] = []
        """What scripts raised; ``scripted`` raises the first of them again."""
        self._threads: list[threading.Thread] = []
        self._connections: list[Connection] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{'http' if self._ssl_context is None else 'https'}://{self.host}:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(LIMIT)
            number, self.accepted = self.accepted, self.accepted + 1
            try:
                if self._ssl_context is not None:
                    sock = self._ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it has gone already
                sock.close()
                continue
            connection = Connection(sock, number)
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        sock = connection.sock
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
        except OSError:
            sock.close()
            return
        try:
            self._script(connection)
        except BaseException as exc:  # noqa: BLE001 -- raised again in the test's own thread
            self.errors.append(exc)
        finally:
            sock.close()

    def close(self) -> None:
        """Stop listening, break off what is open, wait for the scripts."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(LIMIT)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)


@contextmanager
def scripted(
    script: Script,
    ssl_context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    listener: socket.socket | None = None,
) -> Iterator[Upstream]:
    """Run a scripted upstream for a block."""
    upstream = Upstream(script, ssl_context, host, listener)
    try:
        yield upstream
    finally:
        upstream.close()
    if upstream.errors:
        raise upstream.errors[0]


def answering(response: bytes, *, times: int = 1000) -> Script:
    """Return a script that answers each request on a connection with the same bytes."""

    def script(connection: Connection) -> None:
        for _ in range(times):
            head, _ = connection.read_request()
            if not head.endswith(b"\r\n\r\n"):
                return
            connection.send(response)

    return script


def answering_together(count: int, response: bytes) -> Script:
    """Return a script like that, whose first answers wait until there are so many connections."""
    all_there = threading.Barrier(count)

    def script(connection: Connection) -> None:
        connection.read_request()
        all_there.wait(LIMIT)
        connection.send(response)
        answering(response)(connection)

    return script


def saying(data: bytes, ending: str = "close") -> Script:
    """Return a script that takes a request, sends something and ends the connection, or holds it."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)
        getattr(connection, ending)()

    return script


def silent(connection: Connection) -> None:
    """Take a request and never answer."""
    connection.read_request()
    connection.wait_until_closed()


def ok(body: bytes = b"ok", *headers: bytes) -> bytes:
    """Return a 200 with a known length."""
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body))
