"""SyncClientDep and named_sync_client: the app's client in `def` routes, as httpx's or httpx2's own Client."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import anyio.from_thread
import anyio.lowlevel
import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from fastapi_httpx_pool import (
    ClientDep,
    ClientNotStarted,
    ClientSettings,
    FanOutError,
    StreamingProxyResponse,
    SyncClient,
    SyncClientDep,
    UnknownClient,
    create_lifespan,
    get_client,
    get_sync_client,
    named_client,
    named_sync_client,
    pool_statistics,
)

from .support.families import FAMILIES, module_of, needs_httpx2
from .support.ports import refusing_port
from .support.server import serving
from .support.upstream import LIMIT, Connection, Upstream, answering, ok, scripted

Use = Callable[[Any], Any]
"""What a test's route does with its client; what it returns comes out at the test."""


@contextmanager
def running(use: Use, family: str = "httpx") -> Iterator[Callable[[], Any]]:
    """Serve, by uvicorn, one `def` route that uses a named client; give what calls it."""
    app = FastAPI(lifespan=create_lifespan(clients={"used": settings_of(family)}))
    results: list[Any] = []

    @app.get("/")
    def route(client: Annotated[Any, Depends(named_sync_client("used", module_of(family).Client))]) -> None:
        results.append(use(client))

    loop: Any = "uvloop" if family == "httpx2" else "asyncio"  # each is met without running all four
    with (
        serving(app, loop=loop) as server,
        httpx.Client(base_url=server.url, timeout=LIMIT, trust_env=False) as browser,
    ):

        def call() -> Any:
            browser.get("/").raise_for_status()
            return results.pop()

        yield call


def settings_of(family: str, **settings: Any) -> ClientSettings:
    """Return settings that leave the machine's proxies alone."""
    return ClientSettings(family=cast("Any", family), trust_env=False, **settings)


def run(use: Use, family: str = "httpx") -> Any:
    """Run such a route once."""
    with running(use, family) as call:
        return call()


@pytest.fixture(name="hello", scope="module")
def _hello() -> Iterator[Upstream]:
    with scripted(answering(ok(b"hello"))) as upstream:
        yield upstream


@pytest.fixture(name="echo", scope="module")
def _echo() -> Iterator[Upstream]:
    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head:
                return
            sends_body = not head.startswith(b"HEAD")
            connection.send(ok(head + body if sends_body else b""))

    with scripted(script) as upstream:
        yield upstream


both_families = pytest.mark.parametrize("family", FAMILIES)


# Calls


@both_families
def test_every_verb(family: str, echo: Upstream) -> None:
    """Every verb arrives as what it is, over one connection, and its response is of the client's family."""
    verbs = ("get", "head", "options", "post", "put", "patch", "delete")

    def use(client: Any) -> list[Any]:
        return [getattr(client, verb)(echo.url) for verb in verbs] + [client.request("TRACE", echo.url)]

    accepted = echo.accepted
    responses = run(use, family)
    assert all(type(response) is module_of(family).Response for response in responses)
    lines = [response.text.partition(" ")[0] for response in responses]
    assert lines == ["GET", "", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"]
    assert echo.accepted == accepted + 1


@both_families
def test_client_is_the_familys(family: str) -> None:
    """The client is an instance of the family's Client, and says whose it is."""
    known, text = run(lambda client: (isinstance(client, module_of(family).Client), repr(client)), family)
    assert known
    assert text == f"<sync <{family}.AsyncClient 'used' [open, engine: native]>>"


@both_families
def test_arguments(family: str, echo: Upstream) -> None:
    """Parameters, headers, JSON and forms go out as the family writes them."""

    def use(client: Any) -> list[str]:
        return [
            client.get(echo.url, params={"a": "b"}, headers={"X-Own": "1"}).text,
            client.post(echo.url, json={"a": 1}).text,
            client.post(echo.url, data={"a": "b"}).text,
        ]

    with_query, with_json, with_form = run(use, family)
    assert with_query.startswith("GET /?a=b HTTP/1.1\r\n")
    assert "x-own: 1" in with_query.lower()
    assert '{"a":1}' in with_json.replace(" ", "")
    assert with_form.endswith("a=b")


@both_families
def test_build_and_send(family: str, echo: Upstream) -> None:
    """A request that was built is sent, with a client's method or the family's own class."""

    def use(client: Any) -> list[Any]:
        built = client.build_request("POST", echo.url, content=b"built")
        plain = module_of(family).Request("POST", echo.url, content=b"plain")
        return [client.send(built).text, client.send(plain).text]

    built, plain = run(use, family)
    assert built.endswith("built")
    assert plain.endswith("plain")


def test_response_is_complete(hello: Upstream) -> None:
    """A response has its body, its time and its request, and may be closed again."""

    def use(client: httpx.Client) -> httpx.Response:
        response = client.get(hello.url)
        response.close()
        return response

    response = run(use)
    assert response.read() == b"hello"
    assert list(response.iter_lines()) == ["hello"]
    assert response.elapsed.total_seconds() > 0
    assert response.request.method == "GET"


@needs_httpx2
def test_time_of_httpx2(hello: Upstream) -> None:
    """httpx2's responses keep their time in the stream; it is still found."""

    def use(client: Any) -> Any:
        with client.stream("GET", hello.url) as response:
            response.read()
        return response

    assert run(use, "httpx2").elapsed.total_seconds() > 0


def test_settings_are_the_clients() -> None:
    """Base URL, headers and timeout are those of the asynchronous client, to be read and to be set."""
    settings = settings_of("httpx", base_url="http://x.test/v1", headers={"X-Own": "1"}, timeout=7.0)
    app = FastAPI(lifespan=create_lifespan(settings))

    @app.get("/")
    def route(client: SyncClientDep, asynchronous: ClientDep) -> list[Any]:
        read = [str(client.base_url), client.headers["x-own"], client.timeout.read, client.is_closed]
        client.headers["X-Own"] = "2"
        client.timeout = 8.0
        client.follow_redirects = True
        written = [asynchronous.headers["x-own"], asynchronous.timeout.read, asynchronous.follow_redirects]
        return read + written + [str(client.build_request("GET", "/a").url)]

    with TestClient(app) as browser:
        assert browser.get("/").json() == [
            *("http://x.test/v1/", "1", 7.0, False),
            *("2", 8.0, True, "http://x.test/v1/a"),
        ]


def test_what_is_not_there(hello: Upstream) -> None:
    """An attribute that no client has is missed as ever, special ones too."""

    def use(client: Any) -> list[bool]:
        return [hasattr(client, "nonsense"), hasattr(client, "__nonsense__")]

    assert run(use) == [False, False]


def test_close_leaves_the_client_open(hello: Upstream) -> None:
    """`close` and `with` do nothing: the client is the app's."""

    def use(client: httpx.Client) -> str:
        with client as same:
            assert same is client
        client.close()
        return client.get(hello.url).text

    assert run(use) == "hello"


def test_auth_and_hooks(echo: Upstream) -> None:
    """Auth works for a call; the asynchronous client's event hooks see what is sent from threads."""
    seen: list[str] = []
    app = FastAPI(lifespan=create_lifespan(settings_of("httpx")))

    async def note(request: httpx.Request) -> None:
        seen.append(request.method)

    @app.get("/")
    def route(client: SyncClientDep, asynchronous: ClientDep) -> str:
        asynchronous.event_hooks = {"request": [note]}
        return client.get(echo.url, auth=("user", "secret")).text

    with TestClient(app) as browser:
        assert "authorization: basic" in browser.get("/").text.lower()
    assert seen == ["GET"]


def test_redirects() -> None:
    """Redirects are followed when asked for; all responses on the way can be read and closed."""

    def script(connection: Connection) -> None:
        while head := connection.read_head():
            if b" /a " in head:
                connection.send(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")
            else:
                connection.send(ok(b"there"))

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> list[Any]:
            response = client.get(f"{upstream.url}/a", follow_redirects=True)
            for each in (*response.history, response):
                each.close()
            return [response.text, [each.status_code for each in response.history], client.get(f"{upstream.url}/a")]

        text, statuses, unfollowed = run(use)
    assert (text, statuses) == ("there", [302])
    assert unfollowed.status_code == 302
    assert unfollowed.next_request.url.path == "/b"


@both_families
def test_errors_are_the_familys(family: str) -> None:
    """A refused connection, a timeout and a bad status raise the family's errors, with their request."""
    module = module_of(family)
    errors = []

    def silence(connection: Connection) -> None:
        connection.wait_until_closed()

    with scripted(silence) as silent, scripted(answering(b"HTTP/1.1 404 No\r\n\r\n")) as bad:

        def use(client: Any) -> None:
            calls: list[tuple[Any, Callable[[], Any]]] = [
                (module.ConnectError, lambda: client.get(f"http://127.0.0.1:{refusing_port()}/")),
                (module.ReadTimeout, lambda: client.get(silent.url, timeout=module.Timeout(LIMIT, read=0.05))),
                (module.HTTPStatusError, lambda: client.head(bad.url).raise_for_status()),
            ]
            for error, call in calls:
                with pytest.raises(error) as caught:
                    call()
                errors.append(caught.value)

        run(use, family)
    assert [error.request.method for error in errors] == ["GET", "GET", "HEAD"]


# Streams


@both_families
def test_stream_methods(family: str) -> None:
    """A streamed response is read in each of the family's ways, decoded in all but iter_raw."""
    packed = gzip.compress("één\ntwo".encode())
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(packed[i : i + 9]), packed[i : i + 9]) for i in range(0, len(packed), 9))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain; charset=utf-8\r\n"
    with scripted(answering(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")) as upstream:

        def use(client: Any) -> list[Any]:
            found: list[Any] = []
            for read in (
                lambda response: b"".join(response.iter_bytes()),
                lambda response: "".join(response.iter_text()),
                lambda response: list(response.iter_lines()),
                lambda response: b"".join(response.iter_raw(3)),
                lambda response: response.read(),
            ):
                with client.stream("GET", upstream.url) as response:
                    assert response.status_code == 200
                    found.append(read(response))
                assert response.is_closed
            return found

        found = run(use, family)
    text = "één\ntwo"
    assert found == [text.encode(), text, ["één", "two"], packed, text.encode()]
    assert upstream.accepted == 1


def test_stream_waits_for_one_chunk_only() -> None:
    """What has arrived is given out before more is waited for."""
    got_one = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none")
        assert got_one.wait(LIMIT)
        connection.send(b"two")

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> list[bytes]:
            with client.stream("GET", upstream.url) as response:
                chunks = response.iter_bytes()
                found = [next(chunks)]
                got_one.set()
                return found + list(chunks)

        assert run(use) == [b"one", b"two"]


async def arrived(client: httpx.AsyncClient) -> None:
    """Wait until all that was asked for is there: then its connection is free."""
    with anyio.fail_after(LIMIT):
        while not pool_statistics(client).idle:
            await anyio.lowlevel.checkpoint()


def test_stream_takes_all_that_is_there() -> None:
    """Chunks that have arrived come in one, with one trip to the loop."""
    chunks = b"".join(b"1\r\n%d\r\n" % (number % 10) for number in range(50))
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    app = FastAPI(lifespan=create_lifespan(settings_of("httpx")))

    @app.get("/")
    def route(client: SyncClientDep, asynchronous: ClientDep) -> list[str]:
        with client.stream("GET", upstream.url) as streamed:
            anyio.from_thread.run(arrived, asynchronous)
            return [chunk.decode() for chunk in streamed.iter_raw()]

    with scripted(answering(response)) as upstream, TestClient(app) as browser:
        assert browser.get("/").json() == ["0123456789" * 5]


def test_trips_to_the_loop(hello: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is one trip; a stream is one for its head, one for what has arrived, and one for its end and closing."""
    trips = 0
    from_thread_run = anyio.from_thread.run

    def counted(*args: Any, **arguments: Any) -> Any:
        nonlocal trips
        trips += 1
        return from_thread_run(*args, **arguments)

    monkeypatch.setattr(anyio.from_thread, "run", counted)

    def use(client: httpx.Client) -> list[int]:
        client.get(hello.url)
        found = [trips]
        with client.stream("GET", hello.url) as response:
            found.append(trips)
            response.read()
        return [*found, trips]

    assert run(use) == [1, 2, 4]


def test_leaving_a_stream_closes_the_upstream() -> None:
    """The end of the `with` block closes a connection whose body was not read, before the route goes on."""
    left: list[bool] = []

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        left.append(connection.wait_until_closed())

    app = FastAPI(lifespan=create_lifespan(settings_of("httpx")))

    @app.get("/")
    def route(client: SyncClientDep, asynchronous: ClientDep) -> list[int]:
        with client.stream("GET", upstream.url) as response:
            next(response.iter_bytes())
        statistics = pool_statistics(asynchronous)
        return [statistics.active, statistics.idle]

    with scripted(script) as upstream, TestClient(app) as browser:
        assert browser.get("/").json() == [0, 0]
    assert left == [True]


def test_stream_is_closed_in_another_thread(hello: Upstream) -> None:
    """A `yield` dependency may open a stream in one thread and close it in another."""
    app = FastAPI(lifespan=create_lifespan(settings_of("httpx")))

    def opened(client: SyncClientDep) -> Iterator[httpx.Response]:
        with client.stream("GET", hello.url) as response:
            yield response

    @app.get("/")
    def route(response: Annotated[httpx.Response, Depends(opened)]) -> str:
        return response.read().decode()

    with TestClient(app) as browser:
        assert browser.get("/").json() == "hello"


def test_stream_without_a_block(hello: Upstream) -> None:
    """`send(stream=True)` gives an open response, to be closed by hand; twice does no harm."""

    def use(client: httpx.Client) -> bool:
        response = client.send(client.build_request("GET", hello.url), stream=True)
        opened = not response.is_closed
        response.close()
        response.close()
        return opened and response.is_closed

    assert run(use)


def test_streamed_response_is_proxied(hello: Upstream) -> None:
    """A `def` route may hand an open response to StreamingProxyResponse, which reads it in the loop."""
    app = FastAPI(lifespan=create_lifespan(settings_of("httpx")))

    @app.get("/")
    def route(client: SyncClientDep) -> Response:
        response = client.send(client.build_request("GET", hello.url), stream=True)
        return StreamingProxyResponse.from_response(response)

    with TestClient(app) as browser:
        assert browser.get("/").text == "hello"


def test_broken_stream_raises_the_familys_error() -> None:
    """An upstream that breaks off mid-body raises the family's error from the iteration."""

    def script(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")

    with scripted(script) as upstream:

        def use(client: httpx.Client) -> Exception:
            with client.stream("GET", upstream.url) as response:
                with pytest.raises(httpx.RemoteProtocolError) as caught:
                    list(response.iter_bytes())
                return caught.value

        assert run(use).request.url == upstream.url


def test_chunks_of_a_users_transport() -> None:
    """A client with a transport of the user's own is streamed from, generators and all, and closed."""
    closed: list[str] = []

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            try:
                yield b"a"
                yield b"b"
            finally:
                closed.append("generator")

        async def aclose(self) -> None:
            closed.append("stream")

    app = FastAPI()
    mocked = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=Body())))
    app.dependency_overrides[get_client] = lambda: mocked

    @app.get("/")
    def route(client: SyncClientDep) -> list[str]:
        with client.stream("GET", "http://x.test") as response:
            found = [chunk.decode() for chunk in response.iter_bytes()]
        with client.stream("GET", "http://x.test") as response:
            return [*found, next(response.iter_bytes()).decode()]

    assert TestClient(app).get("/").json() == ["a", "b", "a"]
    assert closed == ["generator", "stream", "stream", "generator"]


# Many at once


@both_families
def test_fan_out(family: str, echo: Upstream) -> None:
    """fan_out sends many, and its responses are in order, of the family, and can be closed in the thread."""
    paths = [f"/{number}" for number in range(20)]

    def use(client: Any) -> list[str]:
        responses = client.fan_out([echo.url + path for path in paths], limit=5)
        for response in responses:
            response.close()
        assert all(isinstance(response, module_of(family).Response) for response in responses)
        return [response.text.split(" ")[1] for response in responses]

    assert run(use, family) == paths


def test_fan_out_of_a_generator(echo: Upstream) -> None:
    """A generator of requests runs in the caller's thread, each when it is its turn."""
    callers: list[int] = []

    def requests() -> Iterator[Any]:
        for number in range(3):
            callers.append(threading.get_ident())
            yield "POST", echo.url, {"content": b"%d" % number}

    def use(client: SyncClient) -> tuple[list[str], int]:
        return [response.text[-1] for response in client.fan_out(requests(), limit=1)], threading.get_ident()

    texts, caller = run(use)
    assert texts == ["0", "1", "2"]
    assert callers == [caller] * 3


def test_fan_out_with_a_failure(echo: Upstream) -> None:
    """A failure is raised with its URL, or stands in its place."""
    down = f"http://127.0.0.1:{refusing_port()}/"

    def use(client: SyncClient) -> list[str]:
        with pytest.raises(FanOutError) as caught:
            client.fan_out([echo.url, down])
        assert isinstance(caught.value.__cause__, httpx.ConnectError)
        return [type(found).__name__ for found in client.fan_out([echo.url, down], return_exceptions=True)]

    assert run(use) == ["Response", "ConnectError"]


@needs_httpx2
def test_no_websocket() -> None:
    """What httpx2's own Client has for WebSockets says that it is not there, and where it is."""

    def use(client: Any) -> None:
        with pytest.raises(NotImplementedError, match="In an `async def` route"):
            client.websocket("ws://x.test")

    run(use, "httpx2")


# Others' code


@needs_httpx2
def test_sdk() -> None:
    """An SDK takes the client as its http_client, calls and streams with it, and does not close it."""
    openai = pytest.importorskip("openai")
    choice = {"index": 0, "finish_reason": "stop"}
    base = {"id": "c1", "created": 1, "model": "small"}
    whole = {
        **base,
        "object": "chat.completion",
        "choices": [{**choice, "message": {"role": "assistant", "content": "Hi"}}],
    }
    part = {**base, "object": "chat.completion.chunk", "choices": [{**choice, "delta": {"content": "Hi"}}]}

    def script(connection: Connection) -> None:
        while True:
            head, body = connection.read_request()
            if not head:
                return
            if json.loads(body).get("stream"):
                events = f"data: {json.dumps(part)}\n\ndata: [DONE]\n\n"
                connection.send(ok(events.encode(), b"Content-Type: text/event-stream"))
            else:
                connection.send(ok(json.dumps(whole).encode(), b"Content-Type: application/json"))

    with scripted(script) as upstream:

        def use(client: Any) -> list[str]:
            question: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "?"}]}
            with openai.OpenAI(api_key="key", base_url=upstream.url, http_client=client) as sdk:
                found = [sdk.chat.completions.create(**question).choices[0].message.content]
                events = sdk.chat.completions.create(**question, stream=True)
                found += [event.choices[0].delta.content for event in events]
            return [*found, str(client.is_closed)]

        assert run(use, "httpx2") == ["Hi", "Hi", "False"]
    assert upstream.accepted == 1


# Dependencies


def test_both_dependencies(hello: Upstream) -> None:
    """The default client and a named one are injected side by side, into routes and their dependencies."""
    app = FastAPI(lifespan=create_lifespan(settings_of("httpx"), clients={"hello": settings_of("httpx")}))
    hello_client = Annotated[SyncClient, Depends(named_sync_client("hello"))]

    def text(client: hello_client) -> str:
        return client.get(hello.url).text

    @app.get("/")
    def route(client: SyncClientDep, named: hello_client, text: Annotated[str, Depends(text)]) -> list[str]:
        return [repr(client), repr(named), text]

    with TestClient(app) as browser:
        default, named, found = browser.get("/").json()
    assert "'default'" in default
    assert "'hello'" in named
    assert found == "hello"
    assert "parameters" not in app.openapi()["paths"]["/"]["get"]


def _mocked(text: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, text=text)))


def test_overrides_of_the_asynchronous_dependencies() -> None:
    """An override of get_client or named_client is what `def` routes get too, with no lifespan at all."""
    app = FastAPI()

    @app.get("/")
    def route(client: SyncClientDep, named: Annotated[SyncClient, Depends(named_sync_client("x"))]) -> list[str]:
        return [client.get("http://x.test").text, named.get("http://x.test").text]

    app.dependency_overrides[get_client] = lambda: _mocked("default")
    app.dependency_overrides[named_client("x")] = lambda: _mocked("named")
    assert TestClient(app).get("/").json() == ["default", "named"]


def test_overrides_of_their_own() -> None:
    """get_sync_client and named_sync_client can be overridden themselves, by any Client."""
    app = FastAPI()

    @app.get("/")
    def route(client: SyncClientDep, named: Annotated[SyncClient, Depends(named_sync_client("x"))]) -> list[str]:
        return [client.get("http://x.test").text, named.get("http://x.test").text]

    def mocked() -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, text="mocked")))

    app.dependency_overrides[get_sync_client] = app.dependency_overrides[named_sync_client("x")] = mocked
    assert TestClient(app).get("/").json() == ["mocked", "mocked"]


def test_same_name_gives_the_same_dependency() -> None:
    """The same arguments give the same object, however they are written; other names give others."""
    assert named_sync_client("x") is named_sync_client(name="x")
    assert named_sync_client("x") is not named_sync_client("y")
    assert named_sync_client("x", httpx.Client) is named_sync_client("x", client_class=httpx.Client)


@pytest.mark.parametrize("wrong", [httpx.AsyncClient, int, SyncClient])
def test_class_of_no_family(wrong: type[Any]) -> None:
    """Another class than a family's Client is refused where the dependency is made."""
    with pytest.raises(TypeError, match=r"is neither httpx\.Client nor httpx2\.Client.*named_client"):
        named_sync_client("x", wrong)


@needs_httpx2
def test_class_mismatch_is_explained() -> None:
    """A route that asks for the other family's class gets a TypeError with the setting."""
    httpx2 = module_of("httpx2")
    app = FastAPI(lifespan=create_lifespan(clients={"old": settings_of("httpx")}))

    @app.get("/")
    def route(client: Annotated[Any, Depends(named_sync_client("old", httpx2.Client))]) -> None:
        """Never come here."""

    with TestClient(app) as browser, pytest.raises(TypeError, match=r"is not a httpx2.AsyncClient.*family="):
        browser.get("/")


def test_errors_without_a_lifespan_or_a_name() -> None:
    """Without a lifespan, or with a name that nobody configured, the errors are those of async routes."""
    app = FastAPI(lifespan=create_lifespan())

    @app.get("/default")
    def default(client: SyncClientDep) -> None:
        """Never come here."""

    @app.get("/named")
    def named(client: Annotated[SyncClient, Depends(named_sync_client("x"))]) -> None:
        """Never come here."""

    with pytest.raises(ClientNotStarted):
        TestClient(app).get("/default")
    with TestClient(app) as browser, pytest.raises(UnknownClient):
        browser.get("/named")


def test_plain_starlette_endpoint(hello: Upstream) -> None:
    """A `def` endpoint of plain Starlette fetches its client from the loop."""

    def default(request: Request) -> PlainTextResponse:
        return PlainTextResponse(anyio.from_thread.run(get_sync_client, request).get(hello.url).text)

    def named(request: Request) -> PlainTextResponse:
        client = anyio.from_thread.run(named_sync_client("x"), request)
        return PlainTextResponse(client.get(hello.url).text)

    lifespan = create_lifespan(settings_of("httpx"), clients={"x": settings_of("httpx")})
    routes = [Route("/default", default), Route("/named", named)]
    with TestClient(Starlette(lifespan=lifespan, routes=routes)) as browser:
        assert [browser.get(path).text for path in ("/default", "/named")] == ["hello", "hello"]
