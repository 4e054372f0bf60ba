"""
Runs contenders against loads, fairly.

1. The upstream starts, with as many origins as the loads need.
2. In each round, each load is given to each contender in turn; odd rounds go backwards, so that a
   machine that grows slower meanwhile is not held against the last one.
3. A turn is: start the contender if it does not run, see that it answers right, warm up, measure, and
   wait until it is quiet again. One that is still busy with calls that nobody waits for is ended, so
   that it takes nothing from the next.
4. Everything ends, whatever happens.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, final

from . import loops, wrk
from .contenders import Contender, Place, Unavailable
from .generator import Measured, generate
from .loads import Load
from .processes import Child, Cores, free_port, idle_seconds, pinned
from .programs import wait_until_it_listens

__all__ = ("Clocks", "Options", "Origins", "Results", "run", "upstream")

_ANSWER_LIMIT = 10.0
_QUIET_LIMIT = 1.0
_GLANCE = 0.05
_WARM_UP_CALLERS = 20
_MANY_CALLERS = 1000
_LONGER = 3
"""With so many callers a turn lasts longer: 5 s are what clients wait for a connection, and it has to be seen."""

_QUIET = 0.3
"""The share of a core below which a contender is done: a clock tick between two glances is 0.2."""

Origins = tuple[str, ...]


@final
@dataclass(frozen=True)
class Options:
    """How to measure."""

    rounds: int
    seconds: float
    warm_up: float = 0.5
    generator: str | None = field(default_factory=wrk.path)
    """Where wrk is; None for the generator in this package."""
    keepalive: int = 20
    cores: Cores = field(default_factory=Cores.of_this_machine)


@final
@dataclass
class Results:
    """What has been measured, by contender and load; and why some was not."""

    measured: dict[tuple[str, str], list[Measured]] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)


def run(
    contenders: Sequence[Contender], loads: Sequence[Load], options: Options, say: Callable[[str], None]
) -> Results:
    """Measure all contenders under all loads."""
    results = Results()
    with ExitStack() as stack:
        stack.enter_context(pinned(options.cores.others))
        origins = stack.enter_context(upstream(max(load.origins for load in loads), options.cores))
        arena = stack.enter_context(_Arena(origins, options))
        for number in range(options.rounds):
            for load in loads:
                say(f"round {number + 1} of {options.rounds}, {load.name}")
                for contender in contenders if number % 2 == 0 else reversed(contenders):
                    _turn(arena, contender, load, results)
    return results


@contextmanager
def upstream(origins: int, cores: Cores) -> Iterator[Origins]:
    """Let the upstream run during a block; give its addresses."""
    child = Child([sys.executable, "-m", f"{__package__}.upstream", str(origins)], cores.others, {})
    try:
        line = child.first_line()
        if not line:
            raise RuntimeError(f"the upstream did not start: {child.complaint()}")
        yield tuple(f"http://127.0.0.1:{port}" for port in json.loads(line))
    finally:
        child.stop()


def _turn(arena: "_Arena", contender: Contender, load: Load, results: Results) -> None:
    key = (contender.name, load.name)
    if key in results.skipped:
        return
    try:
        measured = arena.measure(contender, load)
    except (Unavailable, subprocess.SubprocessError) as exc:
        results.skipped[key] = str(exc)
    else:
        results.measured.setdefault(key, []).append(measured)


@dataclass
class _Running:
    child: Child
    port: int


class _Arena:
    """Keeps the contenders that run, one process for each number of origins."""

    def __init__(self, origins: Origins, options: Options) -> None:
        self._origins = origins
        self._options = options
        self._running: dict[tuple[str, int], _Running] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running.child.stop()
        self._folder.cleanup()

    def measure(self, contender: Contender, load: Load) -> Measured:
        """Give a contender its turn."""
        key = (contender.name, load.origins)
        if key not in self._running:
            self._running[key] = self._start(contender, load.origins)
        running = self._running[key]
        try:
            _check(running, load)
            return self._generate(running, load)
        finally:
            if not _is_quiet(running.child):
                self._running.pop(key).child.stop()

    def _start(self, contender: Contender, origins: int) -> _Running:
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        place = Place(free_port(), self._origins[:origins], folder)
        environment = {"BENCH_UPSTREAM": ",".join(place.origins), "BENCH_KEEPALIVE": str(self._options.keepalive)}
        child = Child(contender.command(place), self._options.cores.contender, environment)
        try:
            wait_until_it_listens(child, place.port)
        except BaseException:
            child.stop()
            raise
        return _Running(child, place.port)

    def _generate(self, running: _Running, load: Load) -> Measured:
        options = self._options
        # Few callers: those that give up at the end of the warm-up would leave their calls behind.
        few = replace(load, callers=min(load.callers, _WARM_UP_CALLERS))
        loops.run(generate(running.port, few, options.warm_up))
        seconds = options.seconds * (_LONGER if load.callers >= _MANY_CALLERS else 1)
        before = Clocks.read(running.child, options.cores)
        if options.generator is None:
            measured = loops.run(generate(running.port, load, seconds))
        else:
            measured = wrk.measure(options.generator, running.port, load, seconds, Path(self._folder.name))
        return Clocks.read(running.child, options.cores).since(before, measured)


@final
@dataclass(frozen=True)
class Clocks:
    """Three clocks at one time."""

    wall: float
    contender: float | None
    idle: float | None

    @classmethod
    def read(cls, child: Child, cores: Cores) -> Self:
        """Look at them now."""
        return cls(time.monotonic(), child.cpu_seconds(), idle_seconds(cores.contender))

    def since(self, before: Self, measured: Measured) -> Measured:
        """Note what the contender and its core have done meanwhile."""
        elapsed = self.wall - before.wall
        if self.idle is None or before.idle is None or self.contender is None or before.contender is None:
            return measured
        busy, own = 1 - (self.idle - before.idle) / elapsed, (self.contender - before.contender) / elapsed
        return replace(measured, busy=busy, own=own)


def _check(running: _Running, load: Load) -> None:
    """See that the contender does its work, lest a fast error page wins."""

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**20)
        try:
            head = f"{load.method} {load.path} HTTP/1.1\r\nhost: 127.0.0.1:{running.port}\r\nconnection: close\r\n"
            length = f"content-length: {len(load.body)}\r\n" if load.body else ""
            writer.write(f"{head}{length}\r\n".encode() + load.body)
            async with asyncio.timeout(_ANSWER_LIMIT):
                return await reader.read(-1)
        finally:
            writer.transport.abort()

    try:
        answer = asyncio.run(ask())
    except OSError as exc:  # a timeout, too
        raise Unavailable(f"it does not answer: {exc!r}") from exc
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode("latin-1")
    # Framing may be in chunks, which add to the body.
    if " 200 " not in status + " " or len(body) < load.answer_size:
        raise Unavailable(f"it answers {status!r} and {len(body)} bytes: {running.child.complaint()}")


def _is_quiet(child: Child) -> bool:
    """Wait a while for the contender to have nothing to do; whether it has."""
    deadline = time.monotonic() + _QUIET_LIMIT
    before = child.cpu_seconds()
    if before is None:
        return True  # nobody can tell here
    while time.monotonic() < deadline and not child.has_ended():
        time.sleep(_GLANCE)
        now = child.cpu_seconds()
        if now is None or (now - before) / _GLANCE < _QUIET:
            return now is not None
        before = now
    return False
