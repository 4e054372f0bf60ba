"""A real HTTP server for tests, on 127.0.0.1, whose answers a test writes down."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, final

from ._connection import LIMIT, UpstreamConnection
from ._messages import Reply, UpstreamRequest
from ._routes import Route
from ._tls import Authority

__all__ = ("ConnectionScript", "Upstream")

ConnectionScript = Callable[[UpstreamConnection], None]
"""Has a whole connection in its hands, from the first byte on."""

_FAILED = Reply(500, text="the upstream's script failed\n", headers={"Connection": "close"})


@final
class Upstream:
    """
    A server that a test scripts, in threads of its own; so it serves every event loop, and tests without one.

    It starts when its ``url`` is first asked for::

        with Upstream() as upstream:
            upstream.get("/users/1").respond(json={"id": 1})
            ...
            assert upstream.requests[0].headers["accept"] == "*/*"

    What no route matches is answered with 404, and a text that says so. Of several routes that match,
    the newest counts. What a script raises is raised again at the end of the block.
    """

    requests: list[UpstreamRequest]
    """All that came, in the order in which they were complete."""
    connections: int
    """How many have been accepted."""
    errors: list[BaseException]
    """What scripts raised."""

    def __init__(self, *, tls: bool = False) -> None:
        """
        Nothing is opened yet.

        Args:
            tls: Speak https, with a certificate that ``ca_file`` vouches for; needs trustme.
        """
        self.requests = []
        self.connections = 0
        self.errors = []
        self._tls = tls
        self._authority: Authority | None = None
        self._routes: list[Route] = []
        self._script: ConnectionScript = self._serve_http
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._open: list[UpstreamConnection] = []
        self._closing = threading.Event()
        self._arrival = threading.Condition()

    # Where it is.

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port; asked for the first time, it starts the server."""
        return int(self._started().getsockname()[1])

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; asked for the first time, it starts the server."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """
        The file of the authority to trust: ``ClientSettings(tls=TLSSettings(ca_file=upstream.ca_file))``.

        Raises:
            RuntimeError: It does not speak TLS.
        """
        self._started()
        if self._authority is None:
            raise RuntimeError("This upstream speaks plain http; make one with Upstream(tls=True)")
        return self._authority.file

    # What it answers.

    def route(self, method: str | None = None, path: str | None = None) -> Route:
        """
        Return a new route, to be given answers.

        Args:
            method: None for any.
            path: Without a query, as it is sent; with a star at its end, what begins so; None for any.
        """
        route = Route(method, path)
        self._routes.insert(0, route)
        return route

    def get(self, path: str) -> Route:
        """Return a new route for GET; see ``route``."""
        return self.route("GET", path)

    def head(self, path: str) -> Route:
        """Return a new route for HEAD."""
        return self.route("HEAD", path)

    def options(self, path: str) -> Route:
        """Return a new route for OPTIONS."""
        return self.route("OPTIONS", path)

    def post(self, path: str) -> Route:
        """Return a new route for POST."""
        return self.route("POST", path)

    def put(self, path: str) -> Route:
        """Return a new route for PUT."""
        return self.route("PUT", path)

    def patch(self, path: str) -> Route:
        """Return a new route for PATCH."""
        return self.route("PATCH", path)

    def delete(self, path: str) -> Route:
        """Return a new route for DELETE."""
        return self.route("DELETE", path)

    def on_connection(self, script: ConnectionScript) -> None:
        """Give each connection to a function, instead of to the routes; it is closed when that returns."""
        self._script = script

    # What it saw.

    def wait_for_requests(self, count: int = 1, seconds: float = 5.0) -> list[UpstreamRequest]:
        """
        Wait until so many requests have come, and return all; not in the thread of an event loop that must send them.

        In an asynchronous test: ``await anyio.to_thread.run_sync(upstream.wait_for_requests)``.

        Raises:
            TimeoutError: They did not come.
        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: len(self.requests) >= count, seconds):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came within {seconds:g} s")
            return list(self.requests)

    # Serving.

    def _started(self) -> socket.socket:
        if self._closing.is_set():
            raise RuntimeError("This upstream is closed; make another one")
        if self._listener is None:
            if self._tls:
                self._authority = Authority()
            self._listener = socket.create_server((self.host, 0), backlog=1024)
            self._start(self._accept, self._listener)
        return self._listener

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="upstream")
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(LIMIT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = UpstreamConnection(sock, self.connections, self._closing)
            self.connections += 1
            self._open.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: UpstreamConnection) -> None:
        try:
            if self._authority is not None:
                connection.sock = self._authority.context.wrap_socket(connection.sock, server_side=True)
        except (ssl.SSLError, OSError):
            connection.close()  # it did not like the certificate, or has left
            return
        try:
            self._script(connection)
        except BaseException as exc:  # noqa: BLE001 -- raised again at the end of the block
            self.errors.append(exc)
        finally:
            connection.close()

    def _serve_http(self, connection: UpstreamConnection) -> None:
        while not connection.is_closed:
            request = connection.read_request()
            if request is None:
                return
            answer = self._record(request).next_answer()
            try:
                answer(request, connection)
            except BaseException:
                connection.send(_FAILED.head + _FAILED.content)
                raise
            if request.headers.get("connection", "").lower() == "close":
                return

    def _record(self, request: UpstreamRequest) -> Route:
        with self._arrival:
            route = next((route for route in self._routes if route.matches(request)), None) or self._missing(request)
            route.requests.append(request)
            self.requests.append(request)
            self._arrival.notify_all()
        return route

    def _missing(self, request: UpstreamRequest) -> Route:
        known = ", ".join(map(repr, reversed(self._routes))) or "none"
        text = f"The test's upstream has no route for {request.method} {request.path}; it has: {known}\n"
        return Route(request.method, request.path).respond(404, text=text)

    # The end.

    def close(self) -> None:
        """Stop listening, break off what is open, wait for the scripts. Harmless twice."""
        self._closing.set()
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(LIMIT)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
        if self._authority is not None:
            self._authority.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; raise again what a script raised, if nothing else has been raised."""
        self.close()
        if exc is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else "not started" if self._listener is None else self.url
        return f"<Upstream [{state}, {len(self.requests)} requests]>"
