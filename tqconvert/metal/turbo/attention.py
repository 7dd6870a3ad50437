"""A case of attention as launches: the cache as it lies in memory, masks, and both forms of the kernel."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tqconvert.errors import UsageError
from tqconvert.metal.kargs import Struct, pack
from tqconvert.metal.launch import Launch, Slot, slots
from tqconvert.metal.turbo import reference as ref
from tqconvert.metal.turbo.cases import AttentionCase
from tqconvert.metal.turbo.plan import Arrays, Expected, Plan, normal, set_rows_args
from tqconvert.turbo import codec
from tqconvert.turbo.codebook import CODEBOOKS

FC_MASK, FC_SINKS, FC_BIAS, FC_SOFTCAP, FC_WORKGROUPS = range(2200, 2205)
"""Function constants of attention, as ggml-metal-turbo-impl.h numbers them."""
BAR = 1e-3
"""Relative error that attention may have on any machine."""
TIGHT_BAR = 1e-5
"""The same on the CPU, where nothing is rounded to half: finds small mistakes too."""
_POSITIONS, _ROWS = 64, 8
"""Of a block of upstream's _blk kernel."""


def vec_shared(dk: int, dv: int, simdgroups: int) -> int:
    """TURBO_FA_VEC_SHARED: bytes of threadgroup memory."""
    return math.ceil(4 * (32 + max(dk, simdgroups * dv) + 2 * simdgroups) / 16) * 16


def tiled_shared(dk: int, dv: int) -> int:
    """TURBO_FA_SHARED: bytes of threadgroup memory."""
    return math.ceil((4 * (32 + 64 + 10 * max(dk, dv)) + 2 * 128 * 32) / 16) * 16


def plan_attention(case: AttentionCase, structs: Mapping[str, Struct], rng: Any) -> Plan:
    """The launches of one FLASH_ATTN_EXT, upstream's helpers and the set_rows before it among them."""
    n_head, n_kv_head = case.heads
    n_q, n_kv, dim = case.n_q, case.n_kv, case.dim
    q = normal(rng, case.n_seq, n_head, n_q, dim)
    mask = _mask(case, rng)
    arrays: Arrays = {"q": _stored(case, q, np.nan)}
    launches: list[Launch] = []
    expected: list[Expected] = []
    args: dict[str, Any] = {
        "ne01": n_q, "ne02": n_head, "ne03": case.n_seq, "ne11": n_kv, "ne_12_2": n_kv_head,
        "ne_12_3": case.n_seq, "ne1": n_head, "ne2": n_q, "ne3": case.n_seq,
    }  # fmt: skip
    args |= _strides(case, "nb0", arrays["q"])
    sides = {}
    for side, kind, prefix, width in (("k", case.k, "nb1", dim), ("v", case.v, "nb2", case.dv)):
        x = normal(rng, case.n_seq, n_kv_head, n_kv, width)
        if side == "k":
            # some keys stand out, as they do: the softmax is not flat
            x *= np.exp2(rng.integers(-2, 3, (1, n_kv_head, 1, dim))).astype(np.float32)
        data = ref.encode(kind, x)
        if case.mask == "nan":
            _poison(data, kind, mask)
        sides[side] = ref.decode(kind, data)
        stored = _stored(case, data, 0xFF)
        args |= _strides(case, prefix, stored)
        if case.written and kind in CODEBOOKS:
            launches.append(_write(side, kind, x, stored, arrays, structs, rng))
            expected.append(Expected(side, stored, gpu_bar=1e-4))
        else:
            arrays[side] = stored
    scale = 1 / math.sqrt(dim)
    m0, m1, n_log2, _ = ref.slopes(n_head, case.max_bias)
    args |= {
        "scale": scale / case.softcap if case.softcap else scale, "max_bias": case.max_bias,
        "m0": m0, "m1": m1, "n_head_log2": n_log2, "logit_softcap": case.softcap,
        **_mask_args(mask),
    }  # fmt: skip
    sinks = normal(rng, n_head) + 2 if case.sinks else None
    arrays["mask"] = mask if mask is not None else np.zeros(8, np.float16)
    arrays["sinks"] = sinks if sinks is not None else np.zeros(8, np.float32)
    arrays["out"] = np.zeros((case.n_seq, n_q, n_head, case.dv), np.float32)
    constants = {
        FC_MASK: int(mask is not None), FC_SINKS: int(case.sinks),
        FC_BIAS: int(case.max_bias != 0), FC_SOFTCAP: int(case.softcap != 0),
        FC_WORKGROUPS: case.workgroups,
    }  # fmt: skip
    build = _vec if case.form == "vec" else _tiled
    launches += build(case, structs, args, arrays, constants)
    want = ref.attention(
        q, sides["k"], sides["v"], mask,
        scale=scale, softcap=case.softcap, max_bias=case.max_bias, sinks=sinks,
    )  # fmt: skip
    rounded = case.form == "tiled" and "q8_0" in (case.k, case.v)
    expected.append(Expected("out", want, BAR if rounded else TIGHT_BAR, BAR))
    return Plan(arrays, tuple(launches), tuple(expected))


def _vec(
    case: AttentionCase, structs: Mapping[str, Struct], args: dict[str, Any], arrays: Arrays,
    constants: dict[int, int],
) -> list[Launch]:  # fmt: skip
    rows = case.n_seq * case.n_q * case.heads[0]
    groups = case.workgroups
    arrays["args"] = pack(structs, "flash_attn_ext_vec", args)
    target = "out"
    if groups > 1:
        target = "parts"
        arrays["parts"] = np.zeros(rows * groups * (case.dv + 2), np.float32)
    launches = [
        Launch(
            case.kernel, slots("args", "q", "k", "v", "mask", "sinks", "q", target),
            (case.n_q, case.heads[0], case.n_seq * groups), (32, case.simdgroups, 1), constants,
            (vec_shared(case.dim, case.dv, case.simdgroups),),
        )
    ]  # fmt: skip
    if groups > 1:
        arrays["reduce_args"] = pack(structs, "flash_attn_ext_vec_reduce", {"nrows": rows})
        launches.append(
            Launch(
                "kernel_flash_attn_ext_vec_reduce", slots("reduce_args", "parts", "out"),
                (rows, 1, 1), (32 * groups, 1, 1), {500: case.dv, 501: groups},
            )
        )  # fmt: skip
    return launches


def _tiled(
    case: AttentionCase, structs: Mapping[str, Struct], args: dict[str, Any], arrays: Arrays,
    constants: dict[int, int],
) -> list[Launch]:  # fmt: skip
    arrays["args"] = pack(structs, "flash_attn_ext", args)
    launches = []
    arrays["blocks"] = np.zeros(16, np.uint8)
    if case.mask != "none":
        b0, b1 = -(-case.n_kv // _POSITIONS), -(-case.n_q // _ROWS)
        n = args["ne32"] * args["ne33"]
        arrays["blocks"] = np.full(n * b1 * b0, 0xA5, np.uint8)
        fields = {"ne01": case.n_q, "ne30": case.n_kv, **_mask_args(arrays["mask"])}
        arrays["block_args"] = pack(structs, "flash_attn_ext_blk", fields)
        launches.append(
            Launch(
                "kernel_flash_attn_ext_blk", slots("block_args", "mask", "blocks"),
                (b0, b1, n), (32, 1, 1), {224: _ROWS, 225: _POSITIONS},
            )
        )  # fmt: skip
    launches.append(
        Launch(
            case.kernel, slots("args", "q", "k", "v", "mask", "sinks", "q", "blocks", "out"),
            (-(-case.n_q // _ROWS), case.heads[0], case.n_seq), (32, 4, 1), constants,
            (tiled_shared(case.dim, case.dv),),
        )
    )  # fmt: skip
    return launches


def _write(
    side: str, kind: str, x: Any, stored: Any, arrays: Arrays, structs: Mapping[str, Struct],
    rng: Any,
) -> Launch:  # fmt: skip
    """A set_rows launch that fills the cache of one side, its rows in random order."""
    if x.shape[0] != 1 or stored.shape[1:3] != (x.shape[2], x.shape[1]):
        raise UsageError("a cache is written for one sequence, its heads side by side")
    _, heads, n, dim = x.shape
    rows = rng.permutation(n).astype(np.int64)
    arrays[f"{side}_rows"] = rows
    arrays[f"{side}_values"] = _by_position(x)[0][rows]
    arrays[f"{side}_args"] = pack(structs, "set_rows", set_rows_args(kind, heads, n, dim, 8))
    arrays[side] = np.zeros_like(stored)
    buffers = slots(f"{side}_args", f"{side}_values", f"{side}_rows", Slot(side))
    return Launch(f"kernel_set_rows_f32_i64_{kind}", buffers, (-(-n // 2), 1, 1), (32, 2, 1))


def _mask(case: AttentionCase, rng: Any) -> Any:
    """[n_seq or 1, n_head or 1, n_q, n_kv] f16, or None."""
    if case.mask == "none":
        return None
    n_q, n_kv = case.n_q, case.n_kv
    shape = (1 if case.one_mask else case.n_seq, case.heads[0] if case.mask_by_head else 1)
    if case.mask == "causal":
        ahead = np.arange(n_kv) > n_kv - n_q + np.arange(n_q)[:, None]
        mask = np.where(ahead, -np.inf, 0)
        return np.broadcast_to(mask, (*shape, n_q, n_kv)).astype(np.float16)
    hidden = rng.random((*shape, 1 if case.mask == "nan" else n_q, n_kv)) < 1 / 3
    # two whole blocks and more, so that kernels skip
    hidden[..., 64 : max(64, n_kv - 200)] = True
    hidden[..., -1:] &= n_kv > 1
    # another block for each head and sequence, for the first rows: places of blocks are not taken for each other
    for s, h in np.ndindex(*shape):
        first = _POSITIONS * ((s + 2 * h + 1) % max(1, n_kv // _POSITIONS))
        if first:
            hidden[s, h, :_ROWS, first : first + _POSITIONS] = True
    mask = np.where(hidden, -np.inf, rng.standard_normal((*shape, n_q, n_kv)) / 2)
    if case.mask == "empty":
        mask[..., ::2, :] = -np.inf
        if case.n_seq > 1:
            mask[0] = -np.inf
    return mask.astype(np.float16)


def _poison(data: Any, kind: str, mask: Any) -> None:
    """Put gains that are not numbers where the mask hides the cache from every row."""
    if kind not in CODEBOOKS:
        raise UsageError("only turbo blocks may be undefined behind a mask")
    hidden = ~(mask > -np.inf).any((0, 1, 2))
    blocks = data.reshape(*data.shape[:-1], -1, codec.block_bytes(kind))
    blocks[:, :, hidden, :, 1] = 0x7E


def _mask_args(mask: Any) -> dict[str, int]:
    if mask is None:
        return {"ne31": 1, "ne32": 1, "ne33": 1}
    n3, n2, n1, n0 = mask.shape
    return {
        "ne31": n1, "ne32": n2, "ne33": n3, "nb31": 2 * n0, "nb32": 2 * n0 * n1,
        "nb33": 2 * n0 * n1 * n2,
    }  # fmt: skip


def _stored(case: AttentionCase, x: Any, between: float) -> Any:
    """[n_seq, head, position, row] as it lies in memory; with gaps, filled with `between`."""
    x = x if case.by_head else _by_position(x)
    if not case.gaps:
        return x
    return np.pad(x, ((0, 0), (0, 1), (0, 2), (0, 0)), constant_values=between)


def _strides(case: AttentionCase, prefix: str, stored: Any) -> dict[str, int]:
    """Byte strides of position, head and sequence."""
    sequence, outer, inner, _ = stored.strides
    position, head = (inner, outer) if case.by_head else (outer, inner)
    return {f"{prefix}1": position, f"{prefix}2": head, f"{prefix}3": sequence}


def _by_position(x: Any) -> Any:
    """[n_seq, head, position, ...] -> [n_seq, position, head, ...]."""
    return np.ascontiguousarray(x.swapaxes(1, 2))
