"""The tables of the Metal kernels, rendered from the NumPy reference.

`python -m tqconvert.metal.turbo.tables > metal/ggml-metal-turbo-tables.h` writes the header anew; a test
fails while the file in the tree differs from what this module renders.
"""

import struct
import sys

from tqconvert.turbo.codebook import CODEBOOKS

_HEAD = """\
#pragma once

// Tables of the turbo types, rendered by `python -m tqconvert.metal.turbo.tables` from the NumPy reference.
// Do not edit: a test compares this file with what the reference renders.
"""


def _float64_bits(x: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', x))[0]:016x}ul"


def render() -> str:
    """The text of ggml-metal-turbo-tables.h."""
    from tqconvert.turbo.codec import BLOCK, FIXED, GAIN, SCALES, SIGNS, TOO_SMALL, thresholds

    words = [
        sum(1 << lane for lane in range(32) if SIGNS[32 * part + lane] < 0)
        for part in range(BLOCK // 32)
    ]
    lines = [
        _HEAD,
        "// Bit t of word p: whether value t + 32 p of a block changes its sign before the transform.",
        f"constant uint turbo_negative[4] = {{ {', '.join(f'0x{w:08x}' for w in words)} }};",
        "",
        "// Codebooks by bits - 2, ascending, filled up with zeros.",
        "constant float turbo_levels[3][16] = {",
        *(
            f"    {{ {', '.join(f'{v}.0f' for v in (*b.values, *(0,) * (16 - len(b.values))))} }},"
            for b in CODEBOOKS.values()
        ),
        "};",
        "",
        "// Steps between neighbouring magnitudes of a codebook, the smallest magnitude first.",
        "constant short turbo_steps[3][8] = {",
        *(_shorts(_steps(b.magnitudes), 8, "    ") for b in CODEBOOKS.values()),
        "};",
        "",
        "// Thresholds between magnitudes for each candidate of the scale search, in fixed-point steps.",
        f"constant short turbo_thresholds[3][{len(SCALES)}][7] = {{",
    ]
    for book in CODEBOOKS.values():
        rows = (_shorts(thresholds(book, scale), 7, "        ") for scale in SCALES)
        lines += ["    {", *rows, "    },"]
    units = ", ".join(_float64_bits(FIXED * b.unit) for b in CODEBOOKS.values())
    lines += [
        "};",
        "",
        "// Bits of binary64 numbers: fixed-point steps in one standard deviation; the energy of a block that counts as zero.",
        f"constant ulong turbo_unit[3] = {{ {units} }};",
        f"#define TURBO_TOO_SMALL {_float64_bits(TOO_SMALL)}",
        "",
        f"#define TURBO_SCALES {len(SCALES)}",
        f"#define TURBO_LOG2_GAIN {GAIN.bit_length() - 1}",
        "#define TURBO_RSQRT_128 0.08838834764831845f",
        "",
    ]
    return "\n".join(lines)


def _steps(magnitudes: tuple[int, ...]) -> list[int]:
    return [b - a for a, b in zip((0, *magnitudes), magnitudes, strict=False)]


def _shorts(values: list[int], width: int, indent: str) -> str:
    filled = [*values, *(0,) * (width - len(values))]
    return f"{indent}{{ {', '.join(map(str, filled))} }},"


if __name__ == "__main__":
    sys.stdout.write(render())
