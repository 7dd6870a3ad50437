"""Cases of operators that write or read whole blocks, as launches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tqconvert.metal.kargs import Struct, pack
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.cases import RowsCase
from tqconvert.metal.turbo.plan import Expected, Plan, normal
from tqconvert.turbo import codec


def plan_rows(case: RowsCase, structs: Mapping[str, Struct], rng: Any) -> Plan:
    """The launch of one SET_ROWS, CPY, GET_ROWS or dequantization."""
    n2, n3 = case.outer
    n, m = case.n_rows, case.n_values
    x = hostile(case.type, rng, n, m)[None, None] if case.hostile else normal(rng, n3, n2, n, m)
    data = codec.quantize(case.type, x)
    if case.op in ("set_rows_i32", "set_rows_i64"):
        return _set_rows(case, structs, rng, x, data)
    values = codec.dequantize(case.type, data)
    if case.op == "get_rows":
        return _get_rows(case, structs, rng, data, values)
    halves = case.op in ("to_f16", "kv_f16")
    with np.errstate(over="ignore"):
        want = data if case.op == "from_f32" else values.astype(np.float16) if halves else values
    src = x if case.op == "from_f32" else data
    block = codec.block_bytes(case.type)
    threads = (*case.threads, 1)
    arrays = {"x": src, "out": np.zeros_like(want)}
    if case.op == "kv_f16":
        n_blocks = src.size // block
        args = {**lengths("ne", src, m), **strides("nb", src, block), "nblocks": n_blocks}
        arrays["args"] = pack(structs, "flash_attn_ext_kv_f16", args)
        grid = (-(-n_blocks // case.threads[0]), 1, 1)
    else:
        # what a copy writes may have another shape: here, all rows in one plane
        flat = want.reshape(1, 1, -1, want.shape[-1])
        args = {
            "nk0": m // codec.BLOCK, **lengths("ne0", src, m), **lengths("ne", flat, m),
            **strides("nb0", src, 4 if case.op == "from_f32" else block),
            **strides("nb", flat, block if case.op == "from_f32" else want.itemsize),
        }  # fmt: skip
        arrays["args"] = pack(structs, "cpy", args)
        grid = (n, n2, n3)
    launch = Launch(case.kernel, slots("args", "x", "out"), grid, threads)
    bar = {"from_f32": 1e-4, "to_f32": 1e-6}.get(case.op, 1e-3)
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=bar),))


def _set_rows(case: RowsCase, structs: Mapping[str, Struct], rng: Any, x: Any, data: Any) -> Plan:
    n3, n2, n, size = data.shape
    kind = np.int32 if case.op == "set_rows_i32" else np.int64
    # the rows of an outer index that is shared: one list for each of the middle dimension
    rows = np.stack([rng.permutation(n + 3)[:n] for _ in range(n2)]).astype(kind)
    want = np.full((n3, n2, n + 3, size), 0xA5, np.uint8)
    arrays = {"x": x, "rows": rows, "out": want.copy()}
    for i in range(n2):
        want[:, i, rows[i]] = data[:, i]
    args = {
        "nk0": case.n_values // codec.BLOCK, "ne01": n, **strides("nb0", x, 4), "ne11": n2,
        "ne12": 1, "nb10": rows.itemsize, "nb11": rows.strides[0], "nb12": rows.nbytes,
        **strides("nb", want, 1),
    }  # fmt: skip
    for unused in ("nb00", "nb0"):
        args.pop(unused)
    arrays["args"] = pack(structs, "set_rows", args)
    groups = -(-n // case.threads[1])
    launch = Launch(
        case.kernel, slots("args", "x", "rows", "out"), (groups, n2, n3), (*case.threads, 1)
    )
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=1e-4),))


def _get_rows(
    case: RowsCase, structs: Mapping[str, Struct], rng: Any, data: Any, values: Any
) -> Plan:
    n3, n2, n, _ = data.shape
    m = case.n_values
    rows = rng.integers(0, n, (n3, n2, n + 2)).astype(np.int32)
    want = np.take_along_axis(values, rows[..., None], 2)
    args = {
        "ne00t": m // 16, "ne00": m, **strides("nb0", data, 1), "ne10": n + 2,
        "nb10": 4, "nb11": rows.strides[1], "nb12": rows.strides[0], **strides("nb", want, 4),
    }  # fmt: skip
    for unused in ("nb00", "nb0"):
        args.pop(unused)
    arrays = {"args": pack(structs, "get_rows", args), "x": data, "rows": rows}
    arrays["out"] = np.zeros_like(want)
    # two threadgroups a row where it has the blocks
    simdgroups = case.threads[0] * case.threads[1] // 32
    groups = max(1, m // codec.BLOCK // (2 * simdgroups)) * (n + 2)
    launch = Launch(
        case.kernel, slots("args", "x", "rows", "out"), (groups, n2, n3), (*case.threads, 1)
    )
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=1e-6),))


def lengths(prefix: str, a: Any, n_values: int) -> dict[str, int]:
    """Ggml's lengths of an array of four dimensions, innermost first; rows hold `n_values`."""
    n3, n2, n1, _ = a.shape
    return {f"{prefix}{i}": n for i, n in enumerate((n_values, n1, n2, n3))}


def strides(prefix: str, a: Any, item: int) -> dict[str, int]:
    """Ggml's strides of the same."""
    s3, s2, s1, _ = a.strides
    return {f"{prefix}{i}": s for i, s in enumerate((item, s1, s2, s3))}


CLOSE = {
    "turbo2": (13938, 10307, 8364, 9993),
    "turbo3": (2083, 4630, 5375, 3324),
    "turbo4": (1983, 13057, 861, 1246),
}
"""Seeds of normal blocks of which two scales of the search score so alike that the upper half of their binary64 bits
cannot tell them apart, or would the wrong way round if it lost its last bit: two of each. Found by trying."""


def close_blocks(type_name: str) -> Any:
    """The blocks of CLOSE, [4, 128] float32."""
    rows = [np.random.default_rng(seed).standard_normal(codec.BLOCK) for seed in CLOSE[type_name]]
    return np.array(rows, np.float32)


def hostile(type_name: str, rng: Any, n: int, m: int) -> Any:
    """Rows [n, m] over 100 octaves; zeros, tiny, huge, integer, lone, infinite, undefined, and close calls."""
    size = np.exp2(rng.uniform(-60, 40, (n, 1)))
    x = (rng.standard_normal((n, m)) * size).astype(np.float32)
    special: tuple[Any, ...] = (0, 1e-14, 1e-11, 6e4, 1e6, 3e38, np.arange(m), 1)
    for i, value in enumerate(special[: n // 2]):
        x[i] = value
    x[n // 2 : n // 2 + 4] = rng.integers(-3, 4, (len(x[n // 2 : n // 2 + 4]), m))
    # one value alone: all codes of a block are the same, and all scales equally good
    x[n // 2 + 4 : n // 2 + 8] = 0
    x[n // 2 + 4 : n // 2 + 8, 7::128] = 1.5
    close = close_blocks(type_name)
    if len(x) >= n // 2 + 8 + len(close) + 2:
        x[n // 2 + 8 : n // 2 + 8 + len(close), -codec.BLOCK :] = close
    x[-1, 5], x[-2, 100] = np.nan, -np.inf
    return x
