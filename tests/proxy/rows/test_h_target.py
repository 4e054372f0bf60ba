"""Rows H7 and H8: other upgrades, and path, query, prefix, confinement, hooks and the routes' doors, as for requests."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from starlette.responses import PlainTextResponse, Response

from fastapi_httpx_pool import (
    ProxyFailure,
    ProxyPolicy,
    ProxyRequest,
    ReverseProxy,
    UpstreamResponse,
    create_lifespan,
    proxy_websocket,
)
from tests.support.answers import Answer, get, read_answer
from tests.support.ports import refusing_port
from tests.support.proxies import EVERY_SERVER, WEBSOCKET_SERVERS, proxied, serving_by, settings_of
from tests.support.raw_client import raw_client
from tests.support.recording import RecordingUpstream
from tests.support.upstream import scripted
from tests.support.websocket_wire import TEXT, Handed, asking, exchange, handed, opened, part

every_server = pytest.mark.parametrize("server", WEBSOCKET_SERVERS)

PLACES = [*((server, "alone") for server in WEBSOCKET_SERVERS), ("sansio", "mounted"), ("wsproto", "route")]
PLACES += [("hypercorn", "mounted"), ("sansio", "helper")]


class Place:
    """A proxy for ``/base`` of an upstream, behind a door, under a server."""

    def __init__(self, server: str, door: str, port: int, upstream: Handed) -> None:
        self.server = server
        self.door = door
        self._port = port
        self._upstream = upstream
        self._prefix = b"" if door == "alone" else b"/p"

    def target_for(self, target: bytes) -> bytes:
        """Return what the upstream is asked for, if a client asks for this; it is refused."""
        with asking(self._port, self._prefix + target) as client:
            asked = self._upstream.asked()
            asked.answer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert read_answer(client).status == 403
            asked.connection.close()
        return asked.target

    def refused(self, target: bytes) -> Answer:
        """Return the answer to a client that asks for this, which must not reach the upstream."""
        before = self._upstream.accepted
        with asking(self._port, self._prefix + target) as client:
            answer = read_answer(client)
        assert self._upstream.accepted == before
        return answer


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Give the proxy alone under each server, then behind the other doors."""
    server, door = request.param
    with handed() as upstream, proxied(upstream.url + "/base", server, door=door) as port:
        yield Place(server, door, port, upstream)


# H8: where it goes.

TARGETS = [
    b"/",
    b"/a%2Fb%2fc",
    b"/%7Euser/%41",
    b"/a'b(c)!*",
    b"/a;b=c/d,e",
    b"/%C3%A9%e9%FF",
    b"/@x:y$z&=~",
    b"//double//slash/",
    b"/./a/.",
    b"/%25/%2525",
    b"/chat?",
    b"/chat?a=1&a=2&b=%20+x;y",
    b"/chat?q=%C3%A9&r=/../?",
    b"/" + b"a" * 4000 + b"?" + b"b" * 3000,
]


def without_an_empty_query(target: bytes) -> bytes:
    """Return a target as it is known to an app, to which no query and an empty one are the same."""
    return target.removesuffix(b"?") if target.count(b"?") == 1 else target


def test_h8_path_and_query_octets(place: Place) -> None:
    """Path and query arrive byte for byte under the upstream's base, at each door and under each server."""
    for target in TARGETS:
        assert place.target_for(target) == b"/base" + without_an_empty_query(target), target


OUTSIDE = [b"/../x", b"/a/../../x", b"/%2e%2e/x", b"/%2E./x", b"/..%2fx", b"/a%5c..%5c..%5cx", b"/..\\x"]


def test_h8_nothing_leaves_the_base(place: Place) -> None:
    """A path that would leave the upstream's base is a 400, and nobody is asked."""
    for path in OUTSIDE:
        answer = place.refused(path)
        assert answer.status == 400, path
        if place.server != "granian" or answer.values(b"proxy-status"):  # it refuses some itself
            assert answer.values(b"proxy-status")[0].endswith(b"; error=http_request_error")


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_h8_beside_the_prefix(door: str) -> None:
    """What is not under the prefix is not the proxy's."""
    with handed() as upstream, proxied(upstream.url, "sansio", door=door) as port:
        for target in (b"/px", b"/q/p/x", b"/"):
            with asking(port, target) as client:
                assert read_answer(client).status in {400, 403, 404}
        assert upstream.accepted == 0


def test_h8_a_base_with_a_query() -> None:
    """A query of the upstream's own comes before the client's."""
    with (
        handed() as upstream,
        proxied(upstream.url + "/base?key=1", "sansio") as port,
        opened(port, upstream, b"/chat?x=2") as pair,
    ):
        assert pair.upstream.head.startswith(b"GET /base/chat?key=1&x=2 HTTP/1.1\r\n")


def test_h8_strict_paths() -> None:
    """With ``strict_paths`` what only looks like ``..`` is refused, too."""
    with handed() as upstream, proxied(upstream.url, "sansio", strict_paths=True) as port:
        for target in (b"/%252e%252e/x", b"/..;x/y"):
            with asking(port, target) as client:
                assert read_answer(client).status == 400
        assert upstream.accepted == 0


# H8: hooks.


def test_h8_a_hook_changes_the_handshake() -> None:
    """``on_request`` sees the handshake as a GET with its subprotocols, and may change URL and headers; an async one, too."""
    seen: list[tuple[str, str, str | None]] = []

    async def change(request: ProxyRequest) -> None:
        seen.append((request.method, request.url, request.headers.get("sec-websocket-protocol")))
        request.url = request.url.replace("/chat", "/other")
        request.headers["authorization"] = "Bearer ours"
        request.headers["sec-websocket-protocol"] = "b"
        del request.headers["cookie"]

    with handed() as upstream, proxied(upstream.url, "sansio", on_request=change) as port:
        with opened(
            port,
            upstream,
            b"/chat?x=1",
            b"Cookie: a=1",
            b"Sec-WebSocket-Protocol: a, b",
            answer=(b"Sec-WebSocket-Protocol: b",),
        ) as pair:
            assert pair.upstream.head.startswith(b"GET /other?x=1 ")
            assert pair.upstream.values(b"authorization") == [b"Bearer ours"]
            assert pair.upstream.values(b"cookie") == []
            assert pair.upstream.values(b"sec-websocket-protocol") == [b"b"]
            assert pair.client.values(b"sec-websocket-protocol") == [b"b"]
            exchange(pair)
        assert seen == [("GET", upstream.url + "/chat?x=1", "a, b")]


@every_server
def test_h8_a_hook_answers_the_handshake(server: str) -> None:
    """A Response that ``on_request`` returns refuses the client, and no upstream is asked."""

    def answer(request: ProxyRequest) -> Response:
        return PlainTextResponse("please log in", 401, {"www-authenticate": "Basic"})

    with handed() as upstream, proxied(upstream.url, server, on_request=answer) as port:
        with asking(port) as client:
            found = read_answer(client)
        assert (found.status, found.body) == (401, b"please log in")
        assert found.values(b"www-authenticate") == [b"Basic"]
        assert upstream.accepted == 0


def test_h8_a_hook_changes_the_answer() -> None:
    """``on_response`` sees the 101, and may change the headers with which the client is accepted."""
    seen: list[int] = []

    def change(response: UpstreamResponse) -> None:
        seen.append(response.status_code)
        response.headers["x-ours"] = "1"
        response.headers.append("set-cookie", "c=3")
        del response.headers["x-theirs"]

    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", on_response=change) as port,
        opened(port, upstream, answer=(b"X-Theirs: 1", b"Set-Cookie: a=1", b"Set-Cookie: b=2")) as pair,
    ):
        assert pair.client.values(b"x-ours") == [b"1"]
        assert pair.client.values(b"x-theirs") == []
        assert pair.client.values(b"set-cookie") == [b"a=1", b"b=2", b"c=3"]
        exchange(pair)
    assert seen == [101]


def test_h8_a_hook_changes_a_refusal() -> None:
    """``on_response`` sees a refusal as it sees any answer, its body included."""

    def change(response: UpstreamResponse) -> None:
        async def louder(body: Any) -> Any:
            async for chunk in body:
                yield chunk.upper()

        response.status_code += 1
        response.body = louder(response.body)

    with handed() as upstream, proxied(upstream.url, "sansio", on_response=change) as port, asking(port) as client:
        upstream.asked().answer(b"HTTP/1.1 402 No\r\nContent-Length: 5\r\n\r\nhello")
        answer = read_answer(client)
        assert (answer.status, answer.body) == (403, b"HELLO")


@every_server
def test_h8_a_hook_answers_in_the_place_of_the_upstream(server: str) -> None:
    """A Response that ``on_response`` returns refuses the client although the upstream has accepted, which is let go at once."""

    def answer(response: UpstreamResponse) -> Response:
        assert response.status_code == 101
        return PlainTextResponse("not you", 403, {"x-why": "because"})

    with handed() as upstream, proxied(upstream.url, server, on_response=answer) as port, asking(port) as client:
        asked = upstream.asked()
        asked.accept()
        found = read_answer(client)
        assert (found.status, found.body, found.values(b"x-why")) == (403, b"not you", [b"because"])
        assert asked.was_let_go()


def test_h8_a_hook_cannot_choose_what_was_not_offered() -> None:
    """A subprotocol that ``on_response`` puts into the answer is the one that the client gets, or it is a 502; never both."""

    def change(response: UpstreamResponse) -> None:
        response.headers["sec-websocket-protocol"] = "b"

    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", on_response=change) as port,
        asking(port, b"/", b"Sec-WebSocket-Protocol: a, b") as client,
    ):
        asked = upstream.asked()
        asked.accept(b"Sec-WebSocket-Protocol: a")
        answer = read_answer_head(client)
    assert answer.lower().count(b"sec-websocket-protocol:") <= 1


def read_answer_head(client: Any) -> bytes:
    """Return the head of an answer."""
    head: bytes = client.read_head()
    return head


@pytest.mark.parametrize("hook", ["on_request", "on_response"])
def test_h8_a_hook_that_fails(hook: str) -> None:
    """A hook that raises is a 502, and the upstream's connection is closed."""

    def fail(it: object) -> None:
        raise RuntimeError("secret")

    options: Any = {hook: fail}
    with handed() as upstream, proxied(upstream.url, "sansio", **options) as port, asking(port) as client:
        asked = None
        if hook == "on_response":
            asked = upstream.asked()
            asked.accept()
        answer = read_answer(client)
        assert answer.status == 502
        assert answer.values(b"proxy-status")[0].endswith(b"; error=proxy_internal_error")
        assert b"secret" not in answer.head + answer.body
        if asked is not None:
            assert asked.was_let_go()


@every_server
def test_h8_a_hook_answers_for_a_failure(server: str) -> None:
    """``on_failure`` is told why there is no WebSocket, and its answer goes to the client."""
    told: list[tuple[str, ProxyFailure]] = []

    def answer(request: ProxyRequest, failure: ProxyFailure, error: Exception) -> Response:
        told.append((request.url, failure))
        return PlainTextResponse("come back later", 503, {"retry-after": "9"})

    url = f"http://127.0.0.1:{refusing_port()}"
    with proxied(url, server, on_failure=answer) as port, asking(port, b"/chat") as client:
        found = read_answer(client)
    assert (found.status, found.body, found.values(b"retry-after")) == (503, b"come back later", [b"9"])
    assert told == [(url + "/chat", ProxyFailure.CONNECT_REFUSED)]


# The routes' doors.


def serving_route(route: Callable[[WebSocket], Any]) -> Any:
    """Serve an app with one WebSocket route, at any path."""
    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
    app.add_api_websocket_route("/{path:path}", route)
    return serving_by("sansio", app)


def test_h8_the_method_overrides_what_the_proxy_has() -> None:
    """``path``, ``upstream``, ``headers`` and ``timeout`` count for one WebSocket, which is over when the call returns."""
    proxy = ReverseProxy("http://127.0.0.1:9/nowhere")
    over = threading.Event()
    with handed() as upstream:

        async def route(websocket: WebSocket) -> None:
            await proxy.websocket(
                websocket,
                path="/rooms/7%2F8",
                upstream=upstream.url + "/base",
                headers={"authorization": "Bearer ours", "cookie": None},
                timeout=5,
            )
            over.set()

        with serving_route(route) as port:
            with opened(port, upstream, b"/p?x=1", b"Cookie: a=1") as pair:
                assert pair.upstream.head.startswith(b"GET /base/rooms/7%2F8?x=1 HTTP/1.1\r\n")
                assert pair.upstream.values(b"authorization") == [b"Bearer ours"]
                assert pair.upstream.values(b"cookie") == []
                exchange(pair)
                assert not over.is_set()
                part(pair)
            assert over.wait(10)


@pytest.mark.parametrize("scheme", ["ws", "http", "WS"])
def test_h8_schemes_of_the_helper(scheme: str) -> None:
    """``proxy_websocket`` takes URLs of WebSockets and of requests."""
    with handed() as upstream:

        async def route(websocket: WebSocket) -> None:
            url = scheme + upstream.url.removeprefix("http") + "/chat?x=1"
            await proxy_websocket(websocket, url, headers={"x-ours": "1"})

        with serving_route(route) as port, opened(port, upstream, b"/any?y=2") as pair:
            target = pair.upstream.head.split(b" ")[1]
            assert target.startswith(b"/chat?x=1")
            assert pair.upstream.values(b"x-ours") == [b"1"]
            exchange(pair)


@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_h8_a_client_of_ones_own_is_refused_or_used(module: Any) -> None:
    """A client whose transport does not let anybody at its connections cannot carry a WebSocket, or it does."""
    own = module.AsyncClient(trust_env=False, limits=module.Limits(max_keepalive_connections=0))
    with handed() as upstream:

        async def route(websocket: WebSocket) -> None:
            await proxy_websocket(websocket, upstream.url, client=own)

        with serving_route(route) as port, opened(port, upstream) as pair:
            exchange(pair)
            part(pair)


CALLS: dict[str, Callable[[ReverseProxy, WebSocket], Any]] = {
    "method": lambda proxy, websocket: proxy.websocket(websocket),
    "helper": lambda proxy, websocket: proxy_websocket(websocket, "ws://127.0.0.1:9/"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("before", ["accept", "close", "receive"])
def test_h8_a_websocket_that_was_answered_before(call: Callable[[ReverseProxy, WebSocket], Any], before: str) -> None:
    """Who accepts or closes before the upstream is asked gets a RuntimeError that says so."""
    proxy = ReverseProxy("http://127.0.0.1:9")
    errors: list[BaseException] = []
    done = threading.Event()

    async def route(websocket: WebSocket) -> None:
        await getattr(websocket, before)()
        try:
            await call(proxy, websocket)
        except RuntimeError as exc:
            errors.append(exc)
        finally:
            done.set()

    with serving_route(route) as port, asking(port):
        assert done.wait(10)
    assert len(errors) == 1
    assert "accept" in str(errors[0])


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_h8_what_is_no_websocket(call: Callable[[ReverseProxy, Any], Any]) -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError, match="not a WebSocket"):
        await call(ReverseProxy("http://127.0.0.1:9"), object())


def test_h8_what_the_helper_cannot_do() -> None:
    """What the helper cannot do is said to the route."""
    errors: list[str] = []
    done = threading.Event()

    async def route(websocket: WebSocket) -> None:
        for url, options in (
            ("ftp://127.0.0.1/", {}),
            ("nonsense", {}),
            ("ws://127.0.0.1/", {"headers": {"x": "a\r\nb"}}),
            ("ws://127.0.0.1/", {"policy": ProxyPolicy(rewrite_location=True)}),
        ):
            with pytest.raises(ValueError) as caught:
                await proxy_websocket(websocket, url, **options)
            errors.append(str(caught.value))
        done.set()

    with serving_route(route) as port, asking(port):
        assert done.wait(10)
    assert len(errors) == 4


# H7: other upgrades.


@pytest.mark.parametrize("server", EVERY_SERVER)
@pytest.mark.parametrize("protocol", [b"h2c", b"irc/1.0", b"TLS/1.0, foo"])
def test_h7_other_upgrades_are_answered_as_requests(server: str, protocol: bytes) -> None:
    """What cannot be tunnelled is not asked for upstream, and neither are the settings of HTTP/2 that come with it."""
    lines = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: " + protocol,
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    )
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        client.send(get(b"/x", *lines))
        status = int(client.read_head().split(b" ")[1])
    # hypercorn speaks HTTP/2 with the client then, which is no concern of the upstream's.
    assert status == (101 if (server, protocol) == ("hypercorn", b"h2c") else 200)
    assert seen.names().isdisjoint({b"upgrade", b"http2-settings"})
    assert seen.values(b"connection") in ([], [b"keep-alive"])


def test_h7_a_switch_of_a_request_is_no_websocket() -> None:
    """An upstream that answers an ordinary request with 101 is a 502."""
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio") as port,
        asking(port, b"/", b"Upgrade: foo") as client,
    ):
        asked = upstream.asked()
        asked.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n")
        assert read_answer(client).status == 502
        assert asked.was_let_go()


def test_h8_websockets_do_not_mix() -> None:
    """Two WebSockets at the same time do not mix."""
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio") as port,
        opened(port, upstream, b"/a") as one,
        opened(port, upstream, b"/b") as other,
    ):
        one.client.text("to a")
        other.client.text("to b")
        assert other.upstream.message() == (TEXT, b"to b")
        assert one.upstream.message() == (TEXT, b"to a")
