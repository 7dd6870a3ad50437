"""A case: launches, their arrays, and what NumPy says must come out."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqconvert.errors import KernelSourceError
from tqconvert.metal.kargs import Struct, pack
from tqconvert.metal.launch import Launch, Size, slots

Array = NDArray[Any]
F32 = 1e-5
"""Tolerance of float32 arithmetic in another order, relative to the largest value."""
F16 = 2e-3
"""The same where something is rounded to half on the way."""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison."""

    title: str
    launches: tuple[Launch, ...]
    """In order, on the same arrays."""
    arrays: Mapping[str, Any]
    output: str
    """Name of the array that is compared."""
    want: Array
    tolerance: float
    """Largest error relative to the largest value; 0 where all bytes must be equal."""


Family = Callable[["Bench"], Iterator[Case]]
"""Cases of kernels that belong together."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a tree offers to those who write cases."""

    structs: Mapping[str, Struct]
    defines: Mapping[str, int]
    constants: Mapping[str, int]
    """Function constants: name -> index."""
    names: frozenset[str]
    """Host names of all kernels."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def normal(self, *shape: int, dtype: Any = np.float32) -> Array:
        """Normally distributed values; the shape is (rows, columns)."""
        return self.rng.standard_normal(shape).astype(dtype)

    def define(self, name: str) -> int:
        """A number of the header. Raises KernelSourceError."""
        if name not in self.defines:
            raise KernelSourceError(f"{name}: not defined in the header")
        return self.defines[name]

    def has(self, struct: str, name: str) -> bool:
        """Whether an argument struct has the field."""
        found = self.structs.get(f"ggml_metal_kargs_{struct}")
        return found is not None and name in {f[0] for f in found._fields_}

    def known(self, **constants: float) -> dict[str, float]:
        """Those of the function constants that the tree has; older ones have fewer."""
        return {k: v for k, v in constants.items() if k in self.constants}

    def args(self, struct: str, *dims: Mapping[str, int], **values: Any) -> bytes:
        """Bytes of an argument struct; of `dims` what it has, of `values` all. Raises KernelSourceError."""
        full = f"ggml_metal_kargs_{struct}"
        if full not in self.structs:
            raise KernelSourceError(f"{full}: no such struct in the header")
        names = {f[0] for f in self.structs[full]._fields_}
        shapes = {k: v for d in dims for k, v in d.items() if k in names}
        return pack(self.structs, struct, {**shapes, **values})

    def launch(
        self, kernel: str, buffers: str, grid: Size, threads: Size,
        *threadgroup: int, **constants: float,
    ) -> Launch:  # fmt: skip
        """A launch; `buffers` are names of arrays by index, `constants` function constants by name."""
        indices = {}
        for name, value in constants.items():
            if name not in self.constants:
                raise KernelSourceError(f"{name}: no such function constant")
            indices[self.constants[name]] = int(value)
        tg = tuple(-(-n // 16) * 16 for n in threadgroup)
        return Launch(kernel, slots(*buffers.split()), grid, threads, indices, tg)


def seeded(bench: Bench, title: str) -> Bench:
    """The bench with random numbers that depend on the title alone."""
    rng = np.random.default_rng(zlib.crc32(title.encode()))
    return Bench(bench.structs, bench.defines, bench.constants, bench.names, rng)


def dims(suffix: str, a: Array) -> dict[str, int]:
    """Lengths and strides of an array, by ggml's names: `dims("0", a)` are ne00.. and nb00.., the last axis first."""
    return shape(suffix, a.shape, a.itemsize)


def shape(
    suffix: str, lengths: tuple[int, ...], item: int, *, row: int | None = None
) -> dict[str, int]:
    """The same by lengths, outermost first, with `row` bytes a row if it is not of items."""
    ne = [1] * (4 - len(lengths)) + list(lengths)
    ne.reverse()
    nb = [item, row or item * ne[0]]
    nb += [nb[1] * ne[1], nb[1] * ne[1] * ne[2]]
    return {
        f"{kind}{suffix}{i}": v for kind, vs in (("ne", ne), ("nb", nb)) for i, v in enumerate(vs)
    }


def until(n: int, limit: int, start: int = 32) -> int:
    """The first of start, 2 start, .. that is not below `n`, or the limit."""
    while start < min(n, limit):
        start *= 2
    return min(start, limit)


def error_of(got: Array, want: Array) -> float:
    """Largest difference relative to the largest value; infinite where something is no number."""
    if got.dtype == np.uint8:
        return float(np.count_nonzero(got.reshape(-1) != want.reshape(-1)))
    a, b = got.astype(np.float64).reshape(-1), want.astype(np.float64).reshape(-1)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf
    finite = np.isfinite(b)
    difference = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return float(difference / max(np.abs(b[finite]).max(initial=0.0), 1e-30))
