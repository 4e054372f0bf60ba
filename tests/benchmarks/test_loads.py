"""Loads and their names."""

import pytest

from benchmarks.loads import Load


def test_get() -> None:
    """A GET asks for as many bytes as its name says, and sends none."""
    load = Load.named("get-64k-200")

    assert (load.method, load.path, load.body, load.answer_size) == ("GET", "/65536", b"", 65536)
    assert (load.callers, load.origins) == (200, 1)


def test_post() -> None:
    """A POST sends as many bytes as its name says; its answer is small."""
    load = Load.named("post-1k-5x10")

    assert (load.method, load.path, load.body, load.answer_size) == ("POST", "/2", b"x" * 1024, 2)
    assert (load.callers, load.origins) == (5, 10)


@pytest.mark.parametrize("name", ["", "get", "put-1k-5", "get-1g-5", "get-1k-0", "get-1k-5x0", "get-1k-5 "])
def test_no_load(name: str) -> None:
    """What is no load is refused, with an example of one that is."""
    with pytest.raises(ValueError, match="is no load"):
        Load.named(name)
