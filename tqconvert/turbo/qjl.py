"""QJL: one bit a value for the residual of a key, in the reference only.

The sign of a random projection of the residual, with the residual's norm, gives an estimate of
q . residual without bias (Zandieh, Daliri, Han, "QJL: 1-Bit Quantized JL Transform for KV Cache
Quantization with Zero Overhead", arXiv 2406.03482). It is not in the runtime: at equal bits its variance
costs more than a finer codebook (measured in tests/turbo/test_codec.py).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tqconvert.turbo.codec import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Signs [n, 128] (bool, true is +1) and norms [n] of residuals."""

    signs: "NDArray[np.bool_]"
    norms: "F32"


class ResidualSketch:
    """A projection S, [128, 128] normal, fixed by its seed."""

    def __init__(self, seed: int = 42) -> None:
        self._projection = np.random.default_rng(seed).normal(size=(BLOCK, BLOCK))

    def encode(self, residual: "F32") -> Sketch:
        """The sketch of residuals [n, 128]."""
        return Sketch(
            residual @ self._projection.T > 0,
            np.linalg.norm(residual, axis=1).astype(np.float32),
        )

    def dot(self, sketch: Sketch, q: "F32") -> "F32":
        """Estimates [n] of q . residual for a query [128]: sqrt(pi/2) / 128 |r| sign(S r) . S q."""
        signs = np.where(sketch.signs, 1.0, -1.0)
        scale = np.sqrt(np.pi / 2) / BLOCK
        estimate = scale * sketch.norms * (signs @ (self._projection @ q))
        return np.asarray(estimate, np.float32)
