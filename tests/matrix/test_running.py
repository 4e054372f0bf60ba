"""The whole command, with one proxy; and a proxy that has to be started again."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from matrix import notes
from matrix.__main__ import main
from matrix.peers import ALL, Peer, Place, Unavailable
from matrix.running import _Running, examine
from tests.support.ports import free_port


def test_one_proxy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own proxy is started, asked two rows, and told of."""
    monkeypatch.setattr(notes, "REASONS", {("I1", ("ours",)): "it is not so"})
    assert main(["--only", "ours", "--rows", "H7,I1"]) == 1
    out, err = capsys.readouterr()
    assert "1 rows met, 0 not." in out
    assert "| H7 " in out
    assert "ours meets I1, and matrix/notes.py says why it does not" in err


@pytest.mark.parametrize(
    ("arguments", "text"), [(["--only", "nobody"], "there is no nobody"), (["--rows", "X1"], "no row or table X1")]
)
def test_wrong_names(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that nobody has is told of, with those that there are."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert text in capsys.readouterr().err


def test_a_proxy_that_cannot_run_is_left_out() -> None:
    """A package that is missing, a program that ends at once, and one that leads nowhere have their reasons."""
    absent = replace(ALL[0], packages=("no-such-package",))
    assert examine(absent, [], 1.0, print).missing == "no-such-package not installed"

    ends = Peer("ends", "", lambda _: [sys.executable, "-c", "raise SystemExit('no wish to')"], lambda: "")
    assert examine(ends, [], 1.0, print).missing == "it does not start: no wish to"

    assert (
        "nothing arrived at the upstream" in examine(Peer("web", "", _web_server, lambda: ""), [], 5.0, print).missing
    )


def _web_server(place: Place) -> list[str]:
    return [
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(place.folder),
        str(place.port),
    ]


def test_starting_again(tmp_path: Path) -> None:
    """A proxy that has ended is started at the same place."""
    place = Place(free_port(), "http://127.0.0.1:9", 1.0, tmp_path)
    running = _Running(Peer("web", "", _web_server, lambda: ""), place)
    running.start()
    try:
        before = running._child
        asyncio.run(running.start_again())
        assert before is not running._child
        assert before is not None
        assert before.has_ended()
    finally:
        running.stop()
    running.stop()  # once more does no harm


def test_names() -> None:
    """Each proxy has a name of its own, and what needs no Python says why it is not there."""
    assert len({peer.name for peer in ALL}) == len(ALL)
    assert {peer.name for peer in ALL if peer.ours} == {"ours", "ours-h11", "ours-hypercorn", "ours-granian"}


def test_programs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its program, a proxy is left out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    place = Place(free_port(), "http://127.0.0.1:9", 1.0, tmp_path)
    for name in ("go", "fastify"):
        peer = next(peer for peer in ALL if peer.name == name)
        with pytest.raises(Unavailable, match="is not installed"):
            peer.command(place)
