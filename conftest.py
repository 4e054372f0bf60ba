"""
Every Python block of the README and of the pages in docs/ is executed, offline.

Beside plain ``python`` blocks there are ``python raises``, which must raise, and ``text output``,
which must be what the block before has printed or raised; line breaks may differ.
"""

import io
import re
import sys
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import SkipTest

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from docs.offline import offline

# The longer examples import each other by name, as files that lie side by side do.
sys.path.insert(0, str(Path(__file__).parent / "docs" / "examples"))

OPTIONAL = ("httpx2", "requests")
"""Packages that a block may use and that may be missing; the block is then skipped."""

_internet = ExitStack()
_evaluate = PythonEvaluator()


def _run(example: Example) -> None:
    for package in OPTIONAL:
        if re.search(rf"\b(import |=\"){package}\b", example.parsed) and find_spec(package) is None:
            example.namespace["_output"] = None
            raise SkipTest(f"{package} is not installed")
    with redirect_stdout(io.StringIO()) as printed:
        _evaluate(example)
    example.namespace["_output"] = printed.getvalue()


def _run_raising(example: Example) -> str | None:
    try:
        _run(example)
    except SkipTest:
        raise
    except Exception as exc:  # noqa: BLE001 -- which one is for the output block to say
        example.namespace["_output"] = f"{type(exc).__name__}: {exc}"
        return None
    return "the block raised nothing"


def _compare(example: Example) -> str | None:
    output = example.namespace["_output"]
    if output is None:
        raise SkipTest("the block before was skipped")
    found = re.sub(r"0x[0-9a-f]+", "0x...", output)
    return None if example.parsed.split() == found.split() else f"the block before gave:\n{found}"


def _setup(namespace: dict[str, Any]) -> None:
    _internet.enter_context(offline())
    # What a block defines says where it comes from, as what a file defines does.
    namespace["__name__"] = "page"


def _teardown(namespace: dict[str, Any]) -> None:
    _internet.close()


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser("python", _run),
        CodeBlockParser("python raises", _run_raising),
        CodeBlockParser("text output", _compare),
    ],
    patterns=["README.md", "docs/*.md", "docs/how-to/*.md"],
    setup=_setup,
    teardown=_teardown,
).pytest()
