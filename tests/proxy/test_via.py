"""The path of a request through proxies, and where it ends."""

import pytest

from fastapi_httpx_pool.messages import Header
from fastapi_httpx_pool.proxy._policy import AUTO
from fastapi_httpx_pool.proxy._via import LoopDetected, check_loop, max_forwards, pseudonym, via_line

NAME = b"proxy-1"


def test_a_name_of_its_own_is_the_same_each_time_and_another_for_each_upstream() -> None:
    """Workers of a host share it, proxies behind one another do not, and it gives nothing away."""
    name = pseudonym(AUTO, "http://api.internal:8000/v2")

    assert name == pseudonym(AUTO, "http://api.internal:8000/v2")
    assert name != pseudonym(AUTO, "http://api.internal:8000/v3")
    assert name.startswith("proxy-")
    assert len(bytes.fromhex(name.removeprefix("proxy-"))) == 4


def test_a_name_of_its_own_is_another_on_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proxy on two hosts may pass a request from one to the other."""
    here = pseudonym(AUTO, "http://a")
    monkeypatch.setattr("fastapi_httpx_pool.proxy._via.gethostname", lambda: "another")

    assert pseudonym(AUTO, "http://a") != here


def test_a_given_name_is_kept() -> None:
    """The policy's name stays as it is; without one there is still a name for Proxy-Status."""
    assert pseudonym("edge", "http://a") == "edge"
    assert pseudonym(None, "http://a") == "proxy"


@pytest.mark.parametrize(
    "inbound",
    [
        [],
        [(b"host", b"proxy-1"), (b"xia", b"1.1 proxy-1")],
        [(b"via", b"")],
        [(b"via", b" , ,")],
        [(b"via", b"proxy-1")],  # a protocol without a name
        [(b"via", b"1.1 proxy-10, 1.1 a.proxy-1, 2 proxy-1:80")],
        [(b"via", b"1.1 other (behind proxy-1)")],
        [(b"via", b"1.1 a"), (b"via", b"1.1 b, 1.1 c")],
    ],
)
def test_a_request_from_elsewhere_passes(inbound: list[Header]) -> None:
    """Names that only resemble ours, and few enough proxies, are no loop."""
    check_loop(inbound, NAME, 3)


@pytest.mark.parametrize(
    "inbound",
    [
        [(b"via", b"1.1 proxy-1")],
        [(b"Via", b"HTTP/1.1\tProxy-1")],
        [(b"via", b"1.0 fred, 2 proxy-1 (a comment), 1.1 last")],
        [(b"via", b"1.1 a"), (b"host", b"b"), (b"via", b"1.1 proxy-1")],
        [(b"via", b"1.1 a (open, 1.1 proxy-1")],
        [(b"via", b'1.1 a ("open, 1.1 proxy-1')],
    ],
)
def test_our_own_name_is_a_loop(inbound: list[Header]) -> None:
    """Wherever it stands, however it is written, and whatever a client has put before it."""
    with pytest.raises(LoopDetected, match="before"):
        check_loop(inbound, NAME, 20)


def test_without_a_name_nothing_is_recognized() -> None:
    """A proxy that does not name itself only counts."""
    check_loop([(b"via", b"1.1 proxy, 1.1")], b"", 2)


def test_too_many_proxies_are_a_loop() -> None:
    """They are counted over all lines."""
    inbound = [(b"via", b"1.1 a, 1.1 b"), (b"VIA", b"1.1 c,,")]

    check_loop(inbound, NAME, 3)
    with pytest.raises(LoopDetected, match="3 proxies, which is more than max_hops, 2"):
        check_loop(inbound, NAME, 2)


@pytest.mark.parametrize("version", ["1.0", "1.1", "2", "3"])
def test_we_name_ourselves_with_the_version_that_we_were_spoken_to_in(version: str) -> None:
    """A member of Via is the version of what was received, and the name of who received it."""
    assert via_line(version, NAME) == (b"via", version.encode() + b" proxy-1")


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([(b"host", b"1")], None),
        ([(b"max-forwards", b"0")], 0),
        ([(b"Max-Forwards", b"010")], 10),
        ([(b"max-forwards", b"3"), (b"max-forwards", b"3")], 3),
    ],
)
def test_max_forwards_is_a_number(method: str, headers: list[Header], expected: int | None) -> None:
    """The two methods that have it are limited if it is there."""
    assert max_forwards(method, headers) == expected


@pytest.mark.parametrize("method", ["GET", "POST", "trace", "PROPFIND"])
def test_other_methods_have_no_max_forwards(method: str) -> None:
    """Whatever it says, it is not for them."""
    assert max_forwards(method, [(b"max-forwards", b"x")]) is None


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"+1", b"1.0", b"1 2", b"1,1", b"\xc2\xb2", b"9" * 5000])
def test_max_forwards_that_is_no_number_is_an_error(value: bytes) -> None:
    """Digits only, and not more of them than anybody can read."""
    with pytest.raises(ValueError):
        max_forwards("TRACE", [(b"max-forwards", value)])


def test_two_limits_are_an_error() -> None:
    """Nobody knows which one is meant."""
    with pytest.raises(ValueError, match="not one number"):
        max_forwards("OPTIONS", [(b"max-forwards", b"1"), (b"max-forwards", b"2")])
