"""A series put onto a tree for a build: computed in memory, the tree itself is never written to here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import PatchError
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.layout import Layout, Plain
from tqconvert.patches.queue import FilesStep, Layer, Origin, Step
from tqconvert.patches.series import NewFile, Patch, Series
from tqconvert.patches.walk import StepFit, apply_step


@dataclass(frozen=True, slots=True)
class Patched:
    """What a series makes of a tree."""

    patches: tuple[Patch, ...]
    """In their order; of alternatives the one that applies."""
    new_files: tuple[NewFile, ...]
    files: Mapping[str, bytes | None]
    """Path -> what it holds afterwards, None where it is removed; all others stay as they are."""


def plan_patched(tree: Path, series: Series) -> Patched:
    """What the series makes of `tree`, a llama.cpp tree, which stays as it is.

    Only the files that patches name are read. Raises PatchError for the first patch of which no
    alternative applies, BadPatchError.
    """
    steps: list[Step] = [FilesStep(series.new_files, Layer.LLAMA_CPP)] if series.new_files else []
    steps += [Step(patches, Origin.OURS, Layer.LLAMA_CPP) for patches in series.steps]
    files = Files(folder_reader(tree))
    used = put_on(files, steps, Plain())
    return Patched(used, series.new_files, files.changes())


def put_on(files: Files, steps: Iterable[Step], layout: Layout) -> tuple[Patch, ...]:
    """Put all steps onto `files`; the patches that were used. Raises PatchError for the first refusal."""
    used = []
    for step in steps:
        done = apply_step(files, step, layout)
        if not done.ok:
            raise _refusal(done, files, layout)
        if not isinstance(step, FilesStep):
            used.append(done.patch)
    return tuple(used)


def write_changes(changes: Mapping[str, bytes | None], tree: Path) -> None:
    """Write changed files into `tree`, a copy that is ours; None removes one."""
    for name, data in changes.items():
        path = tree / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _refusal(done: StepFit, files: Files, layout: Layout) -> PatchError:
    step, paths = done.step, tuple(f.path for f in done.conflicts)
    if isinstance(step, FilesStep):
        return PatchError(
            f"{paths[0]}: is in the source already (expected a tree without our files)",
            patch=paths[0],
            files=paths,
            hint="give the source as its authors publish it",
        )
    first, *rest = (p.name for p in step.alternatives)
    others = f" (nor does {', '.join(rest)})" if rest else ""
    if apply_step(files.copy(), step, layout, reverse=True).ok:
        hint = "the patch is in this tree already: give the source as its authors publish it"
    elif any(f.placement.reason for f in done.conflicts):
        hint = "not a tree of a known age: --source sdist takes a llama.cpp that is known to work"
    else:
        hint = f"compare {first} with {paths[0]}; a tree of another age may take --ggml-only"
    return PatchError(
        f"{first}: does not apply to {', '.join(paths)}{others}",
        patch=first,
        files=paths,
        hint=hint,
    )
