"""
What an upstream says about its own address, told as the client knows it.

An upstream behind a prefix does not know its public name: its redirects would lead past us, and its
cookies would come back to nobody. So addresses under the base are moved under the prefix. All that
is not surely the upstream's own stays as it is, octet by octet: foreign hosts, relative references,
paths beside the base, and paths whose ``..`` may lead out of it.
"""

import re
from typing import final

__all__ = ("Rewriting",)

_REFERENCE = re.compile(rb"(?:([a-z][a-z0-9+.-]*):)?//([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(rb"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
_PARENT = re.compile(rb"/(?:\.|%2e){2}(?:[/\\]|$)", re.IGNORECASE)
# Clients take a backslash for a slash, and leave out tabs.
_LOOKS_LIKE_HOST = re.compile(rb"/\t*[/\\]")
_WHITESPACE = b" \t"
# Browsers refuse such a cookie if its path is not "/".
_BOUND_TO_HOST = b"__host-"


@final
class Rewriting:
    """Public addresses for an upstream's own, for one inbound request."""

    def __init__(
        self, *, upstream: tuple[bytes, bytes], base_path: bytes, public_origin: bytes | None, prefix: bytes
    ) -> None:
        """
        Take both sides.

        Args:
            upstream: Scheme, and host with its port if that is not the default one.
            base_path: What is put before each path upstream.
            public_origin: Scheme and host that the client used, as ``https://example.com``; None if
                they are not known, and then addresses become paths.
            prefix: What is taken from each path of the client's.
        """
        scheme, authority = upstream
        self._own_address = _host_and_port(scheme, authority)
        self._schemes = {scheme}
        if public_origin is not None:
            # Upstreams that believe X-Forwarded-Proto put the public scheme before their own host.
            self._schemes.add(public_origin.partition(b":")[0].lower())
        self._scheme = scheme
        self._base = base_path.rstrip(b"/")
        self._public_origin = public_origin or b""
        self._prefix = prefix.rstrip(b"/")

    def location(self, value: bytes) -> bytes:
        """Return what to send for the value of a ``Location`` or ``Content-Location``."""
        match = _REFERENCE.fullmatch(value)
        if match is None:
            return self._public_path(value) if value.startswith(b"/") else value
        scheme, authority, path, rest = match.groups()
        if not self._is_own(scheme, authority):
            return value
        moved = self._moved(path or b"/")
        return value if moved is None else self._public_origin + self._unlike_host(moved) + rest

    def set_cookie(self, value: bytes) -> bytes:
        """Return what to send for the value of a ``Set-Cookie``."""
        pair, *attributes = value.split(b";")
        bound = pair.lstrip(_WHITESPACE).lower().startswith(_BOUND_TO_HOST)
        kept = [pair]
        for attribute in attributes:
            name, equals, text = attribute.partition(b"=")
            kind, content = name.strip(_WHITESPACE).lower(), text.strip(_WHITESPACE)
            if kind == b"domain" and content.lower().removeprefix(b".") == self._own_address[0].strip(b"[]"):
                continue  # without a domain it belongs to whoever sends it
            if kind == b"path" and not bound:
                before, after = text[: len(text) - len(text.lstrip(_WHITESPACE))], text[len(text.rstrip(_WHITESPACE)) :]
                kept.append(name + equals + before + self._cookie_path(content) + after)
            else:
                kept.append(attribute)
        return b";".join(kept)

    def _is_own(self, scheme: bytes | None, authority: bytes) -> bool:
        scheme = self._scheme if scheme is None else scheme.lower()
        return scheme in self._schemes and _host_and_port(scheme, authority) == self._own_address

    def _public_path(self, value: bytes) -> bytes:
        path = re.split(rb"[?#]", value, maxsplit=1)[0]
        moved = self._moved(path)
        return value if moved is None else self._unlike_host(moved) + value[len(path) :]

    def _moved(self, path: bytes) -> bytes | None:
        """Return a path under the prefix; None if it is not surely under the base."""
        rest = path.removeprefix(self._base)
        if not path.startswith(self._base) or (rest and not rest.startswith(b"/")) or _PARENT.search(rest):
            return None
        return self._prefix + rest or b"/"

    def _unlike_host(self, path: bytes) -> bytes:
        # Two slashes at its beginning would make a host of its first segment (RFC 3986, section 4.2).
        return b"/." + path if not self._public_origin and _LOOKS_LIKE_HOST.match(path) else path

    def _cookie_path(self, path: bytes) -> bytes:
        if path == b"/" and not self._base:
            return self._prefix or path  # the prefix itself included
        if not path.startswith(b"/"):
            return path
        moved = self._moved(path)
        return path if moved is None else moved


def _host_and_port(scheme: bytes, authority: bytes) -> tuple[bytes, bytes | None]:
    """Return both as they can be compared; user information makes it nobody's address."""
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None or b"@" in authority:
        return b"", None
    host, port = match.groups()
    return host, None if port in (None, b"", _DEFAULT_PORTS.get(scheme)) else port
