"""Table C: target, path and query."""

import posixpath
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from .._kit import Lab, NotApplicable, Seen, expect, shown
from .._rows import WANT, invisible, row

__all__ = ()

_PATHS = (
    b"/a%2Fb%2fc",
    b"/%7Euser/%41",
    b"/a'b(c)!*",
    b"/a;b=c/d,e",
    b"/a%20b+c",
    b"/%C3%A9%e9%FF",
    b"/@x:y$z&=~",
    b"/%25/%2525",
    b"/a//b/",
)
_ODD_PATHS = (b'/a"b', b"/a[b]", b"/a|b^c{d}")
"""With characters that URLs should not have, though browsers send them: a proxy may refuse them."""
_QUERIES = (
    b"a=1&b=2&a=3",
    b"z;w=%zz&&=",
    b"a=b+c%20d",
    b"a=?b/c",
    b"next=../x&up=%2e%2e/..",
    b"%C3%A9=%e9&%00",
    b"a=%0D%0AX-Smuggled:%201",
    b"url=http://u:p@h/..",
)
_ODD_QUERIES = (b"a|b", b'a="b"')
_CLIMBING = (
    b"/../secret",
    b"/a/../../secret",
    b"/%2e%2e/secret",
    b"/%2E%2E/secret",
    b"/.%2e/secret",
    b"/%2e./secret",
    b"/..%2fsecret",
    b"/%2e%2e%2fsecret",
    b"/..\\secret",
    b"/..%5csecret",
    b"/%2e%2e%5Csecret",
)
_HARMLESS = (
    b"/a/...b/c",
    b"/x/..;/y",
    b"/[...slug].js",
    b"/..a/b..",
    b"/...",
    b"/x?next=../x",
    b"/x?a=/../&b=%2e%2e%2f",
)
_TWICE = (b"/%252e%252e/x", b"/%252e%252e%252fx", b"/.%252e/x")
_BROKEN = (b"/%00", b"/a%00b", b"/%", b"/a%2", b"/a%zzb")


async def _expect_exact(lab: Lab, paths: Iterable[bytes], *, may_refuse: bool = False) -> None:
    """Expect that each of these arrives byte for byte."""
    for path in paths:
        seen = await lab.exchange(target=path)
        if may_refuse and _refused(seen):
            continue
        got = seen.request.target
        expect(got == lab.based(path), f"{shown(lab.target(path))} arrived as {shown(got)}")


def _refused(seen: Seen) -> bool:
    """Whether it was refused as bad, and went nowhere."""
    return not seen.requests and seen.response.status in range(400, 500)


@row("C1", "the octets of a path arrive unchanged: escapes and their case, quotes, empty segments", rfc="RFC 9110 7.7")
async def c1(lab: Lab) -> None:
    """What no URL should have arrives unchanged, or is refused."""
    await _expect_exact(lab, _PATHS)
    await _expect_exact(lab, _ODD_PATHS, may_refuse=True)


@row("C2", "the octets of a query arrive unchanged, parsable or not, down to a bare ?", rfc="RFC 9110 7.7")
async def c2(lab: Lab) -> None:
    """The bare one last, for there are servers that cannot tell it from none."""
    await _expect_exact(lab, (b"/x?" + query for query in _QUERIES))
    await _expect_exact(lab, (b"/x?" + query for query in _ODD_QUERIES), may_refuse=True)
    await _expect_exact(lab, (b"/x?",))


invisible(
    "C3", "the upstream's own query and the client's are put together", "a query of the upstream is configuration"
)


@row("C4", "base and path are joined by exactly one slash", level=WANT)
async def c4(lab: Lab) -> None:
    """The prefix without a slash may as well be redirected to the one with it."""
    await _expect_exact(lab, (b"/", b"/x", b"/x/", b"/x//y"))
    if lab.prefix:
        seen = await lab.exchange(target=b"")
        got = {request.target for request in seen.requests} or {b"no request"}
        fine = got <= {lab.base or b"/", lab.based(b"/")} or seen.response.status in {301, 302, 303, 307, 308}
        expect(fine, f"{shown(lab.prefix)} arrived as {shown(b', '.join(got))}, and the client got {seen.response}")


@row("C5", "no spelling of .. leads out of the base", level=WANT)
async def c5(lab: Lab) -> None:
    """It is refused, or what it means lies inside; as an upstream sees it that decodes once and takes \\ for /."""
    if not lab.base:
        raise NotApplicable("the upstream's base is its root, which nothing leads out of")
    for path in _CLIMBING:
        for request in (await lab.exchange(target=path)).requests:
            meant = posixpath.normpath(unquote_to_bytes(request.target.partition(b"?")[0]).replace(b"\\", b"/"))
            inside = meant == lab.base or meant.startswith(lab.based(b"/"))
            expect(inside, f"{shown(lab.target(path))} arrived as {shown(request.target)}, which means {shown(meant)}")


@row("C6", "what only looks like .. passes: in names, before a semicolon, in a query", level=WANT)
async def c6(lab: Lab) -> None:
    """Byte for byte."""
    await _expect_exact(lab, _HARMLESS)


@row("C7", "what is encoded twice is not decoded once", level=WANT)
async def c7(lab: Lab) -> None:
    """It arrives as it is, or is refused."""
    await _expect_exact(lab, _TWICE, may_refuse=True)


@row("C8", "two slashes at the beginning name no host", level=WANT)
async def c8(lab: Lab) -> None:
    """It stays a path at the upstream, or is refused."""
    decoy = await lab.decoy()
    for target in (lab.target(b"//" + decoy.address + b"/x"), b"//" + decoy.address + lab.target(b"/x")):
        seen = await lab.exchange(raw=_plain(lab, target))
        expect(not decoy.accepted, f"for {shown(target)}, the proxy connected to that host")
        expect(seen.response.status, f"for {shown(target)}, the client got {seen.response}")
        for request in seen.requests:
            expect(request.target.startswith(lab.base), f"{shown(target)} arrived as {shown(request.target)}")


@row(
    "C9",
    "a target that does not begin with a slash is refused, and never glued to the upstream's URL",
    rfc="RFC 9112 3.2",
)
async def c9(lab: Lab) -> None:
    """No user name, no longer host name, no port comes of it."""
    decoy = await lab.decoy()
    port = b":" + decoy.address.rpartition(b":")[2]
    for target in (b"@" + decoy.address + b"/x", b"." + decoy.address + b"/x", port + b"/x", b"x"):
        seen = await lab.exchange(raw=_plain(lab, target))
        expect(not decoy.accepted, f"for {shown(target)}, the proxy connected to another host")
        expect(_refused(seen), f"{shown(target)} got {seen.response}" + _arrived(seen))


def _plain(lab: Lab, target: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: " + lab.authority + b"\r\n\r\n"


def _arrived(seen: Seen) -> str:
    return "".join(f", and arrived as {shown(request.target)}" for request in seen.requests)


@row("C10", "a prefix is taken away from the octets, even if it arrives percent-encoded", level=WANT)
async def c10(lab: Lab) -> None:
    """And nothing of the rest is touched by it."""
    if not lab.prefix:
        raise NotApplicable("the proxy's URL has no path that could be taken away")
    target = b"/%%%02x" % lab.prefix[1] + lab.prefix[2:] + b"/a%2Fb"
    seen = await lab.exchange(raw=_plain(lab, target))
    got = seen.request.target
    expect(got == lab.based(b"/a%2Fb"), f"{shown(target)} arrived as {shown(got)}")


invisible("C11", "two different URLs never have one key in a cache", "a proxy's caches are its own")


@row("C12", "methods that nobody knows go on", rfc="RFC 9110 7.6", level=WANT)
async def c12(lab: Lab) -> None:
    """Two that some know, and one that nobody does."""
    for method in (b"PURGE", b"PROPFIND", b"FROBNICATE"):
        got = (await lab.exchange(method=method)).request.method
        expect(got == method, f"{shown(method)} arrived as {shown(got)}")


@row("C13", "CONNECT and TRACE are refused; OPTIONS * is about no path", rfc="RFC 9110 9.3.6", level=WANT)
async def c13(lab: Lab) -> None:
    """It may be answered, refused, or go on as it is."""
    decoy = await lab.decoy()
    raw = b"CONNECT " + decoy.address + b" HTTP/1.1\r\nHost: " + decoy.address + b"\r\n\r\n"
    for what, seen in (
        ("CONNECT to a host", await lab.exchange(raw=raw)),
        ("CONNECT to a path", await lab.exchange(method=b"CONNECT")),
        ("TRACE", await lab.exchange(method=b"TRACE")),
    ):
        expect(not seen.requests and not decoy.accepted, f"{what} reached another server")
        expect(seen.response.status >= HTTPStatus.BAD_REQUEST, f"{what} got {seen.response}")
    seen = await lab.exchange(raw=b"OPTIONS * HTTP/1.1\r\nHost: " + lab.authority + b"\r\n\r\n")
    expect(seen.response.status, f"OPTIONS * got {seen.response}")
    for request in seen.requests:
        expect(request.target == b"*", f"OPTIONS * arrived as {shown(request.target)}")


@row("C14", "a path with NUL or with broken escapes is answered with 400", level=WANT)
async def c14(lab: Lab) -> None:
    """One clean 400, and nothing goes on."""
    for path in _BROKEN:
        seen = await lab.exchange(target=path)
        right = seen.response.status == HTTPStatus.BAD_REQUEST and not seen.requests
        expect(right, f"{shown(lab.target(path))} got {seen.response}" + _arrived(seen))
