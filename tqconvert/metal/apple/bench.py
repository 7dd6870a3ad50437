"""Times of attention on the GPU: turbo caches beside f16 and q8_0, on the same queries."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tqconvert.metal.apple.gpu import Gpu
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.cases import AttentionCase

PAIRS = (
    ("f16", "f16"), ("q8_0", "q8_0"), ("turbo4", "turbo4"), ("turbo3", "turbo3"),
    ("turbo2", "turbo2"), ("q8_0", "turbo4"), ("f16", "turbo3"),
)  # fmt: skip
ROUNDS = 15
_FC_VEC = 400
_CHUNK = 32
_SEED = 1


@dataclass(frozen=True, slots=True)
class Time:
    """One row of the table."""

    k: str
    v: str
    dim: int
    n_kv: int
    seconds: float
    """Median of the rounds: attention and the sum of its workgroups."""
    cache_bytes: int
    """Of K and V."""

    @property
    def bytes_per_second(self) -> float:
        """How fast the cache was read."""
        return self.cache_bytes / self.seconds if self.seconds else 0.0


def measure(
    gpu: Gpu, structs: Mapping[str, Any], *, dims: Sequence[int] = (128, 256),
    lengths: Sequence[int] = (2048, 8192, 32768), heads: tuple[int, int] = (32, 8),
    pairs: Sequence[tuple[str, str]] = PAIRS, rounds: int = ROUNDS,
) -> Iterator[Time]:  # fmt: skip
    """Times of one query row over caches of these lengths. Raises KernelSourceError."""
    for dim in dims:
        for n_kv in lengths:
            for k, v in pairs:
                launches, arrays = decode(structs, k, v, dim, n_kv, heads)
                times = []
                for _ in range(rounds):
                    done = gpu.run(launches, arrays)
                    times.append(sum(done.gpu_s))
                size = sum(len(arrays[side].tobytes()) for side in "kv")
                # the first rounds wake the GPU up
                yield Time(k, v, dim, n_kv, median(times[rounds // 3 :]), size)


def decode(
    structs: Mapping[str, Any], k: str, v: str, dim: int, n_kv: int, heads: tuple[int, int]
) -> tuple[list[Launch], dict[str, Any]]:
    """The launches of one query row, ours or upstream's, on a cache whose content repeats."""
    import numpy as np

    from tqconvert.metal.kargs import pack
    from tqconvert.metal.turbo.attention import plan_attention

    own = (k, v) if "turbo" in k + v else ("turbo4", "turbo4")
    # The reference encodes a chunk, which is repeated: times do not depend on values.
    shape = AttentionCase("vec", *own, dim, n_kv, heads=heads, mask="none", simdgroups=4)
    small = replace(shape, n_kv=_CHUNK)
    planned = plan_attention(small, structs, np.random.default_rng(_SEED))
    fields = arguments(shape, k, v)
    arrays = dict(planned.arrays) | {"args": pack(structs, "flash_attn_ext_vec", fields)}
    for side, kind in (("k", k), ("v", v)):
        chunk = encoded(kind, dim, heads[1])
        arrays[side] = np.tile(chunk, n_kv // _CHUNK)
    launches = list(planned.launches)
    if own != (k, v):
        strides = {_FC_VEC + 20: fields["ns10"], _FC_VEC + 21: fields["ns20"]}
        launches[0] = _stock(launches[0], k, dim, strides)
        arrays["idx"] = np.zeros(4, np.int32)
    return launches, arrays


def encoded(kind: str, dim: int, heads: int) -> Any:
    """Bytes of a chunk of a cache, the heads of a position behind each other."""
    import numpy as np

    from tqconvert.metal.turbo import reference

    x = np.random.default_rng(_SEED).standard_normal((_CHUNK * heads, dim)).astype(np.float32)
    return np.ascontiguousarray(reference.encode(kind, x)).view(np.uint8).reshape(-1)


def arguments(case: AttentionCase, k: str, v: str) -> dict[str, Any]:
    """The arguments of the vector kernels for a cache of any types."""
    from tqconvert.metal.turbo.reference import row_bytes

    fields: dict[str, Any] = {
        "ne01": 1, "ne02": case.heads[0], "ne03": 1, "ne11": case.n_kv, "ne_12_2": case.heads[1],
        "ne_12_3": 1, "ne1": case.heads[0], "ne2": 1, "ne3": 1, "ne31": 1, "ne32": 1, "ne33": 1,
        "nb01": 4 * case.dim * case.heads[0], "nb02": 4 * case.dim,
        "nb03": 4 * case.dim * case.heads[0], "scale": 1 / math.sqrt(case.dim),
    }  # fmt: skip
    for prefix, strides, kind in (("nb1", "ns10", k), ("nb2", "ns20", v)):
        size = row_bytes(kind, case.dim)
        row = size * case.heads[1]
        block = {"f16": 2, "q8_0": 34}.get(kind, size * 128 // case.dim)
        fields |= {
            f"{prefix}1": row, f"{prefix}2": size, f"{prefix}3": row * case.n_kv,
            strides: row // block,
        }  # fmt: skip
    return fields


def _stock(launch: Launch, kind: str, dim: int, strides: Mapping[int, int]) -> Launch:
    """Upstream's vector kernel for the same work (llama.cpp with one file of kernels per kind)."""
    nsg = launch.threads[1]
    pad = -(-dim // 128) * 128
    flags = {_FC_VEC + i: 0 for i in range(6)}
    constants = flags | dict(strides) | {_FC_VEC + 22: nsg, _FC_VEC + 23: 32}
    return Launch(
        f"kernel_flash_attn_ext_vec_{kind}_dk{dim}_dv{dim}",
        (*launch.buffers[:7], *slots("parts", "idx")), launch.grid, launch.threads, constants,
        ((3 * pad + 4 * _CHUNK) * nsg * 2,),
    )  # fmt: skip
