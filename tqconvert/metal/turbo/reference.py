"""What the turbo kernels must equal, in NumPy: caches as bytes and as values, attention in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqconvert.turbo import codec
from tqconvert.turbo.codebook import CODEBOOKS

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


def row_bytes(type_name: str, n_values: int) -> int:
    """Bytes of a row of a cache."""
    if type_name in CODEBOOKS:
        return codec.block_bytes(type_name) * n_values // codec.BLOCK
    return 2 * n_values if type_name == "f16" else 34 * n_values // 32


def encode(type_name: str, x: F32) -> U8:
    """The bytes of x, [..., n] -> [..., row_bytes(n)]."""
    if type_name in CODEBOOKS:
        return codec.quantize(type_name, x)
    if type_name == "f16":
        return x.astype("<f2").view(np.uint8)
    blocks = x.reshape(-1, 32)
    step = (np.abs(blocks).max(1) / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    codes = np.rint(blocks * inverse[:, None]).astype(np.int8)
    parts = [step.astype("<f2").view(np.uint8).reshape(-1, 2), codes.view(np.uint8)]
    return np.hstack(parts).reshape(*x.shape[:-1], -1)


def decode(type_name: str, data: U8) -> F64:
    """The values of `data`, [..., row_bytes(n)] -> [..., n], without a rounding of their own but turbo's."""
    if type_name in CODEBOOKS:
        return codec.dequantize(type_name, data).astype(np.float64)
    if type_name == "f16":
        return np.ascontiguousarray(data).view("<f2").astype(np.float64)
    blocks = np.ascontiguousarray(data).reshape(-1, 34)
    step = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float64)
    values = step * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
    return values.reshape(*data.shape[:-1], -1)


def slopes(n_head: int, max_bias: float) -> tuple[float, float, int, F64]:
    """m0, m1, n_head_log2 as the host computes them, and the slope of each head: ALiBi."""
    n = 1 << (n_head.bit_length() - 1)
    m0, m1 = 2.0 ** (-max_bias / n), 2.0 ** (-max_bias / 2 / n)
    heads = np.arange(n_head)
    of_head = np.where(heads < n, m0 ** (heads + 1.0), m1 ** (2.0 * (heads - n) + 1))
    return m0, m1, n, of_head if max_bias else np.ones(n_head)


def attention(
    q: F32, k: F64, v: F64, mask: "NDArray[np.float16] | None", *,
    scale: float, softcap: float = 0.0, max_bias: float = 0.0, sinks: F32 | None = None,
) -> F64:  # fmt: skip
    """Softmax attention, float64 [n_seq, n_q, n_head, dim of v] as FLASH_ATTN_EXT lays it out.

    q: [n_seq, n_head, n_q, dim]; k, v: [n_seq, n_head_kv, n_kv, dim], each its own; mask: [n_seq or 1, n_head or 1, n_q,
    n_kv], -inf hides; sinks: [n_head] logits without a value. A row that sees nothing is zero.
    """
    n_head = q.shape[1]
    group = n_head // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    with np.errstate(invalid="ignore"):
        s = scale * (q.astype(np.float64) @ k.swapaxes(2, 3))
    if softcap:
        s = softcap * np.tanh(s / softcap)
    if mask is not None:
        bias = mask.astype(np.float64)
        s = np.where(bias > -np.inf, s + slopes(n_head, max_bias)[3][:, None, None] * bias, -np.inf)
    largest = s.max(-1, keepdims=True)
    if sinks is not None:
        largest = np.maximum(largest, sinks.astype(np.float64)[:, None, None])
    largest = np.where(np.isfinite(largest), largest, 0)
    p = np.exp(s - largest)
    total = p.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks.astype(np.float64)[:, None, None] - largest)
    p = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
    # what is hidden may be anything
    seen = np.where((p > 0).any(2)[..., None], v, 0) if np.isnan(v).any() else v
    out: F64 = (p @ seen).transpose(0, 2, 1, 3)
    return out


def relative_error(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Largest difference over the largest magnitude; infinite where a value is not finite."""
    got = got.astype(np.float64)
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - want).max() / (np.abs(want).max() + 1e-30))
