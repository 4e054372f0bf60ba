"""
Why this package does not meet a row, where it does not: what a server forbids, or what is not done.

Each is for one or more of our columns. A failure without a note is news, and makes the command fail; so does a
note about a row that is met by now.
"""

from collections.abc import Iterable, Sequence

from fastapi_httpx_pool.conformance import Outcome, Result

from .running import Examined

__all__ = ("REASONS", "outdated", "reason", "unexplained")

_UVICORN = ("ours", "ours-h11")
_ALL = (*_UVICORN, "ours-hypercorn", "ours-granian")

REASONS: dict[tuple[str, tuple[str, ...]], str] = {
    ("A7", _ALL): "no server takes trailers for a client that speaks HTTP/1.1",
    ("B10", ("ours", "ours-granian")): "the server reads the path of such a target and throws its authority away",
    ("B10", ("ours-h11", "ours-hypercorn")): (
        "the server takes the whole URL for the path, so that the app's routes find no mount below it, and answer 404; "
        "alone under the server, without an app around it, the proxy understands such targets"
    ),
    ("B14", ("ours-hypercorn",)): "the server writes its own Date and Server; the upstream's give way",
    ("C2", _ALL): "an app is not told of a question mark with nothing behind it",
    ("C12", ("ours",)): "httptools refuses methods that it has not heard of",
    ("D6", ("ours-hypercorn",)): "the server says 100 by itself",
    ("E8", _ALL): "no server takes interim responses for a client that speaks HTTP/1.1",
    ("E19", ("ours",)): "the server sends chunks to clients that speak HTTP/1.0",
    ("H2", ("ours-granian",)): ("the server ends with a refusal that has two lines of one name, such as two cookies"),
    ("H4", ("ours-granian",)): "the server takes no header lines for the answer to a handshake",
    ("H5", ("ours-hypercorn",)): "the server does not tell which code and reason a client closed with",
    ("H5", ("ours-granian",)): "the server does not tell which reason a client closed with",
}
"""By row and columns."""


def reason(examined: Examined, row: str) -> str:
    """Return why a peer of ours does not meet a row; empty if nobody knows."""
    return next((text for (name, peers), text in REASONS.items() if name == row and examined.peer.name in peers), "")


def unexplained(all_examined: Iterable[Examined]) -> list[tuple[Examined, Result]]:
    """Return what of ours failed for a reason that nobody has written down."""
    return [
        (examined, result)
        for examined in all_examined
        for result in examined.results
        if examined.peer.ours and result.outcome is Outcome.NOT_MET and not reason(examined, result.row.id)
    ]


def outdated(all_examined: Sequence[Examined]) -> list[tuple[str, str]]:
    """Return row and column of each note about something that is met."""
    return [
        (row, examined.peer.name)
        for row, peers in REASONS
        for examined in all_examined
        if examined.peer.name in peers
        and any(result.row.id == row and result.outcome is Outcome.MET for result in examined.results)
    ]
