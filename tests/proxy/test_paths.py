"""From the client's path to the upstream's: octets unchanged, never outside the base, and no path refused for nothing."""

import posixpath
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, given, settings, strategies as st

from fastapi_httpx_pool.proxy._paths import Base, below_mount, inbound_path, public_prefix, without_prefix
from fastapi_httpx_pool.proxy._target import TargetRefused, check_path

BOUNDED = settings(deadline=None, database=None, max_examples=300)

IN_SEGMENT = b"abcXYZ019-._~!$&'()*+,;=:@[]|^`{}\"<>"
"""What may come in a segment of a path, and some that should not but does."""


def escaped(octets: bytes, draw: st.DrawFn) -> bytes:
    """Return octets with some of them percent-encoded, in either case."""
    spelled = (draw(st.sampled_from([bytes((o,)), b"%%%02x" % o, b"%%%02X" % o])) for o in octets)
    return b"".join(spelled)


@st.composite
def harmless_segments(draw: st.DrawFn) -> bytes:
    """Draw a segment that climbs nowhere, with escapes; dots often, other segments' separators never."""
    parts = st.one_of(
        st.sampled_from(list(b"...a")).map(lambda o: bytes((o,))),
        st.sampled_from(list(IN_SEGMENT)).map(lambda o: bytes((o,))),
        st.sampled_from([b"%2E", b"%2e", b"%C3%A9", b"%e9", b"%25", b"%252e", b"%20", b"%0A", b"%41", b"%3F", b"%23"]),
    )
    segment = b"".join(draw(st.lists(parts, max_size=6)))
    assume(unquote_to_bytes(segment) != b"..")
    return segment


@st.composite
def hostile_paths(draw: st.DrawFn) -> bytes:
    """Draw a path from what climbs and what surrounds it, in all spellings."""
    pieces = st.sampled_from([b"..", b".", b"/", b"\\", b"a", b"base", b"...", b";", b"?", b"#", b"\t", b"\x00", b"%"])
    raw = draw(st.lists(pieces, max_size=8))
    return draw(st.sampled_from([b"/", b""])) + b"".join(escaped(piece, draw) for piece in raw)


BASES = ["http://u.example", "http://u.example/", "http://u.example/base", "http://u.example/base/", "http://u/a%2Fb/c"]


def as_read(path: bytes) -> bytes:
    """Return where a path leads for somebody who decodes it once, takes backslashes for slashes and climbs."""
    plain = unquote_to_bytes(path).replace(b"\\", b"/")
    return posixpath.normpath(b"/" + plain.lstrip(b"/"))


class TestTarget:
    """``Base.target``."""

    @BOUNDED
    @given(path=hostile_paths() | st.binary(max_size=30), base=st.sampled_from(BASES), strict=st.booleans())
    def test_never_outside_the_base(self, path: bytes, base: str, strict: bool) -> None:
        """What is not refused stays below the base, in its octets and as an upstream reads them."""
        parsed = Base.parse(base)
        try:
            target = parsed.target(path, b"", strict=strict)
        except TargetRefused:
            return

        stem = parsed.path.rstrip(b"/")
        assert target == parsed.path or target.startswith(stem + b"/")
        root = as_read(stem)
        assert (as_read(target) + b"/").startswith(root.rstrip(b"/") + b"/")
        assert re.fullmatch(rb"/[\x21-\x7e]*", target)
        assert not re.search(rb"[?#]", target)

    @BOUNDED
    @given(path=hostile_paths())
    def test_strict_looks_through_every_encoding(self, path: bytes) -> None:
        """What passes the strict look leads nowhere outside, however often it is decoded."""
        parsed = Base.parse("http://u.example/base")
        try:
            target = parsed.target(path, b"", strict=True)
        except TargetRefused:
            return

        for _ in range(10):
            assert (as_read(target) + b"/").startswith(b"/base/")
            target = unquote_to_bytes(target)

    @BOUNDED
    @given(
        segments=st.lists(harmless_segments(), min_size=1, max_size=5),
        base=st.sampled_from(BASES),
        query=st.sampled_from([b"", b"next=../x&%zz", b"?;&&="]),
    )
    def test_octets_are_unchanged_and_nothing_is_refused_for_nothing(
        self, segments: list[bytes], base: str, query: bytes
    ) -> None:
        """A path that climbs nowhere is forwarded octet by octet, behind the base, before the query."""
        path = b"/" + b"/".join(segments)
        parsed = Base.parse(base)

        assert parsed.target(path, query) == parsed.path.removesuffix(b"/") + path + (b"?" + query if query else b"")

    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize(
        "path",
        [
            *("/..", "/../x", "/a/../b", "/a/..", "..", "../x", "/%2e%2e/x", "/%2E.", "/.%2e/x", "/a/..%2fx"),
            *("/%2e%2e%2fx", "/..\\x", "/a\\..", "/a%5c..%5Cx", "%2F..", "%5c%2e%2e"),
        ],
    )
    def test_climbing_is_refused(self, path: str, strict: bool) -> None:
        """A ``..`` segment in every spelling that an upstream reads."""
        with pytest.raises(TargetRefused, match=r"'\.\.' segment"):
            Base.parse("http://u.example/base").target(path.encode(), b"", strict=strict)

    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize(
        "path",
        [
            *("/a/...b/c", "/x/.;/y", "/[...slug].js", "/..a/b..", "/...", "/%2e%2e%2e", "/.", "/./a/.", "/.%2ea"),
            *("/a%2Fb", "//evil.example/x", "/a%2F%2Fb", "/%C3%A9%FF", "/a%25b", "/\\x", "/%5C"),
        ],
    )
    def test_what_only_looks_like_climbing_passes(self, path: str, strict: bool) -> None:
        """Dots, backslashes and encoded slashes that lead nowhere are forwarded."""
        assert Base.parse("http://u.example/base").target(path.encode(), b"", strict=strict) == b"/base" + path.encode()

    @pytest.mark.parametrize(
        "path",
        ["/%252e%252e/x", "/a%255c%2e%252e", "/%25252e.", "/%252e." + "%255c" * 3, "/x/..;/y", "/%2e.%3bv=1/y"],
    )
    def test_what_leads_out_later_is_refused_if_strict(self, path: str) -> None:
        """A ``..`` that appears at a later decoding, or without parameters, is the upstream's matter, or refused on demand."""
        base = Base.parse("http://u.example/base")

        assert base.target(path.encode(), b"") == b"/base" + path.encode()
        with pytest.raises(TargetRefused, match=r"'\.\.' segment"):
            base.target(path.encode(), b"", strict=True)

    def test_strict_gives_up_on_what_is_encoded_too_often(self) -> None:
        """Decoding ends after some rounds, with a refusal."""
        base = Base.parse("http://u.example/base")
        deep = b"/%" + b"25" * 50 + b"41"
        still_passes = b"/%" + b"25" * 7 + b"41"

        assert base.target(still_passes, b"", strict=True) == b"/base" + still_passes
        assert base.target(deep, b"") == b"/base" + deep
        with pytest.raises(TargetRefused, match="times over"):
            base.target(deep, b"", strict=True)

    @pytest.mark.parametrize(
        "path", [b"/%00", b"/a%00b", b"/\x00", b"/%", b"/a%2", b"/%zz", b"/%g0/x", b"/%-1", b"/%%41"]
    )
    def test_what_is_no_path_is_refused(self, path: bytes) -> None:
        """A NUL, encoded or not, and a percent sign that escapes nothing."""
        with pytest.raises(TargetRefused, match="NUL"):
            Base.parse("http://u.example/base").target(path, b"")

    @pytest.mark.parametrize(
        ("path", "sent"),
        [
            (b"/caf\xc3\xa9 \x7f", b"/caf%C3%A9%20%7F"),
            (b"/a\r\nX-Smuggled: 1", b"/a%0D%0AX-Smuggled:%201"),
            (b"/a?b#c", b"/a%3Fb%23c"),
            (b"/..?x", b"/..%3Fx"),
            (b"/..#x", b"/..%23x"),
        ],
    )
    def test_what_no_path_can_have_is_encoded(self, path: bytes, sent: bytes) -> None:
        """Octets that would end the path, or the line, are encoded: each for itself, and no other."""
        assert Base.parse("http://u.example/base").target(path, b"") == b"/base" + sent

    @pytest.mark.parametrize(
        ("base", "rest", "target"),
        [
            ("", "", "/"),
            ("", "/", "/"),
            ("", "/x", "/x"),
            ("", "x", "/x"),
            ("", "//x", "//x"),
            ("", "@evil/x", "/@evil/x"),
            ("/", "", "/"),
            ("/", "/", "/"),
            ("/", "/x", "/x"),
            ("/", "//evil.example/x", "//evil.example/x"),
            ("/base", "", "/base"),
            ("/base", "/", "/base/"),
            ("/base", "/x/", "/base/x/"),
            ("/base", "//x", "/base//x"),
            ("/base", "x", "/base/x"),
            ("/base", ".evil", "/base/.evil"),
            ("/base", "%2Fx", "/base/%2Fx"),
            ("/base/", "", "/base/"),
            ("/base/", "/", "/base/"),
            ("/base/", "/x//y", "/base/x//y"),
            ("/base/", "x", "/base/x"),
            ("/base//", "/x", "/base//x"),
            ("/b%2Fc;d", "/x", "/b%2Fc;d/x"),
        ],
    )
    def test_one_slash_between(self, base: str, rest: str, target: str) -> None:
        """Base and path are joined by exactly one slash; nothing gives the base itself."""
        assert Base.parse("http://u.example" + base).target(rest.encode(), b"") == target.encode()

    @pytest.mark.parametrize(
        ("base", "query", "target"),
        [
            ("/b", b"", b"/b/x"),
            ("/b", b"us=er", b"/b/x?us=er"),
            ("/b", b"a=/../;%zz&&=?#", b"/b/x?a=/../;%zz&&=?%23"),
            ("/b", b"a=\xe9 \r\n", b"/b/x?a=%E9%20%0D%0A"),
            ("/b?sta=tic", b"", b"/b/x?sta=tic"),
            ("/b?sta=tic", b"us=er", b"/b/x?sta=tic&us=er"),
            ("/b?z;%zz", b"z;%zz", b"/b/x?z;%zz&z;%zz"),
            ("?sta=tic", b"us=er", b"/x?sta=tic&us=er"),
            ("/b?", b"", b"/b/x?"),
            ("/b?", b"us=er", b"/b/x?us=er"),
        ],
    )
    def test_queries_are_merged(self, base: str, query: bytes, target: bytes) -> None:
        """The base's query comes first, then the client's, both as they are."""
        assert Base.parse("http://u.example" + base).target(b"/x", query) == target


class TestParse:
    """``Base.parse``."""

    @pytest.mark.parametrize(
        ("url", "scheme", "host", "port", "host_line"),
        [
            ("http://u.example", b"http", b"u.example", 80, b"u.example"),
            ("HTTPS://U.Example:443/x", b"https", b"u.example", 443, b"u.example"),
            ("Wss://u.example/x", b"https", b"u.example", 443, b"u.example"),
            ("ws://u.example:8080", b"http", b"u.example", 8080, b"u.example:8080"),
            ("http://u.example:8080", b"http", b"u.example", 8080, b"u.example:8080"),
            ("https://[::1]:8443/x", b"https", b"::1", 8443, b"[::1]:8443"),
            ("http://b\u00fccher.example/", b"http", b"xn--bcher-kva.example", 80, b"xn--bcher-kva.example"),
        ],
    )
    def test_where_it_leads(self, url: str, scheme: bytes, host: bytes, port: int, host_line: bytes) -> None:
        """Scheme, host and port choose the connection; the ``Host`` line has brackets and no default port."""
        base = Base.parse(url)

        assert tuple(base.origin) == (scheme, host, port)
        assert base.host == host_line
        assert base.origin_url == f"{scheme.decode()}://{host_line.decode()}"

    @pytest.mark.parametrize("path", ["/", "/base", "/base/", "//", "/a%2Fb/%41~", "/.", "/a[b]|", "/..a"])
    @pytest.mark.parametrize("query", [None, "", "a=%zz;&&=+%20", "../x", "url=http://u:p@h/"])
    def test_octets_are_kept(self, path: str, query: str | None) -> None:
        """Path and query are what was written."""
        base = Base.parse("http://u.example" + path + ("" if query is None else "?" + query))

        assert (base.path, base.query) == (path.encode(), None if query is None else query.encode())

    def test_what_cannot_stand_in_a_request_line_is_encoded(self) -> None:
        """As in every URL: umlauts, spaces, line breaks."""
        base = Base.parse("http://u.example/caf\u00e9 x\r\n?q=\u00e9 \n")

        assert (base.path, base.query) == (b"/caf%C3%A9%20x%0D%0A", b"q=%C3%A9%20%0A")

    def test_nothing_is_a_slash(self) -> None:
        """A URL without a path has the root's."""
        assert Base.parse("http://u.example?a").path == b"/"

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("", "absolute"),
            ("/path", "absolute"),
            ("//u.example/x", "absolute"),
            ("ftp://u.example", "absolute"),
            ("wsx://u.example", "absolute"),
            (" http://u.example", "absolute"),
            ("http:u.example", "absolute"),
            ("http://", "host"),
            ("http:///x", "host"),
            ("http://[::1", "host"),
            ("http://u.example:99999/", "port"),
            ("http://u.example\\x/", "host"),
            ("http://u ser.example/", "host"),
            ("http://name:secret@u.example/", "user information"),
            ("http://name@u.example/", "user information"),
            ("http://u.example\\@evil.example/", "user information"),
            ("http://u.example/x#part", "fragment"),
            ("http://u.example/a?b#", "fragment"),
            ("http://u.example/a/../b", r"'\.\.'"),
            ("http://u.example/%2e%2e", r"'\.\.'"),
            ("http://u.example/%zz", "percent sign"),
            ("http://u.example/%00", "NUL"),
        ],
    )
    def test_what_is_no_base(self, url: str, text: str) -> None:
        """Anything else is a ValueError that says what is wrong."""
        with pytest.raises(ValueError, match=text):
            Base.parse(url)

    @pytest.mark.parametrize(
        "url",
        [
            "http://name:secret@u.example/",
            "http://secret@u.example/?secret#x",
            "ftp://name:secret@u.example/?key=secret",
            "name:secret@u.example?secret",
            "//na/me:secret@u.example",
            "http://u.example/?secret#secret",
            "http://u.example/../?secret",
            "ws://u.example#secret",
        ],
    )
    def test_errors_tell_no_secrets(self, url: str) -> None:
        """Neither user information nor queries are shown; the host is, so that one finds the line."""
        with pytest.raises(ValueError, match=r"u\.example") as caught:
            Base.parse(url)

        assert "secret" not in str(caught.value)

    def test_repr_tells_no_query(self) -> None:
        """A key in the base's query stays out of logs."""
        assert "secret" not in repr(Base.parse("http://u.example/?key=secret"))

    def test_equal_urls_are_equal_bases(self) -> None:
        """Bases can be compared, and be keys."""
        assert len({Base.parse("http://u.example/x"), Base.parse("http://u.example:80/x")}) == 1
        assert Base.parse("http://u.example/x") != Base.parse("http://u.example/x/")


class TestInboundPath:
    """``inbound_path``."""

    @pytest.mark.parametrize("path", [b"/", b"/a%2Fb", b"//x", b"/http://x", b"/\xe9", b"/.."])
    def test_a_path_is_taken_as_it_is(self, path: bytes) -> None:
        """The octets of the wire, whatever the decoded path says."""
        assert inbound_path({"path": "/other", "raw_path": path}) == (path, None)

    @pytest.mark.parametrize("missing", [{}, {"raw_path": None}, {"raw_path": b""}])
    @pytest.mark.parametrize(
        ("path", "octets"),
        [("/a/b", b"/a/b"), ("/a%2Fb", b"/a%252Fb"), ("/caf\u00e9 ?#", b"/caf%C3%A9%20%3F%23"), ("/\udce9", b"/%E9")],
    )
    def test_without_octets_the_path_is_encoded(self, missing: dict[str, Any], path: str, octets: bytes) -> None:
        """A server that gives only the decoded path has it encoded again."""
        assert inbound_path({"path": path, **missing}) == (octets, None)

    @pytest.mark.parametrize(
        ("target", "path", "authority"),
        [
            (b"http://evil.example/x%2Fy", b"/x%2Fy", b"evil.example"),
            (b"HTTPS://Evil.example:8443/", b"/", b"Evil.example:8443"),
            (b"http://evil.example", b"/", b"evil.example"),
            (b"http://[::1]:81/x", b"/x", b"[::1]:81"),
            (b"http://name:secret@evil.example/x@y", b"/x@y", b"evil.example"),
            (b"http://evil.example//x/..", b"//x/..", b"evil.example"),
        ],
    )
    def test_absolute_form(self, target: bytes, path: bytes, authority: bytes) -> None:
        """The path of a whole URL, and its authority without user information."""
        assert inbound_path({"path": "", "raw_path": target}) == (path, authority)
        assert inbound_path({"path": "", "raw_path": target})[0].startswith(b"/")

    @pytest.mark.parametrize(
        "target",
        [
            *(b"*", b"@evil.example/x", b".evil.example/x", b":9107/x", b"evil.example/x", b"\\x", b"a.example:443"),
            *(b"ftp://evil.example/x", b"http:///x", b"http://", b"http:/x", b"http://@/x", b"http://a b/x"),
            *(b"http://a@b@c/x", b"http://evil.example\\x", b"http://evil.example/x#y", b"http://a:b:c/"),
            b"http://\xe9/x",
        ],
    )
    def test_what_is_neither(self, target: bytes) -> None:
        """Everything else is refused."""
        with pytest.raises(TargetRefused, match="neither"):
            inbound_path({"path": target.decode("latin-1"), "raw_path": target})

    def test_nothing_at_all(self) -> None:
        """An empty target is refused."""
        with pytest.raises(TargetRefused):
            inbound_path({"path": "", "raw_path": b""})


@st.composite
def prefixed(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """Draw a decoded prefix, a path under it in any spelling, and what of the path follows the prefix."""
    names = st.text(st.sampled_from("ab.%~ \u00e9\u20ac[;"), min_size=1, max_size=4)
    prefix = "".join("/" + name for name in draw(st.lists(names, min_size=1, max_size=3)))
    raw = b"".join(b"%%%02X" % o if o in b"% " or o > 0x7E else bytes((o,)) for o in prefix.encode())
    if draw(st.booleans()):
        raw = b"/" + escaped(prefix.encode()[1:], draw)
        raw = re.sub(rb"%(?![0-9A-Fa-f]{2})|[ \x80-\xff]", lambda match: b"%%%02x" % ord(match[0]), raw)
        assume(unquote_to_bytes(raw) == prefix.encode())
    rest = draw(st.sampled_from([b"", b"/", b"/x%2Fy", b"//x", b"%2Fx", b"%2fx", b"/..", b"/%zz"]))
    return prefix, raw + rest, rest


class TestWithoutPrefix:
    """``without_prefix`` and ``below_mount``."""

    @BOUNDED
    @given(drawn=prefixed(), slash=st.sampled_from(["", "/"]))
    def test_the_prefix_in_any_spelling(self, drawn: tuple[str, bytes, bytes], slash: str) -> None:
        """The prefix is taken away however it is percent-encoded, and not an octet of what follows."""
        prefix, raw_path, rest = drawn

        assert without_prefix(raw_path, prefix + slash) == rest
        assert below_mount({"root_path": prefix}, raw_path, prefix) == rest
        assert public_prefix({"raw_path": raw_path}, prefix) + rest == raw_path

    @BOUNDED
    @given(prefix=st.sampled_from(["/p", "/p/q", "/p%", "/\u00e9"]), raw_path=hostile_paths() | st.binary(max_size=12))
    def test_only_what_is_below_it(self, prefix: str, raw_path: bytes) -> None:
        """What is not refused was the prefix, decoded, and then a slash or nothing."""
        try:
            rest = without_prefix(raw_path, prefix)
        except TargetRefused:
            return

        assert raw_path.endswith(rest)
        taken = raw_path[: len(raw_path) - len(rest)]
        assert unquote_to_bytes(taken) == prefix.encode()
        assert not rest or unquote_to_bytes(rest)[:1] == b"/"

    @pytest.mark.parametrize("raw_path", [b"/p", b"/%70", b"/%70/a%2Fb", b"/p%2Fa", b"%2fp/"])
    def test_c10_percent_encoded(self, raw_path: bytes) -> None:
        """The examples."""
        assert without_prefix(raw_path, "/p") == re.sub(rb"^(/|%2f)(p|%70)", b"", raw_path)

    @pytest.mark.parametrize(
        "raw_path", [b"/", b"", b"/px", b"/q/x", b"/P/x", b"//p/x", b"/%", b"/%7", b"/%7zx", b"/%p", b"/p%20", b"p/x"]
    )
    def test_beside_the_prefix(self, raw_path: bytes) -> None:
        """What does not begin with all of the prefix is refused."""
        with pytest.raises(TargetRefused, match="beside"):
            without_prefix(raw_path, "/p")

    @pytest.mark.parametrize("prefix", ["", "/"])
    def test_no_prefix(self, prefix: str) -> None:
        """Nothing is taken away."""
        assert without_prefix(b"/a%2Fb", prefix) == b"/a%2Fb"

    @pytest.mark.parametrize(
        ("scope", "raw_path", "prefix", "public", "rest"),
        [
            ({}, b"/x", "", b"", b"/x"),
            ({"root_path": ""}, b"/x", "", b"", b"/x"),
            ({"root_path": ""}, b"/p/x", "/p", b"/p", b"/x"),
            ({"root_path": "/m"}, b"/m/%70/x", "/m/p", b"/m/%70", b"/x"),
            # A server with a root path, and one whose path is without it.
            ({"root_path": "/api"}, b"/api/x", "/api", b"/api", b"/x"),
            ({"root_path": "/api"}, b"/x", "/api", b"/api", b"/x"),
            ({"root_path": "/a i"}, b"/%70/x", "/a i/p", b"/a%20i/%70", b"/x"),
            # The same, and a mount.
            ({"root_path": "/api/p", "app_root_path": "/api"}, b"/api/p/x", "/api/p", b"/api/p", b"/x"),
            ({"root_path": "/api/p", "app_root_path": "/api"}, b"/%70/x", "/api/p", b"/api/%70", b"/x"),
            ({"root_path": "/p", "app_root_path": ""}, b"/p/x", "/p", b"/p", b"/x"),
        ],
    )
    def test_below_mounts(
        self, scope: dict[str, Any], raw_path: bytes, prefix: str, public: bytes, rest: bytes
    ) -> None:
        """Mounts and a route's prefix are taken away; a root path that is in front of all only if it is there."""
        assert below_mount(scope, raw_path, prefix) == rest
        assert public_prefix({**scope, "raw_path": raw_path}, prefix) == public

    @pytest.mark.parametrize(
        ("scope", "raw_path", "prefix"),
        [
            ({"root_path": "/p", "app_root_path": ""}, b"/q/x", "/p"),
            ({"root_path": "/api/p", "app_root_path": "/api"}, b"/q/x", "/api/p"),
            ({"root_path": "/own", "app_root_path": "/api"}, b"/q/x", "/own"),
            ({"root_path": ""}, b"/px", "/p"),
            ({"root_path": "/api"}, b"/px", "/api/p"),
        ],
    )
    def test_beside_mounts(self, scope: dict[str, Any], raw_path: bytes, prefix: str) -> None:
        """A path that is not below the mount is refused."""
        with pytest.raises(TargetRefused, match="beside"):
            below_mount(scope, raw_path, prefix)

    @pytest.mark.parametrize("raw_path", [b"/q/x", b"*", b"@evil.example/"])
    def test_the_public_prefix_of_another_path(self, raw_path: bytes) -> None:
        """A path that is not below the prefix does not say how to write it."""
        assert public_prefix({"raw_path": raw_path}, "/p \u00e9") == b"/p%20%C3%A9"


def test_check_path_decodes_once() -> None:
    """A path that is safe once decoded is safe; what it would become later is looked at on demand."""
    check_path(b"/%252e%252e/")
    with pytest.raises(TargetRefused):
        check_path(b"/%252e%252e/", strict=True)
