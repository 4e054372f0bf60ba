"""
The same upstream behaviour, the same outcome: with the family's own transport, with ours over httpcore, and with the engine.

``CASES`` is the table. Where the engine's outcome differs on purpose, the case says which it is, and why.
"""

import select
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from gzip import compress
from importlib import import_module
from typing import Any

import pytest
import trustme

from tests.support.carriers import ASYNCIO, UVLOOP
from tests.support.families import FAMILIES, module_of
from tests.support.ports import deaf_port, refusing_port
from tests.support.upstream import LIMIT, Connection, Script, ok, scripted

pytestmark = pytest.mark.anyio

LONG = 10.0
"""Seconds that no case should need; what a case is to run into it sets itself."""
SHORT = 0.05

FAMILIES_AND_LOOPS = [
    pytest.param(FAMILIES[0], ASYNCIO, id=f"{FAMILIES[0]}-asyncio"),
    pytest.param(FAMILIES[-1], UVLOOP, id=f"{FAMILIES[-1]}-uvloop"),
]


# What upstreams do.


def sending(*pieces: bytes, reset: bool = False) -> Script:
    """Return a script that reads one request, sends something, and hangs up."""

    def script(connection: Connection) -> None:
        connection.read_request()
        for piece in pieces:
            connection.send(piece)
        if reset:
            connection.reset()

    return script


def holding(*pieces: bytes) -> Script:
    """Return a script that reads one request, sends something, and then only waits."""

    def script(connection: Connection) -> None:
        connection.read_request()
        for piece in pieces:
            connection.send(piece)
        connection.wait_until_closed()

    return script


def echo(connection: Connection) -> None:
    """Answer each request with its body, as it was on the wire."""
    while True:
        head, body = connection.read_request()
        if not head:
            return
        connection.send(ok(body))


def silent(connection: Connection) -> None:
    """Say nothing until the peer has hung up."""
    connection.wait_until_closed()


def deaf(connection: Connection) -> None:
    """Read nothing until the peer has hung up."""
    poll = select.poll()
    poll.register(connection.sock, getattr(select, "POLLRDHUP", 0))  # elsewhere than on Linux it is told unasked
    assert poll.poll(LIMIT * 1000)


def refusing(connection: Connection) -> None:
    """Refuse an upload by its head."""
    connection.read_head()
    connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!!")
    connection.wait_until_closed()


def expecting(connection: Connection) -> None:
    """Ask for the body, and send it back."""
    head = connection.read_head()
    connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    connection.send(ok(connection.read_exactly(length)))


def moving(status: bytes) -> Script:
    """Return a script that answers ``/`` with a redirect that has a body, and what it leads to with an echo."""

    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head:
                return
            if head.split(b" ")[1] == b"/":
                connection.send(b"HTTP/1.1 %b\r\nLocation: /there\r\nContent-Length: 5\r\n\r\nmoved" % status)
            else:
                connection.send(ok(head.split(b" ")[0] + b" " + body))

    return script


def circling(connection: Connection) -> None:
    """Answer with a redirect to the same place."""
    while connection.read_request()[0]:
        connection.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")


def answers(head: bytes, body: bytes = b"") -> Script:
    """Return a script that sends these lines, each ended properly, and a body."""
    return sending(b"\r\n".join((*head.split(b"\n"), b"", body)))


# What clients do.


async def pieces() -> AsyncIterator[bytes]:
    """Give a body in pieces, one of them empty."""
    yield b"one"
    yield b""
    yield b"two"


async def failing() -> AsyncIterator[bytes]:
    """Give the beginning of a body."""
    yield b"one"
    raise ZeroDivisionError


class Fresh:
    """An argument that is made anew for each request."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


Act = Callable[[Any, str], Awaitable[Any]]


def requesting(method: str = "GET", path: str = "/", **arguments: Any) -> Act:
    """Return what sends one request."""

    async def act(client: Any, url: str) -> Any:
        fresh = {name: value.make() if isinstance(value, Fresh) else value for name, value in arguments.items()}
        return await client.request(method, url + path, **fresh)

    return act


async def without_host(client: Any, url: str) -> Any:
    """Send a request that lacks its Host."""
    request = client.build_request("GET", url)
    del request.headers["host"]
    return await client.send(request)


async def at_a_full_pool(client: Any, url: str) -> Any:
    """Send a request while another one holds the only connection."""
    async with client.stream("GET", url):
        extensions = {"timeout": {"pool": SHORT, "connect": LONG, "read": LONG, "write": LONG}}
        return await client.get(url, extensions=extensions)


async def read_after_closing(client: Any, url: str) -> Any:
    """Read what has been closed."""
    async with client.stream("GET", url) as response:
        await response.aclose()
        await response.aread()


def upload(*headers: tuple[str, str], content: Any = b"body", method: str = "POST") -> Act:
    """Return what sends a body, with further headers."""
    return requesting(method, content=content, headers=list(headers))


BIG = b"x" * 30_000_000


@cache
def authority() -> trustme.CA:
    """Return the authority that all of the table's certificates are of."""
    return trustme.CA()


def server_tls(*names: str) -> ssl.SSLContext:
    """Return a server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names).configure_cert(context)
    return context


def wanting_a_certificate() -> ssl.SSLContext:
    """Return that of a server that asks who the client is."""
    context = server_tls("127.0.0.1")
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@cache
def client_tls(*, trusting: bool) -> ssl.SSLContext:
    """Return the client's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusting:
        authority().configure_trust(context)
    return context


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    script: Script | None = None
    """What the upstream does; without one, nobody listens."""
    act: Act = field(default_factory=requesting)
    tls: Callable[[], ssl.SSLContext] | None = None
    """The upstream's side of TLS."""
    trusting: bool = True
    scheme: str = "http"
    transport: dict[str, Any] = field(default_factory=dict)
    timeout: dict[str, float] = field(default_factory=dict)
    follow_redirects: bool = False
    expected: Any = None
    """The class name of the error, or the status; several where httpcore's outcome is not certain."""
    native: Any = None
    """Likewise, where the engine's outcome differs."""
    because: str = ""


def fault(script: Script, expected: str = "RemoteProtocolError", **more: Any) -> Case:
    """Return a case that ends in an error."""
    return Case(script, expected=expected, **more)


def fine(script: Script, act: Act | None = None, expected: Any = 200, **more: Any) -> Case:
    """Return a case that ends in a response."""
    return Case(script, act or requesting(), expected=expected, **more)


def of_wrong_length(act: Act) -> Case:
    """Return a case of a body that is longer or shorter than its head says."""
    return Case(
        echo,
        act,
        expected="h11._util.LocalProtocolError",
        native="LocalProtocolError",
        because="httpcore lets h11's error out as it is, which no user of httpx catches",
    )


CASES: dict[str, Case] = {
    # Connecting.
    "refused": Case(expected="ConnectError"),
    "uds missing": Case(transport={"uds": "/nowhere/at/all"}, expected="ConnectError"),
    "local address not ours": Case(echo, transport={"local_address": "192.0.2.1"}, expected="ConnectError"),
    "scheme unknown": Case(act=lambda client, url: client.get("ftp://a.example/"), expected="UnsupportedProtocol"),
    "scheme missing": Case(act=lambda client, url: client.get("/relative"), expected="UnsupportedProtocol"),
    "host missing": Case(act=lambda client, url: client.get("http:///path"), expected="UnsupportedProtocol"),
    "scheme ws": Case(echo, scheme="ws", expected=200),
    # TLS.
    "tls": Case(echo, tls=lambda: server_tls("127.0.0.1"), expected=200),
    "tls, authority unknown": Case(echo, tls=lambda: server_tls("127.0.0.1"), trusting=False, expected="ConnectError"),
    "tls, another name": Case(echo, tls=lambda: server_tls("other.example"), expected="ConnectError"),
    "tls, but the server speaks none": Case(
        lambda connection: connection.send(ok()), scheme="https", expected="ConnectError"
    ),
    "tls, closed": Case(lambda connection: connection.close(), scheme="https", expected="ConnectError"),
    "tls, reset": Case(lambda connection: connection.reset(), scheme="https", expected="ConnectError"),
    "tls, silence": Case(
        silent,
        scheme="https",
        timeout={"connect": SHORT},
        expected="ConnectTimeout",
    ),
    "tls, certificate wanted": Case(
        echo,
        tls=wanting_a_certificate,
        expected=("ConnectError", "ReadError", "WriteError", "ssl.SSLError"),
        native="ReadError",
        because="the refusal comes after the handshake, and httpcore lets OpenSSL's error out if it meets it in writing",
    ),
    "tls, cut": Case(
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
        tls=lambda: server_tls("127.0.0.1"),
        expected="RemoteProtocolError",
    ),
    # Before the head.
    "closed": fault(sending()),
    "reset": fault(sending(reset=True), "ReadError"),
    "silence": fault(holding(), "ReadTimeout", timeout={"read": SHORT}),
    "garbage": fault(sending(b"SSH-2.0\r\n\r\n")),
    "http 0.9": fault(sending(b"<html>hello</html>\n")),
    # In the head.
    "head, closed": fault(sending(b"HTTP/1.1 200 OK\r\nContent-")),
    "head, reset": fault(sending(b"HTTP/1.1 200 OK\r\nContent-", reset=True), "ReadError"),
    "head, silence": fault(holding(b"HTTP/1.1 200 OK\r\nContent-"), "ReadTimeout", timeout={"read": SHORT}),
    "head too large": fault(sending(b"HTTP/1.1 200 OK\r\n", b"X-Filler: " + b"x" * 150_000)),
    "header without a colon": fault(answers(b"HTTP/1.1 200 OK\nX-A b\nContent-Length: 0")),
    "header with a blank before the colon": fault(answers(b"HTTP/1.1 200 OK\nX-A : b\nContent-Length: 0")),
    "header name with a blank": fault(answers(b"HTTP/1.1 200 OK\nX A: b\nContent-Length: 0")),
    "header without a name": fault(answers(b"HTTP/1.1 200 OK\n: b\nContent-Length: 0")),
    "header with a NUL": fault(answers(b"HTTP/1.1 200 OK\nX-A: a\0b\nContent-Length: 0")),
    "status of two digits": fault(answers(b"HTTP/1.1 20 OK\nContent-Length: 0")),
    "status in words": fault(answers(b"HTTP/1.1 OK\nContent-Length: 0")),
    "status 999": fine(answers(b"HTTP/1.1 999 LinkedIn\nContent-Length: 0"), expected=999),
    "status 099": fault(answers(b"HTTP/1.1 099 Odd\nContent-Length: 0"), "RemoteProtocolError"),
    "http 3.0": Case(
        answers(b"HTTP/3.0 200 OK\nContent-Length: 0"),
        expected=200,
        native="RemoteProtocolError",
        because="only 1.0 and 1.1 have this framing",
    ),
    "lengths that differ": fault(answers(b"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3", b"abc")),
    "lengths that do not": Case(
        answers(b"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2", b"ab"),
        expected=200,
        native="RemoteProtocolError",
        because="llhttp cannot be told that they are equal; aiohttp and Node refuse them too",
    ),
    "length negative": fault(answers(b"HTTP/1.1 200 OK\nContent-Length: -2", b"ab")),
    "length in words": fault(answers(b"HTTP/1.1 200 OK\nContent-Length: two", b"ab")),
    "encoding unknown": Case(
        answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: rot13", b"no"),
        expected="RemoteProtocolError",
        native=200,
        because="the body ends with the connection (RFC 9112, section 6.3)",
    ),
    "reason absent": fine(answers(b"HTTP/1.1 200\nContent-Length: 0")),
    "reason empty": fine(answers(b"HTTP/1.1 200 \nContent-Length: 0")),
    "reason odd": fine(answers(b"HTTP/1.1 200 \xe9t\xe9  of\tlove\nContent-Length: 0")),
    "headers odd": fine(
        answers(
            b"HTTP/1.1 200 OK\nsEt-cOoKie: a=1\nSet-Cookie: b=2\nX-E:\nX-B:   a b \t\nX-L: \xe9\nContent-Length: 2",
            b"ok",
        )
    ),
    "header folded": fine(
        answers(b"HTTP/1.1 200 OK\nX-A: a\n  b\nContent-Length: 2", b"ok"),
        native=200,
        because="the blanks of the fold are kept, where h11 makes one of them",
    ),
    "lines ended by LF alone": fine(sending(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")),
    "upper case framing": fine(
        answers(b"HTTP/1.1 200 OK\nTRANSFER-ENCODING: CHUNKED", b"2\r\nok\r\n0\r\n\r\n"),
        native=200,
        because="the header is given as it was sent, where h11 lowers the case of this one's value",
    ),
    "length and encoding": fine(
        answers(b"HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n")
    ),
    # Informational responses.
    "103": fine(sending(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ok())),
    "100 and 102": fine(sending(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok())),
    "many informational ones": Case(
        sending(b"HTTP/1.1 102 Processing\r\n\r\n" * 30 + ok()),
        expected=200,
        native="RemoteProtocolError",
        because="an upstream could send them for ever",
    ),
    "101": fine(
        sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        requesting(headers={"Connection": "upgrade", "Upgrade": "x"}),
        101,
    ),
    "101 that nobody asked for": Case(
        sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        expected="RemoteProtocolError",
    ),
    # The body.
    "body cut": fault(answers(b"HTTP/1.1 200 OK\nContent-Length: 9", b"short")),
    "body reset": fault(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", reset=True), "ReadError"),
    "body stalls": fault(
        holding(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), "ReadTimeout", timeout={"read": SHORT}
    ),
    "chunk cut": fault(answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\nab")),
    "chunks cut": fault(answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\nabcde\r\n")),
    "chunk size bad": fault(answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"xyz\r\nabc")),
    "chunk size negative": fault(answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"-1\r\nabc")),
    "chunk longer than its size": fault(
        answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"1\r\nabc\r\n0\r\n\r\n")
    ),
    "chunk extensions": fine(
        answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b'2;a="b;c"\r\nok\r\nA;d\r\n0123456789\r\n0\r\n\r\n')
    ),
    "trailers": fine(
        answers(
            b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\nX-Checksum: 1\r\nX-Checksum: 2\r\n\r\n"
        )
    ),
    "until the end": fine(answers(b"HTTP/1.1 200 OK\nContent-Type: text/plain", b"all there is")),
    "until the reset": fault(sending(b"HTTP/1.1 200 OK\r\n\r\nnot all", reset=True), "ReadError"),
    "http 1.0": fine(answers(b"HTTP/1.0 200 OK\nContent-Type: text/plain", b"old")),
    "http 1.0, keep-alive": fine(answers(b"HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 3", b"old")),
    "HEAD": fine(answers(b"HTTP/1.1 200 OK\nContent-Length: 100"), requesting("HEAD")),
    "HEAD, chunked": fine(answers(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked"), requesting("HEAD")),
    "204": fine(answers(b"HTTP/1.1 204 No Content\nX-A: b"), expected=204),
    "304 with a length": fine(answers(b"HTTP/1.1 304 Not Modified\nContent-Length: 100\nETag: x"), expected=304),
    "more than was said": fine(answers(b"HTTP/1.1 200 OK\nContent-Length: 2", b"ok and more")),
    "gzip": fine(
        answers(b"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 25", compress(b"squeezed", mtime=0))
    ),
    "gzip that is none": fault(
        answers(b"HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 4", b"none"), "DecodingError"
    ),
    "read after closing": fault(holding(ok()), "StreamClosed", act=read_after_closing),
    # Redirects.
    "303 after a POST": fine(moving(b"303 See Other"), upload(), follow_redirects=True),
    "307 after a POST": fine(moving(b"307 Temporary Redirect"), upload(), follow_redirects=True),
    "307 that is not followed": fine(moving(b"307 Temporary Redirect"), upload(), 307),
    "308 after a stream": fault(
        moving(b"308 Permanent Redirect"), "StreamConsumed", act=upload(content=Fresh(pieces)), follow_redirects=True
    ),
    "redirects without an end": fault(circling, "TooManyRedirects", follow_redirects=True),
    # The request.
    "bytes": fine(echo, upload()),
    "bytes with GET": fine(echo, upload(method="GET")),
    "no bytes": fine(echo, upload(content=b"")),
    "stream": fine(echo, upload(content=Fresh(pieces))),
    "stream of a known length": fine(echo, upload(("Content-Length", "6"), content=Fresh(pieces))),
    "stream too short": of_wrong_length(upload(("Content-Length", "7"), content=Fresh(pieces))),
    "stream too long": of_wrong_length(upload(("Content-Length", "5"), content=Fresh(pieces))),
    "stream that fails": fault(holding(), "ZeroDivisionError", act=upload(content=Fresh(failing))),
    "bytes too short": of_wrong_length(upload(("Content-Length", "5"))),
    "bytes too long": of_wrong_length(upload(("Content-Length", "3"))),
    "length in words, sent": fault(echo, "LocalProtocolError", act=upload(("Content-Length", "four"))),
    "encoding unknown, sent": fault(
        echo, "LocalProtocolError", act=upload(("Transfer-Encoding", "gzip"), content=Fresh(pieces))
    ),
    "refused upload": fine(refusing, upload(), 413),
    "upload that stalls": fault(deaf, "WriteTimeout", act=upload(content=BIG), timeout={"write": SHORT}),
    "expect, and wanted": fine(expecting, upload(("Expect", "100-continue"))),
    "line break in a header": fault(echo, "LocalProtocolError", act=requesting(headers={"X-A": "a\r\nX-B: b"})),
    "LF in a header": fault(echo, "LocalProtocolError", act=requesting(headers={"X-A": "a\nb"})),
    "NUL in a header": fault(echo, "LocalProtocolError", act=requesting(headers={"X-A": "a\0b"})),
    "blank in a header's name": fault(echo, "LocalProtocolError", act=requesting(headers={"X A": "a"})),
    "method with a blank": fault(echo, "LocalProtocolError", act=requesting("G ET")),
    "target with a blank": fault(echo, "LocalProtocolError", act=requesting(extensions={"target": b"/a b"})),
    "target with a line break": fault(
        echo, "LocalProtocolError", act=requesting(extensions={"target": b"/ HTTP/1.1\r\nX: y"})
    ),
    "no host": fault(echo, "LocalProtocolError", act=without_host),
    # The pool.
    "pool full": fault(
        holding(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        "PoolTimeout",
        act=at_a_full_pool,
        transport={"max_connections": 1},
    ),
}


@contextmanager
def upstream_of(case: Case) -> Iterator[str]:
    """Run the case's upstream; give its URL."""
    with ExitStack() as stack:
        if case.script is None:
            yield f"http://127.0.0.1:{refusing_port()}"
            return
        upstream = stack.enter_context(scripted(case.script, case.tls and case.tls()))
        scheme = "https" if case.tls else case.scheme
        yield f"{scheme}://127.0.0.1:{upstream.port}"


def transport_of(case: Case, family: str, engine: str) -> Any:
    """Return the transport that a case is tried with; ``own`` is the family's."""
    module = module_of(family)
    arguments = dict(case.transport)
    limits = module.Limits(max_connections=arguments.pop("max_connections", 10))
    arguments |= {"limits": limits, "verify": client_tls(trusting=case.trusting), "trust_env": False}
    if engine == "own":
        return module.AsyncHTTPTransport(**arguments)
    return import_module(f"fastapi_httpx_pool.transports.{family}").PoolTransport(engine=engine, **arguments)


async def outcome_of(case: Case, family: str, engine: str) -> Any:
    """Return what comes of a case: the name of an error, or all that there is to know of a response."""
    module = module_of(family)
    timeout = module.Timeout(LONG) if not case.timeout else module.Timeout(LONG, **case.timeout)
    with upstream_of(case) as url:
        async with module.AsyncClient(
            transport=transport_of(case, family, engine),
            timeout=timeout,
            trust_env=False,
            follow_redirects=case.follow_redirects,
        ) as client:
            try:
                response = await case.act(client, url)
            except Exception as exc:  # noqa: BLE001 -- which one, is the outcome
                return _named(exc, module)
            return (
                response.status_code,
                response.extensions["reason_phrase"],
                response.reason_phrase,
                response.http_version,
                response.headers.raw,
                response.content,
            )


def _named(exc: Exception, module: Any) -> str:
    kind = type(exc)
    own = getattr(module, kind.__name__, None) is kind or kind is ZeroDivisionError
    return kind.__name__ if own else f"{kind.__module__}.{kind.__name__}"


def _short(outcome: Any) -> Any:
    return outcome if isinstance(outcome, str) else outcome[0]


@pytest.mark.parametrize(("family", "anyio_backend"), FAMILIES_AND_LOOPS)
@pytest.mark.parametrize("name", CASES)
async def test_same_outcome(family: str, name: str) -> None:
    """The engine and httpcore give the same response, or an error of the same class."""
    case = CASES[name]
    own, httpcore = [await outcome_of(case, family, engine) for engine in ("own", "httpcore")]
    if isinstance(case.expected, tuple):
        assert {_short(own), _short(httpcore)} <= set(case.expected)
    else:
        assert _short(own) == case.expected
        assert httpcore == own
    native = await outcome_of(case, family, "native")
    if case.because:
        assert _short(native) == case.native
    else:
        assert native == own


@pytest.mark.parametrize(("family", "anyio_backend"), FAMILIES_AND_LOOPS)
async def test_connecting_takes_too_long(family: str) -> None:
    """A port that does not answer is the same error too; it has its own test, because its listener is one."""
    with deaf_port() as port:
        case = Case(act=lambda client, url: client.get(f"http://127.0.0.1:{port}"), timeout={"connect": SHORT})
        for engine in ("own", "httpcore", "native"):
            assert await outcome_of(case, family, engine) == "ConnectTimeout"
