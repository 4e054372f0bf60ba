"""The command line: what it prints, what it says when it is used wrongly, and its exit codes."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastapi_httpx_pool.conformance import Level, Outcome, Result, Row, WrongUse, _command, _report, place_of
from fastapi_httpx_pool.conformance._command import main
from fastapi_httpx_pool.conformance._kit import Lab
from tests.support.ports import free_port
from tests.support.proxies import proxied
from tests.support.upstream import Connection, answering, ok, scripted


@contextmanager
def ours(base: str = "/base", **options: Any) -> Iterator[list[str]]:
    """Give the arguments that ask our own proxy."""
    upstream = free_port()
    with proxied(f"http://127.0.0.1:{upstream}{base}", door="mounted", **options) as port:
        yield [f"http://127.0.0.1:{port}/p", "--upstream", f"127.0.0.1:{upstream}"]


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each row under its table's heading, a sum, and 0."""
    with ours() as arguments:
        assert main([*arguments, "--rows", "A1,A14,B8,B9"]) == 0

    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        f"Asking {arguments[0]}, which leads to http://{arguments[2]}/base.",
        "",
        "A. Hop-by-hop and header fidelity",
        "  ok      A1   what a Connection line of a request names stays behind, and so does Connection",
        "",
        "B. Forwarded identity, Host, Via, loops",
        "  ok      B8   the upstream gets one Host, well written",
        "  ok      B9   a request without Host, or with two, is answered with 400 and goes nowhere",
        "",
        "3 rows asked: 3 ok, 0 failed, 0 options not taken. 1 cannot be seen from outside (--verbose says",
        "why).",
    ]


def test_something_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What was seen stands below the row, with its weight; the exit code is 1, and programs may read it all."""
    file = tmp_path / "results.json"
    with ours() as arguments:
        assert main([*arguments, "--rows", "A7,A9", "--json", str(file)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[3:6] == [
        "  FAIL    A7   trailers of a response arrive as trailers, announced or not",
        "               WANT, RFC 9110 6.5: an announced trailer got lost",
        "  ok      A9   fields without a value survive in both directions",
    ]
    assert lines[-1] == "Failed: A7 (WANT)"
    written = json.loads(file.read_text())
    assert (written["url"], written["passed"]) == (arguments[0], False)
    assert written["upstream"] == f"http://{arguments[2]}/base"
    assert written["rows"][0].pop("seconds") >= 0
    assert written["rows"][0] == {
        "id": "A7",
        "table": "Hop-by-hop and header fidelity",
        "title": "trailers of a response arrive as trailers, announced or not",
        "level": "WANT",
        "rfc": "RFC 9110 6.5",
        "outcome": "not met",
        "text": "an announced trailer got lost",
    }


def test_more_is_said_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    """The weight and the time of each row, and what cannot be seen, with the reason."""
    with ours() as arguments:
        assert main([*arguments, "--rows", "A1,A14", "--verbose"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith("               MUST, RFC 9110 7.6.1, ")
    assert lines[5:7] == [
        "  unseen  A14  forwarding leaves the original request as it is",
        "               it is about objects in the proxy's memory",
    ]


def test_marks_and_sums() -> None:
    """An option that is not taken is no failure; what does not apply says why; what was not asked is told."""
    row, option = Row("A1", "one", "RFC 1", Level.MUST, ask=None), Row("A2", "two", level=Level.OPTION)
    results = [
        Result(row, Outcome.NOT_MET, "seen"),
        Result(option, Outcome.NOT_MET, "not seen"),
        Result(row, Outcome.NOT_APPLICABLE, "not here"),
        Result(row, Outcome.NOT_ASKED, "gone"),
    ]
    report = _report.Report()

    assert [line for result in results for line in report.lines(result)] == [
        "",
        "A. Hop-by-hop and header fidelity",
        "  FAIL    A1   one",
        "               MUST, RFC 1: seen",
        "  no      A2   two",
        "               OPTION: not seen",
        "  n/a     A1   one",
        "               not here",
        "  -       A1   one",
        "               MUST, RFC 1: gone",
    ]
    assert _report.summary(results) == [
        "",
        "2 rows asked: 0 ok, 1 failed, 1 option not taken. 1 does not apply to this proxy. 1 was not asked",
        "any more.",
        "Failed: A1 (MUST)",
    ]
    assert _report.summary([*results[1:], *results[2:]]) == [
        "",
        "1 row asked: 0 ok, 0 failed, 1 option not taken. 2 do not apply to this proxy. 2 were not asked any",
        "more.",
    ]


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows with their weights, nothing is asked, and no URL is needed."""
    assert main(["--list", "--rows", "A13,A14,B8"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "A13  WANT      a client's X_Forwarded_For does not pass where the proxy sets X-Forwarded-For",
        "A14  unseen    forwarding leaves the original request as it is",
        "B8   MUST      the upstream gets one Host, well written (RFC 9110 7.2)",
    ]


def test_it_is_a_module() -> None:
    """``python -m`` runs it, and its help tells how to begin."""
    command = [sys.executable, "-m", "fastapi_httpx_pool.conformance", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert "Configure the proxy so that the URL's path leads to the upstream that this starts" in done.stdout
    assert "exit codes:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rows", "Z9"], "error: there is no row or table Z9; --list shows all"),
        ([], "error: which proxy? Give its URL, such as http://127.0.0.1:8000/p; --help tells how"),
        (["http://a/p", "--timeout", "0"], "argument --timeout: invalid seconds value: '0'"),
        (["http://a/p", "--timeout", "inf"], "argument --timeout: invalid seconds value: 'inf'"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell's own way: usage, a line, and 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("https://a/p", {}, "https://a/p is no URL to ask: it has to begin with http:// and a host."),
        ("http:///p", {}, "http:///p is no URL to ask"),
        ("http://[::1/p", {}, "http://[::1/p is no URL to ask: it has to begin with http:// and a host."),
        ("http://a:x/p", {}, "http://a:x/p is no URL to ask: its port has to be a number from 1 to 65535."),
        ("http://a:9999999/p", {}, "http://a:9999999/p is no URL to ask: its port has to be a number"),
        ("http://a:0/p", {}, "its port has to be a number"),
        (
            "http://me:secret@a/p",
            {},
            "is no URL to ask: it has a user's name before the host, which would not be sent.",
        ),
        ("http://a/p?x=1", {}, "http://a/p?x=1 is no URL to ask: it has a query or a fragment"),
        ("http://a/p?", {}, "it has a query or a fragment"),
        ("http://a/p#x", {}, "it has a query or a fragment"),
        ("http://a/p q", {}, "http://a/p q is no URL to ask: it has a space in it"),
        ("http://\xe4/p", {}, "a character that is not ASCII"),
        ("http://a/p", {"upstream": "9100"}, "9100 is no address for the upstream: give host and port"),
        ("http://a/p", {"upstream": "a:99999"}, "a:99999 is no address for the upstream"),
        ("http://a/p", {"upstream": ":9100"}, ":9100 is no address for the upstream"),
        ("http://a/p", {"upstream": "[::1"}, "[::1 is no address for the upstream"),
        ("http://a/p", {"upstream": "a:9100/base"}, "a:9100/base is no address for the upstream"),
        ("http://a/p", {"upstream": "me@a:9100"}, "me@a:9100 is no address for the upstream"),
        ("http://a/p", {"base": "base"}, "base is no base: give a path, such as /base"),
        ("http://a/p", {"base": "/base?x"}, "/base?x is no base"),
        ("http://a/p", {"base": "/a b"}, "/a b is no base"),
        ("http://a/p\xe9", {}, "is no URL to ask: it has a space in it, or a character that is not ASCII"),
    ],
)
def test_places_that_are_none(url: str, options: dict[str, Any], text: str) -> None:
    """What is wrong with them is said."""
    with pytest.raises(WrongUse) as caught:
        place_of(url, **options)

    assert text in str(caught.value)


def test_places() -> None:
    """Slashes at the ends do not count, and HTTP's own port need not be said."""
    place = place_of("http://a/", "[::1]:9", "/")

    assert (place.host, place.port, place.prefix) == ("a", 80, "")
    assert (place.upstream_url, place_of("http://[::1]:8/p/").url) == ("http://[::1]:9", "http://[::1]:8/p")


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command says of its wrong use."""
    assert main([*arguments, "--rows", "A1", "--timeout", "0.5"]) == 2
    said = capsys.readouterr().err
    assert max(len(line) for line in said.splitlines()) <= 100
    return " ".join(said.split())


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """The proxy has to be started."""
    said = told([f"http://127.0.0.1:{free_port()}/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert said.startswith("No proxy listens on 127.0.0.1:")
    assert "Start it" in said
    assert "its port may be another" in said


def test_the_upstreams_address_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """By whatever it is; another can be chosen."""
    with scripted(answering(ok())) as other:
        said = told(["http://127.0.0.1:1/p", "--upstream", f"127.0.0.1:{other.port}"], capsys)

    assert said.startswith(f"The upstream cannot listen on 127.0.0.1:{other.port}: ")
    assert "choose another address with --upstream" in said


def test_something_else_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """The proxy has no such path, or its upstream is elsewhere."""
    with scripted(answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as proxy:
        said = told([proxy.url + "/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert f'{proxy.url}/p answered "HTTP/1.1 404 Not Found", and nothing arrived at the upstream.' in said
    assert "Configure the proxy so that this path leads to http://127.0.0.1:" in said
    assert "from a container, 127.0.0.1 is the container" in said


def test_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """What listens there takes a request and is silent."""

    def silent(connection: Connection) -> None:
        connection.wait_until_closed()

    with scripted(silent) as proxy:
        said = told([proxy.url + "/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert f"{proxy.url}/p did not answer, and nothing arrived at the upstream." in said


def test_it_hangs_up(capsys: pytest.CaptureFixture[str]) -> None:
    """What listens there closes the connection when it has the request."""
    with scripted(lambda connection: connection.read_request() and None) as proxy:
        said = told([proxy.url + "/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert f"{proxy.url}/p closed the connection without an answer, and nothing arrived at the upstream." in said


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_the_answer_is_too_long(head: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """No more of it is read than a page can have, be it the body or the head that goes on and on."""

    def flood(connection: Connection) -> None:
        connection.send(head)
        with contextlib.suppress(OSError):
            for _ in range(4000):
                connection.sock.sendall(b"x" * 65536)
            raise AssertionError("all of it was read")

    with scripted(flood) as proxy:
        said = told([proxy.url + "/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert f"{proxy.url}/p sends an answer that is longer than 1 MiB, and nothing arrived at the upstream." in said


def test_the_answer_takes_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    """Byte by byte, each of them in time."""

    def drip(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.sock.settimeout(0.1)
        for _ in range(300):
            if connection.wait_until_closed():
                return
            connection.send(b".")
        raise AssertionError("it went on")

    with scripted(drip) as proxy:
        said = told([proxy.url + "/p", "--upstream", f"127.0.0.1:{free_port()}"], capsys)

    assert f"{proxy.url}/p sends an answer that does not end within 1 s, and nothing arrived" in said


def test_another_base(capsys: pytest.CaptureFixture[str]) -> None:
    """The upstream is asked, but for another path; the text has the option that would say so."""
    with ours(base="/other") as arguments:
        said = told(arguments, capsys)

    assert "leads to the upstream, but to /other/conformance-" in said
    assert "or say --base '/other'." in said


def test_the_answer_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Something between makes another answer of it."""

    def refuse(response: Any) -> None:
        response.status_code = 403

    with ours(on_response=refuse) as arguments:
        said = told(arguments, capsys)

    assert 'asked the upstream, which answered 200, but answered "HTTP/1.1 403 Forbidden".' in said


def stopping(names: Iterable[str]) -> list[Row]:
    """Return rows of which the second is interrupted, whatever they are called."""

    async def fine(lab: Lab) -> None:
        await lab.exchange()

    async def interrupted(lab: Lab) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    asks = {"A1": fine, "A2": interrupted, "A3": None, "A4": fine}
    return [Row(name, "a row", ask=ask, why="" if ask else "it is inside") for name, ask in asks.items()]


def test_it_can_be_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By Control-C, without a traceback; what has been asked until then is told, and written."""
    monkeypatch.setattr(_command, "select", stopping)
    file = tmp_path / "results.json"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have changed
    try:
        with ours() as arguments:
            assert main([*arguments, "--json", str(file)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)

    said = capsys.readouterr()
    assert said.err == "stopped\n"
    assert said.out.splitlines()[3:] == [
        "  ok      A1   a row",
        "",
        "1 row asked: 1 ok, 0 failed, 0 options not taken. 1 cannot be seen from outside (--verbose says",
        "why). 2 were not asked any more.",
    ]
    written = json.loads(file.read_text())
    assert not written["passed"]
    assert [row["outcome"] for row in written["rows"]] == ["met", "not asked", "invisible", "not asked"]
    assert written["rows"][1]["text"] == "the run was stopped"


def test_it_can_be_stopped_at_any_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when there is nothing to tell yet."""

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "_run", interrupted)

    assert main(["http://127.0.0.1:1/p"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_results_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """That is said before anything is asked, and not after minutes."""
    file = tmp_path / "missing" / "results.json"
    said = told([f"http://127.0.0.1:{free_port()}/p", "--json", str(file)], capsys)

    assert said.startswith("The results cannot be written to ")
    assert said.endswith(
        ": No such file or directory. Give --json a file in a folder that is there, and where you may write."
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device here")
def test_a_disk_that_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    """What was printed stays; the exit code says that the file is not as it should be."""
    with ours() as arguments:
        assert main([*arguments, "--rows", "A1", "--json", "/dev/full"]) == 2

    said = capsys.readouterr()
    assert "1 row asked: 1 ok, 0 failed" in said.out
    assert said.err.startswith("The results cannot be written to /dev/full: No space left on device.")


def test_results_of_another_day(tmp_path: Path) -> None:
    """They stay where they are until there are new ones, and then nothing of them does."""
    file = tmp_path / "results.json"
    file.write_text("?" * 10000)
    assert main([f"http://127.0.0.1:{free_port()}/p", "--timeout", "0.1", "--json", str(file)]) == 2
    assert file.read_text() == "?" * 10000

    with ours() as arguments:
        assert main([*arguments, "--rows", "A1", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["passed"]
