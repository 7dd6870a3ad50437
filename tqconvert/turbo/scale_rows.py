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
    if kind.name == "BF16":
        old = _from_bf16(np.frombuffer(data, "<u2")).reshape(len(factors), -1)
        new, rounding = _round_bf16(old * factors[:, None])
        if not np.isfinite(_from_bf16(new)[np.isfinite(old)]).all():
            raise _overflow(subject)
        return new.astype("<u2").tobytes(), rounding
    if kind.name in ("F32", "F16"):
        old = np.frombuffer(data, "<f4" if kind.name == "F32" else "<f2").reshape(len(factors), -1)
        rows, rounding = _scaled(old, factors, subject)
        return rows.tobytes(), rounding
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


def _scaled(
    old: "npt.NDArray[np.floating]", factors: "npt.NDArray[np.float64]", subject: str
) -> "tuple[npt.NDArray[np.floating], Rounding]":
    """[n_rows, n] numbers times the factors [n_rows], in their own format."""
    import numpy as np

    exact = old * factors[:, None]  # f64
    with np.errstate(over="ignore"):
        new = exact.astype(old.dtype)
    if not np.isfinite(new[np.isfinite(old)]).all():
        raise _overflow(subject)
    return new, _rounding(exact, new.astype(np.float64), float(np.finfo(old.dtype).tiny))


def _round_bf16(
    exact: "npt.NDArray[np.float64]",
) -> "tuple[npt.NDArray[np.uint16], Rounding]":
    """Nearest bf16, ties to even."""
    import numpy as np

    bits = exact.astype(np.float32).view(np.uint32)
    new = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    back = _from_bf16(new).astype(np.float64)
    return new, _rounding(exact, back, float(np.finfo(np.float32).tiny))


def _rounding(
    exact: "npt.NDArray[np.float64]", new: "npt.NDArray[np.float64]", tiny: float
) -> Rounding:
    import numpy as np

    used = np.isfinite(exact) & (exact != 0)
    exact, new = exact[used], new[used]
    error = np.abs(new - exact) / np.abs(exact)
    subnormal = np.abs(new) < tiny
    normal = error[~subnormal]
    return Rounding(
        float(normal.max()) if normal.size else 0.0, float(np.square(error).sum()), error.size,
        int((subnormal & (error > 0)).sum()),
    )  # fmt: skip


def _from_bf16(bits: "npt.NDArray[np.uint16]") -> "npt.NDArray[np.float32]":
    import numpy as np

    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


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
