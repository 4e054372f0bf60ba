"""
Run the benchmarks: ``python -m benchmarks``.

The short form takes less than three minutes, ``--full`` about half an hour.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from . import machine, probes, report, websockets, wrk
from .commands import STOPPED, chosen, heed_sigterm, say
from .contenders import ALL, BASE, SHORT, Contender
from .harness import Options, Results, run
from .loads import FULL as FULL_LOADS, SHORT as SHORT_LOADS, Load
from .processes import raise_file_limit

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_NONE = "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the process's exit status."""
    given = _parse(arguments)
    heed_sigterm()
    options = Options(given.rounds, given.seconds, generator=given.generator, keepalive=given.keepalive)
    raise_file_limit()
    say(f"{machine.description()}; {options.cores}")
    try:
        results = run(given.only, given.loads, options, say) if given.loads else Results()
        probed = probes.run_all(given.probes, options.cores, say, rounds=given.rounds)
        relayed = _relayed(given) if given.websockets else ""
    except KeyboardInterrupt:
        say("stopped")
        return STOPPED
    tables = list(probed)
    if given.loads:
        rates = report.rates(given.only, given.loads, results, given.base)
        if given.per_cpu:
            unit = " of the contender's processor time"
            rates = report.rates(given.only, given.loads, report.per_cpu(results), given.base, unit)
        tables = [rates, report.latencies(given.only, given.loads, results), *probed]
    text = "\n\n".join(map(str, (*_facts(options), *report.disturbance(results), *tables)))
    sys.stdout.write(f"\n{text}\n")
    if relayed:
        sys.stdout.write(f"\nWebSockets\n\n{relayed}\n")
    if given.json:
        data = _as_data(options, results, probed)
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if given.write:
        report.write_into(_PAGE, text)
        if relayed:
            report.write_into(_PAGE, relayed, websockets.COMMAND)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare this package with what people use in its place, on this machine.",
        epilog=f"Contenders: {', '.join(contender.name for contender in ALL)}. "
        f"Loads: any like those of --full: {', '.join(FULL_LOADS)}. Probes: {', '.join(probes.NAMES)}.",
    )
    parser.add_argument("--full", action="store_true", help="all contenders, loads and probes; takes half an hour")
    parser.add_argument("--only", type=_contenders, metavar="NAME,...", help="these contenders")
    parser.add_argument("--loads", type=_loads, metavar="NAME,...", help="these loads, or none")
    parser.add_argument("--probes", type=_probes, metavar="NAME,...", help="these probes, or none")
    parser.add_argument("--base", default=BASE, metavar="NAME", help=f"compare with this contender ({BASE})")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody has a turn (3)")
    parser.add_argument("--seconds", type=float, help="how long a turn is (1, or 2 with --full); wrk rounds up")
    parser.add_argument("--keepalive", type=int, default=20, help="idle connections that httpx's clients keep (20)")
    parser.add_argument("--own-generator", action="store_true", help="do not use wrk")
    parser.add_argument("--per-cpu", action="store_true", help="rates for processor time; for a machine that is in use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures here")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--websockets", action="store_true", help="WebSockets, too; so it is if nothing is chosen")
    given = parser.parse_args(arguments)
    given.websockets = given.websockets or (given.only is None and given.loads is None and given.probes is None)
    if given.only is None:
        given.only = [contender for contender in ALL if given.full or contender.name in SHORT]
    if given.loads is None:
        given.loads = [Load.named(name) for name in (FULL_LOADS if given.full else SHORT_LOADS)]
    if given.probes is None:
        given.probes = probes.NAMES if given.full or not given.loads else ()
    given.seconds = given.seconds or (2 if given.full else 1)
    given.generator = None if given.own_generator else wrk.path()
    return given


def _relayed(given: argparse.Namespace) -> str:
    """Measure WebSockets, in short or in full."""
    wanted = [one for one in websockets.ALL if given.full or one.name in websockets.SHORT]
    seconds = given.seconds if given.full else given.seconds / 2
    return websockets.told(wanted, websockets.Options(given.rounds, seconds), say)


def _contenders(names: str) -> list[Contender]:
    return chosen(names.split(","), {contender.name: contender for contender in ALL})


def _loads(names: str) -> list[Load]:
    try:
        return [Load.named(name) for name in names.split(",") if name != _NONE]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _probes(names: str) -> tuple[str, ...]:
    wanted = (name for name in names.split(",") if name != _NONE)
    return tuple(chosen(wanted, {name: name for name in probes.NAMES}))


def _facts(options: Options) -> tuple[str, str]:
    listed = ", ".join(f"{name} {number}" for name, number in machine.versions().items())
    generator = "the generator in this repository" if options.generator is None else "wrk"
    return f"Measured on {machine.description()}; load from {generator}; {options.cores}.", f"{listed}."


def _as_data(options: Options, results: Results, probed: Sequence[report.Table]) -> dict[str, object]:
    return {
        "machine": machine.description(),
        "versions": machine.versions(),
        "options": {"rounds": options.rounds, "seconds": options.seconds, "keepalive": options.keepalive},
        "results": [
            {"contender": contender, "load": load, "rounds": [asdict(measured) for measured in rounds]}
            for (contender, load), rounds in results.measured.items()
        ],
        "skipped": [
            {"contender": contender, "load": load, "reason": reason}
            for (contender, load), reason in results.skipped.items()
        ],
        "probes": [table._asdict() for table in probed],
    }


if __name__ == "__main__":
    sys.exit(main())
