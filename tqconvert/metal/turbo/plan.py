"""What a case becomes: launches on arrays, and what must come out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tqconvert.metal.launch import Launch
from tqconvert.metal.turbo import reference as ref
from tqconvert.turbo import codec

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an array must hold after all launches."""

    array: str
    want: Any
    bar: float = 0.0
    """Relative error on the CPU; 0: every byte."""
    gpu_bar: float = 0.0
    """The same on a GPU, whose compiler may reorder floats; for bytes the share that may differ."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Launches in order, arrays by name, and what is expected of them."""

    arrays: Arrays
    launches: tuple[Launch, ...]
    expected: tuple[Expected, ...]


def set_rows_args(type_name: str, heads: int, n: int, dim: int, index_bytes: int) -> dict[str, int]:
    """Arguments of set_rows for rows of all heads of a position, as a cache is written."""
    width = heads * dim
    size = ref.row_bytes(type_name, width)
    return {
        "nk0": width // codec.BLOCK, "ne01": n, "nb01": 4 * width, "nb02": 4 * width * n,
        "nb03": 4 * width * n, "ne11": 1, "ne12": 1, "nb10": index_bytes,
        "nb11": index_bytes * n, "nb12": index_bytes * n, "nb1": size, "nb2": size * n,
        "nb3": size * n,
    }  # fmt: skip


def normal(rng: Any, *shape: int) -> Any:
    """Standard normal float32."""
    return rng.standard_normal(shape).astype(np.float32)
