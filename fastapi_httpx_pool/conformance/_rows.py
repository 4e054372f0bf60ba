"""
The list of rows: what is asked of a proxy, one function for each.

Each module of ``rows`` has one table, and registers its rows when it is imported::

    @row("A1", "fields that a Connection line names stay behind", rfc="RFC 9110 7.6.1", level=MUST)
    async def a1(lab: Lab) -> None:
        seen = await lab.exchange(b"Connection: x-a", b"X-A: 1")
        expect(b"x-a" not in seen.request.names, "the upstream got X-A")
"""

import enum
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ._kit import Lab

__all__ = (
    "MUST",
    "OPTION",
    "SHOULD",
    "TABLES",
    "WANT",
    "Ask",
    "Level",
    "Row",
    "all_rows",
    "invisible",
    "row",
    "select",
)

TABLES = {
    "A": "Hop-by-hop and header fidelity",
    "B": "Forwarded identity, Host, Via, loops",
    "C": "Target, path, query",
    "D": "Request bodies",
    "E": "Responses",
    "F": "Errors, timeouts, cancellation, retries",
    "G": "Smuggling and request forgery",
    "H": "Upgrade and WebSocket",
    "I": "Pools, balancing, configuration",
}
"""What the letters in the rows' names stand for."""


class Level(enum.Enum):
    """How much a row counts."""

    MUST = "MUST"
    """An RFC demands it."""
    SHOULD = "SHOULD"
    """An RFC recommends it."""
    WANT = "WANT"
    """No RFC says so, but users are hurt without it."""
    OPTION = "OPTION"
    """Nice to have, or a matter of configuration: shown, and never a reason to fail."""


MUST, SHOULD, WANT, OPTION = Level

Ask = Callable[[Lab], Awaitable[None]]
"""Returns if the row is met, and raises ``NotMet`` or ``NotApplicable`` if not."""


@dataclass(frozen=True)
class Row:
    """One thing that is asked of a proxy."""

    id: str
    """A table's letter and a number."""
    title: str
    """What must be seen, in one line."""
    rfc: str = ""
    level: Level = Level.OPTION
    ask: Ask | None = None
    """None for what nobody can see from outside."""
    why: str = ""
    """Why nobody can see it."""

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands in the list."""
        return self.id[0], int(self.id[1:])


_ROWS: dict[str, Row] = {}


def row(name: str, title: str, *, rfc: str = "", level: Level = MUST) -> Callable[[Ask], Ask]:
    """Register the function below as a row."""

    def register(ask: Ask) -> Ask:
        _add(Row(name, title, rfc, level, ask))
        return ask

    return register


def invisible(name: str, title: str, why: str) -> None:
    """Register a row that nobody can see from outside, so that the list is complete."""
    _add(Row(name, title, why=why))


def _add(new: Row) -> None:
    if new.id in _ROWS:
        raise ValueError(f"there are two rows {new.id}")
    _ROWS[new.id] = new


def all_rows() -> list[Row]:
    """Return all rows in the order of the tables."""
    rows = importlib.import_module(".rows", __package__)
    for module in pkgutil.iter_modules(rows.__path__, rows.__name__ + "."):
        importlib.import_module(module.name)
    return sorted(_ROWS.values(), key=lambda row: row.place)


def select(names: Iterable[str]) -> list[Row]:
    """
    Return the rows of these names, which may be whole tables' letters; all of them if there are no names.

    Raises:
        KeyError: There is no such row; the name is its argument.
    """
    rows, wanted = all_rows(), [name.strip().upper() for name in names]
    for name in wanted:
        if not any(name in {row.id, row.id[0]} for row in rows):
            raise KeyError(name)
    return [row for row in rows if not wanted or row.id in wanted or row.id[0] in wanted]
