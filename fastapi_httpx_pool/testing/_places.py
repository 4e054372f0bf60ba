"""Where in the tests, or in the app that they test, something was begun."""

import linecache
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ("is_ours", "place_here")

_PACKAGE = str(Path(__file__).resolve().parents[1])
_PATHS = sysconfig.get_paths()
_LIBRARIES = tuple(_PATHS[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_ours(file: str) -> bool:
    """Whether a source file is this package's."""
    return file.startswith(_PACKAGE)


def place_here() -> str:
    """
    Return the line of the app or of the test that is being executed, as file, line, function and source.

    That is the innermost one that is in no library; where there is none, the innermost that is not this package's.
    """
    frames = [frame for frame in _frames() if not is_ours(frame.f_code.co_filename)]
    frame = next((frame for frame in frames if not _is_library(frame.f_code.co_filename)), frames[0])
    file, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(file, line, frame.f_globals).strip()
    return f"{_shown(file)}:{line} in {frame.f_code.co_name}: {source}".removesuffix(": ")


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, "<frozen"))


def _shown(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
