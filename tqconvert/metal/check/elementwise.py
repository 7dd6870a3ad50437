"""Cases of kernels that treat every element alike."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tqconvert.metal.check.case import F16, F32, Array, Bench, Case, dims

_A, _B = np.sqrt(2 / np.pi), 0.044715


def _erf(x: Array) -> Any:
    """Abramowitz and Stegun 7.1.26, to 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    poly = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return np.sign(x) * (1 - poly * np.exp(-x * x))


def _gelu(x: Array) -> Any:
    return 0.5 * x * (1 + np.tanh(_A * x * (1 + _B * x * x)))


def _gelu_quick(x: Array) -> Any:
    return x / (1 + np.exp(-1.702 * x))


def _gelu_erf(x: Array) -> Any:
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _silu(x: Array) -> Any:
    return x / (1 + np.exp(-x))


def _hardsigmoid(x: Array) -> Any:
    return np.clip(x / 6 + 0.5, 0, 1)


def _xielu(x: Array) -> Any:
    negative = (np.exp(np.minimum(x, -0.1)) - 1 - x) * 0.3 + 0.5 * x
    return np.where(x > 0, 2 * x * x + 0.5 * x, negative)


_PARAMETERS = {"scale": 2.0, "bias": 0.5, "val": -0.1, "min": -0.7, "max": 0.9, "slope": 0.3}
UNARY: dict[str, Callable[[Array], Array]] = {
    "SCALE": lambda x: 2 * x + 0.5, "FILL": lambda x: 0 * x - 0.1,
    "CLAMP": lambda x: np.clip(x, -0.7, 0.9), "SQR": np.square,
    "SQRT": lambda x: np.sqrt(np.abs(x)), "SIN": np.sin, "COS": np.cos,
    "LOG": lambda x: np.log(np.abs(x)), "LEAKY_RELU": lambda x: np.where(x > 0, x, 0.3 * x),
    "TANH": np.tanh, "RELU": lambda x: np.maximum(x, 0), "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
    "GELU": _gelu, "GELU_ERF": _gelu_erf, "GELU_QUICK": _gelu_quick, "SILU": _silu,
    "ELU": lambda x: np.where(x > 0, x, np.exp(x) - 1), "NEG": np.negative, "ABS": np.abs,
    "SGN": np.sign, "STEP": lambda x: (x > 0) * 1.0, "HARDSWISH": lambda x: x * _hardsigmoid(x),
    "HARDSIGMOID": _hardsigmoid, "EXP": np.exp, "SOFTPLUS": lambda x: np.log(1 + np.exp(x)),
    "EXPM1": lambda x: np.exp(x) - 1, "FLOOR": np.floor, "CEIL": np.ceil,
    "ROUND": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5), "TRUNC": np.trunc, "XIELU": _xielu,
}  # fmt: skip
"""Operation by its name in OP_UNARY_NUM_*, with the parameters above."""


def unary(b: Bench) -> Iterator[Case]:
    """Every operation on rows of four, and one of each other form of the kernel."""
    for op in UNARY:
        yield _unary(b, op, "f32", four=True, count=True)
    for dtype in ("f32", "f16"):
        yield _unary(b, "SILU", dtype, four=False, count=False)
    yield _unary(b, "GELU", "f16", four=True, count=False)


def _unary(b: Bench, op: str, dtype: str, *, four: bool, count: bool) -> Case:
    number = b.define(f"OP_UNARY_NUM_{op}")
    columns = 260 if four else 259
    x = 2 * b.normal(3, columns)
    if op in ("SQRT", "LOG"):
        x = np.abs(x) + np.float32(0.1)
    x = x.astype(np.float16 if dtype == "f16" else np.float32)
    y = np.zeros_like(x)
    n0 = columns // 4 if four else columns
    args = b.args("unary", dims("0", x), dims("", y), **{**_PARAMETERS, "ne00": n0, "ne0": n0})
    threads = min(n0, 256)
    grid = (x.size // (4 if four else 1), 1, 1) if count else (-(-n0 // threads) * 3, 1, 1)
    name = f"kernel_unary_{dtype}_{dtype}{'_4' if four else ''}"
    launch = b.launch(
        name, "args x y", grid, (1 if count else threads, 1, 1),
        FC_unary_op=number, FC_unary_cnt=count,
    )  # fmt: skip
    want = UNARY[op](x.astype(np.float64))
    # GELU_ERF is an approximation in the kernel as well.
    tolerance = F16 if dtype == "f16" else F32
    return Case(f"{name} {op}", (launch,), {"args": args, "x": x, "y": y}, "y", want, tolerance)


_GLU: dict[str, Callable[[Array, Array], Array]] = {
    "reglu": lambda x, g: np.maximum(x, 0) * g,
    "geglu": lambda x, g: _gelu(x) * g,
    "swiglu": lambda x, g: _silu(x) * g,
    "swiglu_oai": lambda x, g: (
        np.minimum(x, 1.5) / (1 + np.exp(-1.7 * np.minimum(x, 1.5))) * (1 + np.clip(g, -1.5, 1.5))
    ),
    "swiglu_clamp": lambda x, g: _silu(np.minimum(x, 1.5)) * np.clip(g, -1.5, 1.5),
    "geglu_erf": lambda x, g: _gelu_erf(x) * g,
    "geglu_quick": lambda x, g: _gelu_quick(x) * g,
}


def gated(b: Bench) -> Iterator[Case]:
    """Gated linear units, the halves of a row or two rows."""
    for op, f in _GLU.items():
        for dtype, t in (("f32", np.float32), ("f16", np.float16)):
            x, y = 2 * b.normal(5, 2 * 70, dtype=t), np.zeros((5, 70), t)
            args = b.args(
                "glu", ne00=140, nb01=x.strides[0], ne10=140, nb11=x.strides[0], ne0=70,
                nb1=y.strides[0], i00=0, i10=70, alpha=1.7, limit=1.5,
            )  # fmt: skip
            name = f"kernel_{op}_{dtype}"
            launch = b.launch(name, "args x x y", (5, 1, 1), (70, 1, 1))
            wide = x.astype(np.float64)
            want = f(wide[:, :70], wide[:, 70:])
            tolerance = F16 if dtype == "f16" else F32
            yield Case(name, (launch,), {"args": args, "x": x, "y": y}, "y", want, tolerance)


def silu_back(b: Bench) -> Iterator[Case]:
    """The gradient of SiLU."""
    dy, x, dx = b.normal(1000), b.normal(1000), np.zeros(1000, np.float32)
    s = 1 / (1 + np.exp(-x.astype(np.float64)))
    launch = b.launch("kernel_silu_back_f32", "args dy x dx", (4, 1, 1), (256, 1, 1))
    arrays = {"args": b.args("silu_back", ne=1000), "dy": dy, "x": x, "dx": dx}
    yield Case("kernel_silu_back_f32", (launch,), arrays, "dx", dy * s * (1 + x * (1 - s)), F32)


_BINARY: tuple[Callable[[Array, Array], Array], ...] = (np.add, np.subtract, np.multiply, np.divide)


def binary(b: Bench) -> Iterator[Case]:
    """Add, subtract, multiply, divide: whole tensors, and one row for all."""
    for op, f in enumerate(_BINARY):
        for suffix, t in (("f32_f32_f32", np.float32), ("f32_f32_f32_4", np.float32),
                          ("f16_f16_f16", np.float16)):  # fmt: skip
            four = suffix.endswith("_4")
            x = b.normal(2, 3, 132, dtype=t)
            w = (np.abs(b.normal(1, 1, 132)) + 0.5).astype(t)
            y = np.zeros_like(x)
            n0 = 33 if four else 132
            args = b.args("bin", dims("0", x), dims("1", w), dims("", y), ne00=n0, ne10=n0, ne0=n0)
            name = f"kernel_bin_fuse_{suffix}"
            launch = b.launch(
                name, "args x w y", (3, 2, 1), (32, 1, 1),
                FC_bin_op=op, FC_bin_f=1, FC_bin_rb=0, FC_bin_cb=0,
            )  # fmt: skip
            want = f(x.astype(np.float64), w.astype(np.float64))
            arrays = {"args": args, "x": x, "w": w, "y": y}
            tolerance = F16 if t is np.float16 else F32
            yield Case(f"{name} {f.__name__}", (launch,), arrays, "y", want, tolerance)


def add_id(b: Bench) -> Iterator[Case]:
    """The row of an expert added to each."""
    x, w = b.normal(4, 2, 96), b.normal(5, 96)
    ids = b.rng.integers(0, 5, (4, 2)).astype(np.int32)
    y = np.zeros_like(x)
    args = b.args(
        "add_id", ne0=96, ne1=2, nb01=x.strides[1], nb02=x.strides[0], nb11=w.strides[0],
        nb21=ids.strides[0],
    )  # fmt: skip
    launch = b.launch("kernel_add_id", "args x w ids y", (2, 4, 1), (96, 1, 1))
    arrays = {"args": args, "x": x, "w": w, "ids": ids, "y": y}
    yield Case("kernel_add_id", (launch,), arrays, "y", x + w[ids], F32)


def optimizer(b: Bench) -> Iterator[Case]:
    """One step of SGD and of AdamW."""
    n = 300
    x, g = b.normal(n), b.normal(n)
    rate, decay = np.float32(0.01), np.float32(0.1)
    launch = b.launch("kernel_opt_step_sgd_f32", "args x g p", (2, 1, 1), (150, 1, 1))
    arrays = {"args": b.args("opt_step_sgd", np=n), "x": x, "g": g, "p": np.array([rate, decay])}
    want = x * (1 - np.float64(rate) * decay) - np.float64(rate) * g
    yield Case("kernel_opt_step_sgd_f32", (launch,), arrays, "x", want, F32)
    m, v = b.normal(n), np.abs(b.normal(n))
    p = np.array([0.01, 0.9, 0.99, 1e-8, 0.1, 1.2, 1.3], np.float32)
    alpha, beta1, beta2, eps, wd, h1, h2 = p.astype(np.float64)
    m2, v2 = m * beta1 + g * (1 - beta1), v * beta2 + g.astype(np.float64) ** 2 * (1 - beta2)
    want = x * (1 - alpha * wd) - alpha * (m2 * h1) / (np.sqrt(v2 * h2) + eps)
    launch = b.launch("kernel_opt_step_adamw_f32", "args x g m v p", (2, 1, 1), (150, 1, 1))
    arrays = {"args": b.args("opt_step_adamw", np=n), "x": x, "g": g, "m": m, "v": v, "p": p}
    yield Case("kernel_opt_step_adamw_f32", (launch,), arrays, "x", want, F32)


def ranges(b: Bench) -> Iterator[Case]:
    """A range and a fill: what has no input."""
    y = np.zeros(300, np.float32)
    launch = b.launch("kernel_arange_f32", "args y", (1, 1, 1), (256, 1, 1))
    arrays = {"args": b.args("arange", ne0=300, start=3, step=0.25), "y": y}
    yield Case("kernel_arange_f32", (launch,), arrays, "y", 3 + 0.25 * np.arange(300), F32)
    z = np.ones(77, np.int64)
    launch = b.launch("kernel_memset_i64", "args y", (77, 1, 1), (1, 1, 1))
    arrays = {"args": b.args("memset", val=-5), "y": z}
    yield Case("kernel_memset_i64", (launch,), arrays, "y", np.full(77, -5), 0)


def snake(b: Bench) -> Iterator[Case]:
    """The snake activation, a and 1/b by channel."""
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        x, a, inv = b.normal(7, 90, dtype=t), b.normal(7), np.abs(b.normal(7))
        y = np.zeros_like(x)
        launch = b.launch(f"kernel_snake_{dtype}", "args x a inv y", (3, 1, 1), (256, 1, 1))
        wide = x.astype(np.float64)
        want = wide + np.sin(a[:, None] * wide) ** 2 * inv[:, None]
        arrays = {"args": b.args("snake", T=90, C=7), "x": x, "a": a, "inv": inv, "y": y}
        tolerance = F16 if dtype == "f16" else F32
        yield Case(f"kernel_snake_{dtype}", (launch,), arrays, "y", want, tolerance)


FAMILIES = (unary, gated, silu_back, binary, add_id, optimizer, ranges, snake)
