"""Cases of kernels that work along rows: norms, softmax, sums, sorting."""

from collections.abc import Callable, Iterator

import numpy as np

from tqconvert.metal.check.case import F16, F32, Array, Bench, Case, dims, until

_SIMD_FLOATS = 32 * 4


def norms(b: Bench) -> Iterator[Case]:
    """Layer and RMS norm, alone and with what is fused to them."""
    for op in ("norm", "rms_norm"):
        for fused, suffix, columns in (("", "", 131), ("_mul", "_4", 512), ("_mul_add", "_4", 4096),
                                       ("_mul_add", "", 67)):  # fmt: skip
            yield _norm(b, op, fused, suffix, columns)


def _norm(b: Bench, op: str, fused: str, suffix: str, columns: int) -> Case:
    rows, n0 = 5, columns // (4 if suffix else 1)
    x, w, c = b.normal(rows, columns) + 1, b.normal(columns), b.normal(columns)
    y, s = np.zeros_like(x), columns * 4
    args = b.args(
        "norm", dims("", y), ne00=columns, ne00_t=n0, eps=1e-5,
        nef1=(rows, 1, 1), nef2=(1, 1, 1), nef3=(1, 1, 1),
        nbf1=(s, s, s), nbf2=(s * rows, s, s), nbf3=(s * rows, s, s), **({"scale": 1.0} if b.has("norm", "scale") else {}),
    )  # fmt: skip
    threads = min(until(n0, 1024), -(-n0 // 32) * 32)
    name = f"kernel_{op}{fused}_f32{suffix}"
    launch = b.launch(
        name,
        "args x w c y",
        (rows, 1, 1),
        (threads, 1, 1),
        _SIMD_FLOATS,
        **b.known(FC_norm_use_scale=0),
    )
    wide = x.astype(np.float64)
    if op == "norm":
        wide = wide - wide.mean(1, keepdims=True)
    want = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    want = want * (w if fused else 1) + (c if fused == "_mul_add" else 0)
    arrays = {"args": args, "x": x, "w": w, "c": c, "y": y}
    return Case(f"{name} {rows}x{columns}", (launch,), arrays, "y", want, F32)


def l2_norm(b: Bench) -> Iterator[Case]:
    """Rows of length one."""
    for suffix, columns in (("", 99), ("_4", 512)):
        x = b.normal(6, columns)
        y, n0 = np.zeros_like(x), columns // (4 if suffix else 1)
        args = b.args("l2_norm", dims("0", x), dims("", y), ne00=n0, ne0=n0, eps=1e-6)
        name = f"kernel_l2_norm_f32_f32{suffix}"
        threads = until(columns, 1024)
        launch = b.launch(name, "args x y", (6, 1, 1), (threads, 1, 1), _SIMD_FLOATS)
        wide = x.astype(np.float64)
        want = wide / np.maximum(np.sqrt((wide**2).sum(1, keepdims=True)), 1e-6)
        yield Case(f"{name} 6x{columns}", (launch,), {"args": args, "x": x, "y": y}, "y", want, F32)


def group_norm(b: Bench) -> Iterator[Case]:
    """Groups of channels."""
    x = b.normal(6, 5, 7)
    y = np.zeros_like(x)
    args = b.args("group_norm", dims("0", x), ngrp=3, eps=1e-5)
    launch = b.launch("kernel_group_norm_f32", "args x y", (3, 1, 1), (32, 1, 1), _SIMD_FLOATS)
    wide = x.astype(np.float64).reshape(3, -1)
    wide = wide - wide.mean(1, keepdims=True)
    want = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    yield Case("kernel_group_norm_f32", (launch,), {"args": args, "x": x, "y": y}, "y", want, F32)


def soft_max(b: Bench) -> Iterator[Case]:
    """With a mask in float or half, in fours and not, with sinks and without."""
    for mask_type, t in (("f32", np.float32), ("f16", np.float16)):
        for suffix, columns, threads in (("", 131, 128), ("_4", 1024, 256), ("", 40, 32)):
            rows, heads = 3, 2
            x, mask = b.normal(heads, rows, columns), b.normal(rows, columns, dtype=t)
            mask[0, 5:] = -np.inf
            y, sinks = np.zeros_like(x), b.normal(heads)
            args = b.args(
                "soft_max", dims("0", x), dims("1", mask[None, None]), dims("", y), scale=0.125,
                max_bias=0, m0=1, m1=1, n_head_log2=2,
            )  # fmt: skip
            name = f"kernel_soft_max_{mask_type}{suffix}"
            launch = b.launch(
                name, "args x mask sinks y", (rows, heads, 1), (threads, 1, 1), _SIMD_FLOATS
            )
            z = x.astype(np.float64) * 0.125 + mask.astype(np.float64)
            top = np.maximum(z.max(-1, keepdims=True), sinks[:, None, None])
            e = np.exp(z - top)
            want = e / (e.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - top))
            arrays = {"args": args, "x": x, "mask": mask, "sinks": sinks, "y": y}
            yield Case(f"{name} {rows}x{columns}", (launch,), arrays, "y", want, F32)


def sums(b: Bench) -> Iterator[Case]:
    """The sum of all, of rows, and their means."""
    x = b.normal(3000)
    launch = b.launch("kernel_op_sum_f32", "args x y", (1, 1, 1), (1024, 1, 1), _SIMD_FLOATS)
    arrays = {"args": b.args("sum", np=x.size), "x": x, "y": np.zeros(1, np.float32)}
    yield Case("kernel_op_sum_f32", (launch,), arrays, "y", np.array([x.sum(dtype=float)]), 1e-4)
    for op, f in (("SUM_ROWS", np.sum), ("MEAN", np.mean)):
        for suffix, columns in (("", 99), ("_4", 512)):
            x, y = b.normal(4, columns), np.zeros((4, 1), np.float32)
            n0 = columns // (4 if suffix else 1)
            args = b.args("sum_rows", dims("0", x), dims("", y), ne00=n0)
            name = f"kernel_sum_rows_f32_f32{suffix}"
            launch = b.launch(
                name, "args x y", (4, 1, 1), (min(until(n0, 1024), n0), 1, 1), 4 * _SIMD_FLOATS,
                FC_sum_rows_op=b.define(f"OP_SUM_ROWS_NUM_{op}"),
            )  # fmt: skip
            want = f(x.astype(np.float64), axis=1, keepdims=True)
            arrays = {"args": args, "x": x, "y": y}
            yield Case(f"{name} {op} 4x{columns}", (launch,), arrays, "y", want, 1e-4)


def cumsum(b: Bench) -> Iterator[Case]:
    """Running sums: one block, and blocks whose sums are summed and added."""
    for columns in (200, 2500):
        x = b.normal(3, columns)
        threads = until(columns, 1024, 1)
        blocks = -(-columns // threads)
        y, tmp = np.zeros_like(x), np.zeros((3, blocks), np.float32)
        t = {k.replace("ne", "net").replace("nb", "nbt"): v for k, v in dims("", tmp).items()}
        args = b.args("cumsum_blk", dims("0", x), t, outb=blocks > 1)
        shape = dims("0", tmp)
        args2 = b.args("cumsum_blk", shape, t, outb=False)
        args3 = b.args("cumsum_add", dims("0", x), t)
        name = "kernel_cumsum_blk_f32"
        first = b.launch(name, "args x tmp y", (blocks * 3, 1, 1), (threads, 1, 1), _SIMD_FLOATS)
        launches = [first]
        if blocks > 1:
            launches.append(
                b.launch(name, "args2 tmp tmp tmp", (3, 1, 1), (threads, 1, 1), _SIMD_FLOATS)
            )
            launches.append(
                b.launch(
                    "kernel_cumsum_add_f32", "args3 tmp y", (blocks * 3, 1, 1), (threads, 1, 1)
                )
            )
        arrays = {"args": args, "args2": args2, "args3": args3, "x": x, "tmp": tmp, "y": y}
        want = np.cumsum(x.astype(np.float64), axis=1)
        yield Case(f"{name} 3x{columns}", tuple(launches), arrays, "y", want, 1e-4)


def argmax(b: Bench) -> Iterator[Case]:
    """The column of the largest value of each row."""
    x, y = b.normal(7, 333), np.zeros(7, np.int32)
    launch = b.launch("kernel_argmax_f32", "args x y", (7, 1, 1), (64, 1, 1), 2 * _SIMD_FLOATS)
    arrays = {"args": b.args("argmax", ne00=333, nb01=x.strides[0]), "x": x, "y": y}
    yield Case("kernel_argmax_f32", (launch,), arrays, "y", x.argmax(1), 0)


def argsort(b: Bench) -> Iterator[Case]:
    """Rows in one bitonic sort, and in two that are merged."""
    for order, sign in (("asc", 1), ("desc", -1)):
        for columns in (100, 1500):
            yield _argsort(b, order, sign, columns)


def _argsort(b: Bench, order: str, sign: int, columns: int) -> Case:
    x = np.stack([b.rng.permutation(columns) for _ in range(3)]).astype(np.float32)
    threads = until(columns, 1024, 1)
    blocks = -(-columns // threads)
    y, tmp = np.zeros((3, columns), np.int32), np.zeros((3, columns), np.int32)
    shapes = dims("0", x), dims("", y)
    args = b.args("argsort", *shapes, top_k=threads)
    args2 = b.args("argsort_merge", *shapes, top_k=columns, len=threads)
    name = f"kernel_argsort_f32_i32_{order}"
    first = b.launch(
        name, f"args x {'tmp' if blocks > 1 else 'y'}", (blocks * 3, 1, 1), (threads, 1, 1),
        threads * 4,
    )  # fmt: skip
    merge = b.launch(
        f"kernel_argsort_merge_f32_i32_{order}", "args2 x tmp y", (3, 1, 1), (512, 1, 1)
    )
    launches = (first, merge) if blocks > 1 else (first,)
    arrays = {"args": args, "args2": args2, "x": x, "y": y, "tmp": tmp}
    return Case(f"{name} 3x{columns}", launches, arrays, "y", (sign * x).argsort(1), 0)


def count_equal(b: Bench) -> Iterator[Case]:
    """How many integers are the same, added atomically."""
    x, z = (b.rng.integers(0, 3, (4, 300)).astype(np.int32) for _ in range(2))
    args = b.args("count_equal", dims("0", x), dims("1", z))
    launch = b.launch(
        "kernel_count_equal_i32", "args x z y", (4, 1, 1), (512, 1, 1), _SIMD_FLOATS,
        FC_count_equal_nsg=16,
    )  # fmt: skip
    arrays = {"args": args, "x": x, "z": z, "y": np.zeros(1, np.int32)}
    yield Case("kernel_count_equal_i32", (launch,), arrays, "y", np.array([(x == z).sum()]), 0)


def triangles(b: Bench) -> Iterator[Case]:
    """A triangle of a matrix, and a diagonal of a row."""
    keep: tuple[Callable[[Array], Array], ...] = (
        np.triu,
        lambda m: np.triu(m, 1),
        np.tril,
        lambda m: np.tril(m, -1),
    )
    for dtype, t in (("f32", np.float32), ("f16", np.float16)):
        for kind, f in enumerate(keep):
            x = b.normal(40, 40, dtype=t)
            y = np.zeros_like(x)
            args = b.args("tri", dims("0", x), dims("", y))
            name = f"kernel_tri_{dtype}_{kind}"
            launch = b.launch(name, "args x y", (40, 1, 1), (40, 1, 1))
            want = f(x.astype(np.float64))
            yield Case(name, (launch,), {"args": args, "x": x, "y": y}, "y", want, F16)
    x, y = b.normal(1, 45), np.zeros((45, 45), np.float32)
    args = b.args("diag", dims("0", x), dims("", y))
    launch = b.launch("kernel_diag_f32", "args x y", (45, 1, 1), (32, 1, 1))
    want = np.diag(x[0])
    yield Case("kernel_diag_f32", (launch,), {"args": args, "x": x, "y": y}, "y", want, 0)


FAMILIES = (
    norms, l2_norm, group_norm, soft_max, sums, cumsum, argmax, argsort, count_equal, triangles,
)  # fmt: skip
