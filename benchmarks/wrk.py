"""wrk as the load generator: it takes the least of the core that it shares with the upstream."""

import math
import re
import shutil
import subprocess
from pathlib import Path

from .generator import Measured
from .loads import Load

__all__ = ("measure", "parse", "path")

_PATIENCE = 30.0
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(us|ms|s|m),")
_PERCENTILE = re.compile(r"^ +(50|99)% +([\d.]+)(us|ms|s|m) *$", re.MULTILINE)
_BAD_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_BAD_SOCKETS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


def path() -> str | None:
    """Return where wrk is, if it is installed."""
    return shutil.which("wrk")


def measure(program: str, port: int, load: Load, seconds: float, folder: Path) -> Measured:
    """Run wrk for so many seconds (whole ones: it knows no others) and read what it prints."""
    command = [program, "--threads", "1", "--connections", str(load.callers), "--duration", f"{math.ceil(seconds)}s"]
    command += ["--timeout", "10s", "--latency"]
    if load.body:
        command += ["--script", str(_script(load, folder))]
    command.append(f"http://127.0.0.1:{port}{load.path}")
    limit = math.ceil(seconds) + _PATIENCE
    return parse(subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit).stdout)


def parse(output: str) -> Measured:
    """
    Read what wrk printed.

    Raises:
        ValueError: It is not what wrk prints.
    """
    total = _TOTAL.search(output)
    if total is None:
        raise ValueError(f"this is no output of wrk: {output!r}")
    bad = int(found[1]) if (found := _BAD_STATUS.search(output)) else 0
    broken = sum(map(int, found.groups())) if (found := _BAD_SOCKETS.search(output)) else 0
    seconds = float(total[2]) * _UNITS[total[3]] / 1000
    times = {percent: float(value) * _UNITS[unit] for percent, value, unit in _PERCENTILE.findall(output)}
    # Where no answer came, wrk says that it took no time.
    return Measured((int(total[1]) - bad) / seconds, bad + broken, times.get("50") or None, times.get("99") or None)


def _script(load: Load, folder: Path) -> Path:
    script = folder / f"{load.name}.lua"
    script.write_text(f'wrk.method = "{load.method}"\nwrk.body = string.rep("x", {load.size})\n', encoding="ascii")
    return script
