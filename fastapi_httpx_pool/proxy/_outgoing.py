"""What goes to the client: the upstream's answer, after stripping, and what rules and hooks make of it."""

from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter
from typing import Final, final

from starlette.responses import Response as StarletteResponse

from ..messages import Header, Response
from ._handshake import OURS
from ._headers import check_values, replaced, response_headers
from ._hooks import OnResponse, UpstreamResponse, ask
from ._rules import Rules
from ._via import via_line

__all__ = ("Outgoing", "ResponseTooLarge", "UnusableResponse", "ask_about")

FIRST_FINAL_STATUS: Final = 200
"""A 101 is one, too, where it was asked for."""
LAST_STATUS: Final = 599
"""RFC 9110, section 15; and servers know no phrase for what is beyond."""
BODILESS: Final = (204, 304)

_EVENTS = b"text/event-stream"
_CODINGS = frozenset((b"chunked", b"identity", b""))


class UnusableResponse(Exception):
    """The upstream answered what cannot be passed on."""


class ResponseTooLarge(Exception):
    """The upstream's body is longer than it may be."""


@final
class Outgoing:
    """One answer on its way."""

    __slots__ = ("_from_head", "_to_head", "body", "has_body_to_read", "headers", "status", "take_whole")

    def __init__(
        self, response: Response, rules: Rules, *, to_head: bool, from_head: bool, switches: bool = False
    ) -> None:
        """
        Take an answer.

        Args:
            response: The upstream's.
            rules: For its headers.
            to_head: Whether the client asked with HEAD.
            from_head: Whether the upstream was asked with HEAD.
            switches: Whether it is a 101 that was asked for.

        Raises:
            UnusableResponse: It cannot be passed on.
        """
        if not (switches or _is_usable(response.status)):
            raise UnusableResponse(f"the upstream answered with status {response.status}")
        self.status = response.status
        removed = rules.kept_from_client | OURS if switches else rules.kept_from_client
        self.headers = response_headers(response.headers, removed)
        if len(self.headers) < len(response.headers):
            _check_codings(response.headers)
        if rules.to_client:
            self.headers += rules.to_client
        self.body: AsyncIterator[bytes] = aiter(response.body)
        self.take_whole: Callable[[], bytes] | None = getattr(response.body, "take_whole", None)
        """Gives all of the body, if it has arrived already."""
        self.has_body_to_read = not from_head and response.status not in BODILESS
        """Whether the upstream sends one."""
        self._to_head = to_head
        self._from_head = from_head

    @property
    def bodiless(self) -> bool:
        """Whether no body may follow (RFC 9112, section 6.3)."""
        return self._to_head or self._from_head or self.status in BODILESS

    @property
    def length(self) -> int | None:
        """How many bytes of body the client is told to expect, if it is told."""
        if self.bodiless:
            return None
        for name, value in self.headers:
            if name == b"content-length":
                return int(value)
        return None

    @property
    def is_stream_of_events(self) -> bool:
        """Whether it is server-sent events, neither compressed nor of a length that is known."""
        kinds = [value for name, value in self.headers if name == b"content-type"]
        fixed = any(name in (b"content-encoding", b"content-length") for name, _ in self.headers)
        return not fixed and bool(kinds) and kinds[0][: len(_EVENTS)].lower() == _EVENTS

    def settle(self) -> None:
        """Drop a length that the status forbids, or that no body will follow."""
        if self.bodiless and not self._to_head:
            # Not on a 204, and on a 304 servers that count would take it for a body cut short.
            self.headers = [line for line in self.headers if line[0] != b"content-length"]

    def name_us(self, version: str, via: bytes) -> None:
        """Add our name to those of the proxies that it has come through."""
        self.headers.append(via_line(version, via))

    def time_upstream(self, asked_at: float) -> None:
        """Say how long the upstream has taken."""
        self.headers.append((b"server-timing", b"upstream;dur=%.1f" % ((perf_counter() - asked_at) * 1000)))

    def put(self, headers: list[Header]) -> None:
        """Take the route's own headers: cookies are added to the upstream's; others stand in their place."""
        cookies = [line for line in headers if line[0] == b"set-cookie"]
        others = [line for line in headers if line[0] != b"set-cookie"]
        self.headers = replaced(self.headers, others) + cookies


async def ask_about(outgoing: Outgoing, hook: OnResponse) -> StarletteResponse | None:
    """
    Let a hook change an answer; return what it gives in its place.

    Raises:
        TypeError: It returned something else.
        ValueError: It made of it what cannot be sent.
    """
    given = UpstreamResponse(outgoing.status, outgoing.headers, outgoing.body)
    length = given.headers.get("content-length")
    answer = await ask(hook, given)
    if isinstance(answer, StarletteResponse):
        return answer
    if answer is None:
        answer = given
    _check_answer(answer, outgoing.status)
    if answer.body is not outgoing.body:
        outgoing.take_whole = None
        if answer.headers.get("content-length") == length:
            del answer.headers["content-length"]
    outgoing.status, outgoing.headers, outgoing.body = answer.status_code, answer.headers.raw, aiter(answer.body)
    return None


def _check_codings(headers: Iterable[Header]) -> None:
    """Refuse a body in another coding than chunks, which the client would take for the body itself."""
    for name, value in headers:
        if name.lower() == b"transfer-encoding":
            codings = {coding.strip(b" \t") for coding in value.lower().split(b",")}
            if not codings <= _CODINGS:
                raise UnusableResponse("the upstream answered with a Transfer-Encoding other than chunked")


def _is_usable(status: int) -> bool:
    """Whether servers can send this status as a final one."""
    return FIRST_FINAL_STATUS <= status <= LAST_STATUS


def _check_answer(answer: UpstreamResponse, status: int) -> None:
    if not isinstance(answer, UpstreamResponse):
        raise TypeError(
            f"on_response returned {answer!r}; it may change the response that it is given and return nothing, "
            "or return that one, or another starlette.responses.Response"
        )
    if answer.status_code != status and not _is_usable(answer.status_code):
        raise ValueError(f"on_response set the status {answer.status_code}; it must be from 200 to 599")
    check_values(answer.headers.raw)
