"""Codebooks of the turbo types: computed by Lloyd-Max, held as int8, verified wherever they stand.

A codebook is symmetric and sorted. Its unit is one standard deviation of the values it is made for, in
steps of the codebook; the gain of a block absorbs it. `verify_codebook` judges a table by what it does
to normal data, so it finds a table that is too narrow whatever its name and scale.
"""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tqconvert.errors import CheckFailedError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DISTORTION_BOUND = {4: 0.0098, 3: 0.0355, 2: 0.121}
"""Bits -> the largest mean squared error on N(0, 1) that a table may have: Lloyd-Max's own .00950,
.03455 and .11748 (Max 1960, table 1) and room for rounding to int8."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """The table of one type: `2**bits` int8 values, ascending."""

    bits: int
    unit: float
    """One standard deviation in steps."""
    values: tuple[int, ...]

    @property
    def magnitudes(self) -> tuple[int, ...]:
        """The positive half."""
        return self.values[len(self.values) // 2 :]


def _symmetric(bits: int, unit: float, *positive: int) -> Codebook:
    return Codebook(bits, unit, (*(-v for v in reversed(positive)), *positive))


CODEBOOKS: dict[str, Codebook] = {
    "turbo2": _symmetric(2, 66.2110, 30, 100),
    "turbo3": _symmetric(3, 52.9337, 13, 40, 71, 114),
    "turbo4": _symmetric(4, 38.1553, 5, 15, 25, 36, 48, 62, 79, 104),
}
"""Type -> table. The same integers stand in ollama_patches/files/ggml/src/ggml-turbo.c; a test compares."""


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0


def _below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _edges(levels: "Sequence[float]") -> list[float]:
    inner = [(a + b) / 2 for a, b in pairwise(levels)]
    return [-math.inf, *inner, math.inf]


def lloyd_max(bits: int, *, tolerance: float = 1e-12) -> list[float]:
    """The `2**bits` levels with the least mean squared error on N(0, 1), ascending.

    Lloyd's iteration: every level becomes the mean of its cell, every edge the middle of two levels.
    """
    n = 1 << bits
    levels = [-3 + 6 * (i + 0.5) / n for i in range(n)]
    for _ in range(100_000):
        edges = _edges(levels)
        cells = pairwise(edges)
        new = [(_density(a) - _density(b)) / (_below(b) - _below(a)) for a, b in cells]
        moved = max(abs(a - b) for a, b in zip(levels, new, strict=True))
        levels = new
        if moved < tolerance:
            break
    return levels


def distortion(levels: "Sequence[float]") -> float:
    """Mean squared error of nearest-level quantization of N(0, 1): exact, by integration."""
    edges = _edges(levels)
    total = 0.0
    for level, a, b in zip(levels, edges, edges[1:], strict=False):
        p = _below(b) - _below(a)
        first = _density(a) - _density(b)
        tail_a = a * _density(a) if math.isfinite(a) else 0.0
        tail_b = b * _density(b) if math.isfinite(b) else 0.0
        second = p + tail_a - tail_b
        total += second - 2 * level * first + level * level * p
    return total


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a table does to normal data."""

    bits: int
    mse: float
    """At the unit that the table's owner states."""
    bound: float
    span: float
    """The outermost level in standard deviations; Lloyd-Max's is 2.733, 2.152, 1.510 at 4, 3, 2 bits."""

    @property
    def sound(self) -> bool:
        """Whether the error is within the bound."""
        return self.mse <= self.bound


def judge(values: "Sequence[float]", unit: float) -> Verdict:
    """The verdict on a table whose values are multiples of `1/unit` standard deviations.

    Raises CheckFailedError for a table that is no codebook: not 4, 8 or 16 ascending finite numbers.
    """
    bits = {4: 2, 8: 3, 16: 4}.get(len(values))
    ascending = all(a < b for a, b in pairwise(values))
    if bits is None or not ascending or not all(map(math.isfinite, values)) or not unit > 0:
        raise CheckFailedError(
            f"codebook {list(values)[:16]}: not 4, 8 or 16 ascending numbers with a unit above 0"
        )
    levels = [v / unit for v in values]
    return Verdict(bits, distortion(levels), DISTORTION_BOUND[bits], levels[-1])


def verify_codebook(values: "Sequence[float]", unit: float, *, name: str) -> Verdict:
    """The verdict, if it is sound. Raises CheckFailedError with the figures otherwise."""
    verdict = judge(values, unit)
    if not verdict.sound:
        widest = lloyd_max(verdict.bits)[-1]
        raise CheckFailedError(
            f"{name}: a codebook with mean squared error {verdict.mse:.4f} on normal data"
            f" (expected at most {verdict.bound}); it spans {verdict.span:.2f} standard deviations,"
            f" Lloyd-Max {widest:.2f}",
            hint=f"{name} should hold Lloyd-Max levels times one unit, as docs/turbo-types.md lists them",
        )
    return verdict


_TABLE = re.compile(r"\{\s*([234])\s*,\s*([0-9.]+)\s*,\s*\{([-0-9,\s]+)\}\s*\}")


def read_codebooks(path: "Path") -> dict[str, Codebook]:
    """The tables that a tree's ggml-turbo.c holds: type -> codebook.

    Raises NotFoundError where the file is missing or does not hold the three of them.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as e:
        raise NotFoundError(f"{path}: {e.strerror}") from None
    found = {}
    for bits, unit, values in _TABLE.findall(text):
        numbers = tuple(int(v) for v in values.split(",") if v.strip())
        found[f"turbo{bits}"] = Codebook(int(bits), float(unit), numbers)
    if set(found) != set(CODEBOOKS):
        raise NotFoundError(
            f"{path}: holds {', '.join(sorted(found)) or 'no codebook'} (expected {', '.join(CODEBOOKS)})"
        )
    return found


def verify_tree(path: "Path") -> dict[str, Verdict]:
    """Verdicts on the tables of a tree's ggml-turbo.c, each sound and equal to ours.

    Raises CheckFailedError, NotFoundError.
    """
    verdicts = {}
    for name, book in read_codebooks(path).items():
        verdicts[name] = verify_codebook(book.values, book.unit, name=f"{path}: {name}")
        if book != CODEBOOKS[name]:
            raise CheckFailedError(f"{path}: {name}: {book.values} is not our codebook")
    return verdicts
