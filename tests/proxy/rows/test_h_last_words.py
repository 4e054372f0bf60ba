"""Rows H4 to H6, where the two directions meet: what is said last, what is said too early, and answers behind uploads."""

import contextlib
import select
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from fastapi_httpx_pool import TLSSettings, UpstreamResponse
from tests.support.proxies import proxied, settings_of
from tests.support.proxy_watch import ProxyWatch, held_at
from tests.support.tls import Authority
from tests.support.websocket_pairs import beside, open_pair, wait_for
from tests.support.websocket_wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Client,
    asking,
    closing,
    exchange,
    frame,
    handed,
    opened,
)

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("read_first", [100, MEGABYTE])
def test_h5_an_upload_that_the_upstream_refuses(read_first: int) -> None:
    """An upstream may say why, and hang up with the rest unread, which resets the connection: the client hears why."""
    with open_pair() as pair:

        def upload() -> None:
            with contextlib.suppress(OSError):
                pair.client.binary(bytes(6 * MEGABYTE))

        with beside(upload):
            taken = 0
            while taken < read_first:
                taken += len(pair.upstream.sock.recv(65536))
            pair.upstream.send_raw(frame(CLOSE, closing(1009, "too big")))
            pair.upstream.sock.close()
            assert pair.client.told() == (1009, "too big")
            pair.client.hang_up()


def test_h5_last_words_over_tls(tmp_path: Path) -> None:
    """An upstream that says something, goodbye, and closes TLS in one breath, is understood."""
    authority = Authority()
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(authority.certificate_of_its_own)
    settings = settings_of(tls=TLSSettings(ca_file=trusted))
    with (
        handed(authority.server()) as upstream,
        proxied(upstream.url, "sansio", settings=settings) as port,
        opened(port, upstream) as pair,
    ):
        pair.upstream.send_raw(frame(TEXT, b"last words") + frame(CLOSE, closing(4001, "why")))
        sock = pair.upstream.sock
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            assert isinstance(sock, ssl.SSLSocket)
            sock.unwrap()
        sock.close()
        assert pair.client.message() == (TEXT, b"last words")
        assert pair.client.told() == (4001, "why")


def test_h6_a_ping_during_an_upload_that_is_backed_up() -> None:
    """It is answered when there is a place for the answer: the last one, at least."""
    with open_pair() as pair:
        with beside(lambda: pair.client.binary(bytes(12 * MEGABYTE))):
            pair.upstream.sock.settimeout(30)
            assert pair.upstream.sock.recv(1, socket.MSG_PEEK)
            for number in range(3):
                pair.upstream.send(PING, b"%d" % number)
            pongs, length = [b""], 0
            while pongs[-1] != b"2" or length < 12 * MEGABYTE:
                one = pair.upstream.read()
                assert one is not None
                if one.opcode == PONG:
                    pongs.append(one.payload)
                else:
                    length += len(one.payload)
        exchange(pair)


def test_h6_an_upstream_that_pings_and_takes_nothing() -> None:
    """Pings are signs of life, but who takes nothing for as long as the dead are silent is given up all the same."""
    watch = ProxyWatch()
    limits: dict[str, Any] = {"websocket_ping_interval": 0.3, "websocket_ping_timeout": 0.3}
    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", around=watch.around, **limits) as port,
        asking(port) as client,
    ):
        far = upstream.asked().accept()
        near = client.taken()
        near.sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            for _ in range(40):
                near.binary(bytes(MEGABYTE))
        client.reset()

        def is_free() -> bool:
            far.send(PING, b"here")
            return held_at(port).active == 0

        with contextlib.suppress(OSError):
            wait_for(is_free)
        wait_for(lambda: held_at(port).active == 0)


def test_h5_what_a_client_says_before_it_is_accepted() -> None:
    """A client should wait, but one that does not is understood, if its server passes that on."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port, contextlib.closing(Client(port)) as client:
        client.ask()
        asked = upstream.asked()
        client.send(frame(BINARY, b"early", mask=b"mask"))
        # Longer than it takes until the client is watched.
        assert not select.select([client.sock], [], [], 0.2)[0], "it is answered before the upstream has said anything"
        far = asked.accept()
        near = client.taken()
        assert far.message() == (BINARY, b"early")
        far.hang_up()
        near.hang_up()


def test_h4_twins_of_what_is_ours() -> None:
    """Upstreams of CGI's kin would take them for the handshake's own lines."""
    lines = (b"Sec_WebSocket_Key: x", b"Sec_WebSocket-Protocol: y", b"Sec-WebSocket_Extensions: z")
    with handed() as upstream, proxied(upstream.url, "sansio") as port, asking(port, b"/", *lines):
        asked = upstream.asked()
        assert b"_" not in asked.head
        asked.accept().hang_up()


def test_h4_what_a_hook_cannot_add_to_a_101() -> None:
    """Lines that are about one connection are the server's."""

    def add(response: UpstreamResponse) -> None:
        response.headers["connection"] = "close"
        response.headers["transfer-encoding"] = "chunked"
        response.headers["sec-websocket-extensions"] = "permessage-deflate"
        response.headers["x-added"] = "yes"

    with (
        handed() as upstream,
        proxied(upstream.url, "sansio", on_response=add) as port,
        opened(port, upstream) as pair,
    ):
        head = pair.client.head.lower()
        exchange(pair)
    assert b"x-added: yes" in head
    assert b"transfer-encoding" not in head
    assert b"permessage-deflate" not in head
    assert b"connection: close" not in head


@pytest.mark.parametrize("octet", [b"\x01", b"\x7f"])
def test_h4_a_control_byte_in_the_head_of_a_101(octet: bytes) -> None:
    """No server can pass it on: it is a bad gateway's."""
    with handed() as upstream, proxied(upstream.url, "sansio") as port, asking(port) as client:
        upstream.asked().accept(b"X-Odd: a" + octet + b"b")
        assert client.read_head().startswith(b"HTTP/1.1 502 ")
