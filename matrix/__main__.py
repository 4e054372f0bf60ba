"""Ask many proxies: ``python -m matrix``, or ``make conformance``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands import STOPPED, chosen, heed_sigterm, say
from fastapi_httpx_pool.conformance import Outcome, Result, Row, select

from . import notes, table
from .peers import ALL, Peer
from .running import Examined, examine

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "conformance.md"
_NEWS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the process's exit status: 1 if something of ours fails that no note tells of."""
    given = _parse(arguments)
    heed_sigterm()
    try:
        all_examined = [_examine(peer, given.rows, given.limit) for peer in given.only]
    except KeyboardInterrupt:
        say("stopped")
        return STOPPED
    text = page_of(all_examined, given.rows)
    sys.stdout.write(f"{text}\n")
    if given.write:
        table.write_into(_PAGE, text)
    return _NEWS if _news(all_examined) else 0


def page_of(all_examined: Sequence[Examined], rows: Sequence[Row]) -> str:
    """Return everything that came out, as Markdown."""
    parts = ["\n".join(table.columns(all_examined)), table.LEGEND, *table.matrix(all_examined, rows)]
    for title, lines, between in (
        ("Our own failures", table.why(all_examined), "\n"),
        ("What was seen of the others", table.seen(all_examined), "\n\n"),
        ("What nobody can see from outside", table.unseen(rows), "\n"),
    ):
        if lines:
            parts += [f"### {title}", between.join(lines)]
    return "\n\n".join(parts)


def _examine(peer: Peer, rows: Sequence[Row], limit: float) -> Examined:
    say(f"{peer.name}: {peer.what}")

    def told(result: Result) -> None:
        if result.outcome in {Outcome.NOT_MET, Outcome.NOT_ASKED}:
            say(f"  {result.row.id} ({result.row.level.value}): {result.text}")

    examined = examine(peer, rows, limit, told)
    if examined.missing:
        say(f"  left out: {examined.missing}")
    return examined


def _news(all_examined: Sequence[Examined]) -> bool:
    """Tell of failures of ours without a note, and of notes without a failure; whether there are any."""
    failed = notes.unexplained(all_examined)
    for examined, result in failed:
        say(f"{examined.peer.name} fails {result.row.id}, and matrix/notes.py does not say why: {result.text}")
    met = notes.outdated(all_examined)
    for row, name in met:
        say(f"{name} meets {row}, and matrix/notes.py says why it does not")
    return bool(failed or met)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m matrix",
        description="Run the conformance suite against this package under each server, and against other proxies.",
        epilog=f"Proxies: {', '.join(peer.name for peer in ALL)}. What is not installed is left out.",
    )
    parser.add_argument("--only", type=_peers, default=ALL, metavar="NAME,...", help="these proxies")
    parser.add_argument("--rows", type=_rows, default=select([]), metavar="A,B1,...", help="these tables and rows")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds after which proxies should give up (2)")
    parser.add_argument("--write", action="store_true", help="put the matrix into docs/conformance.md")
    return parser.parse_args(arguments)


def _peers(names: str) -> list[Peer]:
    return chosen(names.split(","), {peer.name: peer for peer in ALL})


def _rows(names: str) -> list[Row]:
    try:
        return select(names.split(","))
    except KeyError as exc:
        raise argparse.ArgumentTypeError(f"there is no row or table {exc.args[0]}") from exc


if __name__ == "__main__":
    sys.exit(main())
