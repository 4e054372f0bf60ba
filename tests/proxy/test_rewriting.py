"""An upstream's own addresses, told as the client knows them; all others as they came."""

from typing import Any

import pytest

from fastapi_httpx_pool.proxy._rewriting import Rewriting


def rewriting(**options: Any) -> Rewriting:
    """Return one for ``http://api.internal:8000/base``, known to the client as ``https://public.example/p``."""
    return Rewriting(
        **{
            "upstream": (b"http", b"api.internal:8000"),
            "base_path": b"/base",
            "public_origin": b"https://public.example",
            "prefix": b"/p",
            **options,
        }
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"http://api.internal:8000/base/next", b"https://public.example/p/next"),
        (b"http://api.internal:8000/base", b"https://public.example/p"),
        (b"http://api.internal:8000/base/", b"https://public.example/p/"),
        (b"http://api.internal:8000/base?x=1", b"https://public.example/p?x=1"),
        (b"http://api.internal:8000/base#x", b"https://public.example/p#x"),
        (b"HTTP://API.Internal:8000/base/Next", b"https://public.example/p/Next"),
        (b"//api.internal:8000/base/next", b"https://public.example/p/next"),
        # Told of the public scheme by X-Forwarded-Proto.
        (b"https://api.internal:8000/base/next", b"https://public.example/p/next"),
    ],
)
def test_an_absolute_location_becomes_the_public_url(value: bytes, expected: bytes) -> None:
    """The upstream's own URL under its base becomes the client's, whatever its case and form."""
    assert rewriting().location(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"http://api.internal:8000/base/next?a=b#c", b"/p/next?a=b#c"),
        (b"//api.internal:8000/base", b"/p"),
        # The public scheme is not known, so another one is another server.
        (b"https://api.internal:8000/base/next", b"https://api.internal:8000/base/next"),
    ],
)
def test_without_a_public_origin_it_becomes_a_path(value: bytes, expected: bytes) -> None:
    """A client whose ``Host`` is not known gets a path."""
    assert rewriting(public_origin=None).location(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/base/next", b"/p/next"),
        (b"/base", b"/p"),
        (b"/base/", b"/p/"),
        (b"/base?x=/base/y", b"/p?x=/base/y"),
        (b"/base#/base", b"/p#/base"),
        (b"/base/base/x", b"/p/base/x"),
        (b"/base/x?next=../y", b"/p/x?next=../y"),
        (b"/base/...b/..c", b"/p/...b/..c"),
    ],
)
@pytest.mark.parametrize("public_origin", [None, b"https://public.example"])
def test_a_path_under_the_base_goes_under_the_prefix(
    value: bytes, expected: bytes, public_origin: bytes | None
) -> None:
    """A root-relative reference stays one, under the prefix."""
    assert rewriting(public_origin=public_origin).location(value) == expected


UNTOUCHED = [
    b"",
    b"next",
    b"./next",
    b"../next",
    b"?x=1",
    b"#x",
    b"base/next",
    b"/other",
    b"/",
    b"/basement/x",
    b"/base%2Fnext",
    b"/BASE/next",
    b"http://other.example/base/next",
    b"http://api.internal.evil.example:8000/base/next",
    b"http://evil.example/http://api.internal:8000/base/next",
    b"http://evil.example?http://api.internal:8000/base/next",
    b"http://api.internal/base/next",
    b"http://api.internal:80000/base/next",
    b"http://api.internal:8000.evil.example/base/next",
    b"http://api.internal:8000/other",
    b"http://api.internal:8000",
    b"http://user@api.internal:8000/base/next",
    b"http://api.internal:8000@evil.example/base/next",
    b"http://api.internal:8000\\@evil.example/base/next",
    b"http:///base/next",
    b"ftp://api.internal:8000/base/next",
    b"//other.example/base/next",
    b"//base/next",
    b"///base/next",
    b"mailto:a@api.internal",
    b"urn:x:/base/next",
]


@pytest.mark.parametrize("value", UNTOUCHED)
def test_what_is_not_the_upstream_s_own_is_untouched(value: bytes) -> None:
    """Foreign hosts, relative references, and paths beside the base stay as they are."""
    assert rewriting().location(value) == value


@pytest.mark.parametrize("parent", [b"..", b"%2e%2e", b".%2E"])
@pytest.mark.parametrize("value", [b"/base/%b/other", b"/base/x/%b", b"http://api.internal:8000/base/%b\\x"])
def test_a_path_that_climbs_is_untouched(value: bytes, parent: bytes) -> None:
    """Nobody can say where a path with ``..`` in it would lead under the prefix."""
    assert rewriting().location(value % parent) == value % parent


def test_octets_stay() -> None:
    """Escapes, their case, and octets that no URL has are kept in what is moved."""
    rest = b"/a%2Fb%2fc/%7E;x='\"[]|\xe9\xff?q=%zz&&=+#f%20"

    assert rewriting().location(b"/base" + rest) == b"/p" + rest
    assert rewriting().location(b"http://api.internal:8000/base" + rest) == b"https://public.example/p" + rest


@pytest.mark.parametrize(
    ("upstream", "value"),
    [
        ((b"http", b"api"), b"http://api/x"),
        ((b"http", b"api"), b"http://api:80/x"),
        ((b"http", b"api"), b"http://api:/x"),
        ((b"http", b"api:80"), b"http://api/x"),
        ((b"https", b"api"), b"https://api:443/x"),
        ((b"https", b"api"), b"//api:443/x"),
        ((b"http", b"[::1]:8000"), b"http://[::1]:8000/x"),
        ((b"https", b"[::1]"), b"https://[::1]:443/x"),
        ((b"http", b"Api"), b"http://aPI/x"),
    ],
)
def test_a_default_port_may_be_told_or_not(upstream: tuple[bytes, bytes], value: bytes) -> None:
    """An address with the default port is the same as one without a port."""
    rules = rewriting(upstream=upstream, base_path=b"", public_origin=None)

    assert rules.location(value) == b"/p/x"


@pytest.mark.parametrize(
    ("upstream", "value"),
    [
        ((b"http", b"api"), b"http://api:443/x"),
        ((b"https", b"api"), b"https://api:80/x"),
        ((b"http", b"[::1]:8000"), b"http://[::1]/x"),
        ((b"http", b"[::1]:8000"), b"http://[::1/x"),
    ],
)
def test_another_port_is_another_server(upstream: tuple[bytes, bytes], value: bytes) -> None:
    """An address with another port is foreign."""
    assert rewriting(upstream=upstream, base_path=b"").location(value) == value


@pytest.mark.parametrize(
    ("base_path", "prefix", "value", "expected"),
    [
        (b"", b"/p", b"/x", b"/p/x"),
        (b"/", b"/p", b"/", b"/p/"),
        (b"/", b"/p/", b"/x", b"/p/x"),
        (b"/", b"/p", b"http://api.internal:8000", b"https://public.example/p/"),
        (b"/", b"/p", b"http://api.internal:8000?x", b"https://public.example/p/?x"),
        (b"/base/", b"/p", b"/base", b"/p"),
        (b"/base/", b"/p", b"/base/x", b"/p/x"),
        (b"/base", b"", b"/base/x", b"/x"),
        (b"/base", b"", b"/base", b"/"),
        (b"/base", b"", b"/base?x", b"/?x"),
        (b"/base", b"", b"http://api.internal:8000/base", b"https://public.example/"),
        (b"", b"", b"/x", b"/x"),
        (b"", b"", b"http://api.internal:8000/x", b"https://public.example/x"),
        (b"/b%C3%A9", b"/p%20q", b"/b%C3%A9/x", b"/p%20q/x"),
    ],
)
def test_bases_and_prefixes(base_path: bytes, prefix: bytes, value: bytes, expected: bytes) -> None:
    """Either may be missing or end with a slash."""
    assert rewriting(base_path=base_path, prefix=prefix).location(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/base//evil.example/x", b"/.//evil.example/x"),
        (b"/base/\\evil.example/x", b"/./\\evil.example/x"),
        (b"/base/\t/evil.example/x", b"/./\t/evil.example/x"),
        (b"http://api.internal:8000/base//evil.example", b"/.//evil.example"),
    ],
)
def test_a_path_never_becomes_a_host(value: bytes, expected: bytes) -> None:
    """A path whose base goes and leaves two slashes is still a path: whoever chose it does not choose a host."""
    assert rewriting(prefix=b"", public_origin=None).location(value) == expected


def test_two_slashes_behind_the_public_origin_are_harmless() -> None:
    """Behind a host two slashes are just a path, and stay."""
    value = b"http://api.internal:8000/base//evil.example"

    assert rewriting(prefix=b"").location(value) == b"https://public.example//evil.example"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a=1; Path=/base", b"a=1; Path=/p"),
        (b"a=1; Path=/base/", b"a=1; Path=/p/"),
        (b"a=1;path=/base/x;Secure", b"a=1;path=/p/x;Secure"),
        (b"a=1; PATH = /base/x ; HttpOnly", b"a=1; PATH = /p/x ; HttpOnly"),
        (b"a=1; Domain=api.internal; Path=/base", b"a=1; Path=/p"),
        (b"a=1; domain = .API.internal ;Secure", b"a=1;Secure"),
        (b"a=1; Secure; Domain=api.internal", b"a=1; Secure"),
        (b"a=1; Path=/base; Path=/base/y", b"a=1; Path=/p; Path=/p/y"),
    ],
)
def test_a_cookie_of_the_upstream_s_own(value: bytes, expected: bytes) -> None:
    """Its Path goes under the prefix and its Domain goes; all other octets stay."""
    assert rewriting().set_cookie(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"a=1",
        b"",
        b"a=1;",
        b"a=1; Secure; HttpOnly; SameSite=Lax; Max-Age=5; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
        b"path=/base; x=domain=api.internal",
        b"domain=api.internal",
        b"a=/base; X-Path=/base; Priority=High",
        b"a=1; Path=/",
        b"a=1; Path=/other",
        b"a=1; Path=/basement",
        b"a=1; Path=/base/../x",
        b'a=1; Path="/base"',
        b"a=1; Path",
        b"a=1; Path=",
        b"a=1; Path=base",
        b"a=1; Domain=other.example",
        b"a=1; Domain=internal",
        b"a=1; Domain=x.api.internal",
        b"a=1; Domain=",
        b"a=\xe9\xff; x",
    ],
)
def test_a_cookie_that_is_not_is_untouched(value: bytes) -> None:
    """Cookies of other paths and domains, and those with neither, stay as they are."""
    assert rewriting().set_cookie(value) == value


@pytest.mark.parametrize(
    ("base_path", "prefix", "path", "expected"),
    [
        # "/p/" would leave out "/p" itself, which "/" was meant to cover.
        (b"/", b"/p", b"/", b"/p"),
        (b"", b"/p", b"/x/", b"/p/x/"),
        (b"", b"/p", b"", b""),
        (b"/base", b"", b"/base", b"/"),
        (b"/base", b"", b"/base/", b"/"),
        (b"/base", b"", b"/base/x", b"/x"),
        (b"", b"", b"/", b"/"),
    ],
)
def test_cookies_with_bases_and_prefixes(base_path: bytes, prefix: bytes, path: bytes, expected: bytes) -> None:
    """Either may be missing; the root of the upstream is the prefix."""
    rules = rewriting(base_path=base_path, prefix=prefix)

    assert rules.set_cookie(b"a=1; Path=" + path) == b"a=1; Path=" + expected


@pytest.mark.parametrize("name", [b"__Host-sid", b"__host-sid", b" __Host-Http-sid"])
def test_a_cookie_bound_to_its_host_keeps_its_path(name: bytes) -> None:
    """A browser takes a ``__Host-`` cookie only with the path "/"."""
    value = name + b"=1; Secure; Path=/"

    assert rewriting(base_path=b"").set_cookie(value) == value


def test_the_domain_of_an_address() -> None:
    """An upstream that is an IPv6 address is compared without its brackets."""
    assert rewriting(upstream=(b"http", b"[::1]:8000")).set_cookie(b"a=1; Domain=::1") == b"a=1"
