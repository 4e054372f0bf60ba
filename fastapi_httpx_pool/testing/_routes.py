"""What an upstream does with which request."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, final

from ._connection import UpstreamConnection
from ._messages import NOT_GIVEN, Reply, UpstreamRequest

__all__ = ("Route", "RouteScript")

RouteScript = Callable[[UpstreamRequest, UpstreamConnection], None]
"""Answers a request on its connection, byte by byte."""


@final
class Route:
    """
    The answers to the requests of one method and path.

    Each call adds an answer: the first request gets the first one, and so on; the last answer is
    given again and again. ``upstream.get("/x").respond(503).respond(text="ok")`` fails once.
    """

    method: str | None
    """None for any."""
    path: str | None
    """None for any; with a star at its end, what begins so."""
    requests: list[UpstreamRequest]
    """Those that came here, in order."""

    def __init__(self, method: str | None, path: str | None) -> None:
        self.method = method
        self.path = path
        self.requests = []
        self._answers: list[RouteScript] = []

    def matches(self, request: UpstreamRequest) -> bool:
        """Whether a request is this route's."""
        if self.method not in (None, request.method):
            return False
        if self.path is not None and self.path.endswith("*"):
            return request.path.startswith(self.path[:-1])
        return self.path in (None, request.path)

    def next_answer(self) -> RouteScript:
        """Return what answers the next request."""
        if not self._answers:
            return _replying(Reply(500, text=f"{self!r} was given no answer, for example with respond()\n"))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    # Answers.

    def respond(
        self,
        status: int = 200,
        *,
        json: Any = NOT_GIVEN,
        text: str | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        reset_after: int | None = None,
    ) -> Self:
        """
        Answer with status, headers and a body.

        Args:
            status: The status.
            json: The body, as JSON.
            text: Or as text.
            content: Or as bytes.
            headers: Beside those that the body needs.
            delay: Seconds to wait before the answer.
            reset_after: Send only so many bytes of the body, and then reset the connection.

        Raises:
            TypeError: There are two bodies.
        """
        reply = Reply(status, json=json, text=text, content=content, headers=headers)
        return self.script(_replying(reply, delay, reset_after))

    def drip(
        self,
        chunks: Iterable[bytes],
        *,
        pause: float = 0.0,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """
        Answer in chunks, each sent for itself.

        Args:
            chunks: The body's.
            pause: Seconds before each of them.
            status: The status.
            headers: Beside ``Transfer-Encoding``.
        """
        head = Reply(status, headers={**(headers or {}), "Transfer-Encoding": "chunked"}).head
        parts = tuple(chunks)

        def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
            connection.send(head)
            for part in parts:
                connection.pause(pause)
                connection.send(b"%x\r\n%s\r\n" % (len(part), part))
            connection.send(b"0\r\n\r\n")

        return self.script(answer)

    def raw(self, *parts: bytes, pause: float = 0.0) -> Self:
        """
        Send bytes as they are, whether they are HTTP or not, and close the connection.

        Args:
            parts: Sent one after the other.
            pause: Seconds before each but the first.
        """

        def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
            _send_parts(connection, parts, pause)
            connection.close()

        return self.script(answer)

    def reset(self, after: bytes = b"") -> Self:
        """
        Reset the connection.

        Args:
            after: Sent before, as it is: half of a head, for example.
        """

        def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
            connection.send(after)
            connection.reset()

        return self.script(answer)

    def hang(self, after: bytes = b"") -> Self:
        """
        Never answer: keep the connection open until the client has closed it.

        Args:
            after: Sent before, as it is: the head alone, for example.
        """

        def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
            connection.send(after)
            connection.wait_until_closed()
            connection.close()

        return self.script(answer)

    def handle(self, function: Callable[[UpstreamRequest], Reply]) -> Self:
        """Answer with what a function makes of the request; it is called in a thread of the upstream's."""

        def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
            _send_reply(function(request), request, connection)

        return self.script(answer)

    def script(self, function: RouteScript) -> Self:
        """
        Leave the answer to a function, which sends it byte by byte.

        It is called with the request and the connection, in a thread of the upstream's; if it does not
        close the connection, the next request may come on it.
        """
        self._answers.append(function)
        return self

    def __repr__(self) -> str:
        return f"<Route {self.method or 'any method'} {self.path or 'any path'}>"


def _replying(reply: Reply, delay: float = 0.0, reset_after: int | None = None) -> RouteScript:
    def answer(request: UpstreamRequest, connection: UpstreamConnection) -> None:
        connection.pause(delay)
        if reset_after is None:
            _send_reply(reply, request, connection)
        else:
            connection.send(reply.head + reply.content[:reset_after])
            connection.reset()

    return answer


def _send_reply(reply: Reply, request: UpstreamRequest, connection: UpstreamConnection) -> None:
    connection.send(reply.head + (b"" if request.method == "HEAD" else reply.content))


def _send_parts(connection: UpstreamConnection, parts: Iterable[bytes], pause: float) -> None:
    for number, part in enumerate(parts):
        if number:
            connection.pause(pause)
        connection.send(part)
