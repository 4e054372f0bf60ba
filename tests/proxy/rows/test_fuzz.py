"""
Requests at random, most of them broken: whatever gets through is HTTP that nobody could read in two ways.

What the server makes of the bytes is its own affair. What arrives upstream is read by h11, which
knows neither of us, and must be what our rules let through. All requests of one client have its tag,
and the upstream answers with the tag; so nobody may get another's, nor more answers than were asked for.
"""

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import h11
import pytest

from fastapi_httpx_pool.proxy._headers import HOP_BY_HOP
from tests.support.answers import ask, get
from tests.support.proxies import EVERY_SERVER, proxied
from tests.support.raw_client import raw_client
from tests.support.upstream import Connection, scripted

REQUESTS = 150
AT_ONCE = 8
PATIENCE = 1.0
"""Seconds for which a client waits for an answer; some requests are such that the server waits for the client."""

OURS = b"proxy-to-test"
CLAIMS = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"forwarded"))
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
HIDDEN = b"GET /base/hidden HTTP/1.1\r\nHost: hidden.example\r\n\r\n"


class Reading:
    """A script that reads requests with h11, and answers each with its tag."""

    def __init__(self) -> None:
        self.requests: list[h11.Request] = []
        self.faults: list[str] = []

    def __call__(self, connection: Connection) -> None:
        """Serve one connection."""
        peer = h11.Connection(h11.SERVER)
        try:
            while self._serve(connection, peer):
                peer.start_next_cycle()
        except OSError:
            return  # it was broken off
        except h11.RemoteProtocolError as exc:
            if "without sending" not in str(exc) and "closed connection" not in str(exc):
                self.faults.append(repr(exc))

    def _serve(self, connection: Connection, peer: h11.Connection) -> bool:
        request = self._request(connection, peer)
        if request is None:
            return False
        tag = dict(request.headers).get(b"x-tag", b"none")
        head = h11.Response(status_code=200, headers=[(b"Content-Length", b"2"), (b"X-Tag", tag)])
        body = peer.send(head) or b""
        connection.send(body if request.method == b"HEAD" else body + (peer.send(h11.Data(data=b"ok")) or b""))
        peer.send(h11.EndOfMessage())
        return peer.our_state is h11.DONE and peer.their_state is h11.DONE

    def _request(self, connection: Connection, peer: h11.Connection) -> h11.Request | None:
        """Read one to its end."""
        request = None
        while True:
            event = peer.next_event()
            if event is h11.NEED_DATA:
                if peer.they_are_waiting_for_100_continue:
                    connection.send(peer.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                peer.receive_data(connection.sock.recv(65536))
            elif isinstance(event, h11.Request):
                request = event
                self.requests.append(event)
            elif isinstance(event, h11.EndOfMessage):
                if event.headers:
                    self.faults.append(f"trailers {event.headers!r}")
                return request
            elif isinstance(event, h11.ConnectionClosed):
                return None


class Nasty:
    """Makes requests, the same ones for the same seed."""

    METHODS = (b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"get", b"trace", b"CONNECT")
    PIECES = (
        *(b"/", b"/", b"/", b"a", b"b", b".", b"..", b"%2e%2e", b"%2E.", b"%252e", b"\\", b"%5c", b"%2f", b"%00", b"%"),
        *(
            b"%zz",
            b";",
            b"?",
            b"#",
            b"|",
            b"@",
            b":80",
            b"http://",
            b"hidden.example",
            b"*",
            b"\xe9",
            b"\t",
            b"p",
            b"..;",
        ),
    )
    NAMES = (
        *sorted(HOP_BY_HOP | CLAIMS),
        *(b"x-forwarded-prefix", b"x-a", b"cookie", b"via", b"max-forwards", b"x-original-url", b"proxy"),
    )
    VALUES = (b"", b"1", b"a, b", b"trailers", b"127.0.0.1", b"websocket", b"h2c", b"x\xe9", b"100-continue", b"for=1")
    CODINGS = (*[b"chunked"] * 9, b"Chunked", b"gzip, chunked", b"chunked, chunked", b"xchunked", b"identity", b"")
    HOSTS = (b"front.example", b"front.example:80", b"[::1]", b"a b", b"x@y", b"hidden.example/", b"", b"a,b")

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def request(self, tag: bytes) -> bytes:
        """Return one, with what may be a body."""
        pick, chance = self._random.choice, self._random.random
        version = b"1.1" if chance() < 0.95 else pick((b"1.0", b"1.0", b"1.2", b"2.0"))
        lines = [pick(self.METHODS) + b" " + self._target() + b" HTTP/" + version, b"X-Tag: " + tag]
        if chance() < 0.98:
            lines.append(b"Host: " + (b"front.example" if chance() < 0.9 else pick(self.HOSTS)))
        framing, body = self._framing()
        headers = framing + [self._line() for _ in range(self._random.randrange(6))]
        self._random.shuffle(headers)
        return b"\r\n".join([*lines, *headers, b"", body])

    def _target(self) -> bytes:
        target = b"".join(self._random.choices(self.PIECES, k=self._random.randrange(5)))
        return b"/" + target if self._random.random() < 0.9 else target

    def _line(self) -> bytes:
        pick, chance = self._random.choice, self._random.random
        if chance() < 0.3:
            tokens = self._random.choices((*self.NAMES, b"close", b"keep-alive", b"host", *FRAMING), k=3)
            return pick((b"Connection: ", b"connection:", b"CONNECTION:\t")) + pick((b", ", b",", b" ,,")).join(tokens)
        name = pick(self.NAMES)
        if chance() < 0.3:
            name = name.replace(b"-", b"_", self._random.randrange(1, 3))
        if chance() < 0.3:
            name = name.title()
        return name + pick((b": ", b":", b": ", b" : " if chance() < 0.02 else b":\t")) + pick(self.VALUES)

    def _framing(self) -> tuple[list[bytes], bytes]:
        pick, chance = self._random.choice, self._random.random
        data = pick((b"", b"hello", HIDDEN, b"0\r\n\r\n" + HIDDEN))
        body = data
        kind = pick((0, 0, 1, 1, 1, 2, 2, 2, 3))
        lines = []
        if kind in (1, 3):
            length = len(data) if chance() < 0.8 else pick((0, 3, len(data) + 1))
            lines.append(b"Content-Length: " + (b"" if chance() < 0.9 else pick((b"+", b"0", b"5, "))) + b"%d" % length)
        if kind in (2, 3):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            lines.append(
                pick((b"Transfer-Encoding: ", b"transfer-encoding:", b"Transfer_Encoding: ")) + pick(self.CODINGS)
            )
        if lines and chance() < 0.1:
            lines.append(pick(lines))
        return lines, body


def tags_for(port: int, tag: bytes, request: bytes) -> list[bytes]:
    """Send a request, and another after it; return the tags of all answers from the upstream."""
    last = b"GET /last HTTP/1.1\r\nHost: front.example\r\nX-Tag: %b\r\nConnection: close\r\n\r\n" % tag
    with raw_client(port) as client, suppress(OSError):
        client.sock.settimeout(PATIENCE)
        client.send(request + last)
        return re.findall(rb"(?im)^x-tag: (\w+)", client.read_to_end())
    return []


def complaints(request: h11.Request) -> Iterator[str]:
    """Say what is wrong with a request that has arrived upstream."""
    path, _, query = request.target.partition(b"?")
    if not re.fullmatch(rb"/base(/[!-~]*)?", path) or b"#" in path + query:
        yield "the target is not below the base"
    if b".." in re.split(rb"[/\\]", unquote_to_bytes(path)):
        yield "the path climbs"
    if request.method.upper() in (b"TRACE", b"CONNECT"):
        yield "a method that is not sent on"
    yield from complaints_about([(bytes(name), bytes(value)) for name, value in request.headers])


def complaints_about(headers: list[tuple[bytes, bytes]]) -> Iterator[str]:
    """Say what is wrong with its header lines, names in lower case."""
    names = [name for name, _ in headers]
    if sum(name in FRAMING for name in names) > 1:
        yield "two framings"
    passing = {b"transfer-encoding"} | ({b"expect"} if (b"expect", b"100-continue") in headers else set())
    if found := (HOP_BY_HOP - passing).intersection(names):
        yield f"hop-by-hop {found}"
    if twins := [name for name in names if b"_" in name and name.replace(b"_", b"-") in CLAIMS | FRAMING]:
        yield f"twins {twins}"
    if [value for name, value in headers if name == b"x-forwarded-for"] != [b"127.0.0.1"]:
        yield "a claim about the client"
    if CLAIMS.intersection(names) - {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}:
        yield "claims that are not ours"
    if names.count(b"host") != 1 or (b"host", b"front.example") in headers:
        yield "not our Host"
    if not dict(headers).get(b"via", b"").endswith(b" " + OURS):
        yield "not through us"


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_g_whatever_comes_what_goes_up_is_sound(server: str) -> None:
    """Each request that arrives is well-formed, below the base, and answered to the one who sent it."""
    nasty = Nasty(f"seed of {server}")
    requests = {b"t%d" % number: nasty.request(b"t%d" % number) for number in range(REQUESTS)}
    seen = Reading()
    with (
        scripted(seen) as upstream,
        proxied(upstream.url + "/base", server, via=OURS.decode(), client_idle=PATIENCE / 3) as port,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        answers = list(pool.map(lambda item: tags_for(port, *item), requests.items()))
        assert ask(port, get()).status == 200  # it has survived all that

    assert seen.faults == []
    assert {request: found for request in seen.requests if (found := list(complaints(request)))} == {}
    assert all(set(found) <= {tag, b"none"} for tag, found in zip(requests, answers, strict=True))
    assert REQUESTS // 4 <= sum(map(len, answers)) < len(seen.requests)
