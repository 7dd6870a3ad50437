"""The queue in memory: recognised trees, layouts, placement, walking forward and back."""

from pathlib import Path

import pytest

from tests.patches.releases import BASE, NOT_VENDORED, Release, vendored
from tqconvert.errors import NotFoundError
from tqconvert.patches.checkout import Generation, find_checkout
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.queue import Origin, Queue, read_queue
from tqconvert.patches.walk import Fit, apply_steps, reverse_steps


def queue_of(release: Release, ours: Path) -> Queue:
    """The queue of the release's Ollama."""
    return read_queue(find_checkout(release.ollama), ours)


def test_trees_are_recognised_by_what_lies_in_them(
    release: Release, modern: Release, tmp_path: Path
) -> None:
    """Each generation by its files; anything else is refused with exit code 5."""
    found = find_checkout(release.ollama)
    assert (found.generation, found.base) == (Generation.LEGACY, release.base[:9])
    assert [p.name for p in found.upstream_patches()] == [p.name for p in release.patches]
    found = find_checkout(modern.ollama)
    assert (found.generation, found.base) == (Generation.MODERN, "b99999")
    assert len(found.upstream_patches()) == 2
    assert find_checkout(release.llama).generation is Generation.LLAMA_CPP
    with pytest.raises(NotFoundError, match="neither Ollama"):
        find_checkout(tmp_path)


def test_the_queue_counts_what_the_tree_holds(release: Release, ours: Path) -> None:
    """Upstream's patches come first, then ours; the count is read from the tree."""
    queue = queue_of(release, ours)
    assert len(queue.upstream) == len(release.patches) == 8
    assert [s.name for s in queue.ours] == ["new-files", "ids-new", "ops", "new-files", "server"]


def test_all_of_ours_go_on_and_everything_comes_off_again(release: Release, ours: Path) -> None:
    """Forward over the release, then all the way back: the vendored part of the base, to the byte."""
    queue = queue_of(release, ours)
    layout = queue.checkout.layout
    files = Files(folder_reader(release.ollama))
    done = apply_steps(files, queue.ours, layout)
    assert [d.fit for d in done] == [Fit.CLEAN, Fit.CLEAN, Fit.OFFSET, Fit.CLEAN, Fit.CLEAN]
    assert done[1].patch.name == "ids.patch", "the alternative that fits this base"
    taken = reverse_steps(files, queue.steps, layout)
    assert len(taken) == len(queue.steps)
    upstream = [t for t in taken if t.step.origin is Origin.OLLAMA]
    assert all(f.before.startswith(f.diff.old_id or "") for t in upstream for f in t.files)
    for name in BASE:
        if name not in NOT_VENDORED:
            assert files.get(vendored(name)) == (release.llama / name).read_bytes(), name
    assert files.get("ml/backend/ggml/ggml/src/mem_nvml.cpp") is None


def test_files_that_are_not_vendored_are_left_out_and_named(release: Release, ours: Path) -> None:
    """What the rsync filters drop has no place in the tree, and the step says which."""
    queue = queue_of(release, ours)
    left = {p for d in apply_steps(Files(folder_reader(release.ollama)), queue.upstream, queue.checkout.layout)
            for p in d.left_out}  # fmt: skip
    assert left == {"ggml/src/ggml-cann/ggml-cann.cpp", "src/CMakeLists.txt"}


def test_a_conflicting_step_changes_nothing(release: Release, ours: Path) -> None:
    """A step whose second file conflicts leaves the first as it was."""
    path = release.ollama / "ml/backend/ggml/ggml/src/ggml.c"
    path.write_bytes(path.read_bytes().replace(b"int ggml_c_81(void);\n", b"int other(void);\n"))
    queue = queue_of(release, ours)
    files = Files(folder_reader(release.ollama))
    done = {d.step.name: d for d in apply_steps(files, queue.ours, queue.checkout.layout)}
    assert done["ops"].fit is Fit.CONFLICT
    assert [f.path for f in done["ops"].conflicts] == ["ml/backend/ggml/ggml/src/ggml.c"]
    assert "ml/backend/ggml/ggml/src/ggml-cpu/ops.cpp" not in files.changes()
    assert done["server"].ok
