"""Write blocks.bin: rows of float32 and the bytes of each turbo type for them, by the NumPy reference.

    python tests/golden/turbo/make.py

The format changes only with the ids of the types, so this file changes only then. Layout, little endian:
int32 rows, int32 values of a row; the rows as float32; then for turbo4, turbo3, turbo2 the bytes of each row.
`test-turbo blocks.bin` compares the scalar and the SIMD path of a build with it.
"""

from pathlib import Path

import numpy as np

from tqconvert.turbo.codec import quantize

PATH = Path(__file__).parent / "blocks.bin"
TYPES = ("turbo4", "turbo3", "turbo2")
N_VALUES = 256


def rows() -> np.ndarray:
    """[13, 256] float32: normal data at many scales, outliers, ties, zeros, single values, non-numbers."""
    rng = np.random.default_rng(2026)
    normal = rng.normal(size=(6, N_VALUES)) * np.array(
        [[1e-30], [1e-6], [0.02], [1], [300], [1e30]]
    )
    outliers = rng.normal(size=(2, N_VALUES))
    outliers[:, 5::37] *= 50
    ties = rng.integers(-2, 3, size=(1, N_VALUES)).astype(np.float64)
    zero = np.zeros((1, N_VALUES))
    single = np.zeros((1, N_VALUES))
    single[0, 77] = -3.5
    bad = rng.normal(size=(2, N_VALUES))
    bad[0, 200], bad[1, 3] = np.nan, np.inf
    return np.vstack([normal, outliers, ties, zero, single, bad]).astype(np.float32)


def main() -> None:
    """Write the file."""
    x = rows()
    parts = [np.array(x.shape, "<i4").tobytes(), x.astype("<f4").tobytes()]
    parts += [quantize(name, x).tobytes() for name in TYPES]
    PATH.write_bytes(b"".join(parts))
    print(f"{PATH.name}: {len(x)} rows, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
