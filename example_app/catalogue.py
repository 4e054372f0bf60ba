"""What the front page shows: each recipe with the code that makes it and the requests that its button sends."""

import ast
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .failures import answer_for_upstream
from .lifespan import make_lifespan
from .mounts import mount_site, tell_full_house
from .routes import failing, fan_out, reading, streaming, websocket
from .settings import SharedClientSettings, SiteClientSettings

__all__ = ("RECIPES", "Link", "Recipe", "Step")


@dataclass(frozen=True)
class Step:
    """One request that the page sends, and what it should come to."""

    path: str
    method: str = "GET"
    expected: int | None = 200
    """The status; None if the answer should break off."""
    upload: int = 0
    """Bytes to send."""
    asks: str | None = None
    """What is sent over a WebSocket, unless the reader of the page types something else."""


@dataclass(frozen=True)
class Link:
    """A page of the embedded upstream, to be opened in a window of its own."""

    text: str
    path: str


@dataclass(frozen=True)
class Recipe:
    """One card."""

    theme: str
    shows: tuple[Callable[..., Any], ...]
    """The route, then the functions and classes that it rests on; all of them with a docstring."""
    steps: tuple[Step, ...]
    links: tuple[Link, ...] = ()

    def as_card(self) -> dict[str, Any]:
        """Return what the page needs, text and code taken from the functions themselves."""
        title, _, text = (inspect.getdoc(self.shows[0]) or "").partition("\n")
        return {
            "id": self.shows[0].__name__,
            "theme": self.theme,
            "title": title.rstrip("."),
            "text": " ".join(text.split()),
            "code": "\n\n\n".join(_code_of(thing) for thing in self.shows),
            "steps": [asdict(step) for step in self.steps],
            "links": [asdict(link) for link in self.links],
        }


def _code_of(thing: Callable[..., Any]) -> str:
    """Return the source without its docstring, which the page shows as text."""
    source = inspect.getsource(thing)
    definition = ast.parse(source).body[0]
    if not isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        raise TypeError(f"{thing!r} is neither a function nor a class")
    docstring = definition.body[0]
    lines = source.splitlines()
    before, after = lines[: docstring.lineno - 1], lines[docstring.end_lineno :]
    return "\n".join(before + after[not after[0] :])


READING, STREAMING, MOUNTED, FIVE, SOCKET, FAILING = (
    "Reading",
    "Streaming",
    "A site under a path",
    "Five at once",
    "WebSocket",
    "When the upstream fails",
)

RECIPES = (
    Recipe(READING, (reading.read, SharedClientSettings, make_lifespan), (Step("/read"),)),
    Recipe(READING, (reading.read_slowly,), (Step("/named"),)),
    Recipe(READING, (reading.cookies,), (Step("/cookies?user=ada"), Step("/cookies?user=grace"))),
    Recipe(STREAMING, (streaming.stream_page,), (Step("/stream/page"),)),
    Recipe(STREAMING, (streaming.stream_slow,), (Step("/stream/slow"),)),
    Recipe(STREAMING, (streaming.stream_shout, streaming.shout, streaming.count_lines), (Step("/stream/shout"),)),
    Recipe(STREAMING, (streaming.stream_opened,), (Step("/stream/opened"),)),
    Recipe(STREAMING, (streaming.stream_events,), (Step("/stream/events"),)),
    Recipe(STREAMING, (streaming.stream_file,), (Step("/stream/file"),)),
    Recipe(STREAMING, (streaming.upload,), (Step("/upload", "POST", upload=1_000_000),)),
    Recipe(
        MOUNTED,
        (mount_site, tell_full_house, SiteClientSettings),
        (
            Step("/site/page"),
            Step("/site/json"),
            Step("/site/upload", "POST", upload=1_000_000),
            Step("/site/flaky?fault=early", expected=502),
            Step("/site/%2e%2e%2fsecret", expected=400),
            Step("/site/socket", "WS", asks="Ahoy!"),
        ),
        (Link("Open the site, which checks itself", "/site/"), Link("Chat in two windows", "/site/chat")),
    ),
    Recipe(FIVE, (fan_out.five, fan_out.beginning_of), (Step("/five"),)),
    Recipe(FIVE, (fan_out.five_events,), (Step("/five/events"),)),
    Recipe(SOCKET, (websocket.read_over_websocket, websocket.read), (Step("/ws", "WS", asks="/json"),)),
    Recipe(SOCKET, (websocket.relay,), (Step("/ws/relay", "WS", asks="There and back again"),)),
    Recipe(
        FAILING,
        (failing.flaky,),
        (
            Step("/flaky?fault=unavailable", expected=503),
            Step("/flaky?fault=hang", expected=504),
            Step("/flaky?fault=early", expected=502),
            Step("/flaky?fault=cut", expected=None),
        ),
    ),
    Recipe(
        FAILING,
        (failing.flaky_read, answer_for_upstream),
        (Step("/flaky/read?fault=hang", expected=504), Step("/flaky/read?fault=early", expected=502)),
    ),
)
