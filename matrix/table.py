"""The results side by side, as Markdown that reads well on a terminal too."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.report import Table, write_between
from fastapi_httpx_pool.conformance import TABLES, Level, Outcome, Result, Row

from .notes import reason
from .running import Examined

__all__ = ("columns", "matrix", "seen", "unseen", "why", "write_into")

_MARKS = {
    Outcome.MET: "✔",
    Outcome.NOT_MET: "✘",
    Outcome.NOT_APPLICABLE: "·",
    Outcome.INVISIBLE: "",
    Outcome.NOT_ASKED: "?",
}
_NOT_TAKEN = "○"

LEGEND = (
    "✔ met, ✘ not met, ○ an option that is not taken, · does not apply. "
    "A row's level is that of the RFCs, or WANT where they say nothing and users are hurt."
)

_BEGIN = "<!-- matrix: `python -m matrix --write` fills in from here -->"
_END = "<!-- matrix: to here -->"


def columns(all_examined: Iterable[Examined]) -> list[str]:
    """Return a line about each peer: what it is, its version, and how many rows it meets; or why it is missing."""
    return [f"- `{examined.peer.name}`: {_about(examined)}." for examined in all_examined]


def _about(examined: Examined) -> str:
    if examined.missing:
        return f"{examined.peer.what}; left out: {examined.missing.rstrip('.')}"
    counted = [result for result in examined.results if result.row.level is not Level.OPTION]
    met = sum(result.outcome is Outcome.MET for result in counted)
    failed = sum(result.failed for result in counted)
    version = f" ({examined.version})" if examined.version else ""
    return f"{examined.peer.what}{version}; {met} rows met, {failed} not"


def matrix(all_examined: Sequence[Examined], rows: Sequence[Row]) -> list[str]:
    """Return one table for each letter: a row to a row, a peer to a column."""
    there = [examined for examined in all_examined if not examined.missing]
    head = ["", "what must be seen", "level", *(f"`{examined.peer.name}`" for examined in there)]
    asked = [row for row in rows if row.ask is not None]
    return [
        str(Table(f"### {letter}. {TABLES[letter]}", head, [_line(row, there) for row in of_table]))
        for letter, of_table in groupby(asked, key=lambda row: row.id[0])
    ]


def _line(row: Row, there: Sequence[Examined]) -> list[str]:
    return [row.id, row.title, row.level.value, *(_mark(examined[row.id]) for examined in there)]


def _mark(result: Result) -> str:
    return _NOT_TAKEN if result.outcome is Outcome.NOT_MET and not result.failed else _MARKS[result.outcome]


def why(all_examined: Iterable[Examined]) -> list[str]:
    """Return our own failures, each with its reason; the same for several servers is said once."""
    told: dict[tuple[str, str], list[str]] = {}
    for examined in all_examined:
        for result in _not_met(examined) if examined.peer.ours else ():
            text = reason(examined, result.row.id) or f"nobody knows why yet; {_plain(result.text)}"
            told.setdefault((result.row.id, text), []).append(f"`{examined.peer.name}`")
    lines = sorted(told.items(), key=lambda item: (item[0][0][0], int(item[0][0][1:])))
    return [f"- **{row}**, {', '.join(peers)}: {text.rstrip('.')}." for (row, text), peers in lines]


def seen(all_examined: Iterable[Examined]) -> list[str]:
    """Return for each of the others what was seen where a row is not met."""
    return [
        "\n".join((f"`{examined.peer.name}`", "", *(f"- {result.row.id}: {_plain(result.text)}" for result in failed)))
        for examined in all_examined
        if not examined.peer.ours and (failed := list(_not_met(examined)))
    ]


def unseen(rows: Iterable[Row]) -> list[str]:
    """Return a line about each row that nobody can see from outside."""
    return [f"- {row.id}, {row.title}: {row.why}." for row in rows if row.ask is None]


def _not_met(examined: Examined) -> Iterable[Result]:
    return (result for result in examined.results if result.outcome in {Outcome.NOT_MET, Outcome.NOT_ASKED})


def _plain(text: str) -> str:
    """Return a text without anything that Markdown would take for its own."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)


def write_into(page: Path, text: str) -> None:
    """
    Put a text between a page's two marks.

    Raises:
        ValueError: The page does not have them.
    """
    write_between(page, _BEGIN, _END, text)
