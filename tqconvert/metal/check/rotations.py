"""Cases of rotary embeddings and of the Walsh-Hadamard transform."""

from collections.abc import Iterator

import numpy as np

from tqconvert.metal.check.case import F16, F32, Array, Bench, Case, dims


def rope(b: Bench) -> Iterator[Case]:
    """Neighbours and halves rotated, all of a head or a part of it, with factors and without."""
    for order in ("norm", "neox"):
        for dtype, t in (("f32", np.float32), ("f16", np.float16)):
            for n_dims, factors in ((64, False), (48, True)):
                yield _rope(b, order, dtype, t, n_dims, factors=factors)


def _rope(
    b: Bench, order: str, dtype: str, t: type, n_dims: int, *, factors: bool
) -> Case:  # fmt: skip
    tokens, heads, size = 5, 3, 64
    x = b.normal(tokens, heads, size, dtype=t)
    y, pos = np.zeros_like(x), np.array([0, 3, 4, 900, 4000], np.int32)
    f = (1 + b.rng.random(n_dims // 2)).astype(np.float32)
    args = b.args(
        "rope", dims("0", x), dims("", y), n_dims=n_dims, n_ctx_orig=4096, freq_base=10000,
        freq_scale=1, ext_factor=0, attn_factor=1, beta_fast=32, beta_slow=1, src2=factors,
    )  # fmt: skip
    name = f"kernel_rope_{order}_{dtype}"
    launch = b.launch(
        name,
        "args x pos f y",
        (heads, tokens, 1),
        (size, 1, 1),
        **b.known(FC_rope_is_imrope=0, FC_rope_is_back=0),
    )
    want = rotated(x.astype(np.float64), pos, n_dims, f if factors else 1.0, order)
    arrays = {"args": args, "x": x, "pos": pos, "f": f, "y": y}
    # Angles of thousands of radians: a float has five digits left of them.
    tolerance = F16 if dtype == "f16" else 1e-3
    return Case(f"{name} {n_dims} of {size}", (launch,), arrays, "y", want, tolerance)


def rotated(x: Array, pos: Array, n_dims: int, factors: "Array | float", order: str) -> Array:
    """Pairs of (token, head, channel) turned by position times frequency."""
    out = x.copy()
    i = np.arange(n_dims // 2)
    theta = pos[:, None] * 10000.0 ** (-2.0 * i / n_dims) / factors
    c, s = np.cos(theta)[:, None], np.sin(theta)[:, None]
    first, second = (2 * i, 2 * i + 1) if order == "norm" else (i, i + n_dims // 2)
    a, z = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * c - z * s, a * s + z * c
    return out


def hadamard(n: int) -> Array:
    """The matrix by Sylvester, with rows of length one."""
    h: Array = np.array([[1.0]])
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return np.asarray(h / np.sqrt(n))


def fwht(b: Bench) -> Iterator[Case]:
    """All sizes, of floats and of halves."""
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        for n in (64, 128, 256, 512, 1024, 2048):
            x, y = b.normal(5, n, dtype=t), np.zeros((5, n), np.float32)
            name = f"kernel_fwht_{dtype}_{n}"
            grid, threads = ((5, 1, 1), (256, 1, 1)) if n >= 512 else ((3, 1, 1), (64, 1, 1))
            launch = b.launch(name, "args x y", grid, threads)
            want = x.astype(np.float64) @ hadamard(n)
            arrays = {"args": b.args("fwht", nrows=5), "x": x, "y": y}
            yield Case(name, (launch,), arrays, "y", want, F32)


def timestep(b: Bench) -> Iterator[Case]:
    """Sines and cosines of a time."""
    x, y = np.array([1, 10, 500], np.float32), np.zeros((3, 65), np.float32)
    args = b.args("timestep_embedding", nb1=y.strides[0], dim=65, max_period=10000)
    launch = b.launch("kernel_timestep_embedding_f32", "args x y", (3, 1, 1), (32, 1, 1))
    angle = x[:, None] * np.exp(-np.log(10000.0) * np.arange(32) / 32)
    want = np.concatenate([np.cos(angle), np.sin(angle), np.zeros((3, 1))], 1)
    arrays = {"args": args, "x": x, "y": y}
    yield Case("kernel_timestep_embedding_f32", (launch,), arrays, "y", want, 1e-4)


FAMILIES = (rope, fwht, timestep)
