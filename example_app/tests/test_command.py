"""The command ``python -m example_app``."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[2]
LIMIT = 60.0


@contextmanager
def command(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in the repository's root; kill it if it has not ended with the block."""
    environment = os.environ | {"EXAMPLE_PORT": "0", "EXAMPLE_UPSTREAM_PORT": "0"} | variables
    process = subprocess.Popen(  # noqa: S603 -- this very project
        [sys.executable, "-W", "error", "-m", "example_app", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def welcome(process: subprocess.Popen[str]) -> str:
    """Return the URL that the command prints once it runs."""
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None
    return match[0]


def test_stops_by_itself() -> None:
    """With --seconds it says where to look and what to try, and ends well."""
    with command("--seconds", "0.2") as process:
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert re.search(r"Open http://127\.0\.0\.1:\d+ in a browser", output)
    assert output.count("curl ") == 3
    assert output.endswith("Stopped.\n")
    assert errors == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_both_servers(number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM, once, ends the application and the upstream, also with an answer under way."""
    with command() as process:
        url = welcome(process)
        assert httpx.get(f"{url}/read").json()["status"] == 200
        with httpx.stream("GET", f"{url}/stream/slow?lines=3&interval=0.2") as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"line 1 of 3\n"
            process.send_signal(number)
            assert b"".join(pieces) == b"line 2 of 3\nline 3 of 3\n"
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert output.endswith("Stopped.\n")
    assert errors == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_open_websockets_do_not_hold_it_up() -> None:
    """Who chats through the proxy is told that the server stops, and nothing is left to complain about."""
    with command() as process:
        url = welcome(process).replace("http", "ws")
        with connect(f"{url}/site/chat/room?name=Ada", proxy=None) as chat:
            assert json.loads(chat.recv(timeout=LIMIT)) == {"kind": "welcome", "name": "Ada"}
            process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosedError) as closed:
                _hear_to_the_end(chat)
        output, errors = process.communicate(timeout=LIMIT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.SERVICE_RESTART  # as uvicorn calls it
    assert (process.returncode, errors) == (0, "")
    assert output.endswith("Stopped.\n")


def _hear_to_the_end(socket: ClientConnection) -> None:
    for _ in range(10):
        socket.recv(timeout=LIMIT)


def test_endless_answer_is_cut_when_the_grace_is_over() -> None:
    """An answer that would go on for minutes is given some seconds and then cancelled, without a traceback."""
    with command() as process:
        url = welcome(process)
        with httpx.stream("GET", f"{url}/stream/slow?lines=500") as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"line 1 of 500\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(httpx.RemoteProtocolError):
                b"".join(pieces)
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert output.endswith("Stopped.\n")
    assert len(errors.splitlines()) == 1
    assert "timeout graceful shutdown exceeded" in errors


def test_staged_failures_leave_no_traceback() -> None:
    """What the upstream breaks on purpose is one line in the log, and what it refuses is none."""
    with command() as process:
        url = welcome(process)
        with pytest.raises(InvalidStatus):
            connect(url.replace("http", "ws") + "/site/socket/closed", proxy=None)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/flaky?fault=cut")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == 1
    assert "response_body_broke" in errors


def test_headers_of_the_server_are_not_doubled() -> None:
    """A passed-on answer has one Date and one Server."""
    with command() as process:
        headers = httpx.get(f"{welcome(process)}/stream/page").headers
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert len(headers.get_list("date")) == len(headers.get_list("server")) == 1


@pytest.mark.parametrize("variable", ["EXAMPLE_PORT", "EXAMPLE_UPSTREAM_PORT"])
def test_port_in_use_is_said_with_the_way_out(variable: str) -> None:
    """A port that is taken ends the command with a message that names the variable for another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with command(**{variable: port}) as process:
            output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert output == ""
    assert f"port {port} of 127.0.0.1: Address already in use" in errors
    assert f"{variable}=" in errors
    assert "Traceback" not in errors


def test_wrong_settings_are_said_plainly() -> None:
    """A value that cannot be used ends the command with its name, without a traceback."""
    with command(EXAMPLE_CLIENT_TIMEOUT__READ="soon") as process:
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "EXAMPLE_CLIENT_TIMEOUT__READ" in errors
    assert "Traceback" not in errors


def test_real_site_needs_no_embedded_upstream() -> None:
    """With another upstream only the application is started, and its requests go there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # The embedded upstream could not start on this port.
        with command("--seconds", "0.2", EXAMPLE_UPSTREAM_PORT=port, EXAMPLE_UPSTREAM_URL="http://up.test") as process:
            output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")
    assert "Requests go to http://up.test." in output
