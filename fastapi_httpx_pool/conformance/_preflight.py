"""Before any row: is there a proxy, and does it lead to our upstream? Says what to do if not."""

import asyncio
import contextlib
import secrets
from http import HTTPStatus
from urllib.parse import urlsplit

from ._kit import Lab, NotMet, Place, Request, Response, Upstream, authority, shown

__all__ = ("WrongUse", "alive", "listen", "place_of", "preflight")

_PAUSE = 0.05
"""Seconds between attempts to connect to a proxy that may be starting."""


class WrongUse(Exception):
    """The rows cannot be asked; the text says what is wrong, what to do, and what else it might be."""


def place_of(url: str, upstream: str = "127.0.0.1:9100", base: str = "/base", timeout: float = 2.0) -> Place:
    """
    Return the place that these say.

    Raises:
        WrongUse: They say none.
    """
    parts, address = urlsplit(url), urlsplit(f"//{upstream}")
    port, upstream_port = _port(parts.netloc), _port(address.netloc)
    if parts.scheme != "http" or not parts.hostname or port is None or not parts.path.isascii():
        raise WrongUse(
            f"{url} is no URL to ask: it has to begin with http:// and a host. Rows are asked without TLS; let the "
            "proxy listen without it on another port. Its path is the prefix that leads to the upstream."
        )
    if not address.hostname or not upstream_port:
        raise WrongUse(f"{upstream} is no address for the upstream: give host and port, such as 127.0.0.1:9100.")
    if not base.isascii() or (base and not base.startswith("/")):
        raise WrongUse(f"{base} is no base: give a path, such as /base, or / for the upstream's root.")
    prefix, base = parts.path.rstrip("/"), base.rstrip("/")
    return Place(parts.hostname, port or 80, prefix, address.hostname, upstream_port, base, timeout)


def _port(netloc: str) -> int | None:
    """Return the port in host and port: 0 if there is none, None if it cannot be one."""
    try:
        return urlsplit(f"//{netloc}").port or 0
    except ValueError:
        return None


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
    begins; how it answers is not looked at.
    """
    if not await connects(place):
        return False
    await upstream.begin_row()
    lab = Lab(place, upstream)
    with contextlib.suppress(NotMet):
        await lab.exchange()
    await lab.end_row()
    return True


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
    lab, path = Lab(place, upstream), b"/conformance-" + secrets.token_hex(4).encode("ascii")
    try:
        seen = await lab.exchange(target=path)
        response, requests = seen.response, seen.requests
    except NotMet:
        response, requests = None, list(upstream.requests)
    finally:
        await lab.end_row()
    _judge(place, lab.based(path), path, response, requests)


def _judge(place: Place, expected: bytes, path: bytes, response: Response | None, requests: list[Request]) -> None:
    got = "did not answer" if response is None else f"answered {response}"
    ours = [request for request in requests if path in request.target]
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
    if response is None or response.status != HTTPStatus.OK:  # which the upstream answered
        raise WrongUse(
            f"{place.url} asked the upstream, which answered 200, but {got}. Look at what the proxy logs: it may "
            "check answers, or wait for something. If it is slow only, give it more time with --timeout."
        )
