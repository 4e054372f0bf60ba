"""A whole run in small, and that nothing of it is left."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from benchmarks.contenders import ALL, Contender, Place
from benchmarks.harness import Options, run, upstream
from benchmarks.loads import Load
from benchmarks.processes import Cores, pinned
from tests.support.contenders import answering_otherwise

ROOT = Path(__file__).parents[2]
BY_NAME = {contender.name: contender for contender in ALL}
LIMIT = 10.0

RUN = """
import sys
from benchmarks.harness import Cores, upstream
with upstream(1, Cores(frozenset(), frozenset())) as origins:
    print(*origins, flush=True)
    sys.stdin.read()
"""


def _connected(origin: str) -> socket.socket:
    host, _, port = origin.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), LIMIT)


def _dying(place: Place) -> list[str]:
    return [sys.executable, "-c", "import sys; print('first'); sys.exit('no luck')"]


def test_run() -> None:
    """Contenders are measured in each round; those that cannot be are skipped, with the reason."""
    contenders = [
        BY_NAME["asgi"],
        BY_NAME["ours-httpx"],
        Contender("missing", "needs what nobody has", _dying, needs=("no_such_package",)),
        Contender("dying", "does not start", _dying),
        Contender("wrong", "answers otherwise", answering_otherwise),
    ]
    said: list[str] = []
    options = Options(rounds=2, seconds=0.3, warm_up=0.02, generator=None)

    results = run(contenders, [Load.named("get-1k-2")], options, said.append)

    assert {key: len(rounds) for key, rounds in results.measured.items()} == {
        ("asgi", "get-1k-2"): 2,
        ("ours-httpx", "get-1k-2"): 2,
    }
    assert all(measured.rate > 0 for rounds in results.measured.values() for measured in rounds)
    assert not any(measured.errors for rounds in results.measured.values() for measured in rounds)
    reasons = {contender: reason for (contender, _), reason in results.skipped.items()}
    assert reasons.pop("wrong").startswith("it answers 'HTTP/1.0 404")
    assert reasons == {"missing": "no_such_package not installed", "dying": "it does not start: no luck"}
    assert said == ["round 1 of 2, get-1k-2", "round 2 of 2, get-1k-2"]


def test_one_origin_only() -> None:
    """A contender that is made for one origin is skipped where there are more."""
    contender = Contender("one", "one origin only", lambda _: [], one_origin=True)

    results = run([contender], [Load.named("get-1k-1x3")], Options(rounds=1, seconds=0.1), lambda _: None)

    assert results.skipped == {("one", "get-1k-1x3"): "it has one origin only"}
    assert not results.measured


def test_upstream_ends_with_the_block() -> None:
    """The upstream listens on as many ports as asked for, and nobody does afterwards."""
    with upstream(3, Cores(frozenset(), frozenset())) as origins:
        assert len(set(origins)) == 3
        for origin in origins:
            _connected(origin).close()

    with pytest.raises(ConnectionRefusedError):
        _connected(origins[0])


def test_children_end_with_their_parent() -> None:
    """A run that is killed leaves no process behind."""
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        with closing(_connected(parent.stdout.readline().strip())) as connection:
            parent.send_signal(signal.SIGKILL)

            # The upstream is gone, and its end of the connection with it, in one way or the other.
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no processes")
def test_cores() -> None:
    """The contender has a core of its own, if there are two; pinning lasts as long as its block."""
    before = os.sched_getaffinity(0)
    cores = Cores.of_this_machine()

    assert not cores.contender & cores.others
    assert cores.contender | cores.others == (before if len(before) > 1 else set())
    with pinned(frozenset([min(before)])):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
