"""Table I: pools, balancing, configuration; most of it is for whoever runs a proxy, and nobody else can see it."""

from .._kit import Lab, expect
from .._rows import OPTION, invisible, row

__all__ = ()

_INSIDE = "a matter of the proxy's own interfaces; a client and an upstream notice nothing"
_SEVERAL = "it takes several upstreams, and there is one"


@row("I1", "the connection to the upstream is kept for the next request", level=OPTION)
async def i1(lab: Lab) -> None:
    """What of a pool can be seen from outside; four tries, because a connection may come back a moment too late."""
    turns = [(await lab.exchange()).request.turn for _ in range(4)]
    expect(any(turns), "four requests one after the other took four connections")


invisible("I2", "requests are shared out between upstreams", _SEVERAL)
invisible("I3", "an upstream that keeps failing is left alone for a while", _SEVERAL)
invisible("I4", "upstreams are asked how they are", _SEVERAL)
invisible("I5", "a session stays with its upstream", _SEVERAL)
invisible("I6", "upstream, timeout, method and headers can be other ones for one request", _INSIDE)
invisible("I7", "HTTP/2 to the upstream", "this suite's upstream speaks HTTP/1.1, to see every byte")
invisible("I8", "upstreams at Unix sockets", "this suite's upstream listens on TCP")
invisible("I9", "a hook may answer in the upstream's place", _INSIDE)
invisible("I10", "on shutdown, answers under way are finished", "it takes a proxy that somebody stops")
invisible("I11", "figures for each stage of a request", _INSIDE)
