"""Times of attention on the GPU: turbo caches beside f16 and q8_0, on the same queries.

The launches are those that the host makes: one query goes to the vector kernels; a prompt of 32 queries and
more makes K and V f16 first and takes upstream's kernel for f16, but where a turbo type meets q8_0: that
is our tiled kernel's. `tests/metal/host/test_bench.py` runs them on the simulator against NumPy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tqconvert.errors import KernelSourceError, UsageError
from tqconvert.metal.apple.gpu import Gpu
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.cases import AttentionCase

PAIRS = (
    ("f16", "f16"), ("q8_0", "q8_0"), ("turbo4", "turbo4"), ("turbo3", "turbo3"),
    ("turbo2", "turbo2"), ("q8_0", "turbo4"), ("f16", "turbo3"),
)  # fmt: skip
ROUNDS = 15
CELLS = 64
"""Lengths of caches are multiples of this: no kernel has to pad."""
PROMPT = 512
_FC, _FC_VEC = 300, 400
_CHUNK = 32
_ROWS = 8
_CONVERTED = 256
_SEED = 1

_MOST_BY_F16 = 256
_MOST_SIMDGROUPS = 4


@dataclass(frozen=True, slots=True)
class Time:
    """One row of the table."""

    k: str
    v: str
    dim: int
    n_kv: int
    n_q: int
    """1: decode; more: prefill."""
    seconds: float
    """Median of the rounds: all launches of the operator."""
    cache_bytes: int
    """Of K and V."""
    moved_bytes: int
    """What the kernels load of K and V, and store of their f16 copies; each load counts, cached or not."""

    @property
    def bytes_per_second(self) -> float:
        """How fast the kernels moved them."""
        return self.moved_bytes / self.seconds if self.seconds else 0.0


def measure(
    gpu: Gpu, structs: Mapping[str, Any], *, dims: Sequence[int] = (128, 256),
    lengths: Sequence[int] = (2048, 8192, 32768), queries: Sequence[int] = (1, PROMPT),
    heads: tuple[int, int] = (32, 8), pairs: Sequence[tuple[str, str]] = PAIRS, rounds: int = ROUNDS,
) -> Iterator[Time]:  # fmt: skip
    """Times of one query row and of prompts over caches of these lengths.

    Raises KernelSourceError where a launch fails, UsageError for a length that is no multiple of CELLS.
    """
    for n_kv in lengths:
        if n_kv < CELLS or n_kv % CELLS:
            raise UsageError(f"{n_kv} cells: not a multiple of {CELLS}")
    for n_q in queries:
        for dim in dims:
            for n_kv in lengths:
                for k, v in pairs:
                    yield _time(gpu, structs, (k, v), (dim, n_kv, n_q), heads, rounds)


def _time(
    gpu: Gpu, structs: Mapping[str, Any], pair: tuple[str, str], shape: tuple[int, int, int],
    heads: tuple[int, int], rounds: int,
) -> Time:  # fmt: skip
    k, v = pair
    dim, n_kv, n_q = shape
    if n_q == 1:
        launches, arrays = decode(structs, k, v, dim, n_kv, heads)
    else:
        launches, arrays = prefill(structs, k, v, dim, n_kv, n_q, heads)
    times = []
    for _ in range(rounds):
        done = gpu.run(launches, arrays)
        if done.error:
            raise KernelSourceError(done.error)
        times.append(sum(done.gpu_s))
    size = sum(arrays[side].nbytes for side in "kv")
    moved = moved_bytes(k, v, dim, n_kv, n_q, heads)
    # the first rounds wake the GPU up
    return Time(k, v, dim, n_kv, n_q, median(times[rounds // 3 :]), size, moved)


def moved_bytes(k: str, v: str, dim: int, n_kv: int, n_q: int, heads: tuple[int, int]) -> int:
    """Bytes of K and V that the launches load, and store as f16, by the shape of their loops."""
    from tqconvert.metal.turbo.reference import row_bytes

    passes = heads[0] * -(-n_q // _ROWS)  # a threadgroup takes eight queries of one head
    if n_q == 1 or not by_f16(k, v, dim):
        return passes * n_kv * (row_bytes(k, dim) + row_bytes(v, dim))
    converted = sum(row_bytes(t, dim) + 2 * dim for t in (k, v) if t != "f16")
    return n_kv * (heads[1] * converted + passes * 4 * dim)


def by_f16(k: str, v: str, dim: int) -> bool:
    """Whether a prompt goes through upstream's kernel for f16, with K and V made f16 first where they are not.

    ggml_metal_turbo_use_f16 of ggml-metal-turbo.h: turbo up to head size 256, and without q8_0.
    """
    return "turbo" not in k + v or (dim <= _MOST_BY_F16 and "q8_0" not in (k, v))


def simdgroups(n_kv: int) -> int:
    """Simdgroups of a workgroup of the vector kernel, as the host chooses them for 32 workgroups."""
    n = 1
    while 2 * 32 * n * 32 < n_kv and n < _MOST_SIMDGROUPS:
        n *= 2
    return n


def decode(
    structs: Mapping[str, Any], k: str, v: str, dim: int, n_kv: int, heads: tuple[int, int]
) -> tuple[list[Launch], dict[str, Any]]:
    """The launches of one query row, ours or upstream's, on a cache whose content repeats."""
    import numpy as np

    from tqconvert.metal.kargs import pack
    from tqconvert.metal.turbo.attention import plan_attention

    own = (k, v) if "turbo" in k + v else ("turbo4", "turbo4")
    # The reference encodes a chunk, which is repeated: times do not depend on values.
    shape = AttentionCase(
        "vec", *own, dim, n_kv, heads=heads, mask="none", simdgroups=simdgroups(n_kv)
    )
    small = replace(shape, n_kv=_CHUNK)
    planned = plan_attention(small, structs, np.random.default_rng(_SEED))
    fields = arguments(shape, k, v)
    arrays = dict(planned.arrays) | {"args": pack(structs, "flash_attn_ext_vec", fields)}
    arrays |= _cache(k, v, dim, n_kv, heads[1])
    launches = list(planned.launches)
    if own != (k, v):
        strides = {_FC_VEC + 20: fields["ns10"], _FC_VEC + 21: fields["ns20"]}
        launches[0] = _stock(launches[0], k, dim, strides)
        arrays["idx"] = np.zeros(4, np.int32)
    return launches, arrays


def prefill(
    structs: Mapping[str, Any], k: str, v: str, dim: int, n_kv: int, n_q: int,
    heads: tuple[int, int],
) -> tuple[list[Launch], dict[str, Any]]:  # fmt: skip
    """The launches of a prompt of 32 queries or more, on a cache whose content repeats; no mask."""
    import numpy as np

    from tqconvert.metal.kargs import pack
    from tqconvert.metal.turbo.attention import plan_attention

    own = (k, v) if "turbo" in k + v else ("turbo4", "turbo4")
    shape = AttentionCase("tiled", *own, dim, n_kv, n_q, heads, "none")
    small = replace(shape, n_kv=_CHUNK)
    planned = plan_attention(small, structs, np.random.default_rng(_SEED))
    arrays = dict(planned.arrays) | _cache(k, v, dim, n_kv, heads[1])
    fields = arguments(shape, k, v)
    if not by_f16(k, v, dim):
        arrays["args"] = pack(structs, "flash_attn_ext", fields)
        return list(planned.launches), arrays
    launches, names = [], {}
    for side, kind, prefix, ns in (("k", k, "nb1", "ns10"), ("v", v, "nb2", "ns20")):
        names[side] = side
        if kind == "f16":
            continue
        names[side] = f"{side}16"
        launch, more = _converted(structs, side, kind, (dim, n_kv, heads[1]))
        launches.append(launch)
        arrays |= more
        row = 2 * dim
        fields |= {f"{prefix}1": row, f"{prefix}2": row * n_kv, f"{prefix}3": row * n_kv * heads[1]}
        fields[ns] = dim
    arrays["args"] = pack(structs, "flash_attn_ext", fields)
    launches.append(_stock_tiled(names, fields, dim, n_q, heads[0]))
    return launches, arrays


def _cache(k: str, v: str, dim: int, n_kv: int, heads: int) -> dict[str, Any]:
    """K and V: a chunk, encoded once and repeated."""
    import numpy as np

    chunks = {side: encoded(kind, dim, heads) for side, kind in (("k", k), ("v", v))}
    return {side: np.tile(chunk, n_kv // _CHUNK) for side, chunk in chunks.items()}


def _converted(
    structs: Mapping[str, Any], side: str, kind: str, shape: tuple[int, int, int]
) -> tuple[Launch, dict[str, Any]]:
    """K or V as f16, a thread a block: head behind head."""
    import numpy as np

    from tqconvert.metal.kargs import pack
    from tqconvert.metal.turbo.reference import row_bytes

    dim, n_kv, heads = shape
    row, length = row_bytes(kind, dim), 32 if kind == "q8_0" else 128
    n_blocks = dim // length * n_kv * heads
    fields = {
        "ne0": dim, "ne1": n_kv, "ne2": heads, "ne3": 1, "nb0": row * length // dim,
        "nb1": row * heads, "nb2": row, "nb3": row * heads * n_kv, "nblocks": n_blocks,
    }  # fmt: skip
    arrays = {
        f"{side}_args": pack(structs, "flash_attn_ext_kv_f16", fields),
        f"{side}16": np.zeros(dim * n_kv * heads, np.float16),
    }
    launch = Launch(
        f"kernel_flash_attn_ext_kv_{kind}_f16", slots(f"{side}_args", side, f"{side}16"),
        (-(-n_blocks // _CONVERTED), 1, 1), (_CONVERTED, 1, 1),
    )  # fmt: skip
    return launch, arrays


def _stock_tiled(
    names: Mapping[str, str], fields: Mapping[str, Any], dim: int, n_q: int, heads: int
) -> Launch:
    """Upstream's tiled kernel for f16, without a mask."""
    simdgroups = 8 if dim >= 512 else 4  # noqa: PLR2004 - where the host takes more
    flags = {_FC + i: 0 for i in (0, 1, 2, 3, 4, 10)}
    numbers = {_FC + 20: fields["ns10"], _FC + 21: fields["ns20"], _FC + 22: simdgroups}
    halves = _ROWS * (dim + 2 * (-(-dim // CELLS) * CELLS) + 4 * CELLS)
    return Launch(
        f"kernel_flash_attn_ext_f16_dk{dim}_dv{dim}",
        slots("args", "q", names["k"], names["v"], "mask", "sinks", "q", "blocks", "out"),
        (-(-n_q // _ROWS), heads, 1), (32, simdgroups, 1), flags | numbers, (2 * halves,),
    )  # fmt: skip


def encoded(kind: str, dim: int, heads: int) -> Any:
    """Bytes of a chunk of a cache, the heads of a position behind each other."""
    import numpy as np

    from tqconvert.metal.turbo import reference

    x = np.random.default_rng(_SEED).standard_normal((_CHUNK * heads, dim)).astype(np.float32)
    return np.ascontiguousarray(reference.encode(kind, x)).view(np.uint8).reshape(-1)


def arguments(case: AttentionCase, k: str, v: str) -> dict[str, Any]:
    """The arguments of attention for a cache of any types, the heads of a position side by side."""
    from tqconvert.metal.turbo.reference import row_bytes

    fields: dict[str, Any] = {
        "ne01": case.n_q, "ne02": case.heads[0], "ne03": 1, "ne11": case.n_kv, "ne_12_2": case.heads[1],
        "ne_12_3": 1, "ne1": case.heads[0], "ne2": case.n_q, "ne3": 1, "ne31": 1, "ne32": 1, "ne33": 1,
        "nb01": 4 * case.dim * case.heads[0], "nb02": 4 * case.dim,
        "nb03": 4 * case.dim * case.heads[0] * case.n_q, "scale": 1 / math.sqrt(case.dim),
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
