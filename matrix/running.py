"""Starts a peer, asks it the rows, and starts it again if a row has ended it."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from benchmarks.processes import Child, free_port
from benchmarks.programs import wait_until_it_listens
from fastapi_httpx_pool import conformance
from fastapi_httpx_pool.conformance import Outcome, Result, Revive, Row, Told, WrongUse, place_of, run

from .peers import BASE, PREFIX, Peer, Place, Unavailable

__all__ = ("Examined", "examine")


@final
@dataclass(frozen=True)
class Examined:
    """A peer, and what came of it."""

    peer: Peer
    version: str = ""
    results: tuple[Result, ...] = ()
    missing: str = ""
    """Why it was left out; empty if it was not."""

    def __getitem__(self, row: str) -> Result:
        """Return the result of a row."""
        return next(result for result in self.results if result.row.id == row)


def examine(peer: Peer, rows: Sequence[Row], limit: float, told: Told) -> Examined:
    """
    Run a peer, and ask it the rows; those that are not met are asked twice.

    Args:
        peer: Who.
        rows: What.
        limit: Seconds after which it should give up, and the longest that rows wait.
        told: Is told of each result of the first time as soon as it is there.
    """
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        upstream = f"127.0.0.1:{free_port()}"
        place = Place(free_port(), f"http://{upstream}", limit, Path(folder))
        url = f"http://127.0.0.1:{place.port}{PREFIX}"
        try:
            with _running(peer, place) as running:
                version = peer.version()
                at = place_of(url, upstream, BASE, limit)
                results = asyncio.run(_ask(at, rows, told, running.start_again))
        except (Unavailable, WrongUse) as exc:
            return Examined(peer, missing=str(exc))
    names = {upstream: "127.0.0.1:9100", f"127.0.0.1:{place.port}": "127.0.0.1:8000"}
    return Examined(peer, version, tuple(_with_other_names(result, names) for result in results))


async def _ask(at: conformance.Place, rows: Sequence[Row], told: Told, revive: Revive) -> list[Result]:
    """
    Ask all rows, and then, of the peer started again, those that were not met.

    The machine may have been busy; or a row may have left the peer in a state that was the next one's
    misfortune, which is why they come the other way round.
    """
    results = {result.row.id: result for result in await run(at, rows, told, revive)}
    again = [result.row for result in reversed(results.values()) if result.outcome is Outcome.NOT_MET]
    if again:
        await revive()
        second = await run(at, again, revive=revive)
        results |= {result.row.id: result for result in second if result.outcome is Outcome.MET}
    return list(results.values())


def _with_other_names(result: Result, names: dict[str, str]) -> Result:
    """Return a result without the ports of this run, so that the next one says the same."""
    text = result.text
    for old, new in names.items():
        text = text.replace(old, new)
    return replace(result, text=text)


class _Running:
    """A peer's process."""

    def __init__(self, peer: Peer, place: Place) -> None:
        # Nobody would read what it writes to its standard output, and it would wait for that.
        self._command = ["/bin/sh", "-c", 'exec "$@" >&2', "sh", *peer.command(place)]
        self._place = place
        self._child: Child | None = None

    def start(self) -> None:
        environment = {"MATRIX_ORIGIN": self._place.origin, "MATRIX_LIMIT": f"{self._place.limit:g}"}
        self._child = Child(self._command, frozenset(), environment)
        wait_until_it_listens(self._child, self._place.port)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    async def start_again(self) -> None:
        await asyncio.to_thread(self.stop)
        await asyncio.to_thread(self.start)


@contextmanager
def _running(peer: Peer, place: Place) -> Iterator[_Running]:
    running = _Running(peer, place)
    try:
        running.start()
        yield running
    finally:
        running.stop()
