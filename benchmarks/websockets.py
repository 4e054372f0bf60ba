"""
What a WebSocket costs a proxy: ``python -m benchmarks.websockets``.

1. One client, and fifty at once, send a message of 1 KiB, wait until it comes back, and send it again.
   Counted are messages in a second, and in a second of the proxy's own processor time.
2. A thousand WebSockets are open, and nothing is said. Counted is the memory of the proxy's process
   for each; what the kernel keeps is not.

The proxies take turns, as in ``harness``. Nobody compresses: the clients do not offer it.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from . import loops, machine, report
from .contenders import WEBSOCKETS, WEBSOCKETS_BASE, Contender, Place, Unavailable
from .generator import Measured
from .harness import Clocks, Results
from .loads import Load
from .processes import Child, Cores, free_port, memory, pinned, raise_file_limit
from .programs import wait_until_it_listens
from .talkers import BINARY, TEXT, NoEcho, Talkers

__all__ = ("ALL", "COMMAND", "DIRECT", "LOADS", "SHORT", "Options", "main", "measure", "told")

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
COMMAND = "python -m benchmarks.websockets"
_STOPPED = 130
"""The exit status of a command that Ctrl-C has ended."""

_SIZE = 1024
LOADS = tuple(Load(f"echo-1k-{callers}", "echo", _SIZE, callers) for callers in (1, 50))
"""How many talk at once."""

DIRECT = Contender("direct", "no proxy at all", lambda _: [])
"""The limit: what upstream and clients can do."""

ALL = (DIRECT, *WEBSOCKETS)
"""Who is measured if nobody is named."""

SHORT = ("direct", "aiohttp", "ours-mounted", "ours-proxy", "go")
"""For ``make bench``."""

_FIRST = 50
"""WebSockets before the others: what is made once is made then."""

_LEGEND = (
    "Messages of 1 KiB that come back in a second{unit}, median of {rounds}; in parentheses, times `{base}`.{note} "
    "The loads are named after the WebSockets that talk at once."
)
_NOTE = " With ≥ the contender left a part of its core idle, so that something else was the limit."


@final
@dataclass(frozen=True)
class Options:
    """How to measure."""

    rounds: int = 3
    seconds: float = 1.0
    warm_up: float = 0.3
    idle: int = 1000
    """How many WebSockets to open for the memory of each; 0 leaves it out."""
    opcode: int = BINARY
    cores: Cores = field(default_factory=Cores.of_this_machine)


def measure(contenders: Sequence[Contender], options: Options, say: Callable[[str], None]) -> list[report.Table]:
    """Measure all contenders; return tables."""
    results, memories = Results(), dict[str, str]()
    with ExitStack() as stack:
        stack.enter_context(pinned(options.cores.others))
        arena = _Arena(stack.enter_context(_upstream(options.cores)), options)
        with arena.all_running(contenders, results) as running:
            for number in range(options.rounds):
                for load in LOADS:
                    say(f"round {number + 1} of {options.rounds}, {load.name}")
                    arena.play(running if number % 2 == 0 else running[::-1], load, results)
        for contender in contenders if options.idle else ():
            if contender is not DIRECT:
                say(f"{options.idle:,} idle, {contender.name}")
                memories[contender.name] = arena.memory_of(contender)
    return _tables(contenders, results, memories, options)


def told(contenders: Sequence[Contender], options: Options, say: Callable[[str], None]) -> str:
    """Measure, and return the tables with the circumstances before them."""
    tables = measure(contenders, options, say)
    kind = "text" if options.opcode == TEXT else "binary"
    listed = ", ".join(f"{name} {number}" for name, number in machine.versions().items())
    facts = f"Measured on {machine.description()}; {options.cores}; {kind} messages."
    return "\n\n".join(map(str, (facts, f"{listed}.", *tables)))


@contextmanager
def _upstream(cores: Cores) -> Iterator[Child]:
    child = Child([sys.executable, "-m", f"{__package__}.echo"], cores.others, {})
    try:
        yield child
    finally:
        child.stop()


@final
@dataclass(frozen=True)
class _Running:
    contender: Contender
    port: int
    child: Child


@final
class _Arena:
    """Starts contenders, and gives them their turns."""

    def __init__(self, upstream: Child, options: Options) -> None:
        line = upstream.first_line()
        if not line:
            raise RuntimeError(f"the upstream did not start: {upstream.complaint()}")
        self._direct = _Running(DIRECT, int(line), upstream)
        self._options = options

    @contextmanager
    def running(self, contender: Contender) -> Iterator[_Running]:
        """Let a contender run during a block."""
        if contender is DIRECT:
            yield self._direct
            return
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            origin = f"http://127.0.0.1:{self._direct.port}"
            place = Place(free_port(), (origin,), Path(folder))
            environment = {"BENCH_UPSTREAM": origin, "BENCH_CONNECTIONS": str(2 * (_FIRST + self._options.idle))}
            child = Child(contender.command(place), self._options.cores.contender, environment)
            try:
                wait_until_it_listens(child, place.port)
                yield _Running(contender, place.port, child)
            finally:
                child.stop()

    @contextmanager
    def all_running(self, contenders: Sequence[Contender], results: Results) -> Iterator[list[_Running]]:
        """Let all that can run do so during a block."""
        with ExitStack() as stack:
            running = []
            for contender in contenders:
                try:
                    running.append(stack.enter_context(self.running(contender)))
                except Unavailable as exc:
                    results.skipped.update({(contender.name, load.name): str(exc) for load in LOADS})
            yield running

    def play(self, running: Sequence[_Running], load: Load, results: Results) -> None:
        """Give each its turn."""
        for one in running:
            key = (one.contender.name, load.name)
            if key not in results.skipped:
                try:
                    measured = loops.run(self._turn(one, load))
                except NoEcho as exc:
                    results.skipped[key] = str(exc)
                else:
                    results.measured.setdefault(key, []).append(measured)

    def memory_of(self, contender: Contender) -> str:
        """Return KiB of a contender's process, started anew, for each idle WebSocket, or why there are none."""
        try:
            with self.running(contender) as running:
                return report.number(loops.run(self._memory(running)))
        except (Unavailable, NoEcho) as exc:
            return f"skipped: {exc}"

    async def _turn(self, running: _Running, load: Load) -> Measured:
        options = self._options
        talkers = await Talkers.open(running.port, load.callers, load.size, options.opcode)
        try:
            await talkers.talk(options.warm_up)
            before = Clocks.read(running.child, options.cores)
            measured = await talkers.talk(options.seconds)
            if running.contender is DIRECT:
                return measured  # the contenders' core has nothing to do
            return Clocks.read(running.child, options.cores).since(before, measured)
        finally:
            talkers.close()

    async def _memory(self, running: _Running) -> float:
        idle = self._options.idle
        first = await Talkers.open(running.port, min(_FIRST, idle), _SIZE, self._options.opcode)
        try:
            before = memory(running.child.pid)
            talkers = await Talkers.open(running.port, idle, _SIZE, self._options.opcode)
            after = memory(running.child.pid)
            talkers.close()
        finally:
            first.close()
        return (after - before) / idle / 1024


def _tables(
    contenders: Sequence[Contender], results: Results, memories: dict[str, str], options: Options
) -> list[report.Table]:
    proxies = [contender for contender in contenders if contender is not DIRECT]
    rounds = f"{options.rounds} round{'s'[: options.rounds != 1]}"
    wall = report.rates(contenders, LOADS, results, WEBSOCKETS_BASE)
    own = report.rates(proxies, LOADS, report.per_cpu(results), WEBSOCKETS_BASE)
    title = _LEGEND.format(unit="", rounds=rounds, base=WEBSOCKETS_BASE, note=_NOTE)
    of_own = _LEGEND.format(unit=" of the proxy's processor time", rounds=rounds, base=WEBSOCKETS_BASE, note="")
    alone = report.latencies(contenders, LOADS[:1], _in_microseconds(results))
    tables = [
        wall._replace(title="\n\n".join((*report.disturbance(results), title))),
        own._replace(title=of_own),
        alone._replace(
            title="Microseconds until half of one client's messages, and 99 of 100, had come back; medians."
        ),
    ]
    if memories:
        of_memory = f"Memory of the proxy's process for each of {options.idle:,} idle WebSockets."
        rows = [(f"`{name}`", figure) for name, figure in memories.items()]
        tables.append(report.Table(of_memory, ["", "KiB"], rows))
    return tables


def _in_microseconds(results: Results) -> Results:
    def scaled(one: Measured) -> Measured:
        return replace(one, p50=one.p50 and one.p50 * 1000, p99=one.p99 and one.p99 * 1000)

    return replace(results, measured={key: list(map(scaled, rounds)) for key, rounds in results.measured.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the process's exit status."""
    given = _parse(arguments)
    # As Ctrl-C does: what was started is ended, and its folder removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_file_limit()
    options = Options(given.rounds, given.seconds, idle=given.idle, opcode=TEXT if given.text else BINARY)
    _say(f"{machine.description()}; {options.cores}")
    try:
        text = told(given.only, options, _say)
    except KeyboardInterrupt:
        _say("stopped")
        return _STOPPED
    sys.stdout.write(f"\n{text}\n")
    if given.write:
        report.write_into(_PAGE, text, COMMAND)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = {contender.name: contender for contender in ALL}

    def contenders(names: str) -> list[Contender]:
        unknown = [name for name in names.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
        return [known[name] for name in names.split(",")]

    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Compare what relaying WebSockets costs, on this machine.",
        epilog=f"Contenders: {', '.join(known)}.",
    )
    parser.add_argument("--only", type=contenders, metavar="NAME,...", help="these contenders")
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody has a turn (3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a turn is (1)")
    parser.add_argument("--idle", type=int, default=1000, help="WebSockets to open for the memory of each (1,000)")
    parser.add_argument("--text", action="store_true", help="messages of text; without it they are binary")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    given = parser.parse_args(arguments)
    if given.only is None:
        given.only = list(known.values())
    return given


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
