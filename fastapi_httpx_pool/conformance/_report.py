"""Results for people, and for programs."""

import json
import textwrap
from collections.abc import Iterable, Sequence

from ._kit import Place
from ._rows import TABLES, Row
from ._run import Outcome, Result, passed

__all__ = ("WIDTH", "Report", "as_json", "as_list", "summary")

WIDTH = 100
"""Columns of a terminal."""
_INDENT = 15
_MARKS = {
    Outcome.MET: "ok",
    Outcome.NOT_MET: "FAIL",
    Outcome.NOT_APPLICABLE: "n/a",
    Outcome.INVISIBLE: "unseen",
    Outcome.NOT_ASKED: "-",
}


class Report:
    """Makes the lines about each result, with a heading before each table."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._table = ""

    def lines(self, result: Result) -> list[str]:
        """Return what is to be printed about a result."""
        if result.outcome is Outcome.INVISIBLE and not self._verbose:
            return []
        table, lines = result.row.id[0], []
        if table != self._table:
            self._table = table
            lines += ["", f"{table}. {TABLES[table]}"]
        # An option that is not taken is no failure.
        mark = "no" if result.outcome is Outcome.NOT_MET and not result.failed else _MARKS[result.outcome]
        lines += _wrapped(result.row.title, f"  {mark:<7} {result.row.id:<4} ")
        return lines + self._details(result)

    def _details(self, result: Result) -> list[str]:
        """Return what stands below a result's title."""
        where = _where(result.row)
        if result.outcome in {Outcome.MET, Outcome.NOT_APPLICABLE, Outcome.INVISIBLE}:
            where = where if self._verbose and result.row.ask is not None else ""
        time = f"{result.seconds:.2f} s" if self._verbose and result.row.ask is not None else ""
        told = ": ".join(filter(None, (", ".join(filter(None, (where, time))), result.text)))
        return _wrapped(told, " " * _INDENT) if told else []


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first.ljust(_INDENT), subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )


def _where(row: Row) -> str:
    return ", ".join(filter(None, (row.level.value, row.rfc)))


def summary(results: Sequence[Result]) -> list[str]:
    """Return the last lines of a report."""
    count = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    failed = [result for result in results if result.failed]
    options = count[Outcome.NOT_MET] - len(failed)
    asked = count[Outcome.MET] + count[Outcome.NOT_MET]
    sums = f"{count[Outcome.MET]} ok, {len(failed)} failed, {_number(options, 'option', 'options')} not taken"
    told = [f"{_number(asked, 'row', 'rows')} asked: {sums}."]
    told += _if(count[Outcome.NOT_APPLICABLE], "does", "do", "not apply to this proxy.")
    told += _if(count[Outcome.INVISIBLE], "cannot", "cannot", "be seen from outside (--verbose says why).")
    told += _if(count[Outcome.NOT_ASKED], "was", "were", "not asked any more.")
    names = ", ".join(f"{result.row.id} ({result.row.level.value})" for result in failed)
    return ["", *textwrap.wrap(" ".join(told), WIDTH), *textwrap.wrap(names and f"Failed: {names}", WIDTH)]


def _if(count: int, one: str, many: str, text: str) -> list[str]:
    return [f"{_number(count, one, many)} {text}"] if count else []


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def as_list(rows: Iterable[Row]) -> list[str]:
    """Return the rows as lines, without asking them."""
    return [line for row in rows for line in _wrapped(_listed(row), f"{row.id:<4} {_kind(row):<7}")]


def _kind(row: Row) -> str:
    return _MARKS[Outcome.INVISIBLE] if row.ask is None else row.level.value


def _listed(row: Row) -> str:
    return f"{row.title} ({row.rfc})" if row.rfc else row.title


def as_json(place: Place, results: Sequence[Result]) -> str:
    """Return the results as a JSON text."""
    rows = [
        {
            "id": result.row.id,
            "table": TABLES[result.row.id[0]],
            "title": result.row.title,
            "level": result.row.level.value,
            "rfc": result.row.rfc,
            "outcome": result.outcome.value,
            "text": result.text,
            "seconds": round(result.seconds, 3),
        }
        for result in results
    ]
    return json.dumps(
        {"url": place.url, "upstream": place.upstream_url, "passed": passed(results), "rows": rows}, indent=2
    )
