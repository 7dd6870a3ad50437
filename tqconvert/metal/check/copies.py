"""Cases of kernels that move data, and change its format on the way."""

from collections.abc import Iterator

import numpy as np

from tqconvert.metal.check.case import F32, Array, Bench, Case, dims, shape
from tqconvert.metal.check.formats import FORMATS, QUANTIZED_BY_US, format_of, from_bf16, to_bf16

_DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "bf16": np.uint16}
_PAIRS = (
    ("f32", "f32"), ("f32", "f16"), ("f32", "i32"), ("f32", "bf16"), ("f16", "f32"),
    ("f16", "f16"), ("i32", "f32"), ("i32", "i32"), ("bf16", "f32"), ("bf16", "bf16"),
)  # fmt: skip


def _stored(x: Array, dtype: str) -> Array:
    """Floats as the type stores them."""
    return to_bf16(x) if dtype == "bf16" else x.astype(_DTYPES[dtype])


def _values(x: Array, dtype: str) -> Array:
    return from_bf16(x) if dtype == "bf16" else x.astype(np.float64)


def copies(b: Bench) -> Iterator[Case]:
    """Between types that are no blocks; the source transposed once."""
    for source, target in _PAIRS:
        x = _stored(10 * b.normal(2, 6, 70), source)
        y = np.zeros(x.shape, _DTYPES[target])
        args = b.args("cpy", dims("0", x), dims("", y), nk0=70)
        name = f"kernel_cpy_{source}_{target}"
        launch = b.launch(name, "args x y", (2, 2, 1), (70, 3, 1))
        values = _values(x, source)
        want = _stored(values.astype(np.float32), target)
        yield Case(name, (launch,), {"args": args, "x": x, "y": y}, "y", want, 0)
    x, y = b.normal(5, 70), np.zeros((5, 70), np.float32)
    args = b.args("cpy", dims("0", x), dims("", y), nk0=70)
    launch = b.launch("kernel_cpy_f32_f32", "args x y", (2, 1, 1), (70, 3, 1))
    arrays = {"args": args, "x": x, "y": y}
    yield Case("kernel_cpy_f32_f32 5 rows, 3 at once", (launch,), arrays, "y", x, 0)
    x, y = b.normal(64, 33), np.zeros((33, 64), np.float32)
    n = {"ne00": 64, "ne01": 33, "nb00": x.strides[0], "nb01": x.strides[1]}
    args = b.args("cpy", {**dims("0", x), **n}, dims("", y), nk0=64)
    launch = b.launch("kernel_cpy_f32_f32", "args x y", (33, 1, 1), (64, 1, 1))
    arrays = {"args": args, "x": x, "y": y}
    yield Case("kernel_cpy_f32_f32 transposed", (launch,), arrays, "y", x.T, 0)


def quantizing(b: Bench) -> Iterator[Case]:
    """Copies into blocks: every byte as gguf-py writes it."""
    for name in QUANTIZED_BY_US:
        f = format_of(name)
        x = b.normal(6, 256)
        y = np.zeros((6, 256 // f.block * f.size), np.uint8)
        nk0 = 256 // f.block
        target = shape("", (6, 256), f.size, row=y.shape[1])
        args = b.args("cpy", dims("0", x), target, nk0=nk0)
        launch = b.launch(f"kernel_cpy_f32_{name}", "args x y", (6, 1, 1), (nk0, 1, 1))
        arrays = {"args": args, "x": x, "y": y}
        yield Case(launch.kernel, (launch,), arrays, "y", f.quantize(x), 0)
        for index, t in (("i64", np.int64), ("i32", np.int32)):
            yield _set_rows_quantized(b, name, index, t)


def _set_rows_quantized(b: Bench, name: str, index: str, t: type) -> Case:
    f = format_of(name)
    x, at = b.normal(7, 512), _places(b, t)
    nk0 = 512 // f.block
    y = np.zeros((9, nk0 * f.size), np.uint8)
    args = b.args(
        "set_rows", dims("0", x), dims("1", at), shape("", (9, 512), f.size, row=y.shape[1]),
        nk0=nk0, ne11=1, ne12=1,
    )  # fmt: skip
    kernel = f"kernel_set_rows_f32_{index}_{name}"
    launch = b.launch(kernel, "args x at y", (4, 1, 1), (nk0, 2, 1))
    want = y.copy()
    want[at] = f.quantize(x)
    return Case(kernel, (launch,), {"args": args, "x": x, "at": at, "y": y}, "y", want, 0)


def _places(b: Bench, t: type) -> Array:
    """Seven of nine rows."""
    return np.asarray(b.rng.permutation(9)[:7], t)


def set_rows(b: Bench) -> Iterator[Case]:
    """Rows of plain types, to the places that indices say."""
    for source, target in (("f32", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f16", "f16")):
        for index, t in (("i64", np.int64), ("i32", np.int32)):
            x, at = _stored(b.normal(7, 100), source), _places(b, t)
            y = np.zeros((9, 100), _DTYPES[target])
            args = b.args(
                "set_rows", dims("0", x), dims("1", at), dims("", y), nk0=100, ne11=1, ne12=1
            )
            kernel = f"kernel_set_rows_{source}_{index}_{target}"
            launch = b.launch(kernel, "args x at y", (4, 1, 1), (100, 2, 1))
            want = y.copy()
            want[at] = _stored(_values(x, source).astype(np.float32), target)
            yield Case(kernel, (launch,), {"args": args, "x": x, "at": at, "y": y}, "y", want, 0)


def get_rows(b: Bench) -> Iterator[Case]:
    """Rows of all formats as floats."""
    for name in FORMATS:
        f, columns = format_of(name), 512
        x = f.random(b.rng, 6, columns)
        yield _get_rows(b, name, x, f.values(x), columns, columns // 16, F32)
    for name in ("f32", "f16", "bf16", "i32"):
        x = _stored(100 * b.normal(6, 90), name)
        yield _get_rows(b, name, x, _values(x, name), 90, 90, 0)


def _get_rows(
    b: Bench, name: str, x: Array, values: Array, columns: int, threads: int, tolerance: float
) -> Case:
    at = b.rng.integers(0, 6, (1, 1, 9)).astype(np.int32)
    y = np.zeros((9, columns), np.int32 if name == "i32" else np.float32)
    row = x.nbytes // 6
    args = b.args(
        "get_rows", shape("0", (6, columns), 1, row=row), dims("1", at), dims("", y),
        ne00t=threads, ne00=columns,
    )  # fmt: skip
    kernel = f"kernel_get_rows_{name}"
    launch = b.launch(kernel, "args x at y", (9, 1, 1), (threads, 1, 1))
    want = values[at.reshape(-1)]
    return Case(kernel, (launch,), {"args": args, "x": x, "at": at, "y": y}, "y", want, tolerance)


def dequantizing(b: Bench) -> Iterator[Case]:
    """Copies out of blocks."""
    for name in (*QUANTIZED_BY_US, "tq2_0"):
        for target, t in (("f32", np.float32), ("f16", np.float16)):
            f = format_of(name)
            x, y = f.random(b.rng, 6, 512), np.zeros((6, 512), t)
            source = shape("0", (6, 512), f.size, row=x.shape[1])
            args = b.args("cpy", source, dims("", y), nk0=32)
            kernel = f"kernel_cpy_{name}_{target}"
            launch = b.launch(kernel, "args x y", (6, 1, 1), (32, 1, 1))
            tolerance = F32 if target == "f32" else 1e-3
            arrays = {"args": args, "x": x, "y": y}
            yield Case(kernel, (launch,), arrays, "y", f.values(x), tolerance)


def concat(b: Bench) -> Iterator[Case]:
    """Two tensors end to end, along columns and along rows, plain and in blocks."""
    types = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i16": np.int16,
             "i32": np.int32, "i64": np.int64}  # fmt: skip
    for name, t in types.items():
        for axis in (0, 1):
            x, z = (100 * b.normal(4, 30)).astype(t), (100 * b.normal(4, 30)).astype(t)
            y = np.zeros((8, 30) if axis else (4, 60), t)
            args = b.args("concat", dims("0", x), dims("1", z), dims("", y), dim=axis)
            kernel = f"kernel_concat_{name}"
            launch = b.launch(kernel, "args x z y", (y.shape[0], 1, 1), (y.shape[1], 1, 1))
            arrays = {"args": args, "x": x, "z": z, "y": y}
            want = np.concatenate([x, z], 1 - axis)
            yield Case(f"{kernel} axis {axis}", (launch,), arrays, "y", want, 0)
    for name in QUANTIZED_BY_US:
        f = format_of(name)
        x, z = f.random(b.rng, 4, 256), f.random(b.rng, 4, 256)
        n = 256 // f.block
        y = np.zeros((4, 2 * n * f.size), np.uint8)
        args = b.args(
            "concat", shape("0", (4, n), f.size), shape("1", (4, n), f.size),
            shape("", (4, 2 * n), f.size), dim=0,
        )  # fmt: skip
        kernel = f"kernel_concat_{name}"
        launch = b.launch(kernel, "args x z y", (4, 1, 1), (2 * n, 1, 1))
        arrays = {"args": args, "x": x, "z": z, "y": y}
        yield Case(kernel, (launch,), arrays, "y", np.concatenate([x, z], 1), 0)


def repeat(b: Bench) -> Iterator[Case]:
    """A tensor as often as it fits."""
    types = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i16": np.int16}
    for name, t in types.items():
        x, y = (100 * b.normal(3, 20)).astype(t), np.zeros((6, 60), t)
        args = b.args("repeat", dims("0", x), dims("", y))
        launch = b.launch(f"kernel_repeat_{name}", "args x y", (6, 1, 1), (60, 1, 1))
        arrays = {"args": args, "x": x, "y": y}
        yield Case(launch.kernel, (launch,), arrays, "y", np.tile(x, (2, 3)), 0)


def padding(b: Bench) -> Iterator[Case]:
    """Zeros around, a mirror at the ends, and a shift in a ring."""
    x, y = b.normal(3, 40), np.zeros((5, 50), np.float32)
    args = b.args(
        "pad",
        dims("0", x),
        dims("", y),
        **{f"lp{i}": 0 for i in range(4) if b.has("pad", f"lp{i}")},
    )
    launch = b.launch(
        "kernel_pad_f32", "args x y", (5, 1, 1), (50, 1, 1), **b.known(FC_pad_circular=0)
    )
    arrays = {"args": args, "x": x, "y": y}
    yield Case("kernel_pad_f32", (launch,), arrays, "y", np.pad(x, ((0, 2), (0, 10))), 0)
    y = np.zeros((3, 47), np.float32)
    args = b.args("pad_reflect_1d", dims("0", x), dims("", y), p0=3, p1=4)
    launch = b.launch("kernel_pad_reflect_1d_f32", "args x y", (3, 1, 1), (47, 1, 1))
    arrays = {"args": args, "x": x, "y": y}
    want = np.pad(x, ((0, 0), (3, 4)), mode="reflect")
    yield Case("kernel_pad_reflect_1d_f32", (launch,), arrays, "y", want, 0)
    y = np.zeros_like(x)
    args = b.args("roll", dims("0", x), dims("", y), s0=5, s1=1, s2=0, s3=0)
    launch = b.launch("kernel_roll_f32", "args x y", (3, 1, 1), (40, 1, 1))
    arrays = {"args": args, "x": x, "y": y}
    yield Case("kernel_roll_f32", (launch,), arrays, "y", np.roll(x, (1, 5), (0, 1)), 0)


FAMILIES = (
    copies, quantizing, set_rows, get_rows, dequantizing, concat, repeat, padding,
)  # fmt: skip
