"""Levels of `verify` that need nothing but the tree: the ladder, the way back, and our own patches."""

from collections.abc import Iterable

from tqconvert.patches.checkout import Generation
from tqconvert.patches.locks.release import ReleaseLock
from tqconvert.patches.objects import ABSENT
from tqconvert.patches.tree.state import TreeState
from tqconvert.patches.verdict import Verdict
from tqconvert.patches.verify.check import (
    FINDING,
    INTEGRITY,
    UNKNOWN_BASE,
    Check,
    check,
    counted,
    skipped,
)
from tqconvert.patches.walk import StepFit, reverse_steps


def check_ladder(state: TreeState) -> Check:
    """L1: where each file of Ollama's patches stands on the ladder of whole ids."""
    source, located = state.source, state.located
    if source is None:
        return skipped("L1", "needs an Ollama tree with its patches (--ollama DIR)")
    if source.lock is None:
        return skipped("L1", "needs the lock of the release")
    count = counted(len(source.patches), "patch", "patches")
    if state.queue.checkout.generation is Generation.MODERN:
        return check("L1", f"{count} by sha256", [], "llama.cpp, which is not in this tree")
    not_vendored = _left_out(located.not_vendored)
    if not state.known_base:
        text = "no file that the patches touch is one of the lock's base"
        return Check("L1", False, "", not_vendored, (text,), UNKNOWN_BASE)
    known = [p for p in located.positions if p.known]
    on_ladder = [p for p in known if p.fits]
    findings = [f"{p.path} is not there" for p in known if p.missing]
    findings += [f"{p.path} is on no rung" for p in known if not p.fits and not p.missing]
    prefix = located.prefix
    needs_all = state.queue.checkout.generation is Generation.LEGACY
    if prefix is None:
        near = located.nearest
        findings += [
            f"{p.path} has the patches up to {p.patches} (others up to {near})"
            for p in on_ladder
            if not p.suits(near)
        ]
    elif needs_all and prefix < located.total:
        findings.append(f"{prefix} of {located.total} patches are applied (expected all)")
    unlocked = len(source.lock.unresolved)
    if not on_ladder and not findings:
        return skipped("L1", "the lock has no ids of these files")
    rungs = sum(len(p.touched) + 1 for p in known)
    covered = f"{count} by sha256, {counted(len(on_ladder), 'file')} on {rungs} rungs"
    if unlocked:
        not_vendored = f"{counted(unlocked, 'file')} whose ids the lock lacks"
    return check("L1", covered, findings, not_vendored)


def _left_out(count: int) -> str:
    return f"{counted(count, 'file')} of patches that the tree does not carry" if count else ""


def check_reverse(state: TreeState) -> Check:
    """L2: Ollama's patches taken off, every id on the way compared with their `index` lines and the lock."""
    source, queue = state.source, state.queue
    if source is None or queue.checkout.generation is Generation.MODERN:
        what = (
            "needs an Ollama tree with its patches" if source is None else "llama.cpp is not here"
        )
        return skipped("L2", what)
    layout = queue.checkout.layout
    applied = [k for k, p in enumerate(state.upstream) if p.applied is not False]
    steps = queue.upstream[: applied[-1] + 1] if applied else ()
    if not steps:
        return skipped("L2", "none of Ollama's patches is applied")
    files = state.without_ours.copy()
    taken = reverse_steps(files, steps, layout)
    findings = []
    if len(taken) < len(steps):
        name = steps[-len(taken) - 1].name
        findings.append(f"{name} cannot be taken off")
    before = after = left_out = stale = unnamed = 0
    rebuilt = set()
    for fit in taken:
        left_out += len(fit.left_out)
        for f in fit.files:
            new, old = f.diff.old_id, f.diff.new_id  # the diff is reversed
            if new is None or old is None:
                unnamed += 1
                continue
            after += f.before.startswith(new)
            before += f.after.startswith(old)
            stale += not (f.before.startswith(new) and f.after.startswith(old))
            rebuilt.add(f.path)
    if source.lock:
        findings += _against_lock(state, source.lock, taken)
    if stale and not source.lock:
        findings.append(
            f"{counted(stale, 'index line names', 'index lines name')} other content than was met"
        )
    rebuilt = {p for p in rebuilt if files.get(p) is not None}
    covered = (
        f"{counted(len(taken), 'patch', 'patches')} taken off: {before} images before and {after} "
        f"after them as stated, {counted(len(rebuilt), 'file')} of the base rebuilt"
    )
    if stale:
        covered += f", {counted(stale, 'stale index line')}"
    rest = [
        _left_out(left_out),
        f"{counted(unnamed, 'file')} without index line" if unnamed else "",
    ]
    rest.append("files that no patch touches")
    code = FINDING if findings and all("index line" in f for f in findings) else INTEGRITY
    return check("L2", covered, findings, "; ".join(r for r in rest if r), code=code)


def _against_lock(state: TreeState, lock: ReleaseLock, taken: Iterable[StepFit]) -> list[str]:
    """Files that had another id on the way than the lock says, each once."""
    layout = state.queue.checkout.layout
    found: dict[str, str] = {}
    locked = {}
    for patch in lock.patches:
        name = patch.name.removesuffix(".patch")
        for path, (old, new) in patch.files.items():
            if where := layout.locate(path):
                locked[name, where] = (old or ABSENT, new or ABSENT)
    for fit in taken:
        for f in fit.files:
            # Taken off: what was met after the patch is `before` here.
            ids = locked.get((fit.step.name, f.path))
            if ids and ids != (f.after, f.before):
                found.setdefault(f.path, fit.step.name)
    return [
        f"{path} has other content than in the release, at {name}" for path, name in found.items()
    ]


def check_ours(state: TreeState) -> Check:
    """Our patches: those that are applied are, byte for byte, what this installation holds."""
    ours = state.ours
    applied = [p for p in ours if p.applied]
    findings = [
        f"{p.name} is {p.verdict}: {p.evidence}"
        for p in ours
        if p.verdict in (Verdict.HALF, Verdict.MODIFIED)
    ]
    if not applied and not findings:
        return skipped("ours", "none is applied")
    rest = [p.name for p in ours if p.applied is False]
    covered = f"{len(applied)} of {counted(len(ours), 'patch', 'patches')} as in this installation"
    return check("ours", covered, findings, f"not applied: {', '.join(rest)}" if rest else "")
