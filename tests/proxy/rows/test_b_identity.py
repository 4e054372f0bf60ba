"""Rows B1 to B14: what upstreams are told about the client, whom they are told it is for, and where a request ends."""

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from fastapi_httpx_pool import ProxyPolicy, ProxyRequest, ReverseProxy, create_lifespan
from tests.support.answers import Answer, ask, get, read_answer
from tests.support.proxies import DOORS, EVERY_SERVER, UVICORN, proxied, serving_by, settings_of
from tests.support.raw_client import raw_client
from tests.support.recording import AppProbe, RecordingUpstream
from tests.support.server import serving
from tests.support.stack import app_of
from tests.support.upstream import LIMIT, Connection, answering, ok, scripted

uvicorns = pytest.mark.parametrize("server", UVICORN)
every_server = pytest.mark.parametrize("server", EVERY_SERVER)
every_door = pytest.mark.parametrize("door", DOORS)

SPOOFED = (
    b"X-Forwarded-For: 1.1.1.1",
    b"x-forwarded-for: 2.2.2.2",
    b"X-Forwarded-Host: evil.example",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Prefix: /evil",
    b"X-Forwarded-Port: 666",
    b"X-Real-IP: 1.1.1.1",
    b"Forwarded: for=1.1.1.1;host=evil.example;proto=https",
)
NAMES_ABOUT_THE_CLIENT = tuple(sorted({line.partition(b":")[0].lower() for line in SPOOFED}))
OURS = {
    b"x-forwarded-for": [b"127.0.0.1"],
    b"x-forwarded-host": [b"front.example"],
    b"x-forwarded-proto": [b"http"],
}
TRUSTING = {"forwarded": "append", "trusted_proxies": ["127.0.0.0/8"]}


def path_of(door: str) -> bytes:
    """Return the path to ask for at a door."""
    return b"/" if door == "alone" else b"/p/"


def passed(*requests: bytes, server: str = "httptools", **options: Any) -> RecordingUpstream:
    """Return what an upstream is sent for requests, all of which must be answered well."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, **options) as port:
        for request in requests:
            assert ask(port, request).status == 200, request
    return seen


def stopped(request: bytes, server: str = "httptools", **options: Any) -> Answer:
    """Return the answer to a request of which the upstream must see nothing."""
    with scripted(answering(ok())) as upstream:
        with proxied(upstream.url, server, **options) as port:
            answer = ask(port, request)
        assert upstream.accepted == 0
    return answer


def said(seen: RecordingUpstream, index: int = 0) -> dict[bytes, list[bytes]]:
    """Return all that an upstream was told about the client."""
    values = {name: seen.values(name, index) for name in NAMES_ABOUT_THE_CLIENT}
    return {name: lines for name, lines in values.items() if lines}


def coming_from(**changes: Any) -> Callable[[Any], Any]:
    """Return what lets an app see its requests otherwise than the server does."""

    def around(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, **changes} if scope["type"] == "http" else scope, receive, send)

        return changed

    return around


@every_door
@uvicorns
def test_b1_what_a_client_says_is_replaced(server: str, door: str) -> None:
    """Ours are the only lines about the client that arrive, wherever the proxy stands."""
    seen = passed(get(path_of(door), *SPOOFED), server=server, door=door)

    assert said(seen) == OURS | ({} if door == "alone" else {b"x-forwarded-prefix": [b"/p"]})


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_b1_every_server_tells_us_the_peer(server: str) -> None:
    """The address is that of the socket under other servers, too."""
    assert said(passed(get(b"/", *SPOOFED), server=server)) == OURS


def test_b1_a_client_cannot_strip_ours() -> None:
    """Naming them in Connection takes away the client's own at most."""
    seen = passed(get(b"/", b"Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Via", *SPOOFED))

    assert said(seen) == OURS
    assert len(seen.values(b"via")) == 1


@uvicorns
def test_b2_a_trusted_proxys_word_is_kept(server: str) -> None:
    """Addresses are added to; the last scheme and host that it says stay, and so do lines that only it can know."""
    request = get(
        b"/",
        b"X-Forwarded-For: 1.1.1.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example, public.example",
        b"X-Forwarded-Port: 443",
    )

    assert said(passed(request, server=server, **TRUSTING)) == {
        b"x-forwarded-for": [b"1.1.1.1, 127.0.0.1"],
        b"x-forwarded-host": [b"public.example"],
        b"x-forwarded-port": [b"443"],
        b"x-forwarded-proto": [b"https"],
    }


@pytest.mark.parametrize("policy", [{}, {"trusted_proxies": ["127.0.0.2", "10.0.0.0/8", "unix"]}])
def test_b2_trust_is_for_all_lines_or_for_none(policy: dict[str, Any]) -> None:
    """Of a peer that is not in a trusted network neither addresses nor scheme nor host are believed."""
    assert said(passed(get(b"/", *SPOOFED), forwarded="append", **policy)) == OURS


@uvicorns
def test_b3_several_lines_become_one_list(server: str) -> None:
    """In their order, and without empty members."""
    lines = (b"X-Forwarded-For: 1.1.1.1, 2.2.2.2", b"x-forwarded-for: , ", b"X-FORWARDED-FOR: 3.3.3.3")

    seen = passed(get(b"/", *lines), server=server, **TRUSTING)

    assert seen.values(b"x-forwarded-for") == [b"1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1"]


@pytest.mark.parametrize(
    ("peer", "address", "node"),
    [
        ("::ffff:127.0.0.1", b"127.0.0.1", b"127.0.0.1"),
        ("fe80::1%eth0", b"fe80::1", b'"[fe80::1]"'),
        ("2001:DB8::1", b"2001:db8::1", b'"[2001:db8::1]"'),
    ],
)
def test_b4_addresses_are_written_in_one_way(peer: str, address: bytes, node: bytes) -> None:
    """IPv4 is IPv4, zones go, and Forwarded quotes what has a colon."""
    request = get().replace(b"front.example", b"front.example:81")

    seen = passed(request, around=coming_from(client=(peer, 2)), forwarded_style="both")

    assert seen.values(b"x-forwarded-for") == [address]
    assert seen.values(b"forwarded") == [b'for=%b;host="front.example:81";proto=http' % node]


@uvicorns
def test_b4_forwarded_takes_the_place_of_the_others(server: str) -> None:
    """With that style it is the only line; a trusted proxy's list is added to."""
    style = {"forwarded_style": "forwarded"}
    ours = b"for=127.0.0.1;host=front.example;proto=http"

    assert said(passed(get(b"/", *SPOOFED), server=server, **style)) == {b"forwarded": [ours]}
    assert said(passed(get(b"/", b"Forwarded: for=_x"), server=server, **style, **TRUSTING)) == {
        b"forwarded": [b"for=_x, " + ours]
    }


@pytest.mark.parametrize("client", [None, ("testclient", 50000)])
def test_b5_without_an_address_nothing_is_made_up(client: Any) -> None:
    """What the client says is removed as ever."""
    expected = {name: values for name, values in OURS.items() if name != b"x-forwarded-for"}

    assert said(passed(get(b"/", *SPOOFED), around=coming_from(client=client))) == expected


@pytest.mark.parametrize("trusted", [True, False])
def test_b5_a_unix_socket_may_be_trusted(tmp_path: Path, trusted: bool) -> None:
    """Then what the proxy at its other end says is kept, and no address is added."""
    path = str(tmp_path / "socket")
    policy = ProxyPolicy(forwarded="append", trusted_proxies=["unix"] if trusted else ["0.0.0.0/0", "::/0"])
    seen = RecordingUpstream()

    with scripted(seen) as upstream, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        proxy = ReverseProxy(upstream.url, settings=settings_of(), policy=policy)
        with serving(proxy, fd=listener.fileno(), proxy_headers=False), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(path)
            client.sendall(get(b"/", *SPOOFED))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")

    kept = {b"x-forwarded-for": [b"1.1.1.1, 2.2.2.2"], b"x-forwarded-proto": [b"https"]}
    own = {b"x-forwarded-proto": [b"http"]}
    told = {name: values for name, values in said(seen).items() if name in (b"x-forwarded-for", b"x-forwarded-proto")}
    assert told == (kept if trusted else own)


@every_server
@pytest.mark.parametrize("door", ["mounted", "route"])
def test_b6_the_prefix_is_told(server: str, door: str) -> None:
    """Where we are mounted, or what a route takes away, is what stands before the path in the public URL."""
    seen = passed(get(b"/p/x"), server=server, door=door)

    assert seen.values(b"x-forwarded-prefix") == [b"/p"]
    assert seen.targets == [b"/x"]


@uvicorns
def test_b6_prefixes_add_up(server: str) -> None:
    """Those of mounts in mounts, and the one that a trusted proxy has taken away before."""
    seen = RecordingUpstream()
    outer, inner = FastAPI(lifespan=create_lifespan(settings_of())), FastAPI()
    outer.mount("/outer", inner)
    with scripted(seen) as upstream:
        inner.mount("/é p", ReverseProxy(upstream.url, policy=ProxyPolicy(**TRUSTING)))  # type: ignore[arg-type]
        with serving_by(server, outer) as port:
            for lines in ((), (b"X-Forwarded-Prefix: /public/",)):
                assert ask(port, get(b"/outer/%C3%A9%20p/x", *lines)).status == 200

    assert [seen.values(b"x-forwarded-prefix", index) for index in (0, 1)] == [
        [b"/outer/%C3%A9%20p"],
        [b"/public/outer/%C3%A9%20p"],
    ]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-host", "X-FORWARDED-PROTO", "X-Forwarded-Prefix"])
def test_b7_each_line_can_be_left_out(name: str) -> None:
    """The policy's None is for ours as well as for the client's."""
    seen = passed(get(b"/p/", *SPOOFED), door="mounted", request_headers={name: None})

    assert set(said(seen)) == {*OURS, b"x-forwarded-prefix"} - {name.lower().encode()}


def test_b7_each_line_can_be_set() -> None:
    """The policy's own value stands in the place of ours."""
    seen = passed(get(b"/", *SPOOFED), request_headers={"X-Forwarded-Host": "public.example", "X-Real-IP": "0.0.0.0"})

    assert said(seen) == OURS | {b"x-forwarded-host": [b"public.example"], b"x-real-ip": [b"0.0.0.0"]}


@uvicorns
def test_b7_all_can_be_left_to_the_client(server: str) -> None:
    """With ``off`` nothing is added, and nothing removed."""
    seen = passed(get(b"/", *SPOOFED), server=server, forwarded="off")

    assert sorted(value for values in said(seen).values() for value in values) == sorted(
        line.partition(b": ")[2] for line in SPOOFED
    )


@every_server
@pytest.mark.parametrize("preserve_host", [False, True])
def test_b8_there_is_one_host(server: str, preserve_host: bool) -> None:
    """The upstream's own; or the client's, if the policy says so."""
    seen = RecordingUpstream()
    with scripted(seen) as upstream, proxied(upstream.url, server, preserve_host=preserve_host) as port:
        assert ask(port, get()).status == 200
        own = upstream.url.removeprefix("http://").encode()

    assert seen.values(b"host") == [b"front.example" if preserve_host else own]


@pytest.mark.parametrize(
    ("upstream", "host"),
    [
        ("http://api.example", "api.example"),
        ("http://api.example:80", "api.example"),
        ("https://api.example:443/", "api.example"),
        ("http://api.example:443", "api.example:443"),
        ("https://api.example:8443/base", "api.example:8443"),
        ("http://[::1]", "[::1]"),
        ("http://[::1]:80", "[::1]"),
        ("http://[2001:DB8::1]:8000", "[2001:db8::1]:8000"),
    ],
)
def test_b8_the_host_has_no_default_port(upstream: str, host: str) -> None:
    """IPv6 addresses stand in brackets."""

    def show(request: ProxyRequest) -> Response:
        return PlainTextResponse(",".join(request.headers.getlist("host")))

    with proxied(upstream, on_request=show) as port:
        assert ask(port, get()).body.decode().lower() == host


@every_server
@pytest.mark.parametrize(
    "lines",
    [(), (b"Host: a", b"Host: b"), (b"Host: a", b"host: a")],
    ids=["none", "two", "twice"],
)
def test_b9_a_request_has_one_host(server: str, lines: tuple[bytes, ...]) -> None:
    """Without one, or with several, it is refused, by the server or by us."""
    answer = stopped(b"\r\n".join((b"GET / HTTP/1.1", *lines, b"", b"")), server)

    assert answer.status == 400


@every_server
def test_b9_a_host_is_one(server: str) -> None:
    """What is no host with a port or without is refused, too."""
    hosts = (b"", b"a b", b"a/b", b"user@a", b"http://a", b"a:b", b"[::1", b"caf\xc3\xa9")
    with scripted(answering(ok())) as upstream:
        with proxied(upstream.url, server) as port:
            statuses = {host: ask(port, get().replace(b"front.example", host)).status for host in hosts}
        assert upstream.accepted == 0

    assert set(statuses.values()) == {400}, statuses


@uvicorns
def test_b9_old_clients_have_one_host_at_most(server: str) -> None:
    """Two are as bad in HTTP/1.0."""
    assert stopped(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", server).status == 400


@every_server
@pytest.mark.parametrize("host", [b"a b", b"a/b", b"user@a", b"a:b"])
def test_b9_the_host_of_an_old_client_is_one(server: str, host: bytes) -> None:
    """It may be left out in HTTP/1.0, but what is none must not become ours (RFC 9112, section 3.2)."""
    assert stopped(b"GET / HTTP/1.0\r\nHost: " + host + b"\r\n\r\n", server).status == 400


@every_server
def test_b9_old_clients_need_no_host(server: str) -> None:
    """HTTP/1.0 does not know it, and we make none up."""
    seen = passed(b"GET / HTTP/1.0\r\n\r\n", server=server)

    assert seen.values(b"x-forwarded-host") == []
    assert len(seen.values(b"host")) == 1


KNOWS_AUTHORITY = ("h11", "hypercorn")
"""Servers that show the whole of a target in absolute-form; the others only its path."""


@every_server
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://public.example:81/x/%2F?y=/..", b"/x/%2F?y=/.."),
        (b"HTTPS://public.example:81", b""),
        (b"http://user:secret@public.example:81/", b"/"),
    ],
)
def test_b10_an_absolute_target_does_not_choose_the_upstream(server: str, target: bytes, path: bytes) -> None:
    """Its path goes to ours, and its host counts in the place of Host."""
    if server == "httptools" and not path:
        pytest.skip("uvicorn's httptools refuses an absolute target without a path")
    seen = passed(get(target), server=server)

    assert seen.targets == [path or b"/"]
    host = b"public.example:81" if server in KNOWS_AUTHORITY else b"front.example"
    assert said(seen) == OURS | {b"x-forwarded-host": [host]}
    assert b"secret" not in seen.heads[0]


def test_b10_its_host_is_the_one_that_is_preserved() -> None:
    """Where ``Host`` goes upstream, the target's takes its place."""
    seen = passed(get(b"http://public.example/"), server="h11", preserve_host=True)

    assert seen.values(b"host") == [b"public.example"]


@every_door
@uvicorns
def test_b11_we_name_ourselves_behind_others(server: str, door: str) -> None:
    """Via has all members of before, in their order, and then ours."""
    lines = (b"Via: 1.0 fred, 1.1 p.example (Apache/1.1)", b"via: 2 last")

    seen = passed(get(path_of(door), *lines), server=server, door=door, via="edge")

    assert b", ".join(seen.values(b"via")) == b"1.0 fred, 1.1 p.example (Apache/1.1), 2 last, 1.1 edge"


@uvicorns
def test_b11_the_version_is_that_of_the_client(server: str) -> None:
    """A member says in which version the message was received; the name is made of ours and a few digits."""
    seen = passed(b"GET / HTTP/1.0\r\n\r\n", get(), server=server)

    first, second = (seen.values(b"via", index)[0] for index in (0, 1))
    assert re.fullmatch(rb"1\.0 proxy-[0-9a-f]{8}", first)
    assert second == b"1.1" + first[3:]


def test_b11_answers_name_us_if_that_is_wished() -> None:
    """By default they pass as they are."""
    response = ok(b"ok", b"Via: 1.1 origin")
    with scripted(answering(response)) as upstream:
        with proxied(upstream.url) as port:
            assert ask(port, get()).values(b"via") == [b"1.1 origin"]
        with proxied(upstream.url, via="edge", via_in_responses=True) as port:
            assert ask(port, get()).values(b"via") == [b"1.1 origin", b"1.1 edge"]


def test_b11_we_need_not_name_ourselves() -> None:
    """Without a name, Via passes as it came, and is not begun."""
    seen = passed(get(b"/", b"Via: 1.1 a"), get(), via=None, via_in_responses=True)

    assert [seen.values(b"via", index) for index in (0, 1)] == [[b"1.1 a"], []]


@every_door
@uvicorns
def test_b12_a_loop_ends(server: str, door: str) -> None:
    """A proxy whose upstream is itself sends a request on once, and recognizes it when it comes back."""
    app: Any = FastAPI(lifespan=create_lifespan(settings_of()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if door == "alone":
            app = ReverseProxy(url, settings=settings_of())
        elif door == "mounted":
            app.mount("/p", ReverseProxy(url + "/p"))
        else:
            proxy = ReverseProxy("http://elsewhere.example")

            async def respond(request: Request) -> Response:
                return proxy.response(request, upstream=url)

            app = app_of(respond, settings_of())
        probe = AppProbe(app)
        options: Any = {"http": server, "fd": listener.fileno()}
        with serving(probe, proxy_headers=False, **options) as running:
            answer = ask(running.port, get(path_of(door)))

    assert answer.status == 508
    assert probe.statuses == [508, 508]


@every_server
def test_b12_our_own_name_is_refused(server: str) -> None:
    """Whoever else it came through since, and in whatever case it is written."""
    answer = stopped(get(b"/", b"Via: 1.1 a, 1.1 EDGE (here), 1.1 b"), server, via="edge")

    assert answer.status == 508
    assert answer.values(b"proxy-status") == [b"edge; error=proxy_loop_detected"]


def test_b12_names_that_resemble_ours_pass() -> None:
    """They are other proxies."""
    passed(get(b"/", b"Via: 1.1 edge2, 1.1 edge.example, 1.1 a (edge)"), via="edge")


def test_b12_too_many_hops_are_refused() -> None:
    """A loop of others ends here; as many as may be are none."""
    lines = (b"Via: 1.1 a, 1.1 b", b"Via: 1.1 c")

    passed(get(b"/", *lines), max_hops=3)
    assert stopped(get(b"/", *lines), max_hops=2).status == 508
    assert stopped(get(b"/", *lines), max_hops=2, via=None).status == 508


@every_server
def test_b13_options_that_may_go_no_further_are_answered(server: str) -> None:
    """Max-Forwards 0 is for us."""
    answer = stopped(get(b"/", b"Max-Forwards: 0", method=b"OPTIONS"), server)

    assert (answer.status, answer.body) == (200, b"")


@uvicorns
def test_b13_a_trace_that_may_go_no_further_is_answered(server: str) -> None:
    """It shows its sender what came here, but for secrets."""
    lines = (b"Max-Forwards: 0", b"X-Shown: 1", b"Cookie: secret", b"Authorization: secret")

    answer = stopped(get(b"/%2F?q=%20", *lines, method=b"TRACE"), server, allow_trace=True)

    assert answer.status == 200
    assert answer.values(b"content-type") == [b"message/http"]
    assert answer.body.startswith(b"TRACE /%2F?q=%20 HTTP/1.1\r\n")
    assert b"x-shown: 1\r\n" in answer.body.lower()
    assert b"secret" not in answer.body


@uvicorns
@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
def test_b13_max_forwards_is_counted_down(server: str, method: bytes) -> None:
    """What goes on may go one proxy less far."""
    request = get(b"/", b"Max-Forwards: 10", method=method)

    seen = passed(request, server=server, allow_trace=True)

    assert seen.values(b"max-forwards") == [b"9"]


def test_b13_other_methods_are_not_counted() -> None:
    """There Max-Forwards is a line like others."""
    assert passed(get(b"/", b"Max-Forwards: 0")).values(b"max-forwards") == [b"0"]


@pytest.mark.parametrize("value", [b"x", b"-1", b"1, 2"])
def test_b13_max_forwards_is_a_number(value: bytes) -> None:
    """Anything else is refused, for nobody can count it down."""
    assert stopped(get(b"/", b"Max-Forwards: " + value, method=b"OPTIONS")).status == 400


DATED = ok(b"ok", b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Server: origin")
OWN = {b"date": [b"Thu, 01 Jan 1970 00:00:00 GMT"], b"server": [b"origin"]}


@every_server
@every_door
def test_b14_there_is_one_date_and_one_server(server: str, door: str) -> None:
    """The upstream's; under hypercorn, which writes its own in any case, the server's."""
    with scripted(answering(DATED)) as upstream, proxied(upstream.url, server, door=door) as port:
        answer = ask(port, get(path_of(door)))

    lines = {name: answer.values(name) for name in OWN}
    if server == "hypercorn":
        assert {name: len(values) for name, values in lines.items()} == {b"date": 1, b"server": 1}
        assert lines[b"server"] == [b"hypercorn-h11"]
    else:
        assert lines == OWN


@every_server
def test_b14_an_answer_without_them_is_the_servers(server: str) -> None:
    """Servers go on to write their own where the upstream has none, in the answer after ours, too."""
    responses = iter((DATED, ok(), DATED))

    def script(connection: Connection) -> None:
        for response in responses:
            connection.read_request()
            connection.send(response)

    with scripted(script) as upstream, proxied(upstream.url, server) as port, raw_client(port) as client:
        answers = []
        for _ in range(3):
            client.send(get())
            answers.append(read_answer(client))

    assert [len(answer.values(b"date")) for answer in answers] == [1, 1, 1]
    assert answers[1].values(b"server") != [b"origin"]


@uvicorns
def test_b14_the_upstreams_win_where_the_server_is_silent(server: str) -> None:
    """uvicorn can be told not to write its own."""
    options: Any = {"http": server, "date_header": False, "server_header": False}
    with scripted(answering(DATED)) as upstream:
        proxy = ReverseProxy(upstream.url, settings=settings_of())
        with serving(proxy, **options) as running:
            answer = ask(running.port, get())

    assert {name: answer.values(name) for name in OWN} == OWN


def test_concurrent_clients_are_not_mixed_up() -> None:
    """What is said about one client is never said about another."""
    seen = RecordingUpstream()
    numbers = range(8)

    def from_whom(app: Any) -> Any:
        async def changed(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["client"] = (scope["path"].removeprefix("/"), 1)
            await app(scope, receive, send)

        return changed

    with scripted(seen) as upstream, proxied(upstream.url, around=from_whom) as port:
        threads = [threading.Thread(target=ask, args=(port, get(b"/10.0.0.%d" % number))) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)

    assert sorted(seen.targets) == [b"/10.0.0.%d" % number for number in numbers]
    for index, target in enumerate(seen.targets):
        assert seen.values(b"x-forwarded-for", index) == [target[1:]]
