"""What a contender is asked for: a method, a size, how many callers at once, how many origins behind it."""

import re
from dataclasses import dataclass
from typing import Self, final

__all__ = ("FULL", "SHORT", "Load")

_NAME = re.compile(r"(get|post)-(\d+)([km]?)-(\d+)(?:x(\d+))?")
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_SMALL_ANSWER = 2


@final
@dataclass(frozen=True)
class Load:
    """
    One column of the table, and its name: ``get-1k-50``, or ``get-1k-50x1000`` with 1,000 origins.

    The size is that of the answer to a GET, and that of the body of a POST, whose answer is small.
    """

    name: str
    method: str
    size: int
    callers: int
    origins: int = 1

    @classmethod
    def named(cls, name: str) -> Self:
        """
        Read a load's name.

        Raises:
            ValueError: It is none.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no load; write get-1k-50, post-64k-200 or get-1k-50x1000 (1,000 origins)")
        method, number, unit, callers, origins = match.groups()
        load = cls(name, method.upper(), int(number) * _UNITS[unit], int(callers), int(origins or 1))
        if load.callers < 1 or load.origins < 1:
            raise ValueError(f"{name!r} is no load: it needs at least one caller and one origin")
        return load

    @property
    def path(self) -> str:
        """The path to ask for: every server here answers with as many bytes as its path says."""
        return f"/{self.size if self.method == 'GET' else _SMALL_ANSWER}"

    @property
    def body(self) -> bytes:
        """What is sent along."""
        return b"" if self.method == "GET" else b"x" * self.size

    @property
    def answer_size(self) -> int:
        """How many bytes have to come back."""
        return int(self.path[1:])


SHORT = ("get-1k-50", "get-1k-200")
"""For ``make bench``: whether a pool is fast, and whether it collapses."""

FULL = (
    "get-1k-1",
    "get-1k-50",
    "get-1k-200",
    "get-1k-1000",
    "get-1k-50x1000",
    "get-64k-50",
    "get-10m-10",
    "post-64k-50",
)
