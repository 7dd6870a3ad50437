"""The queue walked through in memory: each step onto what the steps before it left."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from tqconvert.patches.diff import FileDiff
from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.place import Placement, place
from tqconvert.patches.queue import Step
from tqconvert.patches.series import Patch


class Fit(StrEnum):
    """How a step goes onto a tree."""

    CLEAN = "clean"
    OFFSET = "offset"
    """Its hunks have moved, nothing around them has changed."""
    CONFLICT = "conflict"
    NOTHING = "not-vendored"
    """The tree carries none of its files."""


class FileFit(NamedTuple):
    """One file of a step."""

    path: str
    """In the tree."""
    before: str
    """Blob id before the step, zeros if the file is not there."""
    after: str
    """Blob id afterwards; that of before in a conflict."""
    placement: Placement
    diff: FileDiff


class StepFit(NamedTuple):
    """What a step made of the tree; a conflict leaves the tree as it was before the step."""

    step: Step
    patch: Patch
    """The alternative that applies, the first if none does."""
    fit: Fit
    files: tuple[FileFit, ...]
    left_out: tuple[str, ...]
    """Paths that the tree does not carry."""

    @property
    def ok(self) -> bool:
        """Whether the step is in the tree now."""
        return self.fit is not Fit.CONFLICT

    @property
    def conflicts(self) -> tuple[FileFit, ...]:
        """Files that do not take it."""
        return tuple(f for f in self.files if not f.placement.ok)


def apply_step(files: Files, step: Step, layout: Layout, *, reverse: bool = False) -> StepFit:
    """Put a step onto `files`, or take it off; the first alternative that applies."""
    first: StepFit | None = None
    for patch in step.alternatives:
        located = step.located(patch, layout)
        diffs = [d.reversed() for d in reversed(located.diffs)] if reverse else located.diffs
        fits, fit = _place_all(files, diffs)
        done = StepFit(step, patch, fit, fits, located.left_out)
        if done.ok:
            return done
        first = first or done
    assert first is not None
    return first


def apply_steps(files: Files, steps: Iterable[Step], layout: Layout) -> list[StepFit]:
    """Put steps onto `files` in their order; one that conflicts is passed over."""
    return [apply_step(files, step, layout) for step in steps]


def reverse_steps(files: Files, steps: Sequence[Step], layout: Layout) -> list[StepFit]:
    """Take steps off `files`, the last first, and stop before one that cannot be taken off.

    Returns those that were taken off, in the order in which they were.
    """
    taken = []
    for step in reversed(steps):
        fit = apply_step(files, step, layout, reverse=True)
        if not fit.ok:
            break
        taken.append(fit)
    return taken


def _place_all(files: Files, diffs: Iterable[FileDiff]) -> tuple[tuple[FileFit, ...], Fit]:
    """All diffs or, where one has no place, none."""
    trial = files.copy()
    fits = []
    moved = False
    for diff in diffs:
        source = diff.old or diff.path
        placement = place(trial.get(source), diff)
        if (
            placement.ok
            and diff.new
            and diff.new != diff.old
            and diff.old
            and trial.get(diff.new) is not None
        ):
            placement = placement._replace(reason=f"{diff.new} exists already")
        before = trial.id(source)
        if placement.ok:
            if diff.old and diff.old != diff.new:
                trial.put(diff.old, None)
            if diff.new:
                trial.put(diff.new, placement.data)
            moved = moved or any(placement.offsets)
        after = trial.id(diff.path) if placement.ok else before
        fits.append(FileFit(diff.path, before, after, placement, diff))
    if not fits:
        return (), Fit.NOTHING
    if any(not f.placement.ok for f in fits):
        return tuple(fits), Fit.CONFLICT
    files.take(trial)
    return tuple(fits), Fit.OFFSET if moved else Fit.CLEAN
