"""Ways in which a proxy can change what passes, or answer itself: faults for the conformance suite to find."""

import re
from collections.abc import Callable

Change = Callable[[bytes], bytes]
Answer = Callable[[bytes], bytes | None]


def without(*names: bytes) -> Change:
    """Return what takes the lines of these names out of a head, whatever their case."""
    pattern = re.compile(rb"(?im)^(%s):.*\r\n" % b"|".join(names))
    return lambda head: pattern.sub(b"", head)


def adding(*lines: bytes, where: bytes = b"") -> Change:
    """Return what adds lines to a head, if that is in it."""
    text = b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    return lambda head: head.replace(b"\r\n", text, 1) if where in head else head


def replacing(old: bytes, new: bytes) -> Change:
    """Return what replaces bytes."""
    return lambda data: data.replace(old, new)


def chain(*changes: Change) -> Change:
    """Return what makes one change after the other."""

    def change(data: bytes) -> bytes:
        for each in changes:
            data = each(data)
        return data

    return change


def refusing(pattern: bytes, status: bytes = b"400 Bad Request", body: bytes = b"") -> Answer:
    """Return what answers requests with that in their head, in the upstream's stead."""
    answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    return lambda head: answer if re.search(pattern, head) else None


def hanging_up(pattern: bytes) -> Answer:
    """Return what hangs up on requests with that in their head."""
    return lambda head: b"" if re.search(pattern, head) else None


def later(change: Change) -> Change:
    """Return what makes a change, but not of the first, which is when the suite looks whether there is a proxy."""
    seen = 0

    def changed(data: bytes) -> bytes:
        nonlocal seen
        seen += 1
        return change(data) if seen > 1 else data

    return changed
