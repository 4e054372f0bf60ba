"""A picture without an asset: each pixel is computed, and the PNG written by hand."""

import math
import struct
import zlib
from functools import cache

__all__ = ("HEIGHT", "SUN", "WIDTH", "sea_at_dusk")

WIDTH, HEIGHT = 320, 180
HORIZON = 112

Colour = tuple[int, int, int]

SUN: Colour = (255, 214, 130)
NIGHT: Colour = (24, 52, 84)
GLOW: Colour = (236, 142, 104)
WATER: Colour = (11, 110, 117)
DEEP: Colour = (8, 38, 52)

SUN_AT = (230, 84)
SUN_RADIUS = 20


@cache
def sea_at_dusk() -> bytes:
    """Return a PNG: the sun above the sea, with its light on the waves."""
    rows = b"".join(b"\0" + bytes(value for x in range(WIDTH) for value in _pixel(x, y)) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pixel(x: int, y: int) -> Colour:
    if y >= HORIZON:
        return _wave(x, y)
    if math.dist((x, y), SUN_AT) < SUN_RADIUS:
        return SUN
    return _mixed(NIGHT, GLOW, y / HORIZON)


def _wave(x: int, y: int) -> Colour:
    depth = (y - HORIZON) / (HEIGHT - HORIZON)
    ripple = math.sin(x / (3 + 9 * depth) + y * y / 60)
    water = _mixed(WATER, DEEP, depth)
    near_the_sun = abs(x - SUN_AT[0]) < SUN_RADIUS * (1 - 0.6 * depth)
    if near_the_sun and ripple > 0:
        return _mixed(water, SUN, 0.75 * (1 - depth))
    return _mixed(water, WATER, 0.25 + 0.25 * ripple)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
