"""
Step 5 of a request: or the route sends its own request on, past the client's layer, and streams the answer back.

``_response`` and ``_app`` are the doors, for routes and for apps; ``_relay`` the machine behind
them, with ``_inbound`` and ``_watch`` on the client's side and ``_source`` on the upstream's, which
is mostly ``_forwarded``. For WebSockets ``_websocket`` is the door, ``_opening`` the source, and
``_switch`` goes over from ``_relay`` to ``_bridge``. The rest are its rules: which requests
(``_admission``), where to (``_target``, ``_paths``), which header lines (``_headers``,
``_forwarding``, ``_via``, ``_rewriting``, ``_servers``), and what a failure is called (``_failures``).
"""

from ._app import ReverseProxy
from ._failures import ProxyFailure
from ._hooks import ProxyRequest, UpstreamResponse
from ._policy import ProxyPolicy
from ._relay import UpstreamAborted
from ._response import StreamingProxyResponse
from ._websocket import proxy_websocket

__all__ = (
    "ProxyFailure",
    "ProxyPolicy",
    "ProxyRequest",
    "ReverseProxy",
    "StreamingProxyResponse",
    "UpstreamAborted",
    "UpstreamResponse",
    "proxy_websocket",
)
