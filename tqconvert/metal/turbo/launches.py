"""A case as launches on arrays, with what must come out: for the simulator and for a GPU alike."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tqconvert.metal.kargs import Struct, pack
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo import reference as ref
from tqconvert.metal.turbo.attention import plan_attention
from tqconvert.metal.turbo.cases import AttentionCase, Case, RowsCase, TransformCase
from tqconvert.metal.turbo.plan import Expected, Plan, normal, set_rows_args
from tqconvert.turbo import codec


def plan(case: Case, structs: Mapping[str, Struct]) -> Plan:
    """The launches of a case; the structs are those of the tree's ggml-metal-impl.h.

    Values are random but the same for the same case. Raises KernelSourceError where a struct lacks a field.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    match case:
        case AttentionCase():
            return plan_attention(case, structs, rng)
        case RowsCase():
            return _rows(case, structs, rng)
        case TransformCase():
            return _transform(case, rng)


def _transform(case: TransformCase, rng: Any) -> Plan:
    x = normal(rng, case.n_blocks, codec.BLOCK)
    arrays = {
        "args": np.int32(case.n_blocks).tobytes(),
        "x": x,
        "y": np.zeros_like(x),
    }
    grid, threads = (-(-case.n_blocks // 3), 1, 1), (96, 1, 1)
    launch = Launch(case.kernel, slots("args", "x", "y"), grid, threads)
    want = codec.rotate_inverse(x) if case.inverse else codec.rotate(x)
    return Plan(arrays, (launch,), (Expected("y", want, gpu_bar=1e-6),))


def _rows(case: RowsCase, structs: Mapping[str, Struct], rng: Any) -> Plan:
    n, m, size = case.n_rows, case.n_values, ref.row_bytes(case.type, case.n_values)
    x = hostile(rng, n, m) if case.hostile else normal(rng, n, m)
    data = codec.quantize(case.type, x)
    a, b = case.threads
    threads, blocks = (a, b, 1), m // codec.BLOCK
    simdgroups = a * b // 32
    if case.op in ("set_rows_i32", "set_rows_i64"):
        kind = np.int32 if case.op == "set_rows_i32" else np.int64
        rows = rng.permutation(n + 3)[:n].astype(kind)
        want = np.full((n + 3, size), 0xA5, np.uint8)
        arrays = {
            "args": pack(structs, "set_rows", set_rows_args(case.type, 1, n, m, rows.itemsize)),
            "x": x,
            "rows": rows,
            "out": want.copy(),
        }
        want[rows] = data
        launch = Launch(case.kernel, slots("args", "x", "rows", "out"), (-(-n // b), 1, 1), threads)
        return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=1e-4),))
    values = codec.dequantize(case.type, data)
    if case.op == "get_rows":
        rows = rng.integers(0, n, n + 2).astype(np.int32)
        args = {
            "ne00t": m // 16, "ne00": m, "nb01": size, "nb02": size * n, "nb03": size * n,
            "ne10": n + 2, "nb10": 4, "nb11": 4 * (n + 2), "nb12": 4 * (n + 2),
            "nb1": 4 * m, "nb2": 4 * m * (n + 2), "nb3": 4 * m * (n + 2),
        }  # fmt: skip
        arrays = {"args": pack(structs, "get_rows", args), "x": data, "rows": rows}
        arrays["out"] = np.zeros((n + 2, m), np.float32)
        groups = max(1, blocks // (2 * simdgroups))
        launch = Launch(
            case.kernel, slots("args", "x", "rows", "out"), (groups * (n + 2), 1, 1), threads
        )
        return Plan(arrays, (launch,), (Expected("out", values[rows], gpu_bar=1e-6),))
    if case.op == "kv_f16":
        args = {
            "ne0": m, "ne1": n, "ne2": 1, "ne3": 1, "nb0": size // blocks, "nb1": size,
            "nb2": size * n, "nb3": size * n, "nblocks": n * blocks,
        }  # fmt: skip
        arrays = {"args": pack(structs, "flash_attn_ext_kv_f16", args), "x": data}
        arrays["out"] = np.zeros((n, m), np.float16)
        launch = Launch(
            case.kernel, slots("args", "x", "out"), (-(-n * blocks // a), 1, 1), threads
        )
        with np.errstate(over="ignore"):
            return Plan(
                arrays, (launch,), (Expected("out", values.astype(np.float16), gpu_bar=1e-3),)
            )
    return _copy(case, structs, x, data, values)


def _copy(case: RowsCase, structs: Mapping[str, Struct], x: Any, data: Any, values: Any) -> Plan:
    n, m, size = case.n_rows, case.n_values, ref.row_bytes(case.type, case.n_values)
    item = size * codec.BLOCK // m
    want = {"from_f32": data, "to_f32": values}.get(case.op)
    if want is None:
        with np.errstate(over="ignore"):
            want = values.astype(np.float16)
    src = x if case.op == "from_f32" else data
    src_item, dst_item = (4, item) if case.op == "from_f32" else (item, want.itemsize)
    args = {
        "nk0": m // 128, "ne00": m, "ne01": n, "ne02": 1, "ne03": 1, "nb00": src_item,
        "nb01": src.strides[0], "nb02": src.nbytes, "nb03": src.nbytes, "ne0": m, "ne1": n,
        "ne2": 1, "ne3": 1, "nb0": dst_item, "nb1": want.strides[0], "nb2": want.nbytes,
        "nb3": want.nbytes,
    }  # fmt: skip
    arrays = {"args": pack(structs, "cpy", args), "x": src, "out": np.zeros_like(want)}
    threads = (*case.threads, 1)
    launch = Launch(case.kernel, slots("args", "x", "out"), (n, 1, 1), threads)
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=1e-4),))


def hostile(rng: Any, n: int, m: int) -> Any:
    """Rows [n, m] over 100 octaves; zeros, tiny, huge, integer, lone, infinite, undefined."""
    size = np.exp2(rng.uniform(-60, 40, (n, 1)))
    x = (rng.standard_normal((n, m)) * size).astype(np.float32)
    special: tuple[Any, ...] = (0, 1e-14, 1e-11, 6e4, 1e6, 3e38, np.arange(m), 1)
    for i, value in enumerate(special[: n // 2]):
        x[i] = value
    x[n // 2 : n // 2 + 4] = rng.integers(-3, 4, (len(x[n // 2 : n // 2 + 4]), m))
    # one value alone: all codes of a block are the same, and all scales equally good
    x[n // 2 + 4 : n // 2 + 8] = 0
    x[n // 2 + 4 : n // 2 + 8, 7::128] = 1.5
    x[-1, 5], x[-2, 100] = np.nan, -np.inf
    return x
