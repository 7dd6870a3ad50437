"""The queue brought to another base: in memory first; what conflicts there is left to git and the user.

In a conflict the patches before it are commits of a branch, and `git am` has the rest before it: a state
that `git am --continue` ends without us. Both sides of each patch are in the repository as the commits
of the chain on the old base, so that git can merge three ways without llama.cpp's history.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqconvert.errors import RefusedError, TqError
from tqconvert.patches.change.am import range_diff, run_am
from tqconvert.patches.change.apply_queue import (
    applied_ref,
    is_recorded,
    require_no_rebase,
    tree_after,
)
from tqconvert.patches.change.chain import (
    Chain,
    read_chain,
    write_commits,
    writing_failed,
)
from tqconvert.patches.change.move import (
    at_work,
    carry_out,
    contents_of,
    drop_fresh,
    operation,
    recover,
)
from tqconvert.patches.change.obstacles import changes_between, require_clear, require_quiet
from tqconvert.patches.change.operation import REFS, Operation, State, new_id
from tqconvert.patches.change.rebase_end import finish, give_up
from tqconvert.patches.change.rebase_mail import (
    diffs_at,
    mail_of_commit,
    mail_of_step,
    vendored_chain,
)
from tqconvert.patches.change.rebase_plan import RebasePlan, plan_rebase
from tqconvert.patches.change.repository import Blobs, Place, Repository
from tqconvert.patches.change.stack import commits_of, look, stack
from tqconvert.patches.queue import Queue
from tqconvert.patches.render import split_segments
from tqconvert.patches.walk import Fit


class Rebased(NamedTuple):
    """What a rebase did, or where it waits."""

    plan: RebasePlan
    head: str | None
    """The last commit on the new base; None while it waits."""
    folder: Path
    """The tree in which it was done, or waits."""
    waiting: str | None
    """The patch that conflicts."""
    range_diff: tuple[str, ...]
    recovered: str | None


def rebase(
    repo: Repository, queue: Queue, patches: Path, onto: str, env: Mapping[str, str], *,
    here: bool = False, folder: Path | None = None,
) -> Rebased:  # fmt: skip
    """Bring the queue to another commit: a branch there, or, in a conflict, a `git am` that waits.

    The tree stays as it is, unless `here`. Raises RefusedError, NotFoundError, LockedError, StorageError.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recovered = recover(repo, state)
        require_no_rebase(state)
        plan = plan_rebase(repo, queue, patches, blobs, onto, env)
        now = look(repo, blobs)
        if here:
            require_quiet(repo, now.work)
        _require_new(repo, plan, now.work.head)
        place = repo.root if here else folder or repo.root.with_name(f"{repo.root.name}-rebase")
        if plan.stacked.conflicts and not here and place.exists():
            raise RefusedError(
                f"{place}: is there already", hint="give another folder: --worktree DIR"
            )
        old = _old_chain(repo, queue, blobs, plan)
        name = new_id("rebase")
        fresh = f"{REFS}/new/{name}"
        top = write_commits(repo, plan.base.commit, plan.commits, fresh)
        if not plan.stacked.conflicts:
            head = _arrive(repo, state, blobs, plan, now.work.head, top, name, here=here)
            rows = range_diff(repo, old, plan.base.commit, top)
            drop_fresh(repo)
            return Rebased(plan, head, repo.root, None, rows, recovered)
        op = _waiting(repo, queue, patches, plan, old, name, now.work.head, top, place)
        try:
            if here:
                _go_there(repo, state, blobs, plan, op, fresh)
            else:
                _make_worktree(repo, state, op, place)
            waiting = run_am(place, env, _mails(repo, queue, plan, old))
        except BaseException:
            if state.op_path.exists():
                with suppress(TqError, OSError):  # else `abort` does it
                    give_up(repo, state, op, env)
            raise
        if waiting is None:
            done = finish(repo, state, op, env)
            return Rebased(plan, done.head, place, None, done.range_diff, recovered)
        return Rebased(plan, None, place, waiting, (), recovered)


def _require_new(repo: Repository, plan: RebasePlan, head: Place) -> None:
    chain = plan.old
    if chain.on_top or (chain.links and not is_recorded(repo, chain)):
        raise RefusedError(
            f"{repo.root}: edits on top of the patches", hint="tqconvert ollama-build refresh"
        )
    tip = repo.branch_at(plan.ref)
    if tip:
        raise RefusedError(
            f"{plan.ref.removeprefix('refs/heads/')}: is there already ({tip[:9]})",
            hint="the queue is on that base; git switch to it, or git branch -D it"
            if plan.ref != head.ref
            else "the queue is on that base already",
        )


def _old_chain(repo: Repository, queue: Queue, blobs: Blobs, plan: RebasePlan) -> Chain:
    """The patches as commits on the base that they are made for: those below HEAD, else made anew."""
    if plan.old.links:
        return plan.old
    now = look(repo, blobs)
    stacked = stack(now.files, queue)
    if stacked.conflicts:
        # Without a chain git has nothing to merge with but what the patches' own ids name.
        return vendored_chain(repo, queue) or plan.old
    ref = f"{REFS}/new/{new_id('old')}"
    return read_chain(repo, write_commits(repo, now.chain.base, commits_of(stacked, now.tree), ref))


def _arrive(
    repo: Repository, state: State, blobs: Blobs, plan: RebasePlan, head: Place, top: str,
    name: str, *, here: bool,
) -> str:  # fmt: skip
    """Give the chain its branch; go there, if the tree is to."""
    record, fresh = applied_ref(plan.ref), f"{REFS}/new/{name}"
    was = repo.refs(record).get(record)
    refs = {plan.ref: (top, None), record: (top, was), fresh: (None, top)}
    after = Place(top, plan.ref) if here else head
    new = tree_after(plan.base.tree, plan.commits)
    changes = changes_between(repo.tree(head.oid), new) if here else {}
    require_clear(repo, look(repo, blobs).work, changes)
    op = operation("rebase", head, after, changes, refs, name=name)
    carry_out(repo, state, op, changes, contents_of(blobs, plan.commits), base=plan.base.commit)
    return top


def _waiting(
    repo: Repository, queue: Queue, patches: Path, plan: RebasePlan, old: Chain, name: str,
    head: Place, top: str, place: Path,
) -> Operation:  # fmt: skip
    """What is on record while the user works on a conflict: all that `continue` needs."""
    ollama = queue.source.root if queue.source and not queue.checkout.is_ollama else None
    more: dict[str, Any] = {
        "tree": str(repo.root), "folder": str(place), "branch": plan.ref,
        "onto": plan.base.commit, "name": plan.base.name, "old_base": old.base, "old_top": old.top,
        "patches": str(patches), "ollama": str(ollama) if ollama else None, "dropped": {},
    }  # fmt: skip
    return Operation(name, "rebase", "rebase", head, Place(top, plan.ref), {}, {}, {}, more)


def _go_there(
    repo: Repository, state: State, blobs: Blobs, plan: RebasePlan, op: Operation, fresh: str
) -> None:
    """The tree itself at the last patch that goes on."""
    work = repo.work()
    changes = changes_between(repo.tree(op.before.oid), tree_after(plan.base.tree, plan.commits))
    require_clear(repo, work, changes)
    refs = {plan.ref: (op.after.oid, None), fresh: (None, op.after.oid)}
    move = operation("rebase", op.before, op.after, changes, refs, name=op.id)
    carry_out(repo, state, move, changes, contents_of(blobs, plan.commits), then=op)


def _make_worktree(repo: Repository, state: State, op: Operation, place: Path) -> None:
    """A tree of its own at the last patch that goes on."""
    state.begin(op)
    branch = str(op.more["branch"]).removeprefix("refs/heads/")
    repo.update_refs({f"{REFS}/orig/{op.id}": (str(op.more["old_top"]), None)}, "rebase")
    done = repo.git.run("worktree", "add", "--quiet", "-b", branch, str(place), op.after.oid)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise writing_failed("git worktree", said, done.returncode)


def _mails(repo: Repository, queue: Queue, plan: RebasePlan, old: Chain) -> bytes:
    """The first patch that does not go on and all after it, as mails with both sides known to git."""
    by_name: dict[str, list[str]] = {}
    for link in old.links:
        by_name.setdefault(link.name, []).append(link.commit)
    base, parts, started = plan.base, [], False
    partial = old.links and old.base != plan.old.base and queue.source
    for fit in plan.stacked.fits:
        started = started or not fit.ok
        names = [p.name.removesuffix(".patch") for p in fit.step.alternatives]
        name = next((n for n in names if by_name.get(n)), None)
        commit = by_name[name].pop(0) if name else None
        if not started or fit.fit is Fit.NOTHING:
            continue
        if commit is None:
            parts.append(mail_of_step(fit.step, base.layout))
            continue
        more = b""
        if partial and queue.source:
            patch = next(p for p in fit.step.alternatives if p.name == f"{name}.patch")
            kept = queue.source.layout
            without = {p for p, _ in split_segments(patch.data)[1] if kept.locate(p)}
            more = diffs_at(patch, base.layout, without)
        parts.append(mail_of_commit(repo, commit, more))
    return b"".join(parts)
