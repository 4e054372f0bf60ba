"""
Step 5 of a request: or the route sends its own request on, past the client's layer, and streams the answer back.

``_response`` is the door; ``_relay`` the machine behind it; ``_target``, ``_headers`` and
``_failures`` its rules.
"""

from ._relay import UpstreamAborted
from ._response import StreamingProxyResponse, UpstreamResponse

__all__ = ("StreamingProxyResponse", "UpstreamAborted", "UpstreamResponse")
