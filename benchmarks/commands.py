"""What commands have in common that run for long and take lists of names: ``python -m benchmarks`` and ``-m matrix``."""

import argparse
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ("STOPPED", "chosen", "heed_sigterm", "say")

STOPPED = 130
"""The exit status of a command that Ctrl-C has ended."""

_Named = TypeVar("_Named")


def chosen(names: Iterable[str], there: Mapping[str, _Named]) -> list[_Named]:
    """
    Return what has these names.

    Raises:
        ArgumentTypeError: Something is asked for that is not there.
    """
    wanted = list(names)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(there)}")
    return [there[name] for name in wanted]


def heed_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what was started is ended, and its folder removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def say(text: str) -> None:
    """Tell how far it is, beside what comes out."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
