"""What is written about what was measured."""

from pathlib import Path

import pytest

from benchmarks.contenders import ALL, BASE, SHORT, Contender
from benchmarks.generator import Measured
from benchmarks.harness import Results
from benchmarks.loads import FULL, SHORT as SHORT_LOADS, Load
from benchmarks.report import Table, cell, disturbance, latencies, median_rate, number, per_cpu, rates, write_into

OLD, NEW, GONE = (Contender(name, f"the {name} one", lambda _: []) for name in ("old", "new", "gone"))
LOADS = [Load.named("get-1k-1"), Load.named("get-1k-50")]


def _rounds(*rates: float, errors: int = 0, busy: float | None = 1.0) -> list[Measured]:
    return [Measured(rate, errors, rate / 10, rate / 5, busy) for rate in rates]


def test_median_of_rounds() -> None:
    """One bad round does not count."""
    assert median_rate(_rounds(1000, 3, 1100)) == 1000


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (100, "100"), (99.94, "99.9"), (9.876, "9.88"), (0, "0.00")]
)
def test_number(value: float, shown: str) -> None:
    """A figure has three digits, or those before its point."""
    assert number(value) == shown


def test_cell() -> None:
    """A cell tells rate and ratio, and all rounds' errors if there were any."""
    assert cell(_rounds(1000, 3000, 2000), 500) == "2,000 (4.00)"
    assert cell(_rounds(2000, 2000, errors=2), 500) == "2,000 (4.00), 4 errors"
    assert cell(_rounds(2000, errors=1), None) == "2,000, 1 error"
    assert cell(_rounds(0), 0) == "0.00"


def test_cell_of_an_idle_contender() -> None:
    """A contender that did not fill its core could have done more, unless its one caller had to wait."""
    assert cell(_rounds(2000, 2000, busy=0.5), None) == "≥ 2,000"
    assert cell(_rounds(2000, busy=0.5), None, one_caller=True) == "2,000"
    assert cell(_rounds(2000, busy=None), None) == "2,000"


def test_rates() -> None:
    """A contender has a row, with a ratio to the base for each load; one that is missing has its reason, once."""
    results = Results(
        measured={
            ("old", "get-1k-1"): _rounds(50),
            ("new", "get-1k-1"): _rounds(100),
            ("new", "get-1k-50"): _rounds(7),
        },
        skipped={("gone", "get-1k-1"): "not there", ("gone", "get-1k-50"): "not there", ("old", "get-1k-50"): "broken"},
    )

    table = rates([OLD, NEW, GONE], LOADS, results, "old")

    assert table.head == ["", "what it is", "`get-1k-1`", "`get-1k-50`"]
    assert [list(row) for row in table.rows] == [
        ["`old`", "the old one", "50.0 (1.00)", "skipped: broken"],
        ["`new`", "the new one", "100 (2.00)", "7.00"],
        ["`gone`", "the gone one", "skipped: not there", ""],
    ]
    assert "median of 1 round;" in table.title
    assert "times `old`" in table.title


def test_disturbance() -> None:
    """A warning tells how much of the contenders' core other programs took; the system's own share is no matter."""
    quiet, loud = Measured(1, 0, busy=1.0, own=0.98), Measured(1, 0, busy=1.0, own=0.5)

    assert disturbance(Results(measured={("old", "get-1k-1"): [quiet, Measured(1, 0)]})) == []
    [warning] = disturbance(Results(measured={("old", "get-1k-1"): [quiet, loud]}))
    assert "26% of the contenders' core" in warning


def test_per_cpu() -> None:
    """Rates can be those of the time in which the core worked for the contender."""
    results = Results(measured={("old", "get-1k-1"): [Measured(100, 1, busy=1.0, own=0.5), Measured(100, 0)]})

    first, second = per_cpu(results).measured["old", "get-1k-1"]

    assert (first.rate, first.errors) == (200, 1)
    assert second.rate == 100  # nobody could tell


def test_latencies() -> None:
    """Who answered has a row with the medians of both percentiles; who was skipped has none."""
    none_came = [Measured(0, 3)]
    results = Results(measured={("old", "get-1k-1"): _rounds(10, 20, 30), ("new", "get-1k-50"): none_came})

    table = latencies([OLD, NEW, GONE], LOADS, results)

    assert [list(row) for row in table.rows] == [["`old`", "2.00 / 4.00", ""], ["`new`", "", "none came"]]


def test_table_as_markdown() -> None:
    """Columns are aligned, figures to the right, and a bar in a text does not end its cell."""
    table = Table("Two rows.", ["", "rate"], [["`a`", "12 (1.00)"], ["a|b", "≥ 7"]])

    assert str(table).split("\n") == [
        "Two rows.",
        "",
        "|      |      rate |",
        "| ---- | --------: |",
        "| `a`  | 12 (1.00) |",
        "| a\\|b |       ≥ 7 |",
    ]


def test_page_is_filled(tmp_path: Path) -> None:
    """Only what stands between the marks of the real page is replaced, however often."""
    page = tmp_path / "performance.md"
    real = Path(__file__).parents[2] / "docs" / "performance.md"
    page.write_text(real.read_text(encoding="utf-8") + "the end\n", encoding="utf-8")

    write_into(page, "first")
    write_into(page, r"second \1")

    text = page.read_text(encoding="utf-8")
    assert text.count("second \\1") == 1
    assert "first" not in text.partition("## Figures")[2]
    assert text.startswith("# Performance\n")
    assert text.endswith("<!-- benchmarks: to here -->\nthe end\n")


def test_page_without_marks(tmp_path: Path) -> None:
    """A page that has no place for the figures is left as it is."""
    page = tmp_path / "page.md"
    page.write_text("text\n", encoding="utf-8")

    with pytest.raises(ValueError, match=r"page\.md needs the line"):
        write_into(page, "figures")

    assert page.read_text(encoding="utf-8") == "text\n"


def test_registry() -> None:
    """Contenders have names of their own, the short form and the base name some of them, and loads are loads."""
    names = [contender.name for contender in ALL]

    assert len(set(names)) == len(names)
    assert {BASE, *SHORT} <= set(names)
    assert [Load.named(name).name for name in (*SHORT_LOADS, *FULL)] == [*SHORT_LOADS, *FULL]
