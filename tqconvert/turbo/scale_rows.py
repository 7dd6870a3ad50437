"""Rows of a tensor times a factor each, through the scales of their blocks: nothing is quantized anew.

A block's values are its scale times integers, less its minimum where it has one: both are fp16 numbers
at fixed places of the block. A factor thus costs one rounding of fp16, 2^-11 of the value (more where
the scale is subnormal, below 2^-14), and nothing at all if it is a power of two and no bit falls off.
Source of the places: the block_* structs of ggml/src/ggml-common.h, llama.cpp 0c1e57098.
"""

from typing import TYPE_CHECKING, NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.gguf.types import TensorType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HALVES_AT: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,),
    "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,), "Q1_0": (0,), "Q2_0": (0,),
}  # fmt: skip
"""Type -> offsets of the fp16 numbers in a block that all its values are proportional to."""

_FLOATS = frozenset({"F32", "F16", "BF16"})
_EXACT_ONLY = frozenset({"BF16", "MXFP4"})
"""bf16 keeps 8 bits, so that a factor costs 2^-9; an E8M0 scale is a power of two."""

_CHUNK_BYTES = 1 << 19


class Rounding(NamedTuple):
    """What became of the numbers that were scaled; adds up over tensors."""

    largest: float = 0.0
    """Largest relative error of a normal one."""
    total_sq: float = 0.0
    """Sum of the squared relative errors of all, subnormal ones among them."""
    n: int = 0
    n_subnormal: int = 0
    """How many have fewer than the format's bits after scaling, and are not exact."""

    def __add__(self, other: "Rounding") -> "Rounding":  # type: ignore[override]
        return Rounding(
            max(self.largest, other.largest), self.total_sq + other.total_sq,
            self.n + other.n, self.n_subnormal + other.n_subnormal,
        )  # fmt: skip

    @property
    def rms(self) -> float:
        """Root of the mean squared relative error."""
        return float((self.total_sq / self.n) ** 0.5) if self.n else 0.0


def can_scale(kind: TensorType) -> bool:
    """Whether rows of this type can be scaled."""
    return kind.name in HALVES_AT or kind.name in _FLOATS or kind.name == "MXFP4"


def wants_powers_of_two(kind: TensorType) -> bool:
    """Whether other factors would cost more than an fp16 rounding."""
    return kind.name in _EXACT_ONLY


def scale_rows(
    data: bytes, kind: TensorType, factors: "npt.NDArray[np.float64]", *, subject: str
) -> tuple[bytes, Rounding]:
    """The rows in `data`, as many as factors, each times its factor.

    `subject` names file and tensor in errors. Raises RefusedError for types without a scale that
    takes the factor, and where a scaled number does not fit its format.
    """
    import numpy as np

    if kind.name == "MXFP4":
        return _scale_e8m0(data, kind, factors, subject)
    if kind.name in _FLOATS:
        return _scale_floats(data, kind, factors, subject)
    if kind.name not in HALVES_AT:
        raise unscalable(subject, kind)
    blocks = np.frombuffer(bytearray(data), np.uint8).reshape(len(factors), -1, kind.bytes)
    rounding = Rounding()
    for at in HALVES_AT[kind.name]:
        field = np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0]
        scaled, more = _scaled(field, factors, subject)
        blocks[:, :, at : at + 2] = scaled[:, :, None].view(np.uint8)
        rounding = rounding + more
    return blocks.tobytes(), rounding


def unscalable(subject: str, kind: TensorType) -> RefusedError:
    """The error of a tensor whose type has no scale that takes a factor."""
    return RefusedError(
        f"{subject}: rows of type {kind.name} have no scale that takes a factor",
        hint="quantize attn_q and attn_k to another type: llama-quantize --tensor-type",
    )


def _scale_floats(
    data: bytes, kind: TensorType, factors: "npt.NDArray[np.float64]", subject: str
) -> tuple[bytes, Rounding]:
    """Rows of floating-point values, some rows at a time: whole tensors would not stay in the cache."""
    import numpy as np

    step = max(1, _CHUNK_BYTES * len(factors) // max(len(data), 1))
    row_bytes = len(data) // len(factors)
    parts, rounding = [], Rounding()
    for first in range(0, len(factors), step):
        some = factors[first : first + step]
        raw = memoryview(data)[first * row_bytes : (first + len(some)) * row_bytes]
        if kind.name == "BF16":
            bits, more = _scaled_bf16(
                np.frombuffer(raw, "<u2").reshape(len(some), -1), some, subject
            )
            parts.append(bits.tobytes())
        else:
            old = np.frombuffer(raw, "<f4" if kind.name == "F32" else "<f2").reshape(len(some), -1)
            new, more = _scaled(old, some, subject)
            parts.append(new.tobytes())
        rounding = rounding + more
    return b"".join(parts), rounding


def _scaled(
    old: "npt.NDArray[np.floating]", factors: "npt.NDArray[np.float64]", subject: str
) -> "tuple[npt.NDArray[np.floating], Rounding]":
    """[n_rows, n] numbers times the factors [n_rows], in their own format."""
    import numpy as np

    # f32 is far finer than f16; f32 itself takes f64.
    wide = np.dtype(np.float32 if old.dtype == np.float16 else np.float64)
    exact: npt.NDArray[np.floating] = np.multiply(old, factors[:, None], dtype=wide)
    with np.errstate(over="ignore"):
        new = exact.astype(old.dtype)
    back: npt.NDArray[np.floating] = new.astype(wide)
    return new, _rounding(exact, back, float(np.finfo(old.dtype).tiny), subject)


def _scaled_bf16(
    old: "npt.NDArray[np.uint16]", factors: "npt.NDArray[np.float64]", subject: str
) -> "tuple[npt.NDArray[np.uint16], Rounding]":
    """Nearest bf16, ties to even."""
    import numpy as np

    with np.errstate(over="ignore"):
        exact = _from_bf16(old) * factors.astype(np.float32)[:, None]
    if not np.isfinite(exact[np.isfinite(_from_bf16(old))]).all():
        raise _overflow(subject)
    bits = exact.view(np.uint32)
    new = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    new = np.where(np.isfinite(exact), new, bits >> 16).astype("<u2")
    return new, _rounding(exact, _from_bf16(new), float(np.finfo(np.float32).tiny), subject)


def _from_bf16(bits: "npt.NDArray[np.uint16]") -> "npt.NDArray[np.float32]":
    import numpy as np

    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def _rounding(
    exact: "npt.NDArray[np.floating]", new: "npt.NDArray[np.floating]", tiny: float, subject: str
) -> Rounding:
    """What rounding made of `exact`; raises RefusedError where finite numbers became infinite."""
    import numpy as np

    size = np.abs(exact)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(new - exact) / size
    odd = ~(size > 0) | ~np.isfinite(size)
    error[odd] = 0
    if not np.isfinite(error).all():
        raise _overflow(subject)
    subnormal = np.abs(new) < tiny
    return Rounding(
        float(np.where(subnormal, 0, error).max(initial=0)),
        float(np.square(error, dtype=np.float64).sum()), int(error.size - odd.sum()),
        int((subnormal & (error > 0)).sum()),
    )  # fmt: skip


def _scale_e8m0(
    data: bytes, kind: TensorType, factors: "npt.NDArray[np.float64]", subject: str
) -> tuple[bytes, Rounding]:
    """Blocks whose scale is a power of two in one byte, 255 of which is no number."""
    import numpy as np

    steps = np.log2(factors)
    if (steps != np.rint(steps)).any():
        raise RefusedError(f"{subject}: {kind.name} takes factors that are powers of two only")
    blocks = np.frombuffer(bytearray(data), np.uint8).reshape(len(factors), -1, kind.bytes)
    used = blocks[:, :, 1:].any(axis=2)
    new = blocks[:, :, 0].astype(np.int64) + steps[:, None].astype(np.int64)
    if ((new < 0) | (new > 254))[used].any():
        raise _overflow(subject)
    blocks[:, :, 0] = np.clip(new, 0, 254)
    return blocks.tobytes(), Rounding(n=int(new.size))


def _overflow(subject: str) -> RefusedError:
    return RefusedError(
        f"{subject}: a scale times its factor does not fit the tensor's type",
        hint="balance a file of a wider type, and quantize that",
    )
