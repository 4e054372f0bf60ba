"""Table B: what upstreams are told about the client, whom they are told it is for, and where a request ends."""

import re
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from .._kit import Lab, NotApplicable, NotMet, Request, expect, ok, shown
from .._rows import OPTION, WANT, invisible, row

__all__ = ()

_SPOOFED = (
    b"X-Forwarded-For: 192.0.2.6",
    b"X-Forwarded-Host: spoofed.example",
    b"X-Forwarded-Proto: gopher",
    b"X-Forwarded-Prefix: /spoofed",
    b"Forwarded: for=192.0.2.6;host=spoofed.example;proto=gopher",
    b"X-Real-IP: 192.0.2.6",
)
_SPOOFS = (b"192.0.2.6", b"spoofed", b"gopher")
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~-]+)(:[0-9]+)?")
_NODE = re.compile(
    rb'for=("\[[0-9a-fA-F:.]+\](:[0-9]+)?"|"[0-9.]+:[0-9]+"|[0-9.]+|unknown|_[\w.-]+|"_[\w.-]+")', re.IGNORECASE
)
_ROUNDS = 30
"""More hops than any path through the world has; as many proxies may add a line each."""


@row("B1", "what a stranger says about its address, host and scheme does not reach the upstream", level=WANT)
async def b1(lab: Lab) -> None:
    """It is replaced by the proxy's own view, or removed."""
    request = (await lab.exchange(*_SPOOFED)).request
    names = (line.partition(b":")[0] for line in _SPOOFED)
    passed = [name for name in names if any(spoof in b",".join(request.values(name)) for spoof in _SPOOFS)]
    expect(
        not passed,
        f"the upstream got what the client said in {shown(b', '.join(passed), 100)}; or does the proxy trust this address?",
    )


invisible("B2", "of trusted proxies what they say is kept, and added to", "whom a proxy trusts is its configuration")


@row("B3", "several X-Forwarded-For lines leave as one", level=WANT)
async def b3(lab: Lab) -> None:
    """With the proxy's own address in it, or without any: two lines would be read differently by two upstreams."""
    request = (await lab.exchange(b"X-Forwarded-For: 192.0.2.6", b"X-Forwarded-For: 192.0.2.7")).request
    lines = request.values(b"x-forwarded-for")
    expect(len(lines) <= 1, f"the upstream got {len(lines)} of them")


@row("B4", "the client's address is written plainly: IPv4 as IPv4, no zone; IPv6 quoted in Forwarded", level=WANT)
async def b4(lab: Lab) -> None:
    """As far as this client's own address shows it."""
    request = (await lab.exchange()).request
    addresses, nodes = request.tokens(b"x-forwarded-for"), request.tokens(b"forwarded")
    if not addresses and not nodes:
        raise NotApplicable("it does not say the client's address")
    for address in addresses:
        expect(_is_plain(address), f"X-Forwarded-For says {shown(address)}")
    for node in nodes:
        expect(b"for=" not in node or _NODE.search(node), f"Forwarded says {shown(node)}")


def _is_plain(address: bytes) -> bool:
    try:
        parsed = ip_address(address.decode("latin-1"))
    except ValueError:
        return False
    return not isinstance(parsed, IPv6Address) or (parsed.ipv4_mapped is None and parsed.scope_id is None)


invisible("B5", "a client without an address, on a Unix socket, is told of as such", "this suite comes by TCP")


@row("B6", "X-Forwarded-Prefix says which path was taken away", level=OPTION)
async def b6(lab: Lab) -> None:
    """The one that leads to the upstream."""
    if not lab.prefix:
        raise NotApplicable("the proxy's URL has no path that could be taken away")
    got = (await lab.exchange()).request.values(b"x-forwarded-prefix")
    expect(got == [lab.prefix], f"the upstream got {shown(b', '.join(got)) or 'none'}")


invisible("B7", "each of these lines can be left out", "that is the proxy's configuration")


@row("B8", "the upstream gets one Host, well written", rfc="RFC 9110 7.2")
async def b8(lab: Lab) -> None:
    """Its own, or the client's; without HTTP's default port."""
    for method, body in ((b"GET", None), (b"POST", b"hello")):
        hosts = (await lab.exchange(b"X-A: 1", method=method, body=body)).request.values(b"host")
        expect(len(hosts) == 1, f"the upstream got {len(hosts)} Host lines")
        well = _HOST.fullmatch(hosts[0]) and not hosts[0].endswith(b":80")
        expect(well, f"the upstream got Host: {shown(hosts[0])}")


@row("B9", "a request without Host, or with two, is answered with 400 and goes nowhere", rfc="RFC 9112 3.2")
async def b9(lab: Lab) -> None:
    """Also if both say the same."""
    same, other = b"Host: " + lab.authority, b"Host: other.example"
    for told, lines in (
        ("without Host", ()),
        ("with two different Hosts", (same, other)),
        ("with Host twice", (same,) * 2),
    ):
        seen = await lab.exchange(*lines, host=b"")
        expect(not seen.requests, f"a request {told} reached the upstream")
        expect(seen.response.status == HTTPStatus.BAD_REQUEST, f"a request {told} got {seen.response}")


@row("B10", "a target with a host in it does not choose the upstream; its host replaces Host", rfc="RFC 9112 3.2.2")
async def b10(lab: Lab) -> None:
    """With the proxy's own host it must be served; with another, it may be refused."""
    line = b"GET http://" + lab.authority + lab.target(b"/x?y") + b" HTTP/1.1\r\nHost: "
    seen = await lab.exchange(raw=line + lab.authority + b"\r\n\r\n")
    expect(seen.request.target == lab.based(b"/x?y"), f"the upstream was asked for {shown(seen.request.target)}")

    decoy = await lab.decoy()
    line = b"GET http://" + decoy.address + lab.target(b"/x?y") + b" HTTP/1.1\r\nHost: "
    seen = await lab.exchange(raw=line + lab.authority + b"\r\n\r\n")
    expect(not decoy.accepted, "the proxy connected to the host in the target")
    for request in seen.requests:
        expect(request.target == lab.based(b"/x?y"), f"the upstream was asked for {shown(request.target)}")
        told = {*request.values(b"host"), *request.values(b"x-forwarded-host")}
        expect(lab.authority not in told, "the upstream was told the host of the Host line, which does not count")


@row("B11", "the proxy names itself in Via, behind those that are there", rfc="RFC 9110 7.6.3")
async def b11(lab: Lab) -> None:
    """With the version in which it got the message."""
    members = (await lab.exchange(b"Via: 1.0 alpha", b"Via: 1.1 beta (x)")).request.tokens(b"via")
    told = f"the upstream got Via: {shown(b', '.join(members)) or 'none'}"
    expect(members[:2] == [b"1.0 alpha", b"1.1 beta (x)"], told)
    expect(members[2:] and members[2].startswith((b"1.1 ", b"http/1.1 ")), told)


@row("B12", "a request that comes back again and again is stopped", rfc="RFC 9110 7.6")
async def b12(lab: Lab) -> None:
    """The upstream plays a proxy whose upstream is the proxy."""
    seen = await lab.exchange()
    for _ in range(_ROUNDS):
        seen = await lab.exchange(*_lines_for_the_next(seen.request))
        if not seen.requests:
            expect(seen.response.status >= HTTPStatus.BAD_REQUEST, f"the client got {seen.response}")
            return
    raise NotMet(f"after {_ROUNDS} rounds, it is still forwarded")


def _lines_for_the_next(request: Request) -> list[bytes]:
    dropped = {b"host", b"connection", b"keep-alive", b"te", b"content-length", b"transfer-encoding"}
    return [name + b": " + value for name, value in request.lines if name.lower() not in dropped]


@row("B13", "OPTIONS and TRACE with Max-Forwards 0 go no further; with more, it is counted down", rfc="RFC 9110 7.6.2")
async def b13(lab: Lab) -> None:
    """A proxy that answers OPTIONS or TRACE itself in any case has nothing to count."""
    for method in (b"OPTIONS", b"TRACE"):
        seen = await lab.exchange(b"Max-Forwards: 0", method=method)
        expect(not seen.requests, f"{method.decode()} with Max-Forwards: 0 reached the upstream")
        expect(seen.response.status, f"{method.decode()} with Max-Forwards: 0 got {seen.response}")
        for request in (await lab.exchange(b"Max-Forwards: 5", method=method)).requests:
            got = b", ".join(request.values(b"max-forwards"))
            expect(got == b"4", f"of {method.decode()} with Max-Forwards: 5 the upstream got {shown(got) or 'none'}")


@row("B14", "a response has one Date and one Server: the upstream's", rfc="RFC 9110 6.6.1", level=WANT)
async def b14(lab: Lab) -> None:
    """Never both the upstream's and the proxy's."""
    date, server = b"Sun, 06 Nov 1994 08:49:37 GMT", b"upstream/1"
    response = (await lab.exchange(answer=ok(b"ok", b"Date: " + date, b"Server: " + server))).response
    for name, value in ((b"Date", date), (b"Server", server)):
        got = response.values(name)
        expect(len(got) == 1, f"the client got {len(got)} {name.decode()} lines")
        expect(got == [value], f"the client got another {name.decode()} than the upstream's: {shown(got[0])}")
