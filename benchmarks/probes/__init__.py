"""
What a load generator cannot see: a client in a script, the memory of a stream, connections wasted.

Each probe measures each client in a process of its own on the contender's core. All clients have the
limits that httpx has by default: 100 connections, 20 of them kept when idle.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import loops
from ..harness import upstream
from ..processes import Cores, pinned
from ..report import Table, number
from . import bare_client, churn, stream_memory
from ._clients import CLIENTS, missing

__all__ = ("NAMES", "run_all")

_PROBES = {"bare-client": bare_client, "stream-memory": stream_memory, "churn": churn}
_LIMIT = 60.0

NAMES = tuple(_PROBES)
"""The probes that there are."""


class _NoFigures(Exception):
    """A client could not be measured; the text says why."""


def run_all(names: Sequence[str], cores: Cores, say: Callable[[str], None], *, rounds: int) -> list[Table]:
    """Run the probes; return a table for each, of medians."""
    if not names:
        return []
    with pinned(cores.others), upstream(1, cores) as (origin,):
        return [_Run(name, origin, cores, rounds).table(say) for name in names]


@dataclass(frozen=True)
class _Run:
    """One probe, for all clients."""

    name: str
    origin: str
    cores: Cores
    rounds: int

    def table(self, say: Callable[[str], None]) -> Table:
        probe = _PROBES[self.name]
        used = loops.LOOPS if probe.LOOPS_MATTER else loops.LOOPS[:1]
        head = [figure if len(used) == 1 else f"{figure}, {loop}" for loop in used for figure in probe.FIGURES]
        rows = []
        for client in CLIENTS:
            say(f"{self.name}, {client}")
            try:
                cells = [cell for loop in used for cell in self._medians(client, loop)]
            except _NoFigures as exc:
                cells = [str(exc), *[""] * (len(head) - 1)]
            rows.append([f"`{client}`", *cells])
        return Table(probe.TITLE, ["", *head], rows)

    def _medians(self, client: str, loop: str) -> list[str]:
        package = missing(client)
        if package is not None:
            raise _NoFigures(f"skipped: {package} not installed")
        measured = [self._measure(client, loop) for _ in range(self.rounds)]
        return [number(statistics.median(column)) for column in zip(*measured, strict=True)]

    def _measure(self, client: str, loop: str) -> list[float]:
        command = [sys.executable, "-m", __name__, self.name, client, loop, self.origin]
        with pinned(self.cores.contender):
            try:
                done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT)
            except subprocess.TimeoutExpired:
                raise _NoFigures(f"not done after {_LIMIT:g} s") from None
            except subprocess.CalledProcessError as exc:
                raise _NoFigures(f"failed: {exc.stderr.strip().rpartition(chr(10))[2]}") from None
        figures: list[float] = json.loads(done.stdout)
        return figures
