"""curl, where it is installed: a client that nobody here wrote."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_client import headers_of

LIMIT = 30
"""Seconds after which curl gives up, so that no test hangs."""

_PROGRAM = shutil.which("curl")

needs_curl = pytest.mark.skipif(_PROGRAM is None, reason="curl is not installed")
"""Marks a test that is about curl."""

# No configuration of the user's, no proxy, no progress on the terminal; and an account of each
# transfer, a JSON object in a line, where the bodies do not come.
_ALWAYS = ("--disable", "--noproxy", "*", "--silent", "--max-time", str(LIMIT), "--write-out", "%{stderr}%{json}\n")


@dataclass(frozen=True)
class Fetched:
    """What one call of curl got."""

    code: int
    """How curl itself ended; 0 if all went well."""
    heads: list[bytes]
    """The heads of all answers in their order, interim ones and redirections among them."""
    body: bytes
    """The bodies of all answers that were not followed elsewhere, without chunks."""
    transfers: list[dict[str, Any]]
    """curl's own account of each transfer: ``num_connects``, ``size_upload``, ``num_redirects``."""

    @property
    def status(self) -> int:
        """The last answer's."""
        return self.statuses[-1]

    @property
    def statuses(self) -> list[int]:
        """All answers', interim ones and redirections among them."""
        return [int(head.split(b" ", 2)[1]) for head in self.heads]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The header lines of the last answer, names in lower case."""
        return headers_of(self.heads[-1])

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header's lines in the last answer, in their order."""
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def curl(*arguments: str | Path) -> Fetched:
    """Run curl once, which may be several requests."""
    assert _PROGRAM is not None
    with tempfile.NamedTemporaryFile() as heads:
        command = [_PROGRAM, *_ALWAYS, "--dump-header", heads.name, *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * LIMIT, check=False)
        *lines, last = Path(heads.name).read_bytes().split(b"\r\n\r\n")
    assert not last, "curl writes whole heads"
    return Fetched(
        code=done.returncode,
        heads=lines,
        body=done.stdout,
        transfers=[json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")],
    )
