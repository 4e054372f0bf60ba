"""Where a request goes: octets of path and query as they came, and never beyond what the route joined safely."""

from typing import Any

import pytest
from fastapi import Request

from fastapi_httpx_pool import StreamingProxyResponse
from fastapi_httpx_pool.proxy._target import parse_target
from tests.support.answers import ask, get
from tests.support.recording import AppProbe, RecordingUpstream
from tests.support.stack import SECOND_FAMILY, UVICORN, Stack, app_of, target_of
from tests.support.upstream import scripted

PATHS = [
    b"/a%2Fb%2fc",
    b"/%7Euser/%41",
    b"/a'b(c)!*",
    b"/a[b]",
    b"/a%20b+c",
    b"/a;b=c/d,e",
    b"/%C3%A9%e9",
    b"/@x:y$z&=",
    b"/a|b^c`d{e}",
    b'/a"b<c>',
    b"//double//slash/",
    b"/.",
    b"/./a/.",
    b"/a/...b/c",
    b"/..a/b..",
    b"/.well-known/x",
    b"/%252e%252e/x",
    b"/%25",
    b"/" + b"a" * 4000,
]
QUERIES = [
    b"a=1&b=2&a=3",
    b"z;w=%zz&&=",
    b"a=b+c%20d",
    b"a|b",
    b"next=../x&up=%2e%2e/..",
    b"q='()[]{}",
    b'q="<>`^',
    b"%C3%A9=%e9",
    b"a=%0D%0AX-Smuggled:%201",
    b"a=?b?c",
    b"url=http://u:p@h/..",
]


def test_c1_path_octets_are_unchanged(stack: Stack) -> None:
    """A path arrives byte for byte: escapes, case of escapes, brackets, dots that climb nowhere."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        for path in PATHS:
            assert ask(port, get(path)).status == 200, path

    assert seen.targets == PATHS


def test_c2_query_octets_are_unchanged(stack: Stack) -> None:
    """A query arrives byte for byte, whether it parses or not."""
    seen = RecordingUpstream()
    targets = [b"/path?" + query for query in QUERIES]
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        for target in targets:
            assert ask(port, get(target)).status == 200, target

    assert seen.targets == targets


def test_c1_octets_beyond_ascii_are_only_escaped(stack: Stack) -> None:
    """Octets that may not stand in a request line arrive escaped, each for itself, UTF-8 or not."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        status = ask(port, get(b"/caf\xc3\xa9/\xe9?q=\xff")).status

    # A server may refuse such a request itself.
    assert (status, seen.targets) in ((200, [b"/caf%C3%A9/%E9?q=%FF"]), (400, []))


def _proxy_to(url: Any, **options: Any) -> Any:
    """Return a route that sends every request to one URL."""

    async def respond(request: Request) -> StreamingProxyResponse:
        return StreamingProxyResponse(request, url, **options)

    return respond


def test_a_url_without_a_query_takes_the_requests(stack: Stack) -> None:
    """The request's query goes to a URL that has none, byte for byte."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + "/fixed")) as port:
        assert ask(port, get(b"/path?a=%zz;b&&")).status == 200

    assert seen.targets == [b"/fixed?a=%zz;b&&"]


def test_a_url_with_a_query_keeps_it(stack: Stack) -> None:
    """The request's query does not touch a URL that has its own."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + "/fixed?own=1")) as port:
        assert ask(port, get(b"/path?theirs=2")).status == 200

    assert seen.targets == [b"/fixed?own=1"]


def test_a_url_without_a_path_asks_for_the_root(stack: Stack) -> None:
    """``http://host`` is asked for ``/``, with the request's query."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url)) as port:
        assert ask(port, get(b"/path")).status == 200
        assert ask(port, get(b"/path?a=1")).status == 200

    assert seen.targets == [b"/", b"/?a=1"]


def test_a_fragment_is_not_sent(stack: Stack) -> None:
    """A fragment stays here, as every client keeps it."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + "/fixed?a=1#part")) as port:
        assert ask(port, get()).status == 200

    assert seen.targets == [b"/fixed?a=1"]


@pytest.mark.parametrize("family", ["httpx", SECOND_FAMILY])
def test_url_objects_of_either_family(stack: Stack, family: str) -> None:
    """A URL object is taken from either family, whatever the family of the client."""
    url_class = pytest.importorskip(family).URL
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(url_class(upstream.url + "/a%2Fb?c=d%20e"))) as port:
        assert ask(port, get()).status == 200

    assert seen.targets == [b"/a%2Fb?c=d%20e"]


def test_a_path_is_joined_to_the_clients_base_url(stack: Stack) -> None:
    """A URL that is only a path goes to the client's ``base_url``, below its path."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        settings = stack.settings(base_url=upstream.url + "/base/")

        async def respond(request: Request) -> StreamingProxyResponse:
            return StreamingProxyResponse(request, target_of(request))

        with stack.routing(respond, settings) as port:
            for path in (b"/a%2Fb", b"/x?y=%zz", b"/"):
                assert ask(port, get(path)).status == 200
        host = f"127.0.0.1:{upstream.port}".encode()

    assert seen.targets == [b"/base/a%2Fb", b"/base/x?y=%zz", b"/base/"]
    assert seen.values(b"host") == [host]


@pytest.mark.parametrize("path", ["/%2e%2e/secret", "/../secret", "//evil.example/x", "/a/../../secret"])
def test_a_path_does_not_leave_the_base_url(stack: Stack, path: str) -> None:
    """No path leads above the ``base_url`` nor to another host."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream:
        settings = stack.settings(base_url=upstream.url + "/base")
        with stack.routing(_proxy_to(path), settings) as port:
            answer = ask(port, get())

    assert all(target.startswith(b"/base/") for target in seen.targets)
    assert answer.status in ({200, 400} if "evil" in path else {400})


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/a/../b",
        "/a/..",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2e",
        "/.%2e/x",
        "/%2e./x",
        "/a/..%2fsecret",
        "/a%2f..%2fsecret",
        "/%2e%2e%2fsecret",
        "/..\\secret",
        "/a%5c..%5csecret",
        "/a/..?q=1",
    ],
)
def test_a_climbing_path_is_refused(path: str) -> None:
    """A ``..`` segment, however it is spelled, is answered with 400, and the upstream hears nothing."""
    stack = UVICORN[0]
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + path)) as port:
        answer = ask(port, get())
        accepted = upstream.accepted

    assert answer.status == 400
    assert (accepted, seen.heads) == (0, [])


@pytest.mark.parametrize("path", ["/a%00b", "/%", "/a%2", "/a%zzb", "/%0g"])
def test_c14_a_path_that_is_none_is_refused(path: str) -> None:
    """A NUL, or a percent sign that escapes nothing, is answered with 400, and the upstream hears nothing."""
    stack = UVICORN[0]
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + path)) as port:
        answer = ask(port, get())
        accepted = upstream.accepted

    assert answer.status == 400
    assert (accepted, seen.heads) == (0, [])


def test_a_climbing_path_of_the_client_is_refused(every_stack: Stack) -> None:
    """A ``..`` segment that the client sent is answered with 400, and the upstream hears nothing."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, every_stack.proxying(upstream.url + "/base") as port:
        for path in (b"/../secret", b"/%2e%2e/secret", b"/a/%2E%2E/%2e%2e/secret"):
            assert ask(port, get(path)).status == 400, path

    assert seen.heads == []


@pytest.mark.parametrize("user", ["user:secret", "user", "a%40b:c", ":"])
def test_user_information_is_refused(stack: Stack, user: str, caplog: pytest.LogCaptureFixture) -> None:
    """A URL with user information is answered with 400, and chooses no host; the log does not tell the password."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(f"http://{user}@127.0.0.1:{upstream.port}/")) as port:
        answer = ask(port, get())
        accepted = upstream.accepted

    assert answer.status == 400
    assert b"secret" not in answer.head + answer.body
    assert "secret" not in caplog.text
    assert accepted == 0


def test_a_joined_authority_is_refused(stack: Stack) -> None:
    """A client that sends a target without a slash does not choose the upstream (``http://upstream`` + ``@evil/``)."""
    trusted, evil = RecordingUpstream(), RecordingUpstream()
    with (
        scripted(trusted) as upstream,
        scripted(evil) as other,
        stack.proxying(f"http://127.0.0.1:{upstream.port}") as port,
    ):
        ask(port, get(f"@127.0.0.1:{other.port}/secret".encode()))

    assert evil.heads == []


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "ws://127.0.0.1/x", "file:///etc/passwd", "//127.0.0.1/x", "", "http:///x", "/path"]
)
def test_a_url_that_no_request_can_be_sent_to(url: str) -> None:
    """Another scheme, no host, or a path without a ``base_url`` is a ValueError that says what is wrong."""
    stack = UVICORN[0]
    probe = AppProbe(app_of(_proxy_to(url), stack.settings()))
    with stack.serve(probe) as port:
        assert ask(port, get()).status == 500

    assert [type(failure) for failure in probe.failures] == [ValueError]
    assert "http://" in str(probe.failures[0])
    assert "base_url" in str(probe.failures[0]) or url == "http:///x"


def test_a_url_with_a_line_break_sends_nothing(stack: Stack) -> None:
    """CR and LF in a URL never reach the wire as they are."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.routing(_proxy_to(upstream.url + "/a\r\nX-Smuggled: 1")) as port:
        answer = ask(port, get())

    assert answer.status >= 400 or b"x-smuggled" not in seen.names()


def test_method_is_taken_from_the_route(stack: Stack) -> None:
    """``method=`` is sent in the place of the request's."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, method="PURGE") as port:
        assert ask(port, get()).status == 200

    assert seen.methods == [b"PURGE"]


def test_every_method_is_passed_on(stack: Stack) -> None:
    """Without ``method=`` the request's is sent."""
    seen = RecordingUpstream()
    methods = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]
    with scripted(seen) as upstream, stack.proxying(upstream.url) as port:
        for method in methods:
            if method != b"HEAD":
                assert ask(port, get(method=method)).status == 200

    assert seen.methods == [method for method in methods if method != b"HEAD"]


def test_a_head_may_be_asked_for_a_get(stack: Stack) -> None:
    """``method="HEAD"`` for a GET gives the client a complete answer without a body."""
    seen = RecordingUpstream(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Here: 1\r\n\r\n")
    with scripted(seen) as upstream, stack.proxying(upstream.url, method="HEAD") as port:
        answer = ask(port, get())

    assert seen.methods == [b"HEAD"]
    assert (answer.status, answer.body, answer.values(b"x-here")) == (200, b"", [b"1"])
    assert answer.complete


def test_a_get_may_be_asked_for_a_head(stack: Stack) -> None:
    """``method="GET"`` for a HEAD gives the client the head and no byte of the body."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, stack.proxying(upstream.url, method="GET") as port:
        answer = ask(port, get(b"/", b"Connection: close", method=b"HEAD"))

    assert seen.methods == [b"GET"]
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("url", ["http://", "http://[::1/", "http://host:99999/"])
def test_a_url_without_a_host(url: str) -> None:
    """A URL that names no host is the route's own fault, and told to it."""
    with pytest.raises(ValueError, match=r"host|port"):
        parse_target(url)
