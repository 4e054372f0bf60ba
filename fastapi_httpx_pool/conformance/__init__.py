"""
Asks any HTTP reverse proxy how well it does what a proxy should, from both ends of the wire.

``python -m fastapi_httpx_pool.conformance URL`` asks a proxy that runs and prints what came of it. ``run`` is the same
for programs. Needs nothing but Python's own library.
"""

from ._kit import Place
from ._preflight import WrongUse, place_of
from ._rows import TABLES, Level, Row, select
from ._run import Outcome, Result, Revive, Told, passed, run

__all__ = (
    "TABLES",
    "Level",
    "Outcome",
    "Place",
    "Result",
    "Revive",
    "Row",
    "Told",
    "WrongUse",
    "passed",
    "place_of",
    "run",
    "select",
)
