"""
Step 7 of a request: policies stand between it and the engine.

A policy takes a ``messages.Handler`` and is one. It keeps no reference to a response: what it must
undo when the exchange is over hangs on the response's body.
"""

from ._deadline import deadline
from ._gate import Gate
from ._hosts import HostLimit

__all__ = ("Gate", "HostLimit", "deadline")
