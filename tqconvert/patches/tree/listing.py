"""The patches of a tree in their order, with what is known of their bytes."""

from pathlib import Path
from typing import NamedTuple

from tqconvert.patches.locks.origin import Source, compare_patches
from tqconvert.patches.queue import FilesStep, Origin, Queue, diffs_of
from tqconvert.patches.tree.ours import tq_id
from tqconvert.patches.tree.state import lf_patches
from tqconvert.patches.verdict import Verdict


class Row(NamedTuple):
    """One patch."""

    number: int
    name: str
    id: str | None
    """The TQ-Id of ours, the patch id of Ollama's."""
    origin: Origin
    sha256: str
    verdict: Verdict | None
    """How an Ollama patch's bytes stand to its release's; None for ours."""
    remark: str
    files: tuple[str, ...]


def list_patches(queue: Queue, folder: Path) -> tuple[Source | None, tuple[Row, ...]]:
    """The rows, and what is known of Ollama's patches. Raises BadLockError, BadPatchError."""
    rows: list[Row] = []
    source = None
    if queue.source:
        patches, _ = lf_patches(queue)
        source = compare_patches(folder, queue.source, patches)
        for patch, known in zip(patches, source.patches, strict=True):
            remark = (
                "as released"
                if known.verdict is Verdict.APPLIED
                else f"{known.verdict}: {known.evidence}"
            )
            files = tuple(d.path for d in diffs_of(patch))
            name = patch.name.removesuffix(".patch")
            rows.append(
                Row(
                    len(rows) + 1,
                    name,
                    known.id,
                    Origin.OLLAMA,
                    patch.sha256,
                    known.verdict,
                    remark,
                    files,
                )
            )
    for step in queue.ours:
        first = step.alternatives[0]
        if isinstance(step, FilesStep):
            files = tuple(f.path for f in step.files)
            remark = f"{len(files)} new files"
        else:
            files = tuple(d.path for d in diffs_of(first))
            remark = (
                ""
                if len(step.alternatives) == 1
                else f"one of {len(step.alternatives)} alternatives"
            )
        rows.append(
            Row(
                len(rows) + 1,
                step.name,
                tq_id(first),
                Origin.OURS,
                first.sha256,
                None,
                remark,
                files,
            )
        )
    return source, tuple(rows)
