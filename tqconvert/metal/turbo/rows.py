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
    # a view of floats is a transposed one; of blocks, one of rows whose heads lie side by side
    stored, nb = _placed(src, (0, 1, 3, 2) if case.op == "from_f32" else (0, 2, 1, 3), case)
    if case.op != "from_f32":
        nb[0] = block
    threads = (*case.threads, 1)
    if case.op == "kv_f16":
        n_blocks = src.size // block
        args = {**lengths("ne", src, m), **_by_number("nb", nb), "nblocks": n_blocks}
        packed = pack(structs, "flash_attn_ext_kv_f16", args)
        grid = (-(-n_blocks // case.threads[0]), 1, 1)
    else:
        # what a copy writes may have another shape: all rows in one plane, or each block a row
        rows = m // codec.BLOCK if case.view else 1
        shape = (n2 * n3, n, rows, -1) if case.view else (1, 1, -1, want.shape[-1])
        flat = want.reshape(shape)
        want, nb_to = _placed(flat, (0, 1, 2, 3), case, between=0)
        nb_to[0] = block if case.op == "from_f32" else want.itemsize
        args = {
            "nk0": m // codec.BLOCK, **lengths("ne0", src, m), **lengths("ne", flat, m // rows),
            **_by_number("nb0", nb), **_by_number("nb", nb_to),
        }  # fmt: skip
        packed = pack(structs, "cpy", args)
        grid = (n, n2, n3)
    arrays = {"x": stored, "out": np.zeros_like(want), "args": packed}
    launch = Launch(case.kernel, slots("args", "x", "out"), grid, threads)
    bar = {"from_f32": 1e-4, "to_f32": 1e-6}.get(case.op, 1e-3)
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=bar),))


def _set_rows(case: RowsCase, structs: Mapping[str, Struct], rng: Any, x: Any, data: Any) -> Plan:
    n3, n2, n, size = data.shape
    kind = np.int32 if case.op == "set_rows_i32" else np.int64
    # lists of rows that outer indices share: one for each of the middle dimension, or for every other one of it
    lists = (n3, n2 // 2) if case.view else (1, n2)
    rows = np.array(
        [[rng.permutation(n + 3)[:n] for _ in range(lists[1])] for _ in range(lists[0])]
    )
    rows = rows.astype(kind)
    want = np.full((n3, n2, n + 3, size), 0xA5, np.uint8)
    out, nb_to = _placed(want, (0, 2, 1, 3), case, between=0xA5)
    for i3, i2 in np.ndindex(n3, n2):
        want[i3, i2, rows[i3 % lists[0], i2 % lists[1]]] = data[i3, i2]
    want, _ = _placed(want, (0, 2, 1, 3), case, between=0xA5)
    stored, nb = _placed(x, (0, 2, 1, 3), case)
    if case.view:
        rows = np.repeat(rows, 2, -1)
        rows[..., 1::2] = -1
    step = rows.itemsize * (1 + case.view)
    args = {
        "nk0": case.n_values // codec.BLOCK, "ne01": n, **_by_number("nb0", nb), "ne11": lists[1],
        "ne12": lists[0], "nb10": step, "nb11": rows.strides[1], "nb12": rows.strides[0],
        **_by_number("nb", nb_to),
    }  # fmt: skip
    for unused in ("nb00", "nb0"):
        args.pop(unused)
    arrays = {"args": pack(structs, "set_rows", args), "x": stored, "rows": rows, "out": out}
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
    stored, nb = _placed(data, (0, 2, 1, 3), case)
    if case.view:
        rows = np.repeat(rows, 2, -1)
        rows[..., 1::2] = -1
    args = {
        "ne00t": m // 16, "ne00": m, **_by_number("nb0", nb), "ne10": n + 2,
        "nb10": 4 * (1 + case.view), "nb11": rows.strides[1], "nb12": rows.strides[0],
        **strides("nb", want, 4),
    }  # fmt: skip
    for unused in ("nb00", "nb0"):
        args.pop(unused)
    arrays = {"args": pack(structs, "get_rows", args), "x": stored, "rows": rows}
    arrays["out"] = np.zeros_like(want)
    # two threadgroups a row where it has the blocks
    simdgroups = case.threads[0] * case.threads[1] // 32
    groups = max(1, m // codec.BLOCK // (2 * simdgroups)) * (n + 2)
    launch = Launch(
        case.kernel, slots("args", "x", "rows", "out"), (groups, n2, n3), (*case.threads, 1)
    )
    return Plan(arrays, (launch,), (Expected("out", want, gpu_bar=1e-6),))


def _placed(
    a: Any, order: tuple[int, ...], case: RowsCase, between: float | None = None
) -> tuple[Any, list[int]]:
    """[n3, n2, n1, n0] as it lies in memory and its strides, innermost first.

    A view has its dimensions in `order` and stands in an array that is larger by `between`: what must not be
    read, unless it is given.
    """
    if not case.view:
        return a, [*a.strides[::-1]]
    if between is None:
        between = np.nan if a.dtype.kind == "f" else 0xFF
    # an even number of bytes, for blocks are aligned to two
    end = 2 if a.itemsize == 1 else 1
    stored = np.pad(a.transpose(order), ((0, 0), (0, 1), (0, 1), (0, end)), constant_values=between)
    return stored, [stored.strides[order.index(i)] for i in (3, 2, 1, 0)]


def _by_number(prefix: str, numbers: list[int]) -> dict[str, int]:
    return {f"{prefix}{i}": n for i, n in enumerate(numbers)}


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
