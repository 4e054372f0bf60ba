"""Programs that take part in the benchmarks, and should not."""

import sys

from benchmarks.contenders import Place

__all__ = ("answering_otherwise",)


def answering_otherwise(place: Place) -> list[str]:
    """Return what starts a web server that has none of the answers, and knows no WebSockets."""
    return [
        sys.executable,
        "-m",
        "http.server",
        str(place.port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(place.folder),
    ]
