"""What is written about what the proxies did."""

from pathlib import Path

import pytest

from fastapi_httpx_pool.conformance import Level, Outcome, Result, Row
from matrix import notes, table
from matrix.__main__ import page_of
from matrix.peers import Peer
from matrix.running import Examined


async def _ask(lab: object) -> None:
    """Stand for a row's function, which nobody calls here."""


ROWS = [
    Row("A1", "this is seen", "RFC 9110", Level.MUST, _ask),
    Row("A2", "that is seen", "", Level.OPTION, _ask),
    Row("I1", "nobody sees it", why="it is dark"),
]
OURS, THEIRS, GONE = (
    Peer(name, f"the {name} one", lambda _: [], lambda: "1.2", ours=name == "ours")
    for name in ("ours", "other", "gone")
)


def _results(*outcomes: Outcome, text: str = "") -> tuple[Result, ...]:
    return tuple(Result(row, outcome, text) for row, outcome in zip(ROWS, outcomes, strict=True))


MET = Examined(OURS, "1.2", _results(Outcome.MET, Outcome.MET, Outcome.INVISIBLE))
NOT_MET = Examined(THEIRS, "", _results(Outcome.NOT_MET, Outcome.NOT_MET, Outcome.INVISIBLE, text="a | and *b*"))
MISSING = Examined(GONE, missing="it is not installed")


def test_columns() -> None:
    """Each proxy is told of with its version and how it did, or why it is missing; options do not count."""
    assert table.columns([MET, NOT_MET, MISSING]) == [
        "- `ours`: the ours one (1.2); 1 rows met, 0 not.",
        "- `other`: the other one; 0 rows met, 1 not.",
        "- `gone`: the gone one; left out: it is not installed.",
    ]


def test_matrix() -> None:
    """A row has a mark for each proxy that was there; one that nobody can see has none."""
    (text,) = table.matrix([MET, NOT_MET, MISSING], ROWS)
    assert text.split("\n") == [
        "### A. Hop-by-hop and header fidelity",
        "",
        "|     | what must be seen | level  | `ours` | `other` |",
        "| --- | ----------------- | ------ | ------ | ------- |",
        "| A1  | this is seen      | MUST   | ✔      | ✘       |",
        "| A2  | that is seen      | OPTION | ✔      | ○       |",
    ]


def test_what_was_seen_of_others() -> None:
    """What was seen is quoted so that Markdown does not take it for its own."""
    assert table.seen([MET, NOT_MET, MISSING]) == ["`other`\n\n- A1: a \\| and \\*b\\*\n- A2: a \\| and \\*b\\*"]
    assert table.unseen(ROWS) == ["- I1, nobody sees it: it is dark."]


def test_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of ours has its reason; without one it is news, and so is a reason for what is met."""
    failed = Examined(OURS, "1.2", _results(Outcome.NOT_MET, Outcome.MET, Outcome.INVISIBLE, text="a 500"))
    monkeypatch.setattr(notes, "REASONS", {})
    assert table.why([failed]) == ["- **A1**, `ours`: nobody knows why yet; a 500."]
    assert [result.row.id for _, result in notes.unexplained([failed, NOT_MET])] == ["A1"]

    monkeypatch.setattr(notes, "REASONS", {("A1", ("ours", "another")): "The server forbids it."})
    assert table.why([failed]) == ["- **A1**, `ours`: The server forbids it."]
    assert notes.unexplained([failed, NOT_MET]) == []
    assert notes.outdated([failed]) == []
    assert notes.outdated([MET]) == [("A1", "ours")]


def test_page() -> None:
    """Sections that have nothing to say are left out."""
    text = page_of([MET, MISSING], ROWS)
    assert [line for line in text.split("\n") if line.startswith("#")] == [
        "### A. Hop-by-hop and header fidelity",
        "### What nobody can see from outside",
    ]


def test_write_into(tmp_path: Path) -> None:
    """The text goes between the marks, whatever was there; a page without them is not touched."""
    page = tmp_path / "page.md"
    begin = "<!-- matrix: `python -m matrix --write` fills in from here -->"
    page.write_text(f"before\n{begin}\nold\n<!-- matrix: to here -->\nafter\n", encoding="utf-8")
    table.write_into(page, r"new \1")
    assert page.read_text(encoding="utf-8") == f"before\n{begin}\n\nnew \\1\n\n<!-- matrix: to here -->\nafter\n"

    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page.md needs the line"):
        table.write_into(page, "new")
