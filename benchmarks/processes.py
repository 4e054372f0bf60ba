"""The processes of a run: on which cores they are, that they end, and what they cost."""

import os
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, final

__all__ = ("Child", "Cores", "free_port", "idle_seconds", "memory", "pinned", "raise_file_limit")

_PATIENCE = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")

# A watcher beside each child waits for the end of a pipe from here, which comes even if this process
# is killed, and then ends the child. The child keeps the shell's process id, the watcher knows it.
_LEASH = 'exec 3<&0; (read -r _ <&3; kill $$ 2>/dev/null) & exec "$@" 3<&- </dev/null'


@final
@dataclass(frozen=True)
class Cores:
    """Who runs where: the contender alone on one core, everything else on the others."""

    contender: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Self:
        """Share out the cores that this process may use; nothing is pinned where there is one, or no way to."""
        usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(usable) <= 1:
            return cls(frozenset(), frozenset())
        return cls(frozenset(usable[:1]), frozenset(usable[1:]))

    def __str__(self) -> str:
        if not self.contender:
            return "not pinned"
        return f"contender on core {min(self.contender)}, upstream and generator on {', '.join(map(str, self.others))}"


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on these cores during a block; none means anywhere."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> None:
    """Allow as many open sockets as the system lets us; a thousand callers need more than the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def idle_seconds(cores: frozenset[int]) -> float | None:
    """Return how long these cores have had nothing to do since they started; None where nobody can tell."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = {line.split()[0]: line.split()[1:] for line in lines}
    wanted = [fields[name] for core in cores if (name := f"cpu{core}") in fields]
    # Idle, and idle until a disk answers.
    return sum(int(field) for times in wanted for field in times[3:5]) / _TICKS if wanted else None


def memory(process: int) -> int:
    """Return how many bytes a process, and those that it has started, have in memory."""
    own = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    children = Path(f"/proc/{process}/task/{process}/children")
    started = children.read_text(encoding="ascii").split() if children.exists() else []
    return own + sum(memory(int(child)) for child in started)


def free_port() -> int:
    """Return a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@final
class Child:
    """A process that ends when it is told to, or when this one ends for whatever reason."""

    def __init__(self, command: list[str], cores: frozenset[int], environment: Mapping[str, str]) -> None:
        """Start it; a proxy or a setting of the machine's does not reach it."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in `stop`
        with pinned(cores):
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LEASH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**_clean_environment(), **environment},
                process_group=0,  # so that Ctrl-C is for this process alone, which then ends the others
            )

    @property
    def pid(self) -> int:
        """Its number, for those who look at its memory."""
        return self._process.pid

    def first_line(self) -> str:
        """Wait for its first line of output; empty if it ended without one."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def complaint(self) -> str:
        """Return the last line that it wrote to its standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def cpu_seconds(self) -> float | None:
        """How much processor time it has used; None where there is no /proc."""
        try:
            # The command's name, in parentheses, may contain anything.
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return None
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / _TICKS

    def stop(self) -> None:
        """End it and wait; a process that does not end in time is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("HTTPX_POOL_", "SSL_CERT_"))
    }
