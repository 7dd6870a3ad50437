"""The turbo types in NumPy: the reference that defines the bytes.

A block is 128 values of one head, an fp16 gain and one code a value:

    y = 128^-1/2 H S x        S: fixed signs, H: Walsh-Hadamard transform in natural order
    x ~ S 128^-1/2 H (d kv[idx])        d = gain / 32, so that |x| is kept

Order of operations is part of the format; C, SIMD and this module agree to the byte because no sum depends
on it being fused or reordered: the transform only adds, energies are double sums of exact products in eight
lanes, and the search for the best codes runs on integers. Twin: ollama_patches/files/ggml/src/ggml-turbo.c.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tqconvert.errors import UsageError
from tqconvert.turbo.codebook import CODEBOOKS, Codebook

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    U8 = NDArray[np.uint8]

BLOCK = 128
GAIN = 32
"""The stored gain is this many times the step of the codebook: fp16's range fits K and V so."""
FIXED = 32
"""Fixed-point steps of the search in one step of the codebook."""
SCALES = tuple(range(80, 125, 5))
"""Candidates of the scale search: thresholds times this many percent. The first of equal ones wins."""
TOO_SMALL = 1e-20
"""Below this energy the gain is zero in fp16 whatever the codes are."""
_RSQRT = np.float32(0.08838834764831845)


def _splitmix_signs(seed: int) -> "F32":
    """128 signs, the top bits of successive splitmix64 outputs; 1 is +1."""
    mask, state, signs = (1 << 64) - 1, seed, []
    for _ in range(BLOCK):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        signs.append(1.0 if (z ^ (z >> 31)) >> 63 else -1.0)
    return np.array(signs, np.float32)


SIGNS = _splitmix_signs(42)


def hadamard(x: "NDArray[Any]") -> "NDArray[Any]":
    """H x along the last axis, [..., 128], natural order, not normalised, in the dtype of x."""
    y = x.copy()
    half = 1
    while half < BLOCK:
        pairs = y.reshape(*y.shape[:-1], -1, 2, half)
        a, b = pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]
        pairs[..., 0, :], pairs[..., 1, :] = a, b
        half *= 2
    return y


def rotate(x: "F32") -> "F32":
    """128^-1/2 H S x along the last axis, [..., 128]: orthonormal."""
    y: F32 = hadamard(x * SIGNS) * _RSQRT
    return y


def rotate_inverse(y: "F32") -> "F32":
    """S 128^-1/2 H y along the last axis, [..., 128]."""
    x: F32 = hadamard(y) * (_RSQRT * SIGNS)
    return x


def thresholds(book: Codebook, scale: int) -> list[int]:
    """Edges between neighbouring magnitudes at `scale` percent, in fixed-point steps."""
    mags = book.magnitudes
    middles = (FIXED // 2 * (a + b) for a, b in pairwise(mags))
    return [(m * scale + 50) // 100 for m in middles]


def _energy(y: "F32") -> "NDArray[np.float64]":
    """Sums of squares of [n, 128] in eight lanes, then pairwise: the order of an eight-lane unit."""
    squares = np.square(y.astype(np.float64)).reshape(len(y), 16, 8)
    lanes = np.zeros((len(y), 8))
    for step in range(16):
        lanes += squares[:, step]
    four = lanes[:, :4] + lanes[:, 4:]
    two = four[:, :2] + four[:, 2:]
    return two[:, 0] + two[:, 1]


def _search(book: Codebook, fixed: "NDArray[np.int64]") -> "tuple[U8, NDArray[np.int64]]":
    """Codes [n, 128] with the largest cosine to `fixed` among the scales, and the energies of kv[codes]."""
    mags = np.array(book.magnitudes, np.int64)
    size = np.abs(fixed)
    best = np.full(len(fixed), -1.0)
    codes = np.zeros(fixed.shape, np.int64)
    energies = np.ones(len(fixed), np.int64)
    for scale in SCALES:
        m = np.searchsorted(thresholds(book, scale), size, side="left")
        level = mags[m]
        dot, energy = (size * level).sum(1), np.square(level).sum(1)
        score = dot.astype(np.float64) * dot / energy
        better = score > best
        best[better], codes[better], energies[better] = score[better], m[better], energy[better]
    n = len(mags)
    return np.where(fixed < 0, n - 1 - codes, n + codes).astype(np.uint8), energies


def block_bytes(type_name: str) -> int:
    """Bytes of one block: the gain and 128 codes."""
    return 2 + CODEBOOKS[type_name].bits * BLOCK // 8


def _blocks(type_name: str, x: "NDArray[Any]") -> "F32":
    if type_name not in CODEBOOKS:
        raise UsageError(f"{type_name}: not a turbo type (expected one of {', '.join(CODEBOOKS)})")
    if x.ndim == 0 or x.shape[-1] % BLOCK:
        raise UsageError(f"{type_name}: rows of {x.shape} (expected multiples of {BLOCK} values)")
    return np.ascontiguousarray(x, np.float32).reshape(-1, BLOCK)


def encode(type_name: str, x: "F32") -> "tuple[U8, NDArray[np.float16]]":
    """Codes [n, 128] and gains [n] of the blocks of x, [..., multiple of 128]. Raises UsageError.

    A block that is zero or too small for its gain decodes to zeros; one with a NaN or an infinity gets
    the gain NaN; a gain beyond fp16 saturates.
    """
    blocks, book = _blocks(type_name, x), CODEBOOKS[type_name]
    with np.errstate(all="ignore"):
        y = hadamard(blocks * SIGNS)
        energy = _energy(y)
        usable = (energy >= TOO_SMALL) & np.isfinite(energy)
        safe = np.where(usable, energy, 1.0)
        to_fixed = (FIXED * book.unit / np.sqrt(safe / BLOCK)).astype(np.float32)
        fixed = np.where(usable[:, None], np.rint(y * to_fixed[:, None]), 0).astype(np.int64)
        codes, code_energy = _search(book, fixed)
        gain = GAIN * np.sqrt(safe / BLOCK / code_energy)
        gains = np.minimum(gain, 65504.0).astype(np.float32).astype(np.float16)
    codes[~usable] = 1 << (book.bits - 1)
    gains[~usable] = 0
    gains[~usable & ~np.isfinite(energy)] = np.nan
    return codes, gains


def pack(type_name: str, codes: "U8", gains: "NDArray[np.float16]") -> "U8":
    """Blocks [n, 66 | 50 | 34] uint8 from codes [n, 128] and gains [n]."""
    head = gains.astype("<f2").view(np.uint8).reshape(-1, 2)
    if type_name == "turbo4":
        return np.hstack([head, codes[:, :64] | codes[:, 64:] << 4])
    low = (codes & 3).reshape(-1, 4, 32)
    parts = [head, low[:, 0] | low[:, 1] << 2 | low[:, 2] << 4 | low[:, 3] << 6]
    if type_name == "turbo3":
        top = (codes >> 2).reshape(-1, 8, 16)
        bits = (top[:, k] << ((k >> 1) | (k & 1) << 2) for k in range(8))
        parts.append(np.bitwise_or.reduce(list(bits)).astype(np.uint8))
    return np.hstack(parts)


def unpack(type_name: str, blocks: "U8") -> "tuple[U8, NDArray[np.float16]]":
    """Codes [n, 128] and gains [n] from blocks [n, 66 | 50 | 34]."""
    gains = np.ascontiguousarray(blocks[:, :2]).view("<f2")[:, 0]
    if type_name == "turbo4":
        qs = blocks[:, 2:66]
        return np.hstack([qs & 15, qs >> 4]), gains
    qs = blocks[:, 2:34]
    codes = np.hstack([(qs >> 2 * part) & 3 for part in range(4)])
    if type_name == "turbo3":
        qh = blocks[:, 34:50]
        top = np.hstack([(qh >> ((k >> 1) | (k & 1) << 2)) & 1 for k in range(8)])
        codes |= top << 2
    return codes, gains


def quantize(type_name: str, x: "F32") -> "U8":
    """The bytes of x, [..., n] float32 -> [..., n / 128 * block bytes] uint8. Raises UsageError."""
    return pack(type_name, *encode(type_name, x)).reshape(*x.shape[:-1], -1)


def dequantize(type_name: str, data: "U8") -> "F32":
    """The values of `data`, [..., m * block bytes] uint8 -> [..., m * 128] float32. Raises UsageError."""
    levels, gains = _levels(type_name, data)
    # Sums of integers below 2**24 are exact in float32: one rounding, in the last product.
    y = hadamard(levels) * SIGNS * (gains.astype(np.float32) * (_RSQRT / np.float32(GAIN)))[:, None]
    return y.reshape(*data.shape[:-1], -1)


def dequantize_rotated(type_name: str, data: "U8") -> "F32":
    """Values before the inverse rotation, d kv[idx], the inverse rotation, [..., m * block bytes] uint8 -> [..., m * 128] float32."""
    levels, gains = _levels(type_name, data)
    y = levels * (gains.astype(np.float32) / np.float32(GAIN))[:, None]
    return y.reshape(*data.shape[:-1], -1)


def _levels(type_name: str, data: "U8") -> "tuple[F32, NDArray[np.float16]]":
    if type_name not in CODEBOOKS:
        raise UsageError(f"{type_name}: not a turbo type (expected one of {', '.join(CODEBOOKS)})")
    size = block_bytes(type_name)
    if data.ndim == 0 or data.shape[-1] % size:
        raise UsageError(f"{type_name}: rows of {data.shape} bytes (expected multiples of {size})")
    codes, gains = unpack(type_name, np.ascontiguousarray(data).reshape(-1, size))
    return np.array(CODEBOOKS[type_name].values, np.float32)[codes], gains


def quantize_query(q: "F32") -> "tuple[NDArray[np.int8], F32]":
    """Rotated int8 codes [n, 128] and steps [n] of a query's blocks, as attention multiplies keys with them."""
    t = hadamard(_blocks("turbo4", q) * SIGNS)
    peak = np.abs(t).max(1)
    inverse = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > 0)
    return np.rint(t * inverse[:, None]).astype(np.int8), peak * (_RSQRT / np.float32(127))


def dot(type_name: str, data: "U8", q: "F32") -> "F32":
    """Products of keys, [n_kv, m * block bytes] uint8, with one query [m * 128], float32 [n_kv].

    Integer sums of a block, one product with both steps, blocks added in order.
    """
    levels, gains = _levels(type_name, data)
    codes, step = quantize_query(q)
    m = len(codes)
    kv = levels.astype(np.int64).reshape(-1, m, BLOCK)
    sums = np.einsum("nmj,mj->nm", kv, codes.astype(np.int64)).astype(np.float32)
    units = step * gains.astype(np.float32).reshape(-1, m) / np.float32(GAIN)
    return np.asarray((sums * units).sum(1, dtype=np.float32))
