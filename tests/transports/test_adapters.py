"""Requests, responses and errors survive the way through the family-neutral core."""

import gc
import json
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from fastapi_httpx_pool import ClientFactory, ClientSettings, FamilyNotInstalled, exceptions
from fastapi_httpx_pool.messages import Origin, Request
from fastapi_httpx_pool.transports import _family, family_named, family_of, handler_for, response_over
from fastapi_httpx_pool.transports._native import core_error
from tests.support.carriers import on_both_engines
from tests.support.families import FAMILIES, module_of
from tests.support.upstream import Connection, answering, ok, scripted

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("family", FAMILIES)]


def _echo(connection: Connection) -> None:
    while True:
        head, body = connection.read_request()
        if not head:
            return
        connection.send(ok(json.dumps([head.decode("latin-1"), body.decode("latin-1")]).encode()))


async def _pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


REQUESTS: dict[str, dict[str, Any]] = {
    "get": {"method": "GET"},
    "query": {"method": "GET", "params": {"a": "b c"}},
    "headers": {"method": "GET", "headers": [("X-Twice", "1"), ("x-twice", "2"), ("X-Empty", "")]},
    "content": {"method": "POST", "content": b"bytes"},
    "chunks": {"method": "PUT", "content": _pieces},
    "json": {"method": "PATCH", "json": {"a": 1}},
    "form": {"method": "POST", "data": {"a": "1"}},
    "files": {
        "method": "POST",
        "files": {"f": ("n", b"content")},
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    },
    "empty": {"method": "POST"},
    "unusual": {"method": "PURGE"},
    "target": {"method": "OPTIONS", "extensions": {"target": b"*"}},
}


@on_both_engines
@pytest.mark.parametrize("case", REQUESTS)
async def test_requests_are_the_familys_own(family: Any, engine: Any, case: str) -> None:
    """What arrives is byte for byte what the family's own client sends."""
    arguments = REQUESTS[case]
    with scripted(_echo) as upstream:
        url = upstream.url + "/p%2Fq"
        async with (
            ClientFactory(ClientSettings(family=family, engine=engine)) as factory,
            module_of(family).AsyncClient() as bare,
        ):
            seen = [(await client.request(url=url, **_fresh(arguments))).json() for client in (factory.get(), bare)]
    assert seen[0] == seen[1]


def _fresh(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value() if callable(value) else value for name, value in arguments.items()}


@on_both_engines
async def test_responses(family: Any, engine: Any) -> None:
    """Status, reason, repeated headers, version and body are the upstream's."""
    answer = b"HTTP/1.1 418 Short and stout\r\nSet-Cookie: a=1\r\nSET-COOKIE: b=2\r\nContent-Length: 2\r\n\r\nhi"
    with scripted(answering(answer)) as upstream:
        async with ClientFactory(ClientSettings(family=family, engine=engine)) as factory:
            response = await factory.get().get(upstream.url)
    assert isinstance(response, module_of(family).Response)
    assert (response.status_code, response.reason_phrase, response.http_version) == (418, "Short and stout", "HTTP/1.1")
    assert [value for name, value in response.headers.multi_items() if name == "set-cookie"] == ["a=1", "b=2"]
    assert response.text == "hi"
    assert response.extensions["network_stream"] is not None


FAULTS: dict[str, tuple[bytes, str]] = {
    "silence": (b"", "RemoteProtocolError"),
    "garbage": (b"SSH-2.0\r\n\r\n", "RemoteProtocolError"),
    "cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "RemoteProtocolError"),
    "cut-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "RemoteProtocolError"),
}
IN_ITS_OWN_WORDS = [("garbage", "native")]
"""Faults that the engine describes otherwise than h11 does."""


@on_both_engines
@pytest.mark.parametrize("case", FAULTS)
async def test_faults_are_the_familys_own(family: Any, engine: Any, case: str) -> None:
    """An upstream's fault is of the same class and has the same text as from the family's own client."""
    answer, expected = FAULTS[case]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer)

    with scripted(script) as upstream:
        async with (
            ClientFactory(ClientSettings(family=family, engine=engine)) as factory,
            module_of(family).AsyncClient() as bare,
        ):
            raised = [await _error_of(client, upstream.url) for client in (factory.get(), bare)]
    assert type(raised[0]) is type(raised[1]) is getattr(module_of(family), expected)
    assert str(raised[0]) == str(raised[1]) or (case, engine) in IN_ITS_OWN_WORDS
    assert raised[0].request.url == raised[1].request.url


async def _error_of(client: Any, url: str) -> Any:
    try:
        await client.get(url)
    except Exception as exc:  # noqa: BLE001 -- which one it is, the test asks
        return exc
    pytest.fail("nothing was raised")


@on_both_engines
@pytest.mark.parametrize(
    ("url", "expected"), [("ftp://a.example/", "UnsupportedProtocol"), ("/relative", "UnsupportedProtocol")]
)
async def test_unsupported_urls(family: Any, engine: Any, url: str, expected: str) -> None:
    """URLs that nobody can fetch are refused as the family refuses them."""
    async with (
        ClientFactory(ClientSettings(family=family, engine=engine)) as factory,
        module_of(family).AsyncClient() as bare,
    ):
        raised = [await _error_of(client, url) for client in (factory.get(), bare)]
    assert type(raised[0]) is type(raised[1]) is getattr(module_of(family), expected)
    assert str(raised[0]) == str(raised[1])


def _say_nothing(connection: Connection) -> None:
    connection.wait_until_closed()


@on_both_engines
async def test_timeouts(family: Any, engine: Any) -> None:
    """A silent upstream is a ReadTimeout; a long exchange a TimeoutException that names the total."""
    with scripted(_say_nothing) as upstream:
        async with ClientFactory(ClientSettings(family=family, engine=engine)) as factory:
            client = factory.get()
            with pytest.raises(module_of(family).ReadTimeout):
                await client.get(upstream.url, timeout=module_of(family).Timeout(5.0, read=0.05))
            with pytest.raises(module_of(family).TimeoutException, match=r"total timeout of 0\.05 s"):
                await client.get(upstream.url, extensions={"timeout": {"total": 0.05}})
        async with ClientFactory(ClientSettings(family=family, engine=engine, timeout={"total": 0.05})) as factory:
            with pytest.raises(module_of(family).TimeoutException, match=r"total timeout of 0\.05 s"):
                await factory.get().get(upstream.url)


@on_both_engines
async def test_total_timeout_in_the_body(family: Any, engine: Any) -> None:
    """The total counts to the last byte, and nothing is left behind."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
        connection.wait_until_closed()

    with scripted(script) as upstream:
        async with ClientFactory(ClientSettings(family=family, engine=engine, timeout={"total": 0.2})) as factory:
            with pytest.raises(module_of(family).TimeoutException, match="total timeout"):
                await factory.get().get(upstream.url)


@on_both_engines
async def test_causes(family: Any, engine: Any) -> None:
    """An error has the causes that the family's own has, and not itself among them."""
    async with (
        ClientFactory(ClientSettings(family=family, engine=engine)) as factory,
        module_of(family).AsyncClient() as bare,
    ):
        raised = [await _error_of(client, "http://127.0.0.1:9/") for client in (factory.get(), bare)]
    chains = [[type(link) for link in _causes(error)] for error in raised]
    if engine == "native":
        # Ours stands where httpcore's would, and has the system's own error behind it.
        assert chains[0] == [module_of(family).ConnectError, exceptions.ConnectError, ConnectionRefusedError]
    else:
        assert chains[0] == chains[1]


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 20:
        chain.append(link)
        link = link.__cause__
    return chain


@on_both_engines
async def test_failures_leave_no_garbage(family: Any, engine: Any, anyio_backend: Any) -> None:
    """A failed exchange leaves no more behind for the garbage collector than the family's own."""
    if anyio_backend[0] == "trio":
        pytest.skip("trio leaves circles of its own behind every cancel scope")
    async with (
        ClientFactory(ClientSettings(family=family, engine=engine)) as factory,
        module_of(family).AsyncClient() as bare,
    ):
        left = []
        for client in (bare, factory.get()):
            await _error_of(client, "http://127.0.0.1:9/")
            gc.collect()
            for _ in range(20):
                await _error_of(client, "http://127.0.0.1:9/")
            left.append(gc.collect())
    # From Python 3.12 on the family's own errors leave circles of frames, and ours pass more frames.
    # An error that is its own cause left 185 objects more each time, also where there are none else.
    assert left[1] <= 3 * left[0] + 20 * 60


@on_both_engines
async def test_errors_of_the_users_own(family: Any, engine: Any) -> None:
    """What a request body raises comes out as it is."""

    async def body() -> AsyncIterator[bytes]:
        yield b"begin"
        raise ZeroDivisionError

    with scripted(_say_nothing) as upstream:
        async with ClientFactory(ClientSettings(family=family, engine=engine)) as factory:
            with pytest.raises(ZeroDivisionError):
                await factory.get().post(upstream.url, content=body())


def test_every_error_is_mapped(family: Any) -> None:
    """Each of our transport errors has one of the family's, and each of the family's has one of ours."""
    record = family_named(family)
    for ours in _subclasses(exceptions.TransportError):
        error = ours(1.0) if ours is exceptions.TotalTimeout else ours("text")
        assert isinstance(record.their_error(error), record.module.TransportError)
    for theirs in _subclasses(record.module.TransportError):
        error = theirs("text")
        ours = record.our_error(error)
        # httpx2 has errors above its transports too; a transport's own are all known by name.
        assert type(ours).__name__ == theirs.__name__ or not hasattr(exceptions, theirs.__name__)
        ours.__cause__ = error
        assert record.their_error(ours) is error


def test_every_error_is_listed_before_its_ancestors(family: Any) -> None:
    """The table of names has all of our transport errors, each before those that it is one of."""
    listed = [getattr(exceptions, name) for name in _family._ERROR_NAMES]
    # A total timeout is a family's TimeoutException, a forbidden address its ConnectError; neither family has
    # classes for them.
    assert {*listed, exceptions.TotalTimeout, exceptions.AddressForbidden} == _subclasses(exceptions.TransportError)
    for place, kind in enumerate(listed):
        assert not [earlier for earlier in listed[:place] if issubclass(kind, earlier)]


def test_every_error_has_one_of_httpcores(family: Any) -> None:
    """Whoever expects httpcore's errors gets the namesake of ours, or that of its nearest ancestor."""
    core = family_named(family).core
    for ours in _subclasses(exceptions.TransportError) - {exceptions.TransportError}:
        error = ours(1.0) if ours is exceptions.TotalTimeout else ours("text")
        theirs = core_error(error, core)
        names = [parent.__name__ for parent in ours.__mro__ if hasattr(core, parent.__name__)]
        assert type(theirs) is getattr(core, names[0])
        assert str(theirs) == str(error)
        # And that is the family's error in the end, for who asks through httpcore's pool.
        assert family_named(family).module.TransportError in _mapped(family, type(theirs)).__mro__
    with pytest.raises(TypeError, match="no counterpart"):
        core_error(exceptions.TransportError("bare"), core)


def _mapped(family: str, core_class: type[Exception]) -> type[Exception]:
    default = import_module(f"{family}._transports.default")
    with pytest.raises(module_of(family).TransportError) as caught, default.map_httpcore_exceptions():
        raise core_class("text")
    return caught.type


def _subclasses(base: Any) -> set[Any]:
    package = base.__module__.partition(".")[0]
    found = {base}
    for child in base.__subclasses__():
        # The test kit's own error is one of its ancestor's to everybody else.
        if child.__module__.partition(".")[0] == package and ".testing." not in child.__module__:
            found |= _subclasses(child)
    return found


def test_an_error_of_the_users_own_class(family: Any) -> None:
    """A subclass of a family's error goes through as the nearest one, and comes out as itself."""
    record = family_named(family)

    class Refused(record.module.ConnectError):  # type: ignore[misc,name-defined] # made at run time
        pass

    class Tripped(exceptions.ConnectError):
        pass

    assert isinstance(record.their_error(Tripped("open")), record.module.ConnectError)
    error = Refused("no")
    ours = record.our_error(error)

    assert isinstance(ours, exceptions.ConnectError)
    assert record.their_error(ours) is error
    with pytest.raises(TypeError, match="not an error"):
        record.our_error(ValueError())


@pytest.mark.parametrize("whose", ["family", "ours"])
async def test_neutral_requests(family: Any, whose: str) -> None:
    """The proxy's way: a request in bytes through any client's transport, octets untouched."""
    with scripted(_echo) as upstream:
        async with module_of(family).AsyncClient() as bare, ClientFactory(ClientSettings(family=family)) as factory:
            handler, _ = handler_for(bare if whose == "family" else factory.get(), upstream.url)
            for body, framing in (
                (None, b""),
                (b"abc", b"Content-Length: 3"),
                (_pieces(), b"Transfer-Encoding: chunked"),
            ):
                name, _, value = framing.partition(b": ")
                headers = [(b"Host", b"x"), (b"X-B", b"\xe9"), *([(name, value)] if name else [])]
                origin = Origin(b"http", b"127.0.0.1", upstream.port)
                response = await handler(Request(b"get", origin, b"/a/../%2e%zz?|", headers, body))
                seen = json.loads(b"".join([chunk async for chunk in response.body]))
                await response.aclose()
                await response.aclose()
                assert seen[0].startswith("get /a/../%2e%zz?| HTTP/1.1\r\nHost: x\r\nX-B: \xe9\r\n")
                assert seen[1] in ("", "abc", "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_neutral_requests_through_anybodys_transport(family: Any) -> None:
    """So it is with a transport of the user's own; what that raises comes out as ours."""
    module = module_of(family)

    def answer(request: Any) -> Any:
        if request.url.path == "/refused":
            raise module.ConnectError("no")
        return module.Response(203, content=request.content)

    async with module.AsyncClient(transport=module.MockTransport(answer)) as client:
        handler, _ = handler_for(client, "http://a.example")
        headers = [(b"Host", b"a.example"), (b"Content-Length", b"2")]
        response = await handler(Request(b"POST", Origin(b"http", b"a.example", 80), b"/", headers, b"hi"))
        assert (response.status, [chunk async for chunk in response.body]) == (203, [b"hi"])
        await response.aclose()
        with pytest.raises(exceptions.ConnectError, match="no"):
            await handler(Request(b"POST", Origin(b"http", b"a.example", 80), b"/refused", headers, b"hi"))


async def test_responses_that_were_read(family: Any) -> None:
    """A response that was read has its body from memory, with its own length; an empty one keeps its headers."""
    module = module_of(family)
    for content, headers in ((b"read", {"X-A": "b", "Transfer-Encoding": "chunked"}), (b"", {"Content-Length": "100"})):
        ours = response_over(module.Response(200, headers=headers, content=content))
        assert b"".join([chunk async for chunk in ours.body]) == content
        lengths = [value for name, value in ours.headers if name.lower() == b"content-length"]
        assert lengths == [b"4" if content else b"100"]
        await ours.aclose()


def test_responses_of_a_synchronous_client(family: Any) -> None:
    """The response of a synchronous client is refused by name."""
    module = module_of(family)
    with (
        scripted(answering(ok())) as upstream,
        module.Client(trust_env=False) as client,
        client.stream("GET", upstream.url) as response,
        pytest.raises(TypeError, match="synchronous client"),
    ):
        response_over(response)


def test_not_a_client(family: Any) -> None:
    """Anything but an AsyncClient of either family is refused by name."""
    with module_of(family).Client() as client, pytest.raises(TypeError, match="would block the event loop"):
        family_of(client)


def test_a_family_that_is_missing(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that is not installed is an ImportError that says how to install it."""

    def import_module(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_family, "_families", {})
    monkeypatch.setattr(_family, "import_module", import_module)

    with pytest.raises(FamilyNotInstalled, match="pip install"):
        family_named(family)


def test_a_family_that_is_broken(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose own dependency is missing is not said to be missing itself."""

    def import_module(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'h11'", name="h11")

    monkeypatch.setattr(_family, "_families", {})
    monkeypatch.setattr(_family, "import_module", import_module)

    with pytest.raises(ModuleNotFoundError, match="h11"):
        family_named(family)
