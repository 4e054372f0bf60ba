"""
Many requests at once: bounded, closed together, and none of them in its siblings' way.

``_calls`` gives whole answers, ``_merging`` pieces of them as they come, and ``_response`` sends those to a
browser. ``_fan`` is the machine behind all of them, with ``_requests`` for what goes in, ``_slots`` for how
much of it at once, and ``_arrivals`` for what comes out piece by piece.
"""

from ._arrivals import Arrivals
from ._calls import Outcome, as_completed, fan_out
from ._merging import StreamPart, merge_streams
from ._requests import RequestLike
from ._response import MergedStreamResponse

__all__ = (
    "Arrivals",
    "MergedStreamResponse",
    "Outcome",
    "RequestLike",
    "StreamPart",
    "as_completed",
    "fan_out",
    "merge_streams",
)
