"""Weight formats: blocks of random content, and what gguf-py says they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tqconvert.metal.check.case import Array

# Bytes of a block that hold half-precision scales: anything else would make infinities.
_SCALES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,),
    "q2_K": (80, 82), "q3_K": (108,), "q4_K": (0, 2), "q5_K": (0, 2), "q6_K": (208,),
    "iq2_xxs": (0,), "iq2_xs": (0,), "iq2_s": (0,), "iq3_xxs": (0,), "iq3_s": (0,), "iq1_s": (0,),
    "iq1_m": (), "iq4_nl": (0,), "iq4_xs": (0,), "tq2_0": (64,), "mxfp4": (),
}  # fmt: skip
FORMATS = tuple(_SCALES)
"""Names as in those of kernels."""
QUANTIZED_BY_US = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Formats that the kernels of copies write and gguf-py writes with the same bytes."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    name: str
    block: int
    """Elements."""
    size: int
    """Bytes."""

    def random(self, rng: np.random.Generator, rows: int, columns: int) -> Array:
        """Rows of random blocks with scales of about 0.01, as bytes."""
        n = rows * columns // self.block
        blocks = rng.integers(0, 256, (n, self.size)).astype(np.uint8)
        for at in _SCALES[self.name]:
            scale = (0.01 * (0.5 + rng.random(n))).astype(np.float16)
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(n, 2)
        if self.name == "mxfp4":
            blocks[:, 0] = rng.integers(118, 124, n)  # an exponent, biased by 127
        if self.name == "iq1_m":  # the scale's four nibbles are the high ones of four words: 0.0156
            for at, nibble in zip((49, 51, 53, 55), (0x0, 0x0, 0x4, 0x2), strict=True):
                blocks[:, at] = blocks[:, at] & 0x0F | nibble << 4
        return blocks.reshape(rows, -1)

    def values(self, rows: Array) -> Array:
        """What the rows hold, as float32."""
        from gguf.quants import dequantize

        return np.asarray(dequantize(rows, _type(self.name)), np.float32)

    def quantize(self, values: Array) -> Array:
        """Rows of floats as bytes."""
        from gguf.quants import quantize

        return np.asarray(quantize(values, _type(self.name)), np.uint8)


def format_of(name: str) -> Format:
    """The format of a name such as q4_K."""
    from gguf.constants import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[_type(name)]
    return Format(name, block, size)


def _type(name: str) -> Any:
    from gguf.constants import GGMLQuantizationType

    return GGMLQuantizationType[name.upper()]


def to_bf16(x: Array) -> Array:
    """Floats rounded to bfloat16, as their bits."""
    u = x.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(x: Array) -> Array:
    """Bits of bfloat16 as float32."""
    return (x.astype(np.uint32) << 16).view(np.float32)
