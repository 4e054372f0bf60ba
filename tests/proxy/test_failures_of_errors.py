"""Which failure an error means: each class of this package's, and what real sockets raise."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from fastapi_httpx_pool import exceptions
from fastapi_httpx_pool.engine import ConnectOptions
from fastapi_httpx_pool.exceptions import ClientClosed, ConnectError, ReadError, TotalTimeout, TransportError
from fastapi_httpx_pool.messages import Handler, Timeouts
from fastapi_httpx_pool.proxy._failures import ProxyFailure, answer, failure_of
from fastapi_httpx_pool.transports._family import family_named
from fastapi_httpx_pool.transports._reverse import handler_over
from tests.support.connecting import Names
from tests.support.engines import BACKENDS, LIMIT, read, request_to, running
from tests.support.patience import with_patience
from tests.support.ports import deaf_port, refusing_port
from tests.support.tls import Authority
from tests.support.upstream import Connection, Script, answering, ok, saying, scripted

LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)

RFC_9209 = {
    "connection_limit_reached",
    "connection_read_timeout",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_write_timeout",
    "destination_ip_prohibited",
    "destination_unavailable",
    "dns_error",
    "http_protocol_error",
    "http_request_denied",
    "http_request_error",
    "http_response_body_size",
    "http_response_incomplete",
    "http_response_timeout",
    "proxy_internal_error",
    "proxy_loop_detected",
    "tls_certificate_error",
    "tls_protocol_error",
}
"""Its section 2.3 has more."""

F = ProxyFailure
MEANINGS: dict[type[Exception], tuple[ProxyFailure, ProxyFailure]] = {
    exceptions.ClientClosed: (F.SHUTTING_DOWN, F.SHUTTING_DOWN),
    exceptions.TransportError: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
    exceptions.TimeoutException: (F.RESPONSE_HEAD_TIMEOUT, F.RESPONSE_BODY_TIMEOUT),
    exceptions.ConnectTimeout: (F.CONNECT_TIMEOUT, F.CONNECT_TIMEOUT),
    exceptions.ReadTimeout: (F.RESPONSE_HEAD_TIMEOUT, F.RESPONSE_BODY_TIMEOUT),
    exceptions.WriteTimeout: (F.REQUEST_UPSTREAM_TIMEOUT, F.REQUEST_UPSTREAM_TIMEOUT),
    exceptions.PoolTimeout: (F.POOL_FULL, F.POOL_FULL),
    exceptions.TotalTimeout: (F.TOTAL_TIMEOUT, F.TOTAL_TIMEOUT),
    exceptions.NetworkError: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
    exceptions.ConnectError: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
    exceptions.AddressForbidden: (F.ADDRESS_FORBIDDEN, F.RESPONSE_BODY_BROKE),
    exceptions.ReadError: (F.RESPONSE_HEAD_BROKE, F.RESPONSE_BODY_BROKE),
    exceptions.WriteError: (F.REQUEST_UPSTREAM_BROKE, F.REQUEST_UPSTREAM_BROKE),
    exceptions.CloseError: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
    exceptions.ProtocolError: (F.RESPONSE_INVALID, F.RESPONSE_BODY_BROKE),
    exceptions.LocalProtocolError: (F.REQUEST_INVALID, F.REQUEST_INVALID),
    exceptions.RemoteProtocolError: (F.RESPONSE_INVALID, F.RESPONSE_BODY_BROKE),
    exceptions.ProxyError: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
    exceptions.UnsupportedProtocol: (F.CONNECT_FAILED, F.RESPONSE_BODY_BROKE),
}
"""Before the head of the answer has come, and after."""


def family_of_errors(root: type[Exception]) -> Iterator[type[Exception]]:
    """Give a class of this package's and all below it."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == exceptions.__name__:
            yield from family_of_errors(child)


def made(error_class: type[Exception]) -> Any:
    """Return an error of a class."""
    if error_class is ClientClosed:
        return ClientClosed("pooled")
    if error_class is exceptions.AddressForbidden:
        return exceptions.AddressForbidden("host", ("10.0.0.1",))
    return TotalTimeout(1) if error_class is TotalTimeout else error_class("a text that tells nothing")


# Without a network.


def test_f1_to_f6_every_error_is_thought_of() -> None:
    """Every error that an exchange may raise has its meaning in the table above."""
    assert set(MEANINGS) == {ClientClosed, *family_of_errors(TransportError)}


@pytest.mark.parametrize("error_class", MEANINGS, ids=lambda error_class: error_class.__name__)
def test_f1_to_f6_every_error_means_a_failure(error_class: type[Exception]) -> None:
    """Each error means the failure of its stage and side."""
    error = made(error_class)

    found = failure_of(error, in_body=False), failure_of(error, in_body=True)

    assert found == MEANINGS[error_class]


def test_an_error_of_a_class_of_ones_own() -> None:
    """A subclass of the user's own means what its nearest ancestor means."""
    own = type("OwnTimeout", (exceptions.ConnectTimeout,), {})

    assert failure_of(own("slow"), in_body=False) is F.CONNECT_TIMEOUT


def test_f8_the_vocabulary_is_consistent() -> None:
    """Each failure's label is its name, its status is an error's, and its type is one that RFC 9209 knows."""
    assert {failure.label for failure in F} == {failure.name.lower() for failure in F}
    assert all(400 <= failure.status <= 599 for failure in F)
    assert {failure.error_type for failure in F} == RFC_9209


def test_f8_whose_fault_it_is() -> None:
    """What the client did wrong is a 4xx or a 501, or the loop that it is in; what the upstream did, a 502 or 504."""
    of_client = {F.TARGET_REFUSED, F.REQUEST_INVALID, F.METHOD_REFUSED, F.REQUEST_TOO_LARGE, F.CLIENT_STALLED}
    of_client |= {F.CLIENT_LEFT, F.LOOP_DETECTED}
    ours = {F.POOL_FULL, F.SHUTTING_DOWN}

    assert {failure for failure in F if failure.status in {400, 408, 413, 499, 501, 508}} == of_client
    assert {failure for failure in F if failure.status == 503} == ours
    assert {failure.status for failure in set(F) - of_client - ours} == {502, 504}


@pytest.mark.parametrize("failure", [one for one in F if one is not F.CLIENT_LEFT], ids=lambda failure: failure.label)
def test_f8_answer_of_a_failure(failure: ProxyFailure) -> None:
    """The answer says the status's phrase as FastAPI does, and one word of RFC 9209; a 503 says when to come again."""
    headers, body = answer(failure, proxy_status="proxy-1")

    assert body == b'{"detail": "%s"}' % HTTPStatus(failure.status).phrase.encode()
    expected = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if failure.status == 503:
        expected.append((b"retry-after", b"1"))
    expected.append((b"proxy-status", b"proxy-1; error=" + failure.error_type.encode()))
    assert headers == expected


def test_f8_answer_to_nobody() -> None:
    """A 499, which no RFC knows, has a text all the same."""
    assert answer(F.CLIENT_LEFT, proxy_status=None)[1] == b'{"detail": "Client Closed Request"}'


def test_f8_answer_without_proxy_status() -> None:
    """Without a name there is no such line."""
    headers, _ = answer(F.CONNECT_REFUSED, proxy_status=None)

    assert [name for name, _ in headers] == [b"content-type", b"content-length"]


@pytest.mark.parametrize(
    ("name", "written"),
    [("*edge", b"*edge"), ("10-proxy", b'"10-proxy"'), ("_edge", b'"_edge"'), ("a.b", b"a.b")],
)
def test_f8_name_in_proxy_status(name: str, written: bytes) -> None:
    """A name that is no token of structured fields (RFC 8941) is written as a string."""
    headers, _ = answer(F.POOL_FULL, proxy_status=name)

    assert dict(headers)[b"proxy-status"] == written + b"; error=connection_limit_reached"


def caused(error: Exception, *causes: BaseException) -> Any:
    """Return an error with a chain of causes."""
    current: BaseException = error
    for cause in causes:
        current.__cause__ = cause
        current = cause
    return error


REFUSED = ConnectionRefusedError("refused")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_f1_the_cause_lies_deep() -> None:
    """A cause is found below others, and in a group of them."""
    group = ExceptionGroup("all attempts failed", [OSError("unreachable"), caused(OSError("connecting"), REFUSED)])

    assert failure_of(caused(ConnectError("no"), OSError("no"), group), in_body=False) is F.CONNECT_REFUSED


def test_f1_the_cause_was_not_named() -> None:
    """What was being handled when an error was raised counts as its cause, even if it was raised "from None"."""
    hidden, plain = ConnectError("no"), ConnectError("no")
    hidden.__context__ = plain.__context__ = UNKNOWN
    hidden.__suppress_context__ = True

    assert failure_of(plain, in_body=False) is F.DNS_FAILED
    assert failure_of(hidden, in_body=False) is F.DNS_FAILED


def test_f1_a_forbidden_address_below() -> None:
    """An address that is not allowed is found below a family's error, too."""
    forbidden = exceptions.AddressForbidden("host", ("10.0.0.1",))

    assert failure_of(caused(ConnectError("no"), forbidden), in_body=False) is F.ADDRESS_FORBIDDEN


def test_f1_causes_in_a_circle() -> None:
    """Causes that lead back to the error end the search."""
    first, second = ConnectError("no"), OSError("no")
    first.__cause__, second.__cause__ = second, first

    assert failure_of(first, in_body=False) is F.CONNECT_FAILED


def test_a_refusal_elsewhere_is_not_the_upstreams() -> None:
    """What refused something else does not make a broken connection one that was never there."""
    assert failure_of(caused(ReadError("reset"), REFUSED), in_body=False) is F.RESPONSE_HEAD_BROKE
    assert failure_of(caused(ReadError("reset"), REFUSED), in_body=True) is F.RESPONSE_BODY_BROKE


def test_an_end_without_tls_goodbye_is_an_end() -> None:
    """A TLS peer that just ends the connection has hung up; one that says why has refused something."""
    end, alert = ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), ssl.SSLError(1, "certificate required")

    assert failure_of(caused(ReadError("end"), end), in_body=False) is F.RESPONSE_HEAD_BROKE
    assert failure_of(caused(ReadError("alert"), alert), in_body=False) is F.TLS_FAILED
    assert failure_of(caused(ReadError("alert"), alert), in_body=True) is F.RESPONSE_BODY_BROKE
    assert failure_of(caused(ConnectError("end"), end), in_body=False) is F.TLS_FAILED


# Over real sockets, as the engine tells it and as httpcore does.

ASYNCIO, UVLOOP = BACKENDS
MACHINES = {
    "engine-asyncio": ("engine", ASYNCIO),
    "engine-uvloop": ("engine", UVLOOP),
    "httpcore-asyncio": ("httpcore", ASYNCIO),
    "httpcore-uvloop": ("httpcore", UVLOOP),
}


def _on(*machines: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("machine", "anyio_backend"), [MACHINES[name] for name in machines], ids=machines)


networked = _on(*MACHINES)
named = _on("engine-asyncio", "engine-uvloop", "httpcore-asyncio")
"""uvloop looks names up itself, out of a test's reach; the engine does not let it."""


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return the certificate authority that clients trust."""
    return Authority()


@asynccontextmanager
async def handling(machine: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Handler]:
    """Give what sends requests."""
    if machine == "engine":
        async with running(options=ConnectOptions(ssl_context=context)) as engine:
            yield engine
        return
    # A context is given in any case, because loading the machine's authorities takes long.
    async with httpx.AsyncHTTPTransport(verify=context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as transport:
        yield handler_over(transport.handle_async_request, family_named("httpx"))


async def failing(handler: Handler, url: str, **options: Any) -> ProxyFailure:
    """Send a request that must fail, and return what that means."""
    response = None
    try:
        async with asyncio.timeout(LIMIT):
            response = await handler(request_to(url, **options))
            await read(response)
    except TransportError as exc:
        return failure_of(exc, in_body=response is not None)
    pytest.fail("it did not fail")


@pytest.mark.anyio
@networked
async def test_f1_a_refused_connection(machine: str) -> None:
    """A port at which nobody listens."""
    async with handling(machine) as handler:
        assert await failing(handler, f"http://127.0.0.1:{refusing_port()}") is F.CONNECT_REFUSED


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Return names that a test makes up."""
    names = Names()

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return names(host.decode() if isinstance(host, bytes) else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    names.release()


@pytest.mark.anyio
@named
async def test_f1_refused_at_every_address(machine: str, names: Names) -> None:
    """A name with several addresses, which all refuse."""
    names.know("refused.example", "127.0.0.1", "127.0.0.2")
    async with handling(machine) as handler:
        assert await failing(handler, f"http://refused.example:{refusing_port()}") is F.CONNECT_REFUSED


@pytest.mark.anyio
@named
async def test_f1_an_unknown_name(machine: str, names: Names) -> None:
    """A name without an address."""
    names.fail("unknown.example", UNKNOWN)
    async with handling(machine) as handler:
        assert await failing(handler, "http://unknown.example:80") is F.DNS_FAILED


@pytest.mark.anyio
@networked
async def test_f2_a_connection_that_is_not_taken(machine: str) -> None:
    """A listener whose queue is full."""
    async with handling(machine) as handler:
        with deaf_port() as port:
            found = await failing(handler, f"http://127.0.0.1:{port}", timeouts=Timeouts(connect=0.05))

    assert found is F.CONNECT_TIMEOUT


@contextmanager
def distrusted(authority: Authority, what: str) -> Iterator[str]:
    """Give the URL of a server whose certificate has a fault."""
    contexts = {
        "of-another-authority": lambda: Authority().server(),
        "for-another-name": lambda: authority.server("other.example"),
        "expired": lambda: authority.server(not_after=LONG_AGO),
    }
    with scripted(answering(ok()), contexts[what]()) as upstream:
        yield upstream.url


@pytest.mark.anyio
@networked
@pytest.mark.parametrize("what", ["of-another-authority", "for-another-name", "expired"])
async def test_f1_a_certificate_with_a_fault(machine: str, authority: Authority, what: str) -> None:
    """A certificate that is not to be trusted."""
    async with handling(machine, authority.client()) as handler:
        with distrusted(authority, what) as url:
            assert await failing(handler, url) is F.CERTIFICATE_REFUSED


@pytest.mark.anyio
@networked
async def test_f1_an_upstream_without_tls(machine: str, authority: Authority) -> None:
    """A server that answers the handshake in plain text."""

    def script(connection: Connection) -> None:
        connection.sock.recv(1)
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.wait_until_closed()

    async with handling(machine, authority.client()) as handler:
        with scripted(script) as upstream:
            assert await failing(handler, f"https://127.0.0.1:{upstream.port}") is F.TLS_FAILED


@pytest.mark.anyio
@networked
async def test_f1_an_upstream_of_another_tls(machine: str, authority: Authority) -> None:
    """A server with which no version of TLS is in common."""
    server, client = authority.server(), authority.client()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    async with handling(machine, client) as handler:
        with scripted(answering(ok()), server) as upstream:
            assert await failing(handler, upstream.url) is F.TLS_FAILED


@pytest.mark.anyio
@networked
async def test_f1_an_upstream_that_wants_a_certificate(machine: str, authority: Authority) -> None:
    """A server that refuses a client without a certificate: in TLS 1.2, while hands are still being shaken."""
    server = authority.asking_server()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    async with handling(machine, authority.client()) as handler:
        with scripted(answering(ok()), server) as upstream:
            assert await failing(handler, upstream.url) is F.TLS_FAILED


@pytest.mark.anyio
@networked
@pytest.mark.parametrize(
    ("script", "failure"),
    [
        pytest.param(saying(b""), F.RESPONSE_HEAD_BROKE, id="nothing"),
        pytest.param(saying(b"", "reset"), F.RESPONSE_HEAD_BROKE, id="a-reset"),
        pytest.param(saying(b"HTTP/1.1 200 OK\r\nConte"), F.RESPONSE_HEAD_BROKE, id="half-a-head"),
        pytest.param(saying(b"SMTP 220 hello\r\n\r\n"), F.RESPONSE_INVALID, id="another-protocol"),
        pytest.param(saying(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), F.RESPONSE_INVALID, id="bad-length"),
        pytest.param(saying(ok(b"hello")[:-1]), F.RESPONSE_BODY_BROKE, id="half-a-body"),
    ],
)
async def test_f6_an_answer_that_is_none(machine: str, script: Script, failure: ProxyFailure) -> None:
    """An upstream that hangs up, or answers what is not HTTP."""
    async with handling(machine) as handler:
        with scripted(script) as upstream:
            assert await failing(handler, upstream.url) is failure


@pytest.mark.anyio
@networked
@pytest.mark.parametrize("sent", [b"", ok(b"hello")[:-1]], ids=["head", "body"])
@with_patience(0.2)
async def test_f3_f4_an_answer_that_does_not_come(machine: str, sent: bytes, limit: float) -> None:
    """An upstream that stops before its answer, or in it."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(sent)
        connection.wait_until_closed()

    async with handling(machine) as handler:
        with scripted(script) as upstream:
            found = await failing(handler, upstream.url, timeouts=Timeouts(read=limit))

    assert found is (F.RESPONSE_BODY_TIMEOUT if sent else F.RESPONSE_HEAD_TIMEOUT)
