"""The command line: ``python -m fastapi_httpx_pool.conformance URL``."""

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ._kit import Place
from ._preflight import WrongUse, place_of
from ._report import WIDTH, Report, as_json, as_list, summary
from ._rows import Row, select
from ._run import Result, passed, run, unasked

__all__ = ("main",)

_FAILED = 1
_WRONG_USE = 2
_STOPPED = 130
"""What shells say of a command that was interrupted."""

_ABOUT = """\
Asks a running HTTP reverse proxy how well it does what a proxy should, from both ends of the wire.

Configure the proxy so that the URL's path leads to the upstream that this starts:
http://127.0.0.1:8000/p to http://127.0.0.1:9100/base, for example. Give it short timeouts (2 s),
and let it stream. Then run this against it.
"""
_CODES = """\
exit codes:
  0  all rows are met that count (OPTION does not)
  1  some are not
  2  wrong use: no such proxy, or it does not lead to the upstream; or no such file for the results
  130  stopped by Ctrl-C; what was asked until then is told
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        rows = select(filter(None, options.rows.split(",")))
    except KeyError as error:
        parser.error(f"there is no row or table {error.args[0]}; --list shows all")
    if options.list:
        _say(*as_list(rows))
        return 0
    if options.url is None:
        parser.error("which proxy? Give its URL, such as http://127.0.0.1:8000/p; --help tells how to configure it")
    try:
        return _run(options, rows)
    except WrongUse as error:
        _say(textwrap.fill(str(error), WIDTH, break_long_words=False), to=sys.stderr)
        return _WRONG_USE
    except KeyboardInterrupt:
        _say("stopped", to=sys.stderr)
        return _STOPPED


def _run(options: argparse.Namespace, rows: list[Row]) -> int:
    place = place_of(options.url, options.upstream, options.base, options.timeout)
    if options.json is not None:
        _write(options.json, "a", "")  # before minutes are spent on what could not be kept then
    _say(f"Asking {place.url}, which leads to {place.upstream_url}.")
    results, stopped = _ask(place, rows, Report(verbose=options.verbose))
    _say(*summary(results))
    if options.json is not None:
        _write(options.json, "w", as_json(place, results) + "\n")
    if stopped:
        return _STOPPED
    return 0 if passed(results) else _FAILED


def _ask(place: Place, rows: list[Row], report: Report) -> tuple[list[Result], bool]:
    """Ask the rows and tell of each; return what came of all of them, and whether somebody stopped it."""
    results: list[Result] = []

    def told(result: Result) -> None:
        results.append(result)
        _say(*report.lines(result))

    try:
        asyncio.run(run(place, rows, told))
    except KeyboardInterrupt:
        _say("stopped", to=sys.stderr)
        return [*results, *(unasked(row, "the run was stopped") for row in rows[len(results) :])], True
    return results, False


def _write(path: Path, mode: str, text: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise WrongUse(
            f"The results cannot be written to {path}: {error.strerror}. Give --json a file in a folder that is "
            "there, and where you may write."
        ) from None


def _say(*lines: str, to: TextIO | None = None) -> None:
    for line in lines:
        print(line, file=to, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastapi_httpx_pool.conformance",
        description=_ABOUT,
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="of the path at the proxy that leads to the upstream")
    parser.add_argument(
        "--upstream", default="127.0.0.1:9100", metavar="HOST:PORT", help="where the upstream listens (%(default)s)"
    )
    parser.add_argument("--base", default="/base", help="the upstream's path to which the URL leads (%(default)s)")
    parser.add_argument("--rows", default="", metavar="A,B1,...", help="only these tables and rows")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="the longest wait for anything; best what the proxy's own timeouts are (%(default)g)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--verbose", action="store_true", help="say more about each row, and show those unseen")
    parser.add_argument("--list", action="store_true", help="show the rows and ask nothing")
    return parser


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value
