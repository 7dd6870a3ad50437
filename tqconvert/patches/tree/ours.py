"""Our patches in a tree: recognised by what they make, and taken off in memory."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.queue import Origin, Step
from tqconvert.patches.series import Patch
from tqconvert.patches.tree.share import Share, take_share
from tqconvert.patches.verdict import PatchState, Verdict
from tqconvert.patches.verify.check import counted
from tqconvert.patches.walk import Fit, apply_step


class Taken(NamedTuple):
    """What of a step was in a tree."""

    applied: bool | None
    """None: a part of it."""
    patch: Patch
    """The alternative that was in, or that had most in."""
    shares: tuple[Share, ...]
    """Per file; empty if the whole step is in."""
    nothing: bool = False
    """Whether the tree carries none of its files."""


def take_off(files: Files, steps: Sequence[Step], layout: Layout) -> list[Taken]:
    """Take steps off, the last first, whole or in part; what they were, in the queue's order."""
    taken = []
    for step in reversed(steps):
        fit = apply_step(files, step, layout, reverse=True)
        if fit.ok:
            taken.append(Taken(True, fit.patch, (), fit.fit is Fit.NOTHING))
            continue
        trials = []
        for patch in step.alternatives:
            trial = files.copy()
            diffs = step.located(patch, layout).diffs
            shares = tuple(take_share(trial, d) for d in reversed(diffs))
            trials.append((sum(len(s.inside) for s in shares), patch, shares, trial))
        inside, patch, shares, trial = max(trials, key=lambda t: t[0])
        if inside:
            files.take(trial)
        taken.append(Taken(None if inside else False, patch, shares[::-1]))
    return taken[::-1]


def our_state(step: Step, taken: Taken) -> PatchState:
    """What is said of one of ours, those that are not in for the time being as going on cleanly."""
    verdict, evidence = Verdict.APPLIED, ""
    files: tuple[str, ...] = ()
    if taken.nothing:
        verdict = Verdict.NOT_VENDORED
    elif taken.applied is None:
        differing = [s for s in taken.shares if s.differs]
        away = [s for s in taken.shares if not s.differs and s.whole is not True]
        verdict = Verdict.HALF if away else Verdict.MODIFIED
        evidence = _shares_text(taken.shares) if away else "other content than this installation's"
        files = tuple(s.path for s in (*away, *differing))
    elif taken.applied is False:
        verdict = Verdict.CLEAN
    return PatchState(
        step.name, Origin.OURS, tq_id(taken.patch), taken.applied, verdict, evidence, files
    )


def _shares_text(shares: Iterable[Share]) -> str:
    counts = {True: 0, False: 0, None: 0}
    for share in shares:
        counts[share.whole] += 1
    parts = [f"in {counted(counts[True], 'file')}", f"not in {counts[False]}"]
    return ", ".join([*parts, f"in part in {counts[None]}"] if counts[None] else parts)


def tq_id(patch: Patch) -> str | None:
    """The `TQ-Id` of a patch's header."""
    head = patch.data[:4096].partition(b"\ndiff --git ")[0]
    for line in head.splitlines():
        if line.startswith(b"TQ-Id:"):
            return line[6:].strip().decode("utf-8", "replace")
    return None
