"""Is every barrier of real kernels missed where it is taken away?"""

import re
import shutil
from pathlib import Path

import pytest

from tqconvert.metal.build import Workshop
from tqconvert.metal.check import engine
from tqconvert.metal.check.tree import MetalTree, open_tree
from tqconvert.progress import Steps

pytestmark = pytest.mark.xdist_group("metal-upstream")
BARRIER = re.compile(r"^\s*threadgroup_barrier\(.*\);$", re.MULTILINE)
KERNEL = re.compile(r"^kernel void kernel_norm_fuse_impl\(.*?^}", re.MULTILINE | re.DOTALL)
NEEDED = 4
"""Barriers of the layer norm; all order what they stand between."""


@pytest.fixture
def tree(upstream: MetalTree, tmp_path: Path) -> MetalTree:
    """A copy of the tree that has one file with kernels."""
    folder = tmp_path / "ggml-metal"
    (folder / "kernels").mkdir(parents=True)
    for header in (*upstream.folder.parent.glob("*.h"), *upstream.folder.glob("*.h")):
        target = tmp_path if header.parent == upstream.folder.parent else folder
        shutil.copy(header, target / header.name)
    for path in (*upstream.folder.glob("kernels/*.h"), upstream.folder / "kernels" / "norm.metal"):
        shutil.copy(path, folder / "kernels" / path.name)
    return open_tree(folder)


@pytest.mark.parametrize("which", [None, *range(NEEDED)])
def test_a_barrier_is_taken_away(tree: MetalTree, workshop: Workshop, which: int | None) -> None:
    """A race is told, whether the numbers are wrong or not; without a change nothing is."""
    path = tree.folder / "kernels" / "norm.metal"
    text = path.read_text("utf-8")
    kernel = KERNEL.search(text)
    assert kernel
    barriers = list(BARRIER.finditer(text, *kernel.span()))
    assert len(barriers) == NEEDED
    if which is not None:
        at = barriers[which]
        path.write_text(text[: at.start()] + text[at.end() :], "utf-8")
    report = engine.check(tree, workshop, kernels="^kernel_norm_mul_f32_4$", steps=Steps())
    assert report.cases
    kinds = {f.kind for c in report.cases for f in c.findings}
    assert ("threadgroup_race" in kinds) == (which is not None)
    assert report.failed == (which is not None)
