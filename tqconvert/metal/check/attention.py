"""Cases of attention: the kernels for one query and for many, and what goes before and after them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tqconvert.metal.check.case import F16, Array, Bench, Case
from tqconvert.metal.check.formats import format_of
from tqconvert.metal.launch import Launch

_CELLS_VEC, _CELLS, _QUERIES = 32, 64, 8
_WORKGROUPS = 32
_PLAIN = {"f16": np.float16, "f32": np.float32}


@dataclass(frozen=True, slots=True)
class Shape:
    """One problem."""

    type: str
    """Of K and V."""
    size: int
    """Of a head."""
    heads: int
    kv_heads: int
    n_kv: int
    n_q: int
    suffix: str = ""
    """Of the kernel for one query: how many queries and lanes it takes at once."""


VECTORS = (
    Shape("f16", 64, 4, 2, 333, 3), Shape("f16", 128, 8, 2, 512, 1), Shape("f16", 256, 2, 1, 256, 1),
    Shape("q8_0", 64, 4, 2, 333, 3), Shape("q8_0", 128, 4, 2, 2048, 1),
    Shape("q8_0", 128, 4, 2, 512, 4, "_q4_ne4"), Shape("q8_0", 256, 2, 1, 300, 1),
    Shape("q4_0", 128, 4, 4, 256, 1), Shape("q5_1", 64, 2, 2, 128, 2),
    Shape("q4_1", 96, 2, 1, 100, 1), Shape("q5_0", 32, 2, 2, 64, 2), Shape("f32", 64, 2, 1, 100, 1),
    Shape("f16", 192, 2, 1, 64, 1), Shape("f16", 512, 2, 1, 128, 1),
)  # fmt: skip
TILES = (
    Shape("f16", 64, 4, 2, 200, 24), Shape("f16", 128, 2, 1, 256, 20), Shape("f16", 256, 2, 2, 128, 32),
    Shape("q8_0", 64, 2, 1, 192, 20), Shape("q8_0", 128, 4, 2, 334, 24), Shape("q4_0", 128, 2, 2, 128, 32),
    Shape("q4_1", 96, 2, 2, 64, 24), Shape("q5_0", 64, 2, 1, 100, 24), Shape("q5_1", 32, 2, 2, 64, 24),
    Shape("f32", 64, 2, 1, 100, 24), Shape("f16", 40, 2, 1, 64, 24), Shape("f16", 80, 2, 1, 64, 24),
    Shape("f16", 112, 2, 2, 64, 24), Shape("f16", 192, 2, 1, 64, 24), Shape("f16", 512, 1, 1, 64, 24),
)  # fmt: skip


def reference(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Attention in float64. q: [heads, n_q, size], k and v: [kv heads, n_kv, size], mask: [n_q, n_kv]."""
    group = q.shape[0] // k.shape[0]
    k, v = (np.repeat(x.astype(np.float64), group, 0) for x in (k, v))
    s = q.astype(np.float64) @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2]) + mask
    p = np.exp(s - s.max(-1, keepdims=True))
    out: Array = p / p.sum(-1, keepdims=True) @ v
    return out


@dataclass(frozen=True, slots=True)
class _Problem:
    shape: Shape
    q: Array
    k: Array
    v: Array
    mask: Array
    want: Array
    item: int
    """Bytes of an element or block of K and V."""
    args: dict[str, Any]
    """Fields that the argument structs of attention share."""

    @property
    def row(self) -> int:
        """Bytes of one head of one cell."""
        return int(self.k.nbytes // (self.shape.kv_heads * self.shape.n_kv))

    @property
    def arrays(self) -> dict[str, Any]:
        """What all kernels read; the output is [query, head, channel]."""
        out = np.zeros((self.shape.n_q, self.shape.heads, self.shape.size), np.float32)
        return {"q": self.q, "k": self.k, "v": self.v, "mask": self.mask, "out": out}


def _problem(b: Bench, s: Shape) -> _Problem:
    q = b.normal(s.heads, s.n_q, s.size)
    if s.type in _PLAIN:
        t = _PLAIN[s.type]
        k, v = (b.normal(s.kv_heads, s.n_kv, s.size, dtype=t) for _ in range(2))
        kf, vf, item = k, v, k.itemsize
    else:
        f = format_of(s.type)
        k, v = (f.quantize(b.normal(s.kv_heads * s.n_kv, s.size)) for _ in range(2))
        kf, vf = (f.values(x).reshape(s.kv_heads, s.n_kv, s.size) for x in (k, v))
        item = f.size
    last = s.n_kv - s.n_q + np.arange(s.n_q)
    mask = np.where(np.arange(s.n_kv) > last[:, None], -np.inf, 0).astype(np.float16)
    want = reference(q, kf, vf, mask.astype(np.float64)).transpose(1, 0, 2)
    row = k.nbytes // (s.kv_heads * s.n_kv)
    kv = {
        f"nb{tensor}{i}": row * m
        for tensor in (1, 2)
        for i, m in ((1, 1), (2, s.n_kv), (3, s.n_kv * s.kv_heads))
    }
    args: dict[str, Any] = {
        **kv, "ne01": s.n_q, "ne02": s.heads, "ne03": 1, "nb01": s.size * 4,
        "nb02": s.size * 4 * s.n_q, "nb03": s.size * 4 * s.n_q * s.heads, "ne11": s.n_kv,
        "ne_12_2": s.kv_heads, "ne_12_3": 1, "ns10": row // item, "ns20": row // item,
        "ne31": s.n_q, "ne32": 1, "ne33": 1, "nb31": s.n_kv * 2, "nb32": s.n_kv * 2 * s.n_q,
        "nb33": s.n_kv * 2 * s.n_q, "ne1": s.heads, "ne2": s.n_q, "ne3": 1,
        "scale": 1 / np.sqrt(s.size), "m0": 1, "m1": 1, "n_head_log2": s.heads,
    }  # fmt: skip
    return _Problem(s, q, k, v, mask, want, item, args)


def _pad(b: Bench, p: _Problem, cells: int) -> tuple[list[Launch], dict[str, Any]]:
    """The launch that copies the last cells behind which there are none, where there are such."""
    s = p.shape
    room = cells * (2 * p.row * s.kv_heads + 2 * s.n_q)
    arrays: dict[str, Any] = {"pad": np.zeros(room, np.uint8)}
    if s.n_kv % cells == 0:
        return [], arrays
    fields = {k: v for k, v in p.args.items() if k[:4] in ("nb11", "nb12", "nb13") or k[:3] in (
        "nb2", "ne3", "nb3") or k in ("ne11", "ne_12_2", "ne_12_3")}  # fmt: skip
    arrays["pad_args"] = b.args("flash_attn_ext_pad", fields)
    launch = b.launch(
        "kernel_flash_attn_ext_pad", "pad_args k v mask pad", (cells, s.kv_heads, 1), (32, 1, 1),
        FC_flash_attn_ext_pad_has_mask=1, FC_flash_attn_ext_pad_ncpsg=cells,
    )  # fmt: skip
    return [launch], arrays


def vectors(b: Bench) -> Iterator[Case]:
    """One query a simdgroup, cells spread over threadgroups whose results are put together."""
    for s in VECTORS:
        yield vector(b, s)


def vector(b: Bench, s: Shape) -> Case:
    """A case of one shape."""
    p = _problem(b, s)
    simdgroups = 1
    while 2 * _WORKGROUPS * simdgroups * _CELLS_VEC < s.n_kv and simdgroups < 4:
        simdgroups *= 2
    per = int(s.suffix[2]) if s.suffix else 1
    wide = -(-s.size // 128) * 128
    launches, arrays = _pad(b, p, _CELLS_VEC)
    part = np.zeros(s.n_q * s.heads * _WORKGROUPS * (s.size + 2), np.float32)
    arrays |= {
        **p.arrays, "args": b.args("flash_attn_ext_vec", p.args), "part": part,
        "reduce_args": b.args("flash_attn_ext_vec_reduce", nrows=s.n_q * s.heads),
    }  # fmt: skip
    prefix = "FC_flash_attn_ext_vec_"
    constants = {
        "has_mask": 1, "has_sinks": 0, "has_bias": 0, "has_scap": 0, "has_sparse": 0,
        "has_kvpad": s.n_kv % _CELLS_VEC != 0, "ns10": p.args["ns10"], "ns20": p.args["ns20"],
        "nsg": simdgroups, "nwg": _WORKGROUPS,
    }  # fmt: skip
    known = b.known(**{prefix + k: v for k, v in constants.items()})
    kernel = f"kernel_flash_attn_ext_vec_{s.type}_dk{s.size}_dv{s.size}{s.suffix}"
    buffers = "args q k v mask q pad part" + (" q" if prefix + "has_sparse" in known else "")
    launches.append(
        b.launch(
            kernel, buffers, (-(-s.n_q // per), s.heads, _WORKGROUPS), (32, simdgroups, 1),
            (wide + 4 * _CELLS_VEC + 2 * wide) * per * simdgroups * 2, **known,
        )
    )  # fmt: skip
    launches.append(
        b.launch(
            "kernel_flash_attn_ext_vec_reduce", "reduce_args part out", (s.n_q * s.heads, 1, 1),
            (32 * _WORKGROUPS, 1, 1), FC_flash_attn_ext_vec_reduce_DV=s.size,
            FC_flash_attn_ext_vec_reduce_NWG=_WORKGROUPS,
        )
    )  # fmt: skip
    title = f"{kernel} heads {s.heads}/{s.kv_heads} cells {s.n_kv} queries {s.n_q}"
    return Case(title, tuple(launches), arrays, "out", p.want, F16)


def tiles(b: Bench) -> Iterator[Case]:
    """Eight queries a threadgroup, by matrices of a simdgroup."""
    for s in TILES:
        yield tile(b, s)


def tile(b: Bench, s: Shape) -> Case:
    """A case of one shape; the launch is as the host makes it, also where a GPU would refuse it."""
    p = _problem(b, s)
    simdgroups, quantized = 8 if s.size >= 512 else 4, s.type not in _PLAIN
    launches, arrays = _pad(b, p, _CELLS)
    blocks = -(-s.n_kv // _CELLS), -(-s.n_q // _QUERIES)
    fields = {k: v for k, v in p.args.items() if k[:3] in ("ne3", "nb3") and k != "ne3"}
    arrays |= {
        **p.arrays, "args": b.args("flash_attn_ext", p.args),
        "blk_args": b.args("flash_attn_ext_blk", fields, ne01=s.n_q, ne30=s.n_kv),
        "blk": np.zeros(-(-blocks[0] * blocks[1] // 32) * 32, np.uint8),
    }  # fmt: skip
    launches.append(
        b.launch(
            "kernel_flash_attn_ext_blk", "blk_args mask blk", (*blocks, 1), (32, 1, 1),
            FC_flash_attn_ext_blk_nqptg=_QUERIES, FC_flash_attn_ext_blk_ncpsg=_CELLS,
        )
    )  # fmt: skip
    prefix = "FC_flash_attn_ext_"
    constants = {
        "has_mask": 1, "has_sinks": 0, "has_bias": 0, "has_scap": 0,
        "has_kvpad": s.n_kv % _CELLS != 0, "bc_mask": s.n_q % 8 != 0, "ns10": p.args["ns10"],
        "ns20": p.args["ns20"], "nsg": simdgroups,
    }  # fmt: skip
    known = b.known(**{prefix + k: v for k, v in constants.items()})
    kernel = f"kernel_flash_attn_ext_{s.type}_dk{s.size}_dv{s.size}"
    padded = -(-s.size // 64) * 64
    halves = _QUERIES * (s.size + 2 * padded + 4 * _CELLS) + quantized * 16 * 32 * simdgroups
    launches.append(
        b.launch(
            kernel, "args q k v mask q pad blk out", (blocks[1], s.heads, 1), (32, simdgroups, 1),
            2 * halves, **known,
        )
    )  # fmt: skip
    title = f"{kernel} heads {s.heads}/{s.kv_heads} cells {s.n_kv} queries {s.n_q}"
    return Case(title, tuple(launches), arrays, "out", p.want, 2 * F16)


def dequantized(b: Bench) -> Iterator[Case]:
    """K or V as halves, for the kernels that take nothing else."""
    for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
        f = format_of(name)
        x, y = f.random(b.rng, 12, 128), np.zeros((12, 128), np.float16)
        row, n = x.shape[1], x.nbytes // f.size
        args = b.args(
            "flash_attn_ext_kv_f16", ne0=128, ne1=6, ne2=2, ne3=1, nb0=f.size, nb1=row,
            nb2=6 * row, nb3=12 * row, nblocks=n,
        )  # fmt: skip
        kernel = f"kernel_flash_attn_ext_kv_{name}_f16"
        launch = b.launch(kernel, "args x y", (1, 1, 1), (n, 1, 1))
        arrays = {"args": args, "x": x, "y": y}
        yield Case(kernel, (launch,), arrays, "y", f.values(x), 1e-3)


FAMILIES = (vectors, tiles, dequantized)
