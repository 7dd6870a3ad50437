"""The operation under way taken back, whatever was left of it."""

from collections.abc import Mapping
from typing import NamedTuple

from tqconvert.patches.change.apply_queue import applied_ref, own_branch
from tqconvert.patches.change.move import carry_out, contents_of, operation, recover
from tqconvert.patches.change.obstacles import (
    changes_between,
    find_blocked,
    require_clear,
    require_quiet,
)
from tqconvert.patches.change.operation import REFS, State, new_id
from tqconvert.patches.change.rebase_end import give_up, main_of
from tqconvert.patches.change.repository import Blobs, Place, Repository
from tqconvert.patches.change.unapply import save_edits


class Aborted(NamedTuple):
    """What was given up."""

    head: Place
    what: str | None
    """None if nothing was under way."""
    backup: str | None
    """Ref that holds what the user had done meanwhile."""


def abort(repo: Repository, env: Mapping[str, str]) -> Aborted:
    """Take back the operation under way; nothing where there is none.

    What was done in an `edit` or in the conflicts of a `rebase` is saved in a ref.
    Raises RefusedError, LockedError, StorageError.
    """
    repo, state = main_of(repo, env)
    with state.locked():
        what = recover(repo, state)
        op = state.pending()
        if op is not None and op.phase == "rebase":
            backup = give_up(repo, state, op, env)
            return Aborted(repo.head(), "gave up the rebase", backup)
        if what:
            return Aborted(repo.head(), what, None)
        return _leave_edit(repo, state)


def _leave_edit(repo: Repository, state: State) -> Aborted:
    """Go back to the top of the patches, if one of them is being edited."""
    work = repo.work()
    ref = work.head.ref
    own = own_branch(ref) if ref else None
    top = repo.refs(applied_ref(own)).get(applied_ref(own)) if own else None
    if not ref or not own or own == ref or not top or repo.branch_at(own) != top:
        return Aborted(work.head, None, None)
    require_quiet(repo, work._replace(staged=()))
    with Blobs(repo.git) as blobs:
        old, new = repo.tree(work.head.oid), repo.tree(top)
        for path in work.staged:
            if path not in old and (repo.root / path).is_file():
                work = work._replace(changed=(*work.changed, path))
        before = _dirty_before(state)
        mine = [p for p in (*work.staged, *work.changed) if p not in before]
        dirty = {p: (old.get(p), new.get(p)) for p in mine}
        changes = {**changes_between(old, new), **dirty}
        name = new_id("abort")
        refs: dict[str, tuple[str | None, str | None]] = {ref: (None, work.head.oid)}
        backup = None
        chain_tops = repo.git.run("merge-base", "--is-ancestor", work.head.oid, top)
        if work.changed or work.staged or chain_tops.returncode:
            backup = f"{REFS}/backup/{name}"
            refs[backup] = (save_edits(repo, work), None)
        blocked = find_blocked(repo, work, changes)
        saved = {*blocked.changed, *blocked.untracked} & {*work.changed, *work.staged}
        clear = {p: c for p, c in changes.items() if p not in saved}
        require_clear(repo, work, clear)
        after = Place(top, own)
        op = operation("abort", work.head, after, changes, refs, name=name)
        carry_out(repo, state, op, changes, contents_of(blobs))
        return Aborted(after, "left the edit", backup)


def _dirty_before(state: State) -> set[str]:
    """Files that were changed before the edit began: they stay as they are."""
    for row in reversed(state.log()):
        if row.get("command") == "edit":
            return set(row.get("dirty", ()))
    return set()
