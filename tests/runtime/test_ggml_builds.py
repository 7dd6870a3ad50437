"""The types in ggml alone: every instruction set and every base gives the same bytes and right products.

`test-turbo` (ollama_patches/files/tests) does the work; here it is built and run, and shown to find faults.
"""

import re
import subprocess
from pathlib import Path

import ggmlbuilds
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "turbo" / "blocks.bin"
pytestmark = [pytest.mark.runtime, pytest.mark.slow, pytest.mark.xdist_group("ggml")]


def run(command: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """Run `test-turbo` over the golden blocks."""
    return subprocess.run(
        [*command, str(GOLDEN)], capture_output=True, text=True, check=False, timeout=900
    )


@pytest.mark.parametrize("name", ggmlbuilds.VARIANTS)
def test_a_build_passes(name):
    """Bytes equal to the reference and to NumPy's, all pairs, any number of threads, masked NaNs."""
    done = run(ggmlbuilds.build(name))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "all checks passed" in done.stdout
    pairs = re.search(r"pairs +(\d+) of K, V, shape", done.stdout)
    assert pairs
    assert int(pairs[1]) == 378


FAULTS = {
    "a scale candidate of the search is left out": (
        r"for \(int c = 0; c < GGML_TURBO_SCALES", "for (int c = 1; c < GGML_TURBO_SCALES", "FAIL codec"),
    "a butterfly takes the wrong partner": (r"v\[i\],( v\[i\],)? 0x4e", r"v[i],\1 0x1b", "FAIL codec"),
    "the gain of a position is not used": (
        r"return peak/WEIGHT_MAX;", "return 1.0f/WEIGHT_MAX;", "FAIL pairs"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    """A fault in the AVX2 kernels fails the program, so passing means something."""
    old, new, line = FAULTS[fault]

    def plant(tree: Path) -> None:
        changed = 0
        for name in ("turbo-kernels-avx2.h", "turbo-kernels.h"):
            path = tree / "ggml/src/ggml-cpu" / name
            text, n = re.subn(old, new, path.read_text())
            path.write_text(text)
            changed += n
        assert changed

    done = run(ggmlbuilds.build("avx2", plant))
    assert done.returncode == 1
    assert line in done.stdout
