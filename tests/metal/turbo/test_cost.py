"""Cost of decoding without a GPU: bytes loaded and operations executed, against upstream's q8_0 kernel."""

import re
from pathlib import Path

import numpy as np
import pytest

from tqconvert.metal.build import Unit, Workshop
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.cost import measure
from tqconvert.metal.turbo.decode import ARITHMETIC_BAR, BYTES_BAR, compare

METAL = Path(__file__).parents[3] / "metal"


def test_counts_by_hand(workshop: Workshop, tmp_path: Path) -> None:
    """Sixty-four threads: 512 bytes loaded, and one more multiply-add each is 64 more operations."""
    head = "(device const float * a, device const float * b, device float * c, uint i [[thread_position_in_grid]])"
    (tmp_path / "hand.metal").write_text(
        "#include <metal_stdlib>\nusing namespace metal;\n"
        f"kernel void one{head} {{ c[i] = a[i]*b[i] + 1.0f; }}\n"
        f"kernel void two{head} {{ c[i] = (a[i]*b[i] + 1.0f)*b[i] + 1.0f; }}\n"
    )
    arrays = {n: np.ones(64, np.float32) for n in "abc"}
    unit = Unit(tmp_path / "hand.metal", checked=False)
    one, two = (
        measure(workshop, unit, Launch(n, slots("a", "b", "c"), (2, 1, 1), (32, 1, 1)), arrays)
        for n in ("one", "two")
    )
    assert one.bytes_loaded == two.bytes_loaded == (256, 256, 0)
    assert two.arithmetic - one.arithmetic == 64


@pytest.mark.slow
@pytest.mark.parametrize("dim", [128, 256, 512])
def test_decoding_costs_less_memory_and_little_more_work(
    workshop: Workshop, upstream: Path, dim: int
) -> None:
    """At most half of q8_0's bytes and 1.3 of its operations; at 128 what the README's table says."""
    text = (METAL / "README.md").read_text("utf-8")
    for found in compare(workshop, METAL, upstream, dim):
        assert found.bytes_ratio <= BYTES_BAR
        assert found.arithmetic_ratio <= ARITHMETIC_BAR
        if dim == 128:
            row = re.search(rf"^\| `{found.type}` \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
            assert row
            assert abs(found.bytes_ratio - float(row[1])) < 0.01
            # compilers differ a little in what they leave of a loop
            assert abs(found.arithmetic_ratio - float(row[2])) < 0.15
