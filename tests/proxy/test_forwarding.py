"""What an upstream is told about the client: by whom, in which form, and whose word is kept."""

from typing import Any

import pytest

from fastapi_httpx_pool.messages import Header
from fastapi_httpx_pool.proxy._forwarding import Forwarding
from fastapi_httpx_pool.proxy._policy import ProxyPolicy

SPOOFED: list[Header] = [
    (b"host", b"front.example"),
    (b"x-forwarded-for", b"1.1.1.1"),
    (b"x-forwarded-host", b"evil.example"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-prefix", b"/evil"),
    (b"x-forwarded-port", b"666"),
    (b"x-real-ip", b"1.1.1.1"),
    (b"forwarded", b"for=1.1.1.1;host=evil.example"),
]


def lines(inbound: list[Header] | None = None, *, policy: dict[str, Any] | None = None, **options: Any) -> list[Header]:
    """Return the lines for a request that came to ``http://front.example`` from 192.0.2.1."""
    asked = {"peer": "192.0.2.1", "scheme": "http", "host": b"front.example", "prefix": "", **options}
    return Forwarding(ProxyPolicy(**(policy or {}))).lines(inbound or [], **asked)


def trusting(*networks: str, **policy: Any) -> dict[str, Any]:
    """Return a policy that believes these networks."""
    return {"forwarded": "append", "trusted_proxies": networks or ("192.0.2.0/24",), **policy}


OURS: list[Header] = [
    (b"x-forwarded-for", b"192.0.2.1"),
    (b"x-forwarded-host", b"front.example"),
    (b"x-forwarded-proto", b"http"),
]


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"forwarded": "append"},
        trusting("10.0.0.0/8", "2001:db8::/32", "unix"),
        {"forwarded": "set", "trusted_proxies": ["192.0.2.0/24"]},
    ],
)
def test_ours_take_the_place_of_what_an_untrusted_client_says(policy: dict[str, Any]) -> None:
    """Every claim about forwarding is dropped, and only what we see ourselves is said."""
    dropped = Forwarding(ProxyPolicy(**policy)).dropped

    assert {name for name, _ in SPOOFED} - dropped == {b"host"}
    assert lines(SPOOFED, policy=policy) == OURS


def test_off_adds_and_drops_nothing() -> None:
    """With ``off`` whatever the client says passes."""
    assert Forwarding(ProxyPolicy(forwarded="off")).dropped == frozenset()
    assert lines(SPOOFED, policy={"forwarded": "off"}, prefix="/p") == []


@pytest.mark.parametrize(
    ("peer", "address", "node"),
    [
        ("192.0.2.1", b"192.0.2.1", b"192.0.2.1"),
        ("::ffff:192.0.2.1", b"192.0.2.1", b"192.0.2.1"),
        ("::FFFF:C000:201", b"192.0.2.1", b"192.0.2.1"),
        ("2001:DB8:0::1", b"2001:db8::1", b'"[2001:db8::1]"'),
        ("fe80::1%eth0", b"fe80::1", b'"[fe80::1]"'),
        ("::1", b"::1", b'"[::1]"'),
    ],
)
def test_an_address_is_written_in_one_way(peer: str, address: bytes, node: bytes) -> None:
    """IPv4 in IPv6 clothes becomes IPv4, zones go, and Forwarded has IPv6 in brackets and quotes."""
    told = dict(lines(peer=peer, policy={"forwarded_style": "both"}))

    assert told[b"x-forwarded-for"] == address
    assert told[b"forwarded"] == b"for=%b;host=front.example;proto=http" % node


@pytest.mark.parametrize("peer", [None, "", "testclient", "/run/app.sock", "unix:", "1.2.3.4:5", "%eth0"])
def test_a_peer_without_an_address_is_unknown(peer: str | None) -> None:
    """Nothing is made up for a socket without an address, nor for something that is none."""
    told = dict(lines(SPOOFED, peer=peer, policy={"forwarded_style": "both"}))

    assert b"x-forwarded-for" not in told
    assert told[b"x-forwarded-host"] == b"front.example"
    assert told[b"forwarded"] == b"for=unknown;host=front.example;proto=http"


@pytest.mark.parametrize(
    ("host", "written"),
    [
        (b"front.example", b";host=front.example"),
        (b"front.example:8000", b';host="front.example:8000"'),
        (b"[::1]:2", b';host="[::1]:2"'),
        (b'a";for=evil;x="\\', b';host="a\\";for=evil;x=\\"\\\\"'),
        (b"", b""),
        (None, b""),
    ],
)
def test_forwarded_quotes_what_is_no_token(host: bytes | None, written: bytes) -> None:
    """A host with a port, or with anything else that would end the value, stands in quotes."""
    told = lines(host=host, policy={"forwarded_style": "forwarded"})

    assert told == [(b"forwarded", b"for=192.0.2.1" + written + b";proto=http")]


def test_no_host_makes_no_line() -> None:
    """Where the client said no host, there is no X-Forwarded-Host."""
    assert lines(host=None) == lines(host=b"") == [OURS[0], OURS[2]]


@pytest.mark.parametrize(
    ("scheme", "proto"), [("http", b"http"), ("https", b"https"), ("ws", b"http"), ("wss", b"https"), ("odd", b"http")]
)
def test_the_scheme_is_one_of_two(scheme: str, proto: bytes) -> None:
    """WebSockets come over one of the two, and nothing else is passed on."""
    assert dict(lines(scheme=scheme))[b"x-forwarded-proto"] == proto


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", None),
        ("/", None),
        ("/p", b"/p"),
        ("/p/", b"/p"),
        ("/a/b:c@d", b"/a/b:c@d"),
        ("/é", b"/%C3%A9"),
        ("/a,b c%", b"/a%2Cb%20c%25"),
        ("/a\r\nx-evil: 1", b"/a%0D%0Ax-evil:%201"),
        ("/\udce9", b"/%E9"),
    ],
)
def test_the_prefix_is_escaped(prefix: str, path: bytes | None) -> None:
    """A mount prefix, which ASGI gives decoded, becomes a path again; none makes no line."""
    assert dict(lines(prefix=prefix)).get(b"x-forwarded-prefix") == path


def test_addresses_are_added_to_a_trusted_proxys_list() -> None:
    """Several lines, with empty members, become one list with the peer at its end."""
    said = [(b"X-Forwarded-For", b"1.1.1.1, 2.2.2.2"), (b"x-forwarded-for", b" , "), (b"x-forwarded-for", b"::3,")]

    assert lines(said, policy=trusting()) == [
        (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2, ::3, 192.0.2.1"),
        *OURS[1:],
    ]


def test_a_trusted_proxys_last_word_on_host_and_scheme_is_kept() -> None:
    """What the proxy itself added comes last, in the last line or at the end of a list."""
    said = [
        (b"x-forwarded-host", b"evil.example"),
        (b"x-forwarded-host", b"public.example"),
        (b"x-forwarded-proto", b"http , https, "),
    ]

    told = dict(lines(said, policy=trusting()))
    assert told[b"x-forwarded-host"] == b"public.example"
    assert told[b"x-forwarded-proto"] == b"https"
    assert told[b"x-forwarded-for"] == b"192.0.2.1"


def test_a_trusted_proxys_other_lines_are_kept() -> None:
    """There is nothing to add to a port or to X-Real-IP, so they stay as they are."""
    said = [(b"x-forwarded-port", b"443"), (b"x-real-ip", b"1.1.1.1"), (b"x-other", b"1")]

    assert lines(said, policy=trusting()) == [*said[:2], *OURS]


@pytest.mark.parametrize(
    ("said", "prefix", "path"),
    [(b"/a", "/p", b"/a/p"), (b"/a/", "/p", b"/a/p"), (b"/a", "", b"/a"), (b"/", "/p", b"/p"), (b"/", "", None)],
)
def test_a_trusted_proxys_prefix_comes_before_ours(said: bytes, prefix: str, path: bytes | None) -> None:
    """Together they are what stands before the path in the public URL."""
    told = dict(lines([(b"x-forwarded-prefix", said)], policy=trusting(), prefix=prefix))

    assert told.get(b"x-forwarded-prefix") == path


def test_a_trusted_proxys_forwarded_is_added_to() -> None:
    """Several lines become one list with our element at its end."""
    said = [(b"forwarded", b'for="[::7]";proto=https'), (b"Forwarded", b"for=_hidden")]

    assert lines(said, policy=trusting(forwarded_style="forwarded")) == [
        (b"forwarded", b'for="[::7]";proto=https, for=_hidden, for=192.0.2.1;host=front.example;proto=http')
    ]


def test_a_list_of_the_other_style_is_added_to_as_well() -> None:
    """What a trusted proxy has begun is never passed on without its last link."""
    element = b"for=192.0.2.1;host=front.example;proto=http"

    by_x = lines([(b"forwarded", b"for=1.1.1.1")], policy=trusting())
    assert by_x == [*OURS, (b"forwarded", b"for=1.1.1.1, " + element)]

    by_forwarded = lines([(b"x-forwarded-for", b"1.1.1.1")], policy=trusting(forwarded_style="forwarded"))
    assert by_forwarded == [(b"x-forwarded-for", b"1.1.1.1, 192.0.2.1"), *OURS[1:], (b"forwarded", element)]


def test_a_trusted_peer_that_says_nothing_is_the_client() -> None:
    """Without any claims, ours are the same as for anybody."""
    assert lines([(b"host", b"front.example")], policy=trusting()) == OURS


@pytest.mark.parametrize(
    ("network", "peer", "trusted"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.0/120", "192.0.2.9", True),
        ("::ffff:192.0.2.0/120", "192.0.3.9", False),
        ("::/0", "192.0.2.1", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("unix", None, True),
        ("unix", "", True),
        # Whoever can write addresses into the scope must not pass for a socket of ours.
        ("unix", "testclient", False),
        ("0.0.0.0/0", None, False),
    ],
)
def test_trust_goes_by_the_address_of_the_peer(network: str, peer: str | None, trusted: bool) -> None:
    """Networks hold what they say, and sockets without an address are trusted by name."""
    told = dict(lines(SPOOFED, peer=peer, policy=trusting(network)))

    assert (told[b"x-forwarded-host"] == b"evil.example") is trusted
    assert (b"1.1.1.1" in told.get(b"x-forwarded-for", b"")) is trusted


def test_to_a_trusted_unix_peer_nothing_is_added() -> None:
    """It has no address that could be added; what it says stays, and what it does not say is ours."""
    said = [(b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"for=1.1.1.1")]

    assert lines(said, peer=None, policy=trusting("unix", forwarded_style="both")) == [
        (b"x-forwarded-for", b"1.1.1.1"),
        *OURS[1:],
        (b"forwarded", b"for=1.1.1.1"),
    ]
    assert lines(said[:1], peer=None, policy=trusting("unix", forwarded_style="both"))[-1] == (
        b"forwarded",
        b"for=unknown;host=front.example;proto=http",
    )


@pytest.mark.parametrize(
    ("said", "host", "trusted", "expected"),
    [
        ([], b"front.example:81", True, (b"http://front.example:81", b"")),
        ([], None, True, (None, b"")),
        (SPOOFED, b"front.example", False, (b"http://front.example", b"")),
        (SPOOFED, b"front.example", True, (b"https://evil.example", b"/evil")),
        ([(b"x-forwarded-proto", b"HTTPS")], b"front.example", True, (b"https://front.example", b"")),
        ([(b"x-forwarded-proto", b"gopher")], b"front.example", True, (b"http://front.example", b"")),
        ([(b"x-forwarded-host", b"a, b"), (b"x-forwarded-prefix", b"/a/")], None, True, (b"http://b", b"/a")),
    ],
)
def test_the_public_side_is_what_the_client_sees(
    said: list[Header], host: bytes | None, trusted: bool, expected: tuple[bytes | None, bytes]
) -> None:
    """A trusted proxy knows under which origin and prefix; anybody else's word about it counts for nothing."""
    forwarding = Forwarding(ProxyPolicy(**(trusting() if trusted else {})))

    assert forwarding.public_side(said, peer="192.0.2.1", scheme="http", host=host) == expected
