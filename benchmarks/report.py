"""What came out: medians, and ratios to a base, as Markdown that reads well on a terminal too."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .contenders import Contender
from .generator import Measured
from .harness import Results
from .loads import Load

__all__ = (
    "Table",
    "cell",
    "disturbance",
    "latencies",
    "median_rate",
    "number",
    "per_cpu",
    "rates",
    "write_between",
    "write_into",
)

_FIGURE = re.compile(r"≥? ?-?\d")

_TENS, _HUNDREDS = 10, 100

_FULL = 0.9
"""A core that is used less than this was not what limited the contender."""

_DISTURBED = 0.15
"""What may pass without a word: some of the kernel's work for a contender counts as nobody's."""

_LEGEND = (
    "Answers in a second{unit}, median of {rounds}; in parentheses, times `{base}`. "
    "With ≥ the contender left a part of its core idle, so that something else was the limit."
)

_BEGIN = "<!-- benchmarks: `{command} --write` fills in from here -->"
_END = "<!-- benchmarks: to here -->"


class Table(NamedTuple):
    """A sentence and a table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Return it as Markdown with aligned columns: text to the left, figures to the right."""
        lines = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (self.head, *self.rows)]
        columns = list(zip(*lines, strict=True))
        widths = [max(3, *map(len, column)) for column in columns]
        figures = [any(_FIGURE.match(text) for text in column[1:]) for column in columns]
        rule = ["-" * (width - figure) + ":" * figure for width, figure in zip(widths, figures, strict=True)]
        padded = [
            [text.rjust(width) if figure else text.ljust(width) for text, width, figure in zip(*row, strict=True)]
            for row in ((line, widths, figures) for line in lines)
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))
        return f"{self.title}\n\n{table}"


def number(value: float) -> str:
    """Return a figure with the three digits that such a measurement gives."""
    if value >= _HUNDREDS:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= _TENS else f"{value:.2f}"


def median_rate(rounds: Sequence[Measured]) -> float:
    """Return the median of the rates."""
    return statistics.median(measured.rate for measured in rounds)


def cell(rounds: Sequence[Measured], base: float | None, *, one_caller: bool = False) -> str:
    """Return a table's cell: rate, ratio to the base's rate, and errors if there were any."""
    rate = median_rate(rounds)
    busy = [measured.busy for measured in rounds if measured.busy is not None]
    # One caller waits for each answer, so nobody's core is full then.
    text = "≥ " if busy and not one_caller and statistics.median(busy) < _FULL else ""
    text += number(rate)
    if base:
        text += f" ({number(rate / base)})"
    errors = sum(measured.errors for measured in rounds)
    return f"{text}, {errors:,} error{'s'[: errors != 1]}" if errors else text


def per_cpu(results: Results) -> Results:
    """
    Return rates for each second in which the core worked for the contender, whatever else it did.

    Other programs on the core hardly change them.
    """
    measured = {
        key: [replace(one, rate=one.rate / one.own, busy=None) if one.own else one for one in rounds]
        for key, rounds in results.measured.items()
    }
    return replace(results, measured=measured)


def rates(contenders: Sequence[Contender], loads: Sequence[Load], results: Results, base: str, unit: str = "") -> Table:
    """Return the main table: a contender to a row, a load to a column."""
    rows = []
    for contender in contenders:
        cells = []
        for load in loads:
            rounds = results.measured.get((contender.name, load.name))
            reason = results.skipped.get((contender.name, load.name))
            if reason is not None:
                cells.append(f"skipped: {reason}")
            elif rounds:
                of_base = results.measured.get((base, load.name))
                cells.append(cell(rounds, median_rate(of_base) if of_base else None, one_caller=load.callers == 1))
            else:
                cells.append("")
        rows.append((f"`{contender.name}`", contender.what, *_said_once(cells)))
    times = max(map(len, results.measured.values()), default=0)
    legend = _LEGEND.format(unit=unit, rounds=f"{times} round{'s'[: times != 1]}", base=base)
    return Table(legend, ["", "what it is", *(f"`{load.name}`" for load in loads)], rows)


def disturbance(results: Results) -> list[str]:
    """Return a warning if other programs were at work on the contenders' core."""
    taken = [
        measured.busy - measured.own
        for rounds in results.measured.values()
        for measured in rounds
        if measured.busy is not None and measured.own is not None
    ]
    if not taken or (share := statistics.mean(taken)) < _DISTURBED:
        return []
    return [f"**Disturbed:** other programs took {share:.0%} of the contenders' core; the figures are too low."]


def latencies(contenders: Sequence[Contender], loads: Sequence[Load], results: Results) -> Table:
    """Return a table of how long calls took: the median and the 99th percentile of each, in milliseconds."""
    rows = []
    for contender in contenders:
        found = [results.measured.get((contender.name, load.name)) for load in loads]
        if any(found):
            rows.append((f"`{contender.name}`", *(_times(rounds) if rounds else "" for rounds in found)))
    legend = "Milliseconds until half of the answers, and 99 of 100, had come; medians."
    return Table(legend, ["", *(f"`{load.name}`" for load in loads)], rows)


def write_into(page: Path, text: str, command: str = "python -m benchmarks") -> None:
    """
    Put a text between the two marks that a page has for this command.

    Raises:
        ValueError: The page does not have them.
    """
    write_between(page, _BEGIN.format(command=command), _END, text)


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """
    Put a text between two lines of a page.

    Raises:
        ValueError: The page does not have them.
    """
    before = page.read_text(encoding="utf-8")
    region = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)}\n)", re.DOTALL)
    after, replaced = region.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if replaced != 1:
        raise ValueError(f"{page.name} needs the line {begin!r} and, after it, {end!r}, once each")
    page.write_text(after, encoding="utf-8")


def _times(rounds: Sequence[Measured]) -> str:
    p50 = [measured.p50 for measured in rounds if measured.p50 is not None]
    p99 = [measured.p99 for measured in rounds if measured.p99 is not None]
    if not p50 or not p99:
        return "none came"
    return f"{number(statistics.median(p50))} / {number(statistics.median(p99))}"


def _said_once(cells: list[str]) -> list[str]:
    """Say in the first cell only why a whole row is missing."""
    if len(set(cells)) == 1 and cells[0].startswith("skipped:"):
        return [cells[0], *[""] * (len(cells) - 1)]
    return cells
