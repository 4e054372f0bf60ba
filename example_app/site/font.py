"""
The font Beacon: letters of five by seven squares, drawn below and built into a TrueType file.

A pixel is 100 units; a letter with its gap is 600 units wide, three quarters of the em of 800.
Capitals stand for small letters, too.
"""

import struct
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

__all__ = ("NAME", "beacon")

NAME = "Beacon"

PIXEL = 100
ROWS = 7
EM = 8 * PIXEL
ADVANCE = 6 * PIXEL

DRAWN = """
A     B     C     D     E     F     G     H     I     J     K     L     M
.###. ####. .#### ####. ##### ##### .#### #...# .###. ..### #...# #.... #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #..#. #.... ##.##
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#
#...# ####. .#### ####. ##### #.... .#### #...# .###. .##.. #...# ##### #...#

N     O     P     Q     R     S     T     U     V     W     X     Y     Z
#...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#
##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
#.#.# #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
#..## #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...
#..## #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....
#...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####

0     1     2     3     4     5     6     7     8     9     .     !     -
.###. ..#.. .###. ####. ...#. ##### .###. ##### .###. .###. ..... ..#.. .....
#...# .##.. #...# ....# ..##. #.... #.... ....# #...# #...# ..... ..#.. .....
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...# ..... ..#.. .....
#.#.# ..#.. ...#. .###. #..#. ....# ####. ...#. .###. .#### ..... ..#.. .###.
##..# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....# ..... ..#.. .....
#...# ..#.. .#... ....# ...#. #...# #...# ..#.. #...# ....# .##.. ..... .....
.###. .###. ##### ####. ...#. .###. .###. ..#.. .###. .###. .##.. ..#.. .....
"""


class _Box(NamedTuple):
    left: int
    bottom: int
    right: int
    top: int


class _Glyph(NamedTuple):
    data: bytes
    left: int
    points: int
    contours: int


@cache
def beacon() -> bytes:
    """Return the font as a TrueType file."""
    drawn = _drawings()
    empty = _Glyph(b"", 0, 0, 0)
    # Two empty ones first: what stands for unknown letters, and the space.
    glyphs = [empty, empty, *(_glyph(rows) for rows in drawn.values())]
    letters = {" ": 1} | {letter: number for number, letter in enumerate(drawn, 2)}
    letters |= {letter.lower(): number for letter, number in letters.items()}
    return _file(
        {
            b"OS/2": _os2(letters),
            b"cmap": _cmap(letters),
            b"glyf": b"".join(glyph.data for glyph in glyphs),
            b"head": _head(),
            b"hhea": _hhea(len(glyphs)),
            b"hmtx": b"".join(struct.pack(">Hh", ADVANCE, glyph.left) for glyph in glyphs),
            b"loca": _loca(glyphs),
            b"maxp": _maxp(glyphs),
            b"name": _name(),
            b"post": struct.pack(">IIhhIIIII", 0x00030000, 0, -PIXEL, PIXEL // 2, 1, 0, 0, 0, 0),
        }
    )


def _drawings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in DRAWN.strip().split("\n\n"):
        letters, *rows = (line.split() for line in block.splitlines())
        found |= {letter: [row[column] for row in rows] for column, letter in enumerate(letters)}
    return found


def _glyph(rows: list[str]) -> _Glyph:
    # Rows and columns lie on each other, so that no seam shows between two rows.
    across = [_Box(start, y, end, y + 1) for y, row in _from_below(rows) for start, end in _runs(row)]
    columns = ["".join(column) for column in zip(*reversed(rows), strict=True)]
    upright = [_Box(x, start, x + 1, end) for x, column in enumerate(columns) for start, end in _runs(column)]
    boxes = [_Box(*(PIXEL * edge for edge in box)) for box in (*across, *upright)]
    around = _Box(*(pick(values) for pick, values in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)))
    # Clockwise: what lies to the right of the line is filled.
    points = [
        corner
        for left, bottom, right, top in boxes
        for corner in ((left, bottom), (left, top), (right, top), (right, bottom))
    ]
    data = struct.pack(">hhhhh", len(boxes), *around)
    data += struct.pack(f">{len(boxes)}H", *range(3, len(points), 4)) + struct.pack(">H", 0)
    data += b"\x01" * len(points)  # on the curve
    for axis in (0, 1):
        values = [0, *(point[axis] for point in points)]
        data += struct.pack(f">{len(points)}h", *(b - a for a, b in pairwise(values)))
    return _Glyph(data + b"\0" * (-len(data) % 4), around.left, len(points), len(boxes))


def _from_below(rows: list[str]) -> Iterator[tuple[int, str]]:
    return zip(range(ROWS), reversed(rows), strict=True)


def _runs(line: str) -> Iterator[tuple[int, int]]:
    start = None
    for place, square in enumerate(f"{line}."):
        if square == "#":
            start = place if start is None else start
        elif start is not None:
            yield start, place
            start = None


# The tables, in the order of the OpenType specification's fields.


def _os2(letters: dict[str, int]) -> bytes:
    first, last = min(map(ord, letters)), max(map(ord, letters))
    sizes = (550, 500, 0, 100, 550, 500, 0, 350, 50, 250)  # sub- and superscript, strike-out
    data = struct.pack(">HhHHH", 4, ADVANCE, 400, 5, 0) + struct.pack(">10h", *sizes) + struct.pack(">h", 0)
    data += bytes(10) + struct.pack(">4I", 1, 0, 0, 0) + b"NONE"
    data += struct.pack(">HHHhhhHH", 0x0040, first, last, ROWS * PIXEL, -PIXEL, 0, EM, PIXEL)
    return data + struct.pack(">2IhhHHH", 1, 0, ROWS * PIXEL, ROWS * PIXEL, 0, 32, 0)


def _cmap(letters: dict[str, int]) -> bytes:
    numbers = sorted((ord(letter), glyph) for letter, glyph in letters.items())
    count = len(numbers) + 1  # a segment for each letter, and the one that ends them
    power = 1 << (count.bit_length() - 1)
    ends = [code for code, _ in numbers] + [0xFFFF]
    shifts = [(glyph - code) % 0x10000 for code, glyph in numbers] + [1]
    segments = (
        struct.pack(f">{count}HH{count}H", *ends, 0, *ends) + struct.pack(f">{count}H", *shifts) + bytes(2 * count)
    )
    search = (2 * count, 2 * power, power.bit_length() - 1, 2 * (count - power))
    table = struct.pack(">HHHHHHH", 4, 14 + len(segments), 0, *search) + segments
    return struct.pack(">HHHHI", 0, 1, 3, 1, 12) + table


def _head() -> bytes:
    # The checksum of the whole file comes in later; no date, so that the file is always the same.
    return struct.pack(
        ">IIIIHHqqhhhhHHhhh",
        0x00010000, 0x00010000, 0, 0x5F0F3CF5, 0x000B, EM, 0, 0,
        0, 0, 5 * PIXEL, ROWS * PIXEL, 0, 8, 2, 1, 0,
    )  # fmt: skip


def _hhea(count: int) -> bytes:
    return struct.pack(
        ">IhhhHhhhhhhhhhhhH",
        0x00010000, ROWS * PIXEL, -PIXEL, 0, ADVANCE, 0, PIXEL, 5 * PIXEL, 1, 0, 0, 0, 0, 0, 0, 0, count,
    )  # fmt: skip


def _loca(glyphs: list[_Glyph]) -> bytes:
    places = [0]
    for glyph in glyphs:
        places.append(places[-1] + len(glyph.data))
    return struct.pack(f">{len(places)}I", *places)


def _maxp(glyphs: list[_Glyph]) -> bytes:
    points, contours = max(glyph.points for glyph in glyphs), max(glyph.contours for glyph in glyphs)
    return struct.pack(">IHHHHHHHHHHHHHH", 0x00010000, len(glyphs), points, contours, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0)


def _name() -> bytes:
    texts = {1: NAME, 2: "Regular", 3: NAME, 4: NAME, 5: "Version 1.0", 6: NAME}
    records, stored = b"", b""
    for number, text in texts.items():
        encoded = text.encode("utf-16-be")
        records += struct.pack(">HHHHHH", 3, 1, 0x0409, number, len(encoded), len(stored))
        stored += encoded
    return struct.pack(">HHH", 0, len(texts), 6 + len(records)) + records + stored


def _file(tables: dict[bytes, bytes]) -> bytes:
    count = len(tables)
    power = 1 << (count.bit_length() - 1)
    directory = struct.pack(">IHHHH", 0x00010000, count, 16 * power, power.bit_length() - 1, 16 * (count - power))
    place, body, head_at = 12 + 16 * count, b"", 0
    for tag, table in sorted(tables.items()):
        head_at = place if tag == b"head" else head_at
        directory += tag + struct.pack(">III", _checksum(table), place, len(table))
        padded = table + b"\0" * (-len(table) % 4)
        body, place = body + padded, place + len(padded)
    font = directory + body
    adjustment = struct.pack(">I", (0xB1B0AFBA - _checksum(font)) % 2**32)
    return font[: head_at + 8] + adjustment + font[head_at + 12 :]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (-len(data) % 4)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 4}I", padded)
    return sum(words) % 2**32
