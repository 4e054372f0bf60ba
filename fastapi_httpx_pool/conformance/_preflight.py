"""Before any row: is there a proxy, and does it lead to our upstream? Says what to do if not."""

import asyncio
import re
import secrets
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from ._kit import Lab, NotMet, Place, Request, Response, TooMuch, Upstream, authority, shown

__all__ = ("WrongUse", "alive", "listen", "place_of", "preflight")

_PAUSE = 0.05
"""Seconds between attempts to connect to a proxy that may be starting."""

_MOST = 1 << 20
"""Bytes that the answer to a request for a page may have; our upstream's has two, and an error page may be long."""


class WrongUse(Exception):
    """The rows cannot be asked; the text says what is wrong, what to do, and what else it might be."""


def place_of(url: str, upstream: str = "127.0.0.1:9100", base: str = "/base", timeout: float = 2.0) -> Place:
    """
    Return the place that these say.

    Raises:
        WrongUse: They say none.
    """
    parts, address = _split(url), _split(f"//{upstream}")
    port, upstream_port = _port(parts, 80), _port(address, 0)
    wrong = _wrong_with(url, parts, port)
    if wrong:
        shown_url = re.sub("//[^/]*@", "//", url)  # a password would end up in somebody's log
        raise WrongUse(f"{shown_url} is no URL to ask: {wrong}")
    # What else there may be in it would be ignored.
    if address.netloc != upstream or "@" in upstream or not address.hostname or not upstream_port:
        raise WrongUse(f"{upstream} is no address for the upstream: give host and port, such as 127.0.0.1:9100.")
    if not _is_plain(base) or set("?#") & set(base) or (base and not base.startswith("/")):
        raise WrongUse(f"{base} is no base: give a path, such as /base, or / for the upstream's root.")
    prefix, base = parts.path.rstrip("/"), base.rstrip("/")
    return Place(parts.hostname or "", port, prefix, address.hostname, upstream_port, base, timeout)


def _wrong_with(url: str, parts: SplitResult, port: int) -> str:
    """Return what is wrong with a proxy's URL, and what to do; empty if nothing is."""
    faults = {
        "it has to begin with http:// and a host. Rows are asked without TLS; let the proxy listen without it on "
        "another port. Its path is the prefix that leads to the upstream.": parts.scheme == "http" and parts.hostname,
        "its port has to be a number from 1 to 65535. Without one it is 80.": port,
        "it has a user's name before the host, which would not be sent. Let the proxy ask for no login on this path, "
        "and leave the name out.": "@" not in parts.netloc,
        "it has a query or a fragment, which would not be sent. Leave that out; rows that are about queries have "
        "their own.": not set("?#") & set(url),
        "it has a space in it, or a character that is not ASCII. Write that as an escape, such as %20; and a host as "
        "it is in DNS.": _is_plain(url),
    }
    return next((text for text, right in faults.items() if not right), "")


def _is_plain(text: str) -> bool:
    """Return whether a text can be sent as it is."""
    return text.isascii() and text.isprintable() and " " not in text


def _split(url: str) -> SplitResult:
    """Take a URL apart; if that cannot be, there is nothing in it."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _port(parts: SplitResult, default: int) -> int:
    """Return the port of a URL; 0 if it says one that is none."""
    try:
        return default if parts.port is None else parts.port
    except ValueError:
        return 0


async def listen(upstream: Upstream, place: Place) -> None:
    """
    Start the upstream.

    Raises:
        WrongUse: Its address cannot be listened on.
    """
    try:
        await upstream.start(place.upstream_host, place.upstream_port)
    except OSError as error:
        where = authority(place.upstream_host, place.upstream_port)
        raise WrongUse(
            f"The upstream cannot listen on {where}: {error}. Stop what listens there, which may be another run of "
            "this, or choose another address with --upstream and point the proxy at it. If the address is not one "
            "of this machine, give one that is."
        ) from None


async def connects(place: Place) -> bool:
    """Whether the proxy takes connections, or does so before the limit is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + place.timeout
    while loop.time() < end:
        try:
            async with asyncio.timeout_at(end):
                _, writer = await asyncio.open_connection(place.host, place.port)
        except OSError:  # of which TimeoutError is one
            await asyncio.sleep(_PAUSE)
        else:
            writer.transport.abort()
            return True
    return False


async def alive(place: Place, upstream: Upstream) -> bool:
    """
    Whether the proxy still takes connections after a row.

    It is asked for one page as well, so that it has noticed all that the row has left behind before the next one
    begins; how it answers is not looked at, and no longer than for a page.
    """
    if not await connects(place):
        return False
    await upstream.begin_row()
    lab = Lab(place, upstream, _MOST)
    await _page(lab, b"/x")
    await lab.end_row()
    return True


async def _page(lab: Lab, path: bytes) -> tuple[str, Response | None]:
    """Ask for one page; return what the proxy did, in words, and its answer if that came to an end."""
    try:
        async with asyncio.timeout(lab.patience):
            response = (await lab.exchange(target=path)).response
    except TooMuch:
        return f"sends an answer that is longer than {_MOST >> 20} MiB", None
    except TimeoutError:
        return f"sends an answer that does not end within {lab.patience:g} s", None
    except NotMet:
        return "did not answer", None
    return (f"answered {response}" if response.head else "closed the connection without an answer"), response


async def preflight(place: Place, upstream: Upstream) -> None:
    """
    Ask for one page through the proxy.

    Raises:
        WrongUse: It did not come from our upstream, or not from where it should.
    """
    if not await connects(place):
        raise WrongUse(
            f"No proxy listens on {authority(place.host, place.port)}. Start it, and give the URL of the path that "
            f"leads to {place.upstream_url}. If it runs, its port may be another, or it may listen on another "
            "address only, such as ::1."
        )
    lab, path = Lab(place, upstream, _MOST), b"/conformance-" + secrets.token_hex(4).encode("ascii")
    try:
        got, response = await _page(lab, path)
    finally:
        await lab.end_row()
    ours = [request for request in upstream.requests if path in request.target]
    _check_leads(place, got, path, lab.based(path), ours)
    if response is None or response.status != HTTPStatus.OK:  # which the upstream answered
        raise WrongUse(
            f"{place.url} asked the upstream, which answered 200, but {got}. Look at what the proxy logs: it may "
            "check answers, or wait for something. If it is slow only, give it more time with --timeout."
        )


def _check_leads(place: Place, got: str, path: bytes, expected: bytes, ours: list[Request]) -> None:
    if not ours:
        raise WrongUse(
            f"{place.url} {got}, and nothing arrived at the upstream. Configure the proxy so that this path leads to "
            f"{place.upstream_url}, or say with --upstream and --base where it leads. If it is configured so, it may "
            "not reach the upstream's address (from a container, 127.0.0.1 is the container), or may ask for a "
            "login, or for another Host, first."
        )
    if ours[0].target.removesuffix(b"?") != expected:  # with "?", a row about targets will tell
        base = ours[0].target.partition(path)[0].decode("latin-1")
        raise WrongUse(
            f"{place.url} leads to the upstream, but to {shown(ours[0].target)} in the place of {shown(expected)}. "
            f"Configure the proxy's upstream as {place.upstream_url}, or say --base '{base}'. If the proxy keeps the "
            "prefix, a rule that takes it away may be missing."
        )
