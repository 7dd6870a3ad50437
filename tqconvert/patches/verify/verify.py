"""Whether a tree is what it claims to be: its release, and our patches as this installation has them.

    L0  what git has committed: ids of trees, and what is changed on top
    L1  each file that patches touch, on the ladders of the release's lock
    L2  Ollama's patches taken off one by one: tree and patches agree, with or without a lock
    L3  every other file of the vendored folders
    L4  the Metal source that is compiled in, made anew from its parts
    L5  llama.cpp itself: the patches put onto the base commit make this tree

Each level says what it did not look at. A level without means is not one that holds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqconvert.patches.locks.history import Commit
from tqconvert.patches.locks.release import read_listing
from tqconvert.patches.tree.state import TreeState
from tqconvert.patches.verify.check import FINDING, UNKNOWN_BASE, Check, skipped
from tqconvert.patches.verify.offline import check_ladder, check_ours, check_reverse

HIGHEST = 5


def verify(
    state: TreeState, folder: Path, env: Mapping[str, str], *,
    level: int | None = None, commit: Commit | None = None,
) -> tuple[Check, ...]:  # fmt: skip
    """All levels up to `level`; by default all, L5 if `commit` is at hand. `folder` holds the locks.

    Raises BadLockError, GitFailedError, StorageError.
    """
    highest = level if level is not None else HIGHEST if commit else HIGHEST - 1
    lock = state.source.lock if state.source else None
    checks = []
    if highest >= 0:
        from tqconvert.patches.verify.committed import check_commits

        checks.append(check_commits(state, env))
    if highest >= 1:
        checks.append(check_ladder(state))
    if highest >= 2:
        checks.append(check_reverse(state))
    if highest >= 3:
        from tqconvert.patches.verify.vendored import check_vendored

        checks.append(check_vendored(state, read_listing(folder, lock) if lock else None))
    if highest >= 4:
        from tqconvert.patches.embed import check_embed

        checks.append(check_embed(state))
    if highest >= 5:
        from tqconvert.patches.verify.onbase import check_on_base

        checks.append(
            check_on_base(state, commit)
            if commit
            else skipped("L5", "needs llama.cpp's base commit (--base-git REPO)")
        )
    checks.append(check_ours(state))
    return tuple(checks)


def exit_code(state: TreeState, checks: Sequence[Check]) -> int:
    """0 all that was looked at holds, 4 and 1 something does not, 5 the release is not known."""
    codes = {c.code for c in checks if c.ok is False}
    if codes:
        return max(codes)
    if state.source and state.source.lock is None:
        return UNKNOWN_BASE
    # Nothing was looked at: that is no verdict.
    return 0 if any(c.ok for c in checks) else FINDING
