"""Ollama's patches put onto llama.cpp itself, in memory: L5 of `verify`."""

from tqconvert.patches.checkout import Generation
from tqconvert.patches.files import Files
from tqconvert.patches.layout import GGML, LLAMA, Plain
from tqconvert.patches.locks.history import Commit
from tqconvert.patches.locks.origin import upstream_of
from tqconvert.patches.locks.release import ReleaseLock
from tqconvert.patches.objects import ABSENT, blob_id
from tqconvert.patches.queue import Layer, Origin, Step, diffs_of
from tqconvert.patches.series import Patch
from tqconvert.patches.tree.state import TreeState, with_lf
from tqconvert.patches.verify.check import Check, check, counted
from tqconvert.patches.verify.vendored import PREFIXES, survey
from tqconvert.patches.walk import Fit, StepFit, apply_steps


def check_on_base(state: TreeState, commit: Commit) -> Check:
    """L5: base and patches make the files of this tree, and the trees that the lock states."""
    source = state.queue.source
    if source is None:
        return Check("L5", None, not_covered="needs an Ollama tree with its patches")
    patches = [Patch(p.name, with_lf(p.data)) for p in upstream_of(source)]
    commit.fetch({d.old for p in patches for d in diffs_of(p) if d.old})
    files = Files(commit.read)
    steps = [Step((p,), Origin.OLLAMA, Layer.LLAMA_CPP) for p in patches]
    fits = apply_steps(files, steps, Plain())
    findings = [f"{f.step.name} does not go onto {commit.id[:9]}" for f in fits if not f.ok]
    result = commit.tree_with(files.changes())
    lock = state.source.lock if state.source else None
    if lock:
        findings += _against_lock(lock, commit, result, fits)
    moved = sum(f.fit is Fit.OFFSET for f in fits)
    covered = f"{counted(len(fits), 'patch', 'patches')} on {commit.id[:9]}"
    covered += f", {moved} with offset, tree {result[:12]}"
    rest = ""
    if state.queue.checkout.generation is Generation.LEGACY:
        count, differing = _against_tree(state, commit, files)
        findings += differing
        covered += f", equal to {counted(count, 'vendored file')}" if not differing else ""
        rest = "files of Ollama's own"
    elif state.queue.checkout.generation is Generation.MODERN:
        rest = "the tree that llama.cpp is built from"
    return check("L5", covered, findings, rest)


def _against_lock(lock: ReleaseLock, commit: Commit, result: str, fits: list[StepFit]) -> list[str]:
    found = []
    for what, is_, should in (
        ("the base commit", commit.id, lock.base.commit),
        ("the base's tree", commit.tree, lock.base.tree),
        ("base and patches", result, lock.result_tree),
    ):
        if should and is_ != should:
            found.append(f"{what}: {is_[:12]} (expected {should[:12]})")
    for fit, locked in zip(fits, lock.patches, strict=False):
        for f in fit.files:
            old, new = locked.files.get(f.path, (None, None))
            if f.path in locked.files and (old or ABSENT, new or ABSENT) != (f.before, f.after):
                found.append(f"{fit.step.name}: {f.path} has other ids than the lock")
    return found


def _against_tree(state: TreeState, commit: Commit, files: Files) -> tuple[int, list[str]]:
    """How many vendored files are those of base and patches, and which are not."""
    layout = state.queue.checkout.layout
    found = survey(state)
    changed = files.changes()
    count, differing = 0, []
    for where, entry in found.files.items():
        top = GGML if where.startswith(f"{GGML}/") else LLAMA
        path = PREFIXES[top] + where.removeprefix(f"{top}/")
        if path not in changed and path not in commit.entries:
            # Ollama's own, or the licence, which each folder has a copy of.
            continue
        wanted = blob_id(changed[path]) if path in changed else commit.entries[path].id
        if wanted in (entry.id, found.converted.get(where)):
            count += 1
        else:
            differing.append(f"{where} is not what base and patches make")
    here = set(found.files)
    for path, data in changed.items():
        place = layout.locate(path)
        if place and data is not None and place not in here:
            differing.append(f"{place} is not there")
    return count, differing
