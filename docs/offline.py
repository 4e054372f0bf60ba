"""
The Internet that the pages' examples talk to, on 127.0.0.1.

A forward proxy that answers by itself, for every host, http and https. The examples find it the
way any program finds a proxy, through ``HTTPS_PROXY``, so they run as they are printed.
"""

import json
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

__all__ = ("HOSTS", "offline")

HOSTS = ("api.example.com", "api.github.com", "llm.example.com", "www.example.com", "www.example.org")
"""Known by name; every other one is down."""

EVENTS = b"data: one\n\ndata: two\n\ndata: three\n\n"


@contextmanager
def offline() -> Iterator[None]:
    """Answer for the Internet during a block, and put the environment back afterwards."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, context))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        trusted = Path(folder, "authority.pem")
        authority.cert_pem.write_to_path(str(trusted))
        _point_environment(f"http://127.0.0.1:{server.server_port}", trusted)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            server.shutdown()
            server.server_close()
            thread.join()


def _point_environment(proxy: str, trusted: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    os.environ["HTTP_PROXY"] = os.environ["HTTPS_PROXY"] = proxy
    os.environ["NO_PROXY"] = "127.0.0.1,localhost,testserver"
    os.environ["SSL_CERT_FILE"] = str(trusted)


class _Handler(BaseHTTPRequestHandler):
    """One connection from a client: plain, or after CONNECT in TLS."""

    protocol_version = "HTTP/1.1"

    def __init__(self, context: ssl.SSLContext, *arguments: Any) -> None:
        self._context = context
        super().__init__(*arguments)

    def log_message(self, *arguments: Any) -> None:
        """Write nothing: the pages' own output is what counts."""

    def finish(self) -> None:
        """Close the TLS connection too, which the server does not know."""
        with suppress(OSError):
            super().finish()
        self.connection.close()

    def do_CONNECT(self) -> None:
        """Open the tunnel, and sit at its other end."""
        if self.path.partition(":")[0] not in HOSTS:
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        self.connection = self._context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        """Answer by path."""
        path = urlsplit(self.path).path
        if path == "/chat":
            self._chat()
            return
        if path == "/":
            host = self.headers["host"]
            self._answer(200, "text/html", f"<!doctype html><title>{host}</title><h1>{host}</h1>".encode())
        elif path == "/zen":
            self._answer(200, "text/plain", b"Practicality beats purity.")
        elif path == "/events":
            self._answer(200, "text/event-stream", EVENTS)
        elif path == "/headers":
            self._answer_json(200, {name.lower(): value for name, value in self.headers.items()})
        elif path.startswith(("/users/", "/files/")):
            self._answer_json(200, {"path": self.path})
        else:
            self._answer_json(404, {"message": "Not Found"})

    def do_POST(self) -> None:
        """Give back what was sent."""
        body = self._read_chunks() if "transfer-encoding" in self.headers else self._read_all()
        self._answer(200, self.headers.get("content-type", "text/plain"), body)

    def _chat(self) -> None:
        """Answer each message of a WebSocket; turn down what is none."""
        protocol = ServerProtocol()
        lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), "", ""]
        protocol.receive_data("\r\n".join(lines).encode("latin-1"))
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
        self._flush(protocol)
        self.close_connection = True
        while protocol.state is State.OPEN and (data := self.rfile.read1(65536)):
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    protocol.send_text(b"You said: " + event.data)
            self._flush(protocol)

    def _flush(self, protocol: ServerProtocol) -> None:
        for data in protocol.data_to_send():
            with suppress(OSError):
                self.wfile.write(data)

    def _read_all(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer_json(self, status: int, value: object) -> None:
        self._answer(status, "application/json", json.dumps(value).encode())

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
