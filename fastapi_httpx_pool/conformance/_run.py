"""
Asks a proxy the rows, one after the other.

A row that raises anything but ``NotMet`` and ``NotApplicable`` has failed as well, for a proxy must not be able to
confuse it. After each row the proxy must still take connections: else that row ended it, and the rest is not asked,
unless somebody brings it back to life.
"""

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ._kit import Lab, NotApplicable, NotMet, Place, Upstream
from ._preflight import alive, listen, preflight
from ._rows import Ask, Level, Row

__all__ = ("Outcome", "Result", "Revive", "Told", "passed", "run", "unasked")

_WAITS = 30
"""How many times its limit a row may take in all."""


class Outcome(enum.Enum):
    """What became of a row."""

    MET = "met"
    NOT_MET = "not met"
    NOT_APPLICABLE = "not applicable"
    """This proxy cannot be asked."""
    INVISIBLE = "invisible"
    """Nobody can see it from outside."""
    NOT_ASKED = "not asked"
    """The proxy was gone, or the run was stopped."""


@dataclass(frozen=True)
class Result:
    """A row, and what became of it."""

    row: Row
    outcome: Outcome
    text: str = ""
    """What was seen instead, or why it was not asked."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it counts against the proxy."""
        return self.outcome is Outcome.NOT_MET and self.row.level is not Level.OPTION


Told = Callable[[Result], None]
"""Is told of each result as soon as it is there."""

Revive = Callable[[], Awaitable[None]]
"""Starts a proxy again that has ended."""


def passed(results: Iterable[Result]) -> bool:
    """Whether no result counts against the proxy, and all has been asked."""
    return not any(result.failed or result.outcome is Outcome.NOT_ASKED for result in results)


async def run(
    place: Place, rows: Sequence[Row], told: Told = lambda result: None, revive: Revive | None = None
) -> list[Result]:
    """
    Ask the rows of the proxy at a place, with an upstream of our own behind it.

    Raises:
        WrongUse: The upstream's address is taken, or the proxy does not lead there.
    """
    upstream = Upstream(place.timeout)
    results: list[Result] = []
    await listen(upstream, place)
    try:
        await preflight(place, upstream)
        gone = ""
        for row in rows:
            if row.ask is None or gone:
                result = unasked(row, f"the proxy takes no connections since {gone}")
            else:
                result = await _result(row, row.ask, place, upstream)
                if not await alive(place, upstream):
                    result = _deadly(result)
                    gone = row.id
                    if revive is not None:
                        await revive()
                        gone = ""
            results.append(result)
            told(result)
    finally:
        await upstream.stop()
    return results


def unasked(row: Row, why: str) -> Result:
    """Return the result of a row that was not asked; of one that nobody can ask, this is not the reason."""
    return Result(row, Outcome.INVISIBLE, row.why) if row.ask is None else Result(row, Outcome.NOT_ASKED, why)


def _deadly(result: Result) -> Result:
    """Return the result of a row that ended the proxy, whatever it was before."""
    text = "; ".join(filter(None, (result.text, "the proxy takes no connections any more")))
    return replace(result, outcome=Outcome.NOT_MET, text=text)


async def _ask(ask: Ask, lab: Lab, limit: float) -> None:
    """Ask one row; what went wrong behind the proxy is nearer to the cause than what the row itself raises."""
    try:
        async with asyncio.timeout(limit):
            await ask(lab)
    except Exception:  # but not when the run is stopped: that must not become a result
        lab.upstream.raise_errors()
        raise
    lab.upstream.raise_errors()


async def _result(row: Row, ask: Ask, place: Place, upstream: Upstream) -> Result:
    """Ask one row."""
    lab = Lab(place, upstream)
    await upstream.begin_row()
    begun = time.monotonic()
    outcome, text = Outcome.NOT_MET, ""
    try:
        await _ask(ask, lab, _WAITS * place.timeout)
        outcome = Outcome.MET
    except NotApplicable as reason:
        outcome, text = Outcome.NOT_APPLICABLE, str(reason)
    except NotMet as reason:
        text = str(reason)
    except TimeoutError:
        text = f"it was not over after {_WAITS * place.timeout:g} s"
    except Exception as error:  # noqa: BLE001 -- whatever a proxy sends, the other rows are asked
        text = f"the row itself failed: {type(error).__name__}: {error}"
    finally:
        await lab.end_row()
    return Result(row, outcome, text, time.monotonic() - begun)
