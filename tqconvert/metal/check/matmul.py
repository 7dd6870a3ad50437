"""Cases of matrix times vector, a few vectors, and matrix, over all formats of weights."""

from collections.abc import Iterator

import numpy as np

from tqconvert.metal.check.case import F16, Array, Bench, Case, dims, shape
from tqconvert.metal.check.formats import FORMATS, format_of, from_bf16, to_bf16

_PLAIN = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
_WITH_SPLIT = ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m")
_SHARED = {"q8_0": 0, "mxfp4": 128, "iq4_nl": 128, "iq4_xs": 128, "iq2_xxs": 2176, "iq2_xs": 4224,
           "iq3_xxs": 1152, "iq3_s": 2048}  # fmt: skip
"""Bytes of threadgroup memory; q8_0 takes one row of 32 floats for each row of weights."""


def _weights(b: Bench, name: str, rows: int, columns: int) -> tuple[Array, Array, int]:
    """Rows of weights as stored, as floats, and the bytes of a block."""
    if name in _PLAIN:
        x = b.normal(rows, columns)
        stored = to_bf16(x) if name == "bf16" else x.astype(_PLAIN[name])
        values = from_bf16(stored) if name == "bf16" else stored.astype(np.float32)
        return stored, values, stored.itemsize
    f = format_of(name)
    stored = f.random(b.rng, rows, columns)
    return stored, f.values(stored), f.size


def _product(values: Array, x: Array) -> Array:
    """Rows of `x` times all rows of weights."""
    out: Array = x.astype(np.float64) @ values.astype(np.float64).T
    return out


def vector(b: Bench) -> Iterator[Case]:
    """Weights of each format times two vectors."""
    for name in FORMATS:
        if f"kernel_mul_mv_{name}_f32" not in b.names:
            continue
        sg, r0 = b.define(f"N_SG_{name.upper()}"), b.define(f"N_R0_{name.upper()}")
        for columns in (512, 1536):
            nb32 = columns // 32
            split = name in _WITH_SPLIT and nb32 < 32 and 32 % nb32 == 0
            if split and f"N_R0_{name.upper()}_SPLIT" not in b.defines:
                split = False
            rows_each = b.define(f"N_R0_{name.upper()}_SPLIT") if split else r0
            yield _vector(b, name, columns, sg, rows_each, split=split)
    for name in _PLAIN:
        for suffix, columns in (("", 130), ("_4", 516), ("_short", 30)):
            yield _vector_plain(b, name, suffix, columns, 34)


def vector_cut(b: Bench) -> Iterator[Case]:
    """Rows of weights that do not fill the last threadgroup."""
    for name in ("q4_0", "q8_0", "q4_K", "q6_K"):
        sg, r0 = b.define(f"N_SG_{name.upper()}"), b.define(f"N_R0_{name.upper()}")
        yield _vector(b, name, 512, sg, r0, split=False, spare=True)
    for suffix, columns in (("", 130), ("_4", 516), ("_short", 30)):
        yield _vector_plain(b, "f16", suffix, columns, 33)


def _vector(
    b: Bench, name: str, columns: int, sg: int, r0: int, *, split: bool, spare: bool = False
) -> Case:
    one_group = name == "q8_0"
    per_group = r0 if one_group else r0 * sg
    groups = 3
    rows = per_group * groups - (1 if spare else 0)
    w, values, size = _weights(b, name, rows, columns)
    x, y = b.normal(2, columns), np.zeros((2, rows), np.float32)
    args = b.args(
        "mul_mv", shape("0", (rows, columns), size, row=w.shape[1]), dims("1", x), dims("", y),
        **_rows(b, r0), r2=1, r3=1,
    )  # fmt: skip
    constants = {"FC_mul_mv_nsg": sg, "FC_mul_mv_ne12": 1, "FC_mul_mv_r2": 1, "FC_mul_mv_r3": 1,
                 "FC_mul_mv_split": split}  # fmt: skip
    kernel = f"kernel_mul_mv_{name}_f32"
    shared = 128 * r0 if one_group else _SHARED.get(name, 16)
    launch = b.launch(
        kernel, "args w x y", (groups, 2, 1), (32, sg, 1), shared, **b.known(**constants)
    )
    arrays = {"args": args, "w": w, "x": x, "y": y}
    title = f"{kernel} {rows}x{columns}"
    return Case(title, (launch,), arrays, "y", _product(values, x), 1e-4)


def _rows(b: Bench, r0: int) -> dict[str, int]:
    return {"nr0": r0} if b.has("mul_mv", "nr0") else {}


def _vector_plain(b: Bench, name: str, suffix: str, columns: int, rows: int) -> Case:
    short = suffix == "_short"
    sg, r0 = (1, 32) if short else (min(4, -(-columns // 128)), 2)
    w, values, size = _weights(b, name, rows, columns)
    x, y = b.normal(2, columns), np.zeros((2, rows), np.float32)
    args = b.args(
        "mul_mv", shape("0", (rows, columns), size), dims("1", x), dims("", y),
        **_rows(b, r0), r2=1, r3=1,
    )  # fmt: skip
    constants = {"FC_mul_mv_nsg": sg, "FC_mul_mv_ne12": 1, "FC_mul_mv_r2": 1, "FC_mul_mv_r3": 1}
    kernel = f"kernel_mul_mv_{name}_f32{suffix}"
    shared = () if short else (128 * r0,)
    launch = b.launch(
        kernel, "args w x y", (-(-rows // r0), 2, 1), (32, sg, 1), *shared, **b.known(**constants)
    )
    arrays = {"args": args, "w": w, "x": x, "y": y}
    title = f"{kernel} {rows}x{columns}"
    return Case(title, (launch,), arrays, "y", _product(values, x), 1e-4)


def few_vectors(b: Bench) -> Iterator[Case]:
    """Two to eight vectors at once."""
    small = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4", "iq4_nl")
    for name in (*small, "q2_K", "q3_K", "q4_K", "q5_K", "q6_K"):
        for r1 in (2, 3, 4, 5):
            if name.endswith("_K") and r1 < 4:
                continue
            rows, columns, n = 19, 256 if r1 == 2 else 512, r1
            w, values, size = _weights(b, name, rows, columns)
            x, y = b.normal(n, columns), np.zeros((n, rows), np.float32)
            row = w.shape[1] * w.itemsize
            args = b.args(
                "mul_mv_ext", shape("0", (rows, columns), size, row=row), dims("1", x),
                dims("", y), r2=1, r3=1,
            )  # fmt: skip
            across = 16 if columns % 256 == 0 and n < 3 else 8
            kernel = f"kernel_mul_mv_ext_{name}_f32_r1_{r1}"
            constants = {"FC_mul_mv_nsg": 2, "FC_mul_mv_nxpsg": across, "FC_mul_mv_ne12": 1,
                         "FC_mul_mv_r2": 1, "FC_mul_mv_r3": 1}  # fmt: skip
            groups = -(-rows // (32 // across * 2))
            launch = b.launch(
                kernel, "args w x y", (groups, 1, 1), (32, 2, 1), **b.known(**constants)
            )
            arrays = {"args": args, "w": w, "x": x, "y": y}
            yield Case(kernel, (launch,), arrays, "y", _product(values, x), 1e-4)


def matrix(b: Bench) -> Iterator[Case]:
    """Weights of each format times a matrix: whole tiles, and tiles that are cut."""
    for name in (*_PLAIN, *FORMATS):
        yield _matrix(b, name, 128, 64, 512)
    for name in ("f32", "f16", *FORMATS):
        yield _matrix(b, name, 64, 32, 256, inputs="f16")
    for name in ("f16", "q8_0", "q4_K"):
        yield _matrix(b, name, 70, 37, 512)
    yield _matrix(b, "f16", 70, 37, 200)


def _matrix(b: Bench, name: str, rows: int, n: int, columns: int, *, inputs: str = "f32") -> Case:
    w, values, size = _weights(b, name, rows, columns)
    x = b.normal(n, columns, dtype=_PLAIN[inputs])
    y = np.zeros((n, rows), np.float32)
    cut = rows % 64 != 0 or n % 32 != 0
    args = b.args(
        "mul_mm", shape("0", (rows, columns), size, row=w.shape[1] * w.itemsize), dims("1", x),
        dims("", y), r2=1, r3=1,
    )  # fmt: skip
    constants = {"FC_mul_mm_bc_inp": columns % 32 != 0, "FC_mul_mm_bc_out": cut,
                 "FC_mul_mm_ne12": 1, "FC_mul_mm_ne13": 1, "FC_mul_mm_r2": 1, "FC_mul_mm_r3": 1}  # fmt: skip
    kernel = f"kernel_mul_mm_{name}_{inputs}"
    launch = b.launch(
        kernel, "args w x y", (-(-n // 32), -(-rows // 64), 1), (32, 4, 1),
        8192 if cut else 6144, **b.known(**constants),
    )  # fmt: skip
    arrays = {"args": args, "w": w, "x": x, "y": y}
    title = f"{kernel} {rows}x{columns}, {n}"
    return Case(title, (launch,), arrays, "y", _product(values, x), F16)


def experts(b: Bench) -> Iterator[Case]:
    """Each token times the weights of the experts that it chose."""
    for name in (*_PLAIN, *FORMATS):
        if f"kernel_mul_mv_id_{name}_f32{'_4' if name in _PLAIN else ''}" not in b.names:
            continue
        rows, columns, n_expert, used, tokens = 16, 512, 4, 2, 5
        w, values, size = _weights(b, name, rows * n_expert, columns)
        x = b.normal(tokens, 1, columns)
        ids = np.stack([b.rng.permutation(n_expert)[:used] for _ in range(tokens)]).astype(np.int32)
        y = np.zeros((tokens, used, rows), np.float32)
        plain = name in _PLAIN
        sg = min(4, columns // 128) if plain else b.define(f"N_SG_{name.upper()}")
        r0 = 2 if plain else b.define(f"N_R0_{name.upper()}")
        row = w.shape[1] * w.itemsize
        args = b.args(
            "mul_mv_id", shape("0", (n_expert, rows, columns), size, row=row), dims("1", x),
            dims("", y), nei0=used, nei1=tokens, nbi1=ids.strides[0], **_rows(b, r0),
        )  # fmt: skip
        constants = {"FC_mul_mv_nsg": sg, "FC_mul_mv_ne12": 1, "FC_mul_mv_r2": 1,
                     "FC_mul_mv_r3": 1}  # fmt: skip
        kernel = f"kernel_mul_mv_id_{name}_f32{'_4' if plain else ''}"
        each = r0 if plain or name == "q8_0" else r0 * sg
        launch = b.launch(
            kernel, "args w x y ids", (-(-rows // each), 1, used * tokens), (32, sg, 1),
            max(128 * r0, _SHARED.get(name, 0)), **b.known(**constants),
        )  # fmt: skip
        experts_ = values.reshape(n_expert, rows, columns).astype(np.float64)
        want = np.einsum("turc,tc->tur", experts_[ids], x[:, 0].astype(np.float64))
        arrays = {"args": args, "w": w, "x": x, "y": y, "ids": ids}
        yield Case(kernel, (launch,), arrays, "y", want, 1e-4)


def expert_tiles(b: Bench) -> Iterator[Case]:
    """The same by tiles, tokens sorted by expert first."""
    n_expert, used, tokens, rows, columns = 4, 2, 45, 70, 256
    for name in (*_PLAIN, *FORMATS):
        w, values, size = _weights(b, name, n_expert * rows, columns)
        x = b.normal(tokens, 1, columns)
        ids = np.stack([b.rng.permutation(n_expert)[:used] for _ in range(tokens)]).astype(np.int32)
        y = np.zeros((tokens, used, rows), np.float32)
        row = w.shape[1] * w.itemsize
        weights = shape("0", (n_expert, rows, columns), size, row=row)
        map_args = b.args(
            "mul_mm_id_map0", weights, dims("1", x), ne21=tokens, ne20=used, nb21=ids.strides[0]
        )
        args = b.args(
            "mul_mm_id", weights, dims("1", x), dims("", y), ne20=used, ne21=tokens, r2=1, r3=1
        )
        sort = b.launch(
            f"kernel_mul_mm_id_map0_ne20_{used}", "map_args ids counts places", (1, 1, 1),
            (n_expert, 1, 1), n_expert * used * 2,
        )  # fmt: skip
        kernel = f"kernel_mul_mm_id_{name}_f32"
        amax = " x" if "FC_mul_mm_id_amax" in b.constants else ""
        product = b.launch(
            kernel, f"args w x counts places y{amax}", (2, 2, n_expert), (128, 1, 1), 8192,
            **b.known(FC_mul_mm_bc_inp=0, FC_mul_mm_id_amax=0),
        )  # fmt: skip
        experts_ = values.reshape(n_expert, rows, columns).astype(np.float64)
        want = np.einsum("turc,tc->tur", experts_[ids], x[:, 0].astype(np.float64))
        arrays = {
            "args": args, "map_args": map_args, "w": w, "x": x, "y": y, "ids": ids,
            "counts": np.zeros(n_expert, np.int32), "places": np.zeros((n_expert, tokens), np.int32),
        }  # fmt: skip
        yield Case(kernel, (sort, product), arrays, "y", want, F16)


FAMILIES = (vector, vector_cut, few_vectors, matrix, experts, expert_tiles)
