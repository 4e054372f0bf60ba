"""Rows C1 to C14: target, path and query. Where a server itself decides, the test says what it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from fastapi_httpx_pool import ProxyPolicy, ProxyRequest, ReverseProxy, StreamingProxyResponse, create_lifespan
from tests.support.answers import Answer, ask, get
from tests.support.proxies import EVERY_SERVER, UVICORN, proxied, serving_by, settings_of
from tests.support.recording import RecordingUpstream
from tests.support.server import serving
from tests.support.stack import METHODS
from tests.support.upstream import scripted

PLACES = [*((server, "alone") for server in EVERY_SERVER), ("httptools", "mounted"), ("h11", "mounted")]
PLACES += [("httptools", "route"), ("hypercorn", "route")]


class Place:
    """A proxy for ``/base`` of an upstream, behind a door, under a server."""

    def __init__(self, server: str, door: str, port: int, upstream: RecordingUpstream) -> None:
        self.server = server
        self.door = door
        self._port = port
        self._upstream = upstream
        self._prefix = b"" if door == "alone" else b"/p"

    def ask(self, path: bytes, *headers: bytes, method: bytes = b"GET") -> Answer:
        """Ask for a path under the proxy."""
        return ask(self._port, get(self._prefix + path, *headers, method=method))

    def heard(self) -> list[bytes]:
        """Return the targets that the upstream was asked for since the last time."""
        targets = self._upstream.targets
        self._upstream.heads.clear()
        return targets


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def _shared_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server, door = request.param
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, door=door) as port:
        yield Place(server, door, port, seen)


@pytest.fixture
def place(_shared_place: Place) -> Place:
    """Give the proxy alone under each server, then mounted, then in a route."""
    _shared_place.heard()
    return _shared_place


def is_our_refusal(answer: Answer, status: int = 400, error: bytes = b"http_request_error") -> bool:
    """Whether it is the proxy's answer, and tells nothing."""
    phrase = {400: b"Bad Request", 501: b"Not Implemented"}[status]
    [proxy_status] = answer.values(b"proxy-status") or [b""]
    return (
        answer.status == status
        and answer.complete
        and answer.body == b'{"detail": "%s"}' % phrase
        and proxy_status.endswith(b"; error=" + error)
    )


# C1, C2: octets.

PATHS = [
    b"/a%2Fb%2fc",
    b"/%7Euser/%41",
    b"/a'b(c)!*",
    b'/a"b',
    b"/a[b]",
    b"/a%20b+c",
    b"/a;b=c/d,e",
    b"/%C3%A9%e9%FF",
    b"/@x:y$z&=~",
    b"/a|b^c{d}",
    b"/a\\b%5Cc",
    b"//double//slash/",
    b"/./a/.",
    b"/%2E/x",
    b"/%25/%2525",
    b"/" + b"a" * 4000,
]


def test_c1_path_octets_are_unchanged(place: Place) -> None:
    """A path arrives byte for byte: escapes and their case, brackets, quotes, empty and dot segments."""
    for path in PATHS:
        assert place.ask(path).status == 200, path

    assert place.heard() == [b"/base" + path for path in PATHS]


def test_c1_octets_that_no_path_should_have(place: Place) -> None:
    """These arrive unchanged, too; granian answers them with 400 itself."""
    expected = 400 if place.server == "granian" else 200
    paths = [b"/a<b", b"/a>b", b"/a`b"]

    assert [place.ask(path).status for path in paths] == [expected] * 3
    assert place.heard() == ([] if place.server == "granian" else [b"/base" + path for path in paths])


def test_c1_an_encoded_line_break(place: Place) -> None:
    """It stays encoded; Starlette's router finds nothing for a path with one, in any app."""
    path = b"/%0D%0AX-Smuggled:%201"

    assert place.ask(path).status == (200 if place.door == "alone" else 404)
    assert place.heard() == ([b"/base" + path] if place.door == "alone" else [])


def test_c1_a_fragment(place: Place) -> None:
    """A number sign cannot be in a path: what is behind it is cut off by the server, or part of the path for us."""
    assert place.ask(b"/a#b").status == 200
    assert place.heard() == [b"/base/a" if place.server in {"httptools", "granian"} else b"/base/a%23b"]


@pytest.mark.parametrize("door", ["alone", "mounted", "route"])
def test_c1_the_bases_octets_are_kept(door: str) -> None:
    """The base arrives as it was written, too."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/B%2fse/%41;x|", door=door) as port:
        assert ask(port, get(b"/a%2Fb" if door == "alone" else b"/p/a%2Fb")).status == 200

    assert seen.targets == [b"/B%2fse/%41;x|/a%2Fb"]


QUERIES = [
    b"a=1&b=2&a=3",
    b"z;w=%zz&&=",
    b"a=b+c%20d",
    b"a|b^c`{}",
    b"next=../x&up=%2e%2e/..",
    b"q='()[]",
    b"%C3%A9=%e9&%00",
    b"a=%0D%0AX-Smuggled:%201",
    b"a=?b?c",
    b"a=b\\c",
    b"url=http://u:p@h/..",
    b"&",
]


def test_c2_query_octets_are_unchanged(place: Place) -> None:
    """A query arrives byte for byte, whether it parses or not."""
    for query in QUERIES:
        assert place.ask(b"/x?" + query).status == 200, query

    assert place.heard() == [b"/base/x?" + query for query in QUERIES]


def test_c2_octets_that_no_query_should_have(place: Place) -> None:
    """These arrive unchanged, too; granian answers them with 400 itself."""
    expected = 400 if place.server == "granian" else 200
    paths = [b'/x?a"b', b"/x?a<b", b"/x?a>b"]

    assert [place.ask(path).status for path in paths] == [expected] * 3
    assert place.heard() == ([] if place.server == "granian" else [b"/base" + path for path in paths])


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c2_a_fragment_takes_nothing_away(server: str) -> None:
    """A number sign is cut off by the server, or encoded: it never swallows what a hook adds to the query."""
    seen = RecordingUpstream()

    def add(request: ProxyRequest) -> None:
        request.url += "&tenant=acme"

    with scripted(seen) as upstream, proxied(upstream.url, server, on_request=add) as port:
        assert ask(port, get(b"/a?b=c#d")).status == 200

    cuts = server in {"httptools", "granian"}
    assert seen.targets == [b"/a?b=c&tenant=acme" if cuts else b"/a?b=c%23d&tenant=acme"]


def test_c2_a_bare_question_mark(place: Place) -> None:
    """An empty query is none: ASGI has no word for the difference, so that no server tells it."""
    assert place.ask(b"/x?").status == 200
    assert place.heard() == [b"/base/x"]


# C3, C4: the base.


@pytest.mark.parametrize("door", ["alone", "route"])
@pytest.mark.parametrize(
    ("base", "query", "expected"),
    [
        ("?sta=tic", b"", b"?sta=tic"),
        ("?sta=tic", b"?", b"?sta=tic"),
        ("?sta=tic", b"?us=er", b"?sta=tic&us=er"),
        ("?sta=tic&z;%zz", b"?z;%zz&&", b"?sta=tic&z;%zz&z;%zz&&"),
        ("", b"?us=er", b"?us=er"),
        ("?", b"?us=er", b"?us=er"),
    ],
)
def test_c3_the_bases_query_comes_first(door: str, base: str, query: bytes, expected: bytes) -> None:
    """The upstream's own query is sent with every request, before the client's."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base" + base, door=door) as port:
        assert ask(port, get((b"/x" if door == "alone" else b"/p/x") + query)).status == 200

    assert seen.targets == [b"/base/x" + expected]


JOINED = {
    "": {b"/": b"/", b"/x": b"/x", b"/x/": b"/x/", b"//x": b"//x", b"/x//y": b"/x//y"},
    "/": {b"/": b"/", b"/x": b"/x", b"/x/": b"/x/", b"//x": b"//x", b"/x//y": b"/x//y"},
    "/base": {b"/": b"/base/", b"/x": b"/base/x", b"/x/": b"/base/x/", b"//x": b"/base//x", b"/x//y": b"/base/x//y"},
    "/base/": {b"/": b"/base/", b"/x": b"/base/x", b"/x/": b"/base/x/", b"//x": b"/base//x", b"/x//y": b"/base/x//y"},
}


@pytest.mark.parametrize("door", ["alone", "mounted", "route"])
@pytest.mark.parametrize("base", JOINED)
def test_c4_one_slash_between_base_and_path(door: str, base: str) -> None:
    """Base and path are joined by exactly one slash, and no other slash comes or goes."""
    seen = RecordingUpstream()
    prefix = b"" if door == "alone" else b"/p"
    with scripted(seen) as upstream, proxied(upstream.url + base, door=door) as port:
        for path in JOINED[base]:
            assert ask(port, get(prefix + path)).status == 200

    assert seen.targets == list(JOINED[base].values())


@pytest.mark.parametrize(("base", "expected"), [("", b"/"), ("/", b"/"), ("/base", b"/base"), ("/base/", b"/base/")])
def test_c4_the_prefix_alone_is_the_base(base: str, expected: bytes) -> None:
    """A route's prefix without a slash after it is the base itself."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + base, door="route") as port:
        assert ask(port, get(b"/p")).status == 200

    assert seen.targets == [expected]


def test_c4_a_mounts_name_alone_is_the_frameworks() -> None:
    """Starlette itself redirects a mount's name to the mount, as it does for every app."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", door="mounted") as port:
        answer = ask(port, get(b"/p"))

    assert (answer.status, answer.values(b"location")) == (307, [b"http://front.example/p/"])
    assert seen.targets == []


# C5 to C7: nothing outside of the base.

CLIMBING = [
    b"/../secret",
    b"/..",
    b"/a/../b",
    b"/a/..",
    b"/%2e%2e/secret",
    b"/%2E%2e",
    b"/.%2e/secret",
    b"/%2e./secret",
    b"/..%2fsecret",
    b"/%2e%2e%2fsecret",
    b"/a%2F..%2Fsecret",
    b"/..\\secret",
    b"/\\..\\secret",
    b"/..%5csecret",
    b"/a%5c%2E%2E%5Csecret",
    b"//../secret",
    b"/./../secret",
    b"/..?a=b",
]


def test_c5_nothing_outside_of_the_base(place: Place) -> None:
    """A ``..`` segment, however it is spelled, is answered with 400, and the upstream hears nothing."""
    for path in CLIMBING:
        assert is_our_refusal(place.ask(path)), path

    assert place.heard() == []


def test_c5_what_a_fragment_hides(place: Place) -> None:
    """A ``..`` before a number sign is refused where the server cuts it off there, and else is none."""
    cuts = place.server in {"httptools", "granian"}

    assert place.ask(b"/..#x").status == (400 if cuts else 200)
    assert place.heard() == ([] if cuts else [b"/base/..%23x"])


@pytest.mark.parametrize(("server", "door"), [place for place in PLACES if place[1] != "alone"])
def test_c5_around_the_prefix(server: str, door: str) -> None:
    """Neither does a path lead out of the mount before it is taken away, nor to what only begins like it."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, door=door) as port:
        for target in (b"/p%2f..%2fsecret", b"/p\\..\\secret", b"/q/../p/x", b"/../p/x", b"/px", b"/p%2e%2e/x"):
            assert ask(port, get(target)).status in {400, 404}, target

    assert seen.heads == []


def test_c5_a_path_that_a_route_gives() -> None:
    """What a route makes of the path is looked at, too: a decoded path parameter may climb."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
        proxy = ReverseProxy(upstream.url + "/base")

        @app.get("/files/{path:path}", response_model=None)
        async def respond(path: str, request: Request) -> Response:
            return proxy.response(request, path=path)

        with serving_by("httptools", app) as port:
            assert is_our_refusal(ask(port, get(b"/files/%2e%2e/secret")))
            assert is_our_refusal(ask(port, get(b"/files/%252e%252e/secret")))
            assert ask(port, get(b"/files/caf%C3%A9%20%3Fa%23b?c=d")).status == 200

    assert seen.targets == [b"/base/caf%C3%A9%20%3Fa%23b?c=d"]


HARMLESS = [
    b"/a/...b/c",
    b"/x/..;/y",
    b"/[...slug].js",
    b"/..a/b..",
    b"/...",
    b"/%2e%2e%2e",
    b"/.well-known/x",
    b"/a..b/%2e%2eb",
    b"/x?next=../x",
    b"/x?next=%2e%2e%2fx&a=/../",
]


def test_c6_what_only_looks_like_it_passes(place: Place) -> None:
    """Dots that climb nowhere, and all that is in a query, arrive."""
    for path in HARMLESS:
        assert place.ask(path).status == 200, path

    assert place.heard() == [b"/base" + path for path in HARMLESS]


TWICE = [b"/%252e%252e/x", b"/%252e%252e%252fx", b"/.%25%32e/x", b"/%25%32%65%252e/x"]


def test_c7_nothing_is_decoded_on_the_way(place: Place) -> None:
    """What is encoded twice arrives encoded twice, and climbs nowhere."""
    for path in TWICE:
        assert place.ask(path).status == 200, path

    assert place.heard() == [b"/base" + path for path in TWICE]


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c7_what_is_encoded_twice_is_refused_on_demand(server: str) -> None:
    """``strict_paths`` refuses it, for upstreams that decode more than once; nothing else changes."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, strict_paths=True) as port:
        for path in TWICE:
            assert is_our_refusal(ask(port, get(path))), path
        harmless = [path for path in HARMLESS if b"..;" not in path]
        for path in harmless:
            assert ask(port, get(path)).status == 200, path

    assert seen.targets == [b"/base" + path for path in harmless]


@pytest.mark.parametrize("hooked", [False, True], ids=["route", "hook"])
def test_c7_whatever_joins_the_url(hooked: bool) -> None:
    """Also where a route has joined it, or a hook."""
    seen = RecordingUpstream()
    strict = ProxyPolicy(strict_paths=True)
    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
    with scripted(seen) as upstream:

        def join(request: ProxyRequest) -> None:
            request.url = upstream.url + "/base" + request.inbound.scope["raw_path"].decode()

        async def respond(request: Request) -> Response:
            if hooked:
                return StreamingProxyResponse(request, upstream.url + "/fixed", policy=strict, on_request=join)
            return StreamingProxyResponse(request, upstream.url + request.scope["raw_path"].decode(), policy=strict)

        app.add_api_route("/{path:path}", respond, response_model=None)
        with serving_by("httptools", app) as port:
            for path in TWICE:
                assert is_our_refusal(ask(port, get(path))), path
            assert ask(port, get(b"/%2561")).status == 200

    assert seen.targets == [b"/base/%2561" if hooked else b"/%2561"]


# C8, C9: the client does not choose the upstream.


def test_c8_two_slashes_name_no_host(place: Place) -> None:
    """``//evil.example/x`` is a path, like any other."""
    assert place.ask(b"//evil.example/x").status == 200
    assert place.heard() == [b"/base//evil.example/x"]


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c8_two_slashes_at_a_bare_upstream(server: str) -> None:
    """Also where nothing stands before it: the upstream is the one that is configured."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get(b"//evil.example/x")).status == 200
        host = b"127.0.0.1:%d" % upstream.port

    assert seen.targets == [b"//evil.example/x"]
    assert seen.values(b"host") == [host]


@contextmanager
def evil_twin(server: str, door: str) -> Iterator[tuple[int, int, RecordingUpstream, RecordingUpstream]]:
    """Serve a proxy whose upstream has no path, and an upstream that nobody may reach."""
    trusted, evil = RecordingUpstream(), RecordingUpstream()
    with scripted(trusted) as upstream, scripted(evil) as other, proxied(upstream.url, server, door=door) as port:
        yield port, other.port, trusted, evil


@pytest.mark.parametrize(("server", "door"), PLACES)
def test_c9_a_target_without_a_slash(server: str, door: str) -> None:
    """A target that is no path is answered with 400, or by a router with 404; nobody hears of it."""
    with evil_twin(server, door) as (port, evil_port, trusted, evil):
        targets = [b"@127.0.0.1:%d/secret", b":%d/secret", b".127.0.0.1:%d/secret", b"127.0.0.1:%d/secret", b"\\%d/x"]
        for target in targets:
            answer = ask(port, get(target % evil_port))
            if door != "alone":
                assert answer.status in {400, 404}, target
            elif server in {"h11", "hypercorn"}:
                assert is_our_refusal(answer), target
            else:
                assert answer.status == 400, target  # by the server itself
        assert ask(port, get(b"?secret")).status in {400, 404}

    assert (trusted.heads, evil.heads) == ([], [])


@pytest.mark.parametrize(("server", "door"), PLACES)
def test_c9_a_target_with_a_host_goes_to_the_upstream(server: str, door: str) -> None:
    """A whole URL as a target names no upstream; under uvicorn's h11 and hypercorn no router knows it."""
    with evil_twin(server, door) as (port, evil_port, trusted, evil):
        path = b"/x%2Fy" if door == "alone" else b"/p/x%2Fy"
        answer = ask(port, get(b"http://127.0.0.1:%d%s" % (evil_port, path)))

    assert evil.heads == []
    if door != "alone" and server in {"h11", "hypercorn"}:
        assert (answer.status, trusted.targets) == (404, [])
    else:
        assert (answer.status, trusted.targets) == (200, [b"/x%2Fy"])


# C10: prefixes.


@pytest.mark.parametrize("door", ["mounted", "route"])
@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c10_an_encoded_prefix_is_taken_away(server: str, door: str) -> None:
    """A prefix is taken from the octets, however it is spelled, and none of the rest is touched."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, door=door) as port:
        for target in (b"/p/a%2Fb", b"/%70/a%2Fb", b"/%70/%70/x?y", b"/p%2Fa%2Fb", b"/%70%2fp"):
            assert ask(port, get(target)).status == 200, target

    assert seen.targets == [b"/base/a%2Fb", b"/base/a%2Fb", b"/base/%70/x?y", b"/base/%2Fa%2Fb", b"/base/%2fp"]


@pytest.mark.parametrize("door", ["mounted", "route"])
@pytest.mark.parametrize("server", UVICORN)
def test_c10_a_prefix_that_has_to_be_encoded(server: str, door: str) -> None:
    """So is one with spaces, umlauts and several segments."""
    seen = RecordingUpstream()
    prefix = "/caf\u00e9 x/v2"
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server, door=door, prefix=prefix) as port:
        for target in (b"/caf%C3%A9%20x/v2/a%2Fb", b"/%63af%c3%a9%20x%2fv2/caf%C3%A9"):
            assert ask(port, get(target)).status == 200, target

    assert seen.targets == [b"/base/a%2Fb", b"/base/caf%C3%A9"]


def _nested(proxy: ReverseProxy) -> FastAPI:
    """Return an app in whose mounted app the proxy is mounted, and a route next to it."""
    inner = FastAPI(openapi_url=None)
    inner.mount("/p", proxy)

    async def respond(request: Request) -> Response:
        return proxy.response(request, prefix="/r")

    inner.add_api_route("/r{path:path}", respond, methods=METHODS, response_model=None)
    app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
    app.mount("/m", inner)
    return app


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c10_a_mount_in_a_mount(server: str) -> None:
    """Every mount on the way is taken away, and a route's prefix after them."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, serving_by(server, _nested(ReverseProxy(upstream.url + "/base"))) as port:
        for target in (b"/m/p/a%2Fb", b"/%6d/%70/m/p", b"/m/r/a%2Fb", b"/%6d/%72/m/r"):
            assert ask(port, get(target)).status == 200, target

    assert seen.targets == [b"/base/a%2Fb", b"/base/m/p", b"/base/a%2Fb", b"/base/m/r"]


def told_of_a_root_path(app: Any) -> Any:
    """Return an app that is told of a root path, as hypercorn and FastAPI tell it: whatever the path begins with."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        await app(scope if scope["type"] == "lifespan" else {**scope, "root_path": "/api"}, receive, send)

    return wrapped


@pytest.mark.parametrize("door", ["alone", "mounted", "route"])
def test_c10_a_root_path_that_the_path_is_without(door: str) -> None:
    """A prefix that somebody before the app has taken away, or not: the same is sent on."""
    seen = RecordingUpstream()
    prefix = b"" if door == "alone" else b"/p"
    moved = b"HTTP/1.1 302 Found\r\nLocation: /base/there\r\nContent-Length: 0\r\n\r\n"
    seen.response = moved
    with (
        scripted(seen) as upstream,
        proxied(upstream.url + "/base", door=door, around=told_of_a_root_path, rewrite_location=True) as port,
    ):
        for path in (prefix + b"/a%2Fb", b"/api" + prefix + b"/a%2Fb"):
            assert ask(port, get(path)).values(b"location") == [b"/api" + prefix + b"/there"]

    assert seen.targets == [b"/base/a%2Fb"] * 2
    assert seen.values(b"x-forwarded-prefix") == [b"/api" + prefix]


@pytest.mark.parametrize("parser", UVICORN)
def test_c10_a_root_path_of_the_server(parser: Any) -> None:
    """uvicorn puts its ``--root-path`` before each path; it is taken away again."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        proxy = ReverseProxy(upstream.url + "/base", settings=settings_of())
        with serving(proxy, http=parser, proxy_headers=False, root_path="/api") as running:
            assert ask(running.port, get(b"/a%2Fb")).status == 200
            assert ask(running.port, get(b"/api/x")).status == 200
            assert ask(running.port, get(b"/../x")).status == 400

    assert seen.targets == [b"/base/a%2Fb", b"/base/api/x"]


# C11: computed upstreams.


def test_c11_computed_upstreams_are_not_mixed_up() -> None:
    """Bases and paths that are the same text when put together go to their own upstreams, time and again."""
    first, second = RecordingUpstream(), RecordingUpstream()
    with scripted(first) as one, scripted(second) as other:
        app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
        proxy = ReverseProxy(one.url)
        # 127.0.0.1:1234 and a path 5/x would be 127.0.0.1:12345 and /x, if they were only put together.
        bases = {"one": one.url, "one-a": one.url + "/a", "one-ab": one.url + "/ab", "two": other.url + "/a"}

        @app.get("/{to}/{path:path}", response_model=None)
        async def respond(to: str, path: str, request: Request) -> Response:
            return proxy.response(request, upstream=bases[to], prefix="/" + to)

        with serving_by("httptools", app) as port:
            for _ in range(2):
                for target in (b"/one/a/bc", b"/one-a/bc", b"/one-ab/c", b"/two/bc", b"/one/abc", b"/two/../bc"):
                    ask(port, get(target))

    assert first.targets == [b"/a/bc", b"/a/bc", b"/ab/c", b"/abc"] * 2
    assert second.targets == [b"/a/bc"] * 2


# C12, C13: methods.


@pytest.mark.parametrize("door", ["alone", "mounted"])
@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c12_unknown_methods_are_sent_on(server: str, door: str) -> None:
    """Methods are the upstream's to know; httptools knows a list of its own and answers others with 400."""
    seen = RecordingUpstream()
    prefix = b"" if door == "alone" else b"/p"
    methods = [b"PURGE", b"PROPFIND", b"M-SEARCH", b"QUERY", b"LINK"]
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port:
        for method in methods:
            assert ask(port, get(prefix + b"/x", method=method)).status == 200, method
        made_up = ask(port, get(prefix + b"/x", method=b"MAKE-UP")).status

    known = server != "httptools"
    assert made_up == (200 if known else 400)
    assert seen.methods == [*methods, *([b"MAKE-UP"] if known else [])]


@pytest.mark.parametrize("server", ["h11", "granian"])
def test_c12_methods_keep_their_case(server: str) -> None:
    """A method is not changed; hypercorn writes it in capitals itself, and httptools refuses others."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get(method=b"Purge")).status == 200

    assert seen.methods == [b"Purge"]


@pytest.mark.parametrize("door", ["alone", "mounted"])
@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c13_connect_is_refused(server: str, door: str) -> None:
    """CONNECT asks for a tunnel, which this is not: 501, unless httptools or a router refuses what is no path."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port:
        to_path = ask(port, get(b"/x" if door == "alone" else b"/p/x", method=b"CONNECT"))
        to_host = ask(port, get(b"127.0.0.1:%d" % upstream.port, method=b"CONNECT"))

    assert is_our_refusal(to_path, 501, b"http_request_denied")
    if server == "httptools":
        assert to_host.status == 400
    elif door == "mounted":
        assert to_host.status == 404
    else:
        assert is_our_refusal(to_host, 501, b"http_request_denied")
    assert seen.heads == []


@pytest.mark.parametrize("server", EVERY_SERVER)
@pytest.mark.parametrize("method", [b"connect", b"Connect", b"trace", b"Trace"])
def test_c13_the_case_of_the_method_does_not_count(server: str, method: bytes) -> None:
    """Some upstreams do not look at it: refused, by us or by the server."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server) as port:
        assert ask(port, get(method=method)).status in (400, 501)

    assert seen.heads == []


@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c13_options_of_the_server_itself(server: str) -> None:
    """``OPTIONS *`` asks whoever gets it, and so is answered here; ``/*`` is a path."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server) as port:
        answer = ask(port, get(b"*", method=b"OPTIONS"))
        assert (answer.status, answer.body) == (204, b"")
        assert seen.heads == []
        assert ask(port, get(b"/*", method=b"OPTIONS")).status == 200

    assert (seen.methods, seen.targets) == ([b"OPTIONS"], [b"/base/*"])


@pytest.mark.parametrize("server", EVERY_SERVER)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_c13_an_asterisk_is_for_options_only(server: str, method: bytes) -> None:
    """Any other method has nothing to do with it: 400, by us or the server."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", server) as port:
        assert ask(port, get(b"*", method=method)).status == 400

    assert seen.heads == []


@pytest.mark.parametrize("door", ["mounted", "route"])
def test_c13_an_asterisk_is_in_no_mount(door: str) -> None:
    """Where the proxy is only part of an app, the app's router has no such path."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url + "/base", door=door) as port:
        assert ask(port, get(b"*", method=b"OPTIONS")).status == 404

    assert seen.heads == []


@pytest.mark.parametrize("door", ["alone", "mounted"])
@pytest.mark.parametrize("server", EVERY_SERVER)
def test_c13_trace_is_off(server: str, door: str) -> None:
    """TRACE would show its sender what was added on the way: 501."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, door=door) as port:
        answer = ask(port, get(b"/x" if door == "alone" else b"/p/x", method=b"TRACE"))

    assert is_our_refusal(answer, 501, b"http_request_denied")
    assert seen.heads == []


@pytest.mark.parametrize("server", UVICORN)
def test_c13_trace_on_demand(server: str) -> None:
    """``allow_trace`` sends it on."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, allow_trace=True) as port:
        assert ask(port, get(b"/x", method=b"TRACE")).status == 200

    assert (seen.methods, seen.targets) == ([b"TRACE"], [b"/x"])


# C14: what is no path.

BROKEN = [b"/%00", b"/a%00b", b"/%", b"/a%2", b"/a%zzb", b"/%0g", b"/%-1", b"/%u0041", b"/%%2e%2e", b"/..%zz"]


def test_c14_what_is_no_path_is_refused(place: Place) -> None:
    """A NUL, or a percent sign that escapes nothing, is answered with one clean 400."""
    for path in BROKEN:
        assert is_our_refusal(place.ask(path)), path

    assert place.heard() == []


def test_c14_raw_octets(place: Place) -> None:
    """Octets that no request line may have are the server's to refuse."""
    for path in (b"/a\x00b", b"/a\xe9b", b"/a\x7fb", b"/a\tb"):
        assert place.ask(path).status == 400, path

    assert place.heard() == []


def test_c14_the_refusal_can_be_replaced() -> None:
    """``on_failure`` sees it, with the reason."""
    seen, told = RecordingUpstream(), []

    def explain(request: Any, failure: Any, error: Exception) -> Response:
        told.append((failure.label, str(error)))
        return Response("no", 404)

    with scripted(seen) as upstream, proxied(upstream.url, on_failure=explain) as port:
        answer = ask(port, get(b"/%zz"))

    assert (answer.status, answer.body) == (404, b"no")
    assert told == [("target_refused", "the path has a NUL, or a percent sign that escapes nothing")]
    assert seen.heads == []


def test_c14_the_log_has_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """One line says what was refused and why; the answer does not."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url) as port:
        answer = ask(port, get(b"/../x?secret"))

    lines = [record.getMessage() for record in caplog.records if record.name == "fastapi_httpx_pool.proxy"]
    assert [("target_refused" in line, "'..' segment" in line, "secret" in line) for line in lines] == [
        (True, True, False)
    ]
    assert b"segment" not in answer.head + answer.body


def test_c5_policies_of_two_proxies_are_their_own() -> None:
    """A strict proxy next to one that is not: each keeps to its own rules."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        app = FastAPI(lifespan=create_lifespan(settings_of()), openapi_url=None)
        app.mount("/strict", ReverseProxy(upstream.url, policy=ProxyPolicy(strict_paths=True)))
        app.mount("/plain", ReverseProxy(upstream.url))
        with serving_by("httptools", app) as port:
            assert ask(port, get(b"/strict/%252e%252e/x")).status == 400
            assert ask(port, get(b"/plain/%252e%252e/x")).status == 200

    assert seen.targets == [b"/%252e%252e/x"]
