"""Random changes of bytes and of numbers in them, and the numbers that break programs."""

import random
import struct
from collections.abc import Sequence

EDGES = (
    0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097,
    0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000, 0x1000001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x100000000, (1 << 40), (1 << 53) + 1, (1 << 61), (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 63) + 1,
    (1 << 64) - 32, (1 << 64) - 1,
)  # fmt: skip
"""Counts, lengths and offsets at which something changes or overflows."""

BYTES = (0, 1, 9, 10, 13, 32, 0x22, 0x23, 0x7F, 0x80, 0xBF, 0xC0, 0xED, 0xF8, 0xFF)


def edge(rng: random.Random, width: int) -> int:
    """A number of `width` bytes: an edge, its neighbour, or anything."""
    limit = (1 << (8 * width)) - 1
    kind = rng.randrange(10)
    if kind < 7:
        return (rng.choice(EDGES) + rng.choice((0, 0, 0, -1, 1))) & limit
    return rng.randrange(min(300, limit)) if kind < 9 else rng.getrandbits(8 * width)


def set_number(data: bytearray, at: int, width: int, order: str, rng: random.Random) -> None:
    """Write an edge over the number at `at`, or move it a little."""
    code = order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    limit = (1 << (8 * width)) - 1
    if rng.random() < 0.3:
        (old,) = struct.unpack_from(code, data, at)
        new = (old + rng.choice((-64, -32, -8, -2, -1, 1, 2, 8, 32, 64))) & limit
    else:
        new = edge(rng, width)
    struct.pack_into(code, data, at, new)


def byte_level(data: bytearray, rng: random.Random, words: Sequence[bytes] = ()) -> bytearray:
    """One change without regard to what the bytes mean."""
    n = len(data)
    at = rng.randrange(n + 1)
    match rng.randrange(8):
        case 0 if n:
            data[min(at, n - 1)] ^= 1 << rng.randrange(8)
        case 1 if n:
            data[min(at, n - 1)] = rng.choice(BYTES)
        case 2:
            del data[at : at + 1 + rng.randrange(32)]
        case 3:
            data[at:at] = rng.randbytes(1 + rng.randrange(16))
        case 4:
            data[at:at] = data[at : at + 1 + rng.randrange(64)] * (1 + rng.randrange(3))
        case 5:
            del data[at:]
        case 6 if words:
            data[at:at] = rng.choice(words)
        case _ if n:
            start = rng.randrange(n)
            piece = data[start : start + 1 + rng.randrange(64)]
            data[at : at + len(piece)] = piece
    return data
