"""What an upstream of a test receives and answers."""

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, final

__all__ = ("NOT_GIVEN", "Reply", "UpstreamRequest")

NOT_GIVEN: Final[Any] = object()
"""Says that there is no JSON; None is JSON's null."""

_BODILESS = frozenset((204, 304))
_FIRST_FINAL = 200


@final
@dataclass(frozen=True)
class UpstreamRequest:
    """A request as an ``Upstream`` has seen it."""

    method: str
    target: str
    """As it stood in the request line: path and query, not decoded."""
    raw_headers: tuple[tuple[bytes, bytes], ...]
    """In order, as they were sent."""
    body: bytes
    """Without the framing of chunks, but not decompressed."""
    connection: int
    """On which connection it came, counted from 0: equal numbers tell that a connection was used again."""
    headers: Mapping[str, str] = field(init=False, repr=False)
    """By name in lower case; the values of a repeated name are joined with ", "."""

    def __post_init__(self) -> None:
        found: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
        object.__setattr__(self, "headers", found)

    @property
    def path(self) -> str:
        """The target without its query, not decoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark, not decoded."""
        return self.target.partition("?")[2]

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body as JSON."""
        return json_module.loads(self.body)


@final
class Reply:
    """An answer, with a ``Content-Length`` unless its headers say otherwise."""

    status: int
    """The status."""
    content: bytes
    """The body."""
    headers: dict[str, str]
    """As they are sent, those that the body needs among them."""

    def __init__(
        self,
        status: int = 200,
        *,
        json: Any = NOT_GIVEN,
        text: str | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Take what is answered.

        Args:
            status: The status.
            json: The body, as JSON.
            text: Or as text.
            content: Or as bytes.
            headers: Beside those that the body needs; they may replace them.

        Raises:
            TypeError: There are two bodies.
        """
        if [json is not NOT_GIVEN, text is not None, content is not None].count(True) > 1:
            raise TypeError("json, text and content are bodies, and an answer has one; give one of them")
        self.status = status
        self.content = content or b""
        self.headers = dict(headers or {})
        names = {name.lower() for name in self.headers}
        if text is not None:
            self._set_content(text.encode(), "text/plain; charset=utf-8", names)
        elif json is not NOT_GIVEN:
            self._set_content(json_module.dumps(json).encode(), "application/json", names)
        has_body = status >= _FIRST_FINAL and status not in _BODILESS
        if has_body and not names & {"content-length", "transfer-encoding"}:
            self.headers["Content-Length"] = str(len(self.content))

    def _set_content(self, content: bytes, content_type: str, names: set[str]) -> None:
        self.content = content
        if "content-type" not in names:
            self.headers["Content-Type"] = content_type

    @property
    def head(self) -> bytes:
        """The status line and the headers, as they are sent."""
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = ""
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.content)} bytes>"
