"""Cases of kernels on images: pools, im2col, scaling, convolutions."""

from collections.abc import Iterator

import numpy as np

from tqconvert.metal.check.case import F16, F32, Array, Bench, Case, dims


def _windows(x: Array, k: int, step: int, pad: int, fill: float) -> Array:
    """Windows of the last two axes, as (..., out, out, k, k)."""
    padded = np.pad(x, (*[(0, 0)] * (x.ndim - 2), (pad, pad), (pad, pad)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (-2, -1))
    return view[..., ::step, ::step, :, :]


def pool_2d(b: Bench) -> Iterator[Case]:
    """Largest and mean of three by three, every second, with a border."""
    x = b.normal(2, 3, 11, 9).astype(np.float32)
    for op in ("max", "avg"):
        fill = -np.inf if op == "max" else 0.0
        w = _windows(x.astype(np.float64), 3, 2, 1, fill)
        want = w.max((-2, -1)) if op == "max" else w.sum((-2, -1)) / 9
        y = np.zeros(want.shape, np.float32)
        args = b.args(
            "pool_2d", k0=3, k1=3, s0=2, s1=2, p0=1, p1=1, IH=11, IW=9, OH=want.shape[2],
            OW=want.shape[3], np=want.size,
        )  # fmt: skip
        launch = b.launch(f"kernel_pool_2d_{op}_f32", "args x y", (2, 1, 1), (128, 1, 1))
        yield Case(launch.kernel, (launch,), {"args": args, "x": x, "y": y}, "y", want, F32)


def pool_1d(b: Bench) -> Iterator[Case]:
    """The same along rows, without a border."""
    x = b.normal(4, 30)
    w = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 4, 1)[:, ::2]
    for op, want in (("max", w.max(-1)), ("avg", w.mean(-1))):
        y = np.zeros(want.shape, np.float32)
        args = b.args("pool_1d", k0=4, s0=2, p0=0, IW=30, OW=want.shape[1], np=want.size)
        launch = b.launch(f"kernel_pool_1d_{op}_f32", "args x y", (1, 1, 1), (64, 1, 1))
        yield Case(launch.kernel, (launch,), {"args": args, "x": x, "y": y}, "y", want, F32)


def im2col(b: Bench) -> Iterator[Case]:
    """Windows as rows."""
    x = b.normal(2, 3, 8, 10)
    w = _windows(x, 3, 1, 1, 0.0)
    want = w.transpose(0, 2, 3, 1, 4, 5).reshape(2, 8, 10, 27)
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        y = np.zeros(want.shape, t)
        args = b.args(
            "im2col", ofs0=x.strides[0] // 4, ofs1=x.strides[1] // 4, IW=10, IH=8, CHW=27, s0=1,
            s1=1, p0=1, p1=1, d0=1, d1=1, N=2, KH=3, KW=3, KHW=9,
        )  # fmt: skip
        launch = b.launch(f"kernel_im2col_{dtype}", "args x y", (3, 8, 10), (2, 3, 3))
        tolerance = F16 if dtype == "f16" else 0
        arrays = {"args": args, "x": x, "y": y}
        yield Case(launch.kernel, (launch,), arrays, "y", want, tolerance)


def upscale(b: Bench) -> Iterator[Case]:
    """The nearest pixel, and between pixels."""
    x = b.normal(1, 2, 5, 6)
    y = np.zeros((1, 2, 10, 18), np.float32)
    args = b.args("upscale", dims("0", x), dims("", y), sf0=3, sf1=2, sf2=1, sf3=1)
    launch = b.launch("kernel_upscale_nearest_f32", "args x y", (10, 2, 1), (18, 1, 1))
    arrays = {"args": args, "x": x, "y": y}
    want = x.repeat(2, 2).repeat(3, 3)
    yield Case("kernel_upscale_nearest_f32", (launch,), arrays, "y", want, 0)
    args = b.args("upscale", dims("0", x), dims("", y), sf0=3, sf1=2, sf2=1, sf3=1, poffs=0.5)
    launch = b.launch(
        "kernel_upscale_bilinear_f32",
        "args x y",
        (10, 2, 1),
        (18, 1, 1),
        **b.known(FC_upscale_aa=0),
    )
    arrays = {"args": args, "x": x, "y": y}
    want = _linear(_linear(x.astype(np.float64), 10, 2), 18, 3)
    yield Case("kernel_upscale_bilinear_f32", (launch,), arrays, "y", want, F32)


def _linear(x: Array, n: int, axis: int) -> Array:
    """Resized along an axis, pixel centres in line, edges held."""
    old = x.shape[axis]
    at = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    part = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return np.asarray(x.take(low, axis) * (1 - part) + x.take(high, axis) * part)


def convolution(b: Bench) -> Iterator[Case]:
    """Three by three over an image."""
    x = b.normal(2, 3, 8, 10)
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        w = b.normal(4, 3, 3, 3, dtype=t)
        windows = _windows(x.astype(np.float64), 3, 1, 1, 0.0)
        want = np.einsum("nchwkl,ockl->nohw", windows, w.astype(np.float64))
        y = np.zeros(want.shape, np.float32)
        args = b.args(
            "conv_2d", dims("0", w), dims("1", x), dims("", y), IW=10, IH=8, KW=3, KH=3, IC=3,
            OC=4, OW=10, OH=8, N=2, s0=1, s1=1, p0=1, p1=1, d0=1, d1=1,
        )  # fmt: skip
        launch = b.launch(f"kernel_conv_2d_{dtype}_f32", "args w x y", (5, 1, 1), (128, 1, 1))
        arrays = {"args": args, "w": w, "x": x, "y": y}
        yield Case(launch.kernel, (launch,), arrays, "y", want, 1e-4)


def transposed(b: Bench) -> Iterator[Case]:
    """A transposed convolution along rows."""
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        w, x = b.normal(3, 4, 5, dtype=t), b.normal(3, 7)  # (in, out, k), (in, length)
        length = (7 - 1) * 2 + 5
        want = np.zeros((4, length))
        for i in range(7):
            want[:, 2 * i : 2 * i + 5] += np.einsum(
                "iok,i->ok", w.astype(np.float64), x[:, i].astype(np.float64)
            )
        y = np.zeros(want.shape, np.float32)
        args = b.args(
            "conv_transpose_1d", IC=3, IL=7, K=5, s0=2, nb0=y.strides[1], nb1=y.strides[0]
        )
        launch = b.launch(
            f"kernel_conv_transpose_1d_{dtype}_f32", "args w x y", (length, 4, 1), (1, 1, 1)
        )
        arrays = {"args": args, "w": w, "x": x, "y": y}
        yield Case(launch.kernel, (launch,), arrays, "y", want, 1e-4)


FAMILIES = (pool_2d, pool_1d, im2col, upscale, convolution, transposed)
