"""On what was measured: processor, system, versions."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ("description", "versions")

_PACKAGES = (
    "fastapi-httpx-pool",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "websockets",
    "httpx",
    "httpcore",
    "httpx2",
    "httpx-aiohttp",
    "pyreqwest",
    "aiohttp",
    "fastapi-proxy-lib",
)


def description() -> str:
    """Return one line on the machine; not its name."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Return the versions of all packages that take part."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()
