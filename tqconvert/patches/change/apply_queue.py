"""Patches put on a tree as commits of a branch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError, UsageError
from tqconvert.patches.change.chain import Chain, NewCommit, write_commits
from tqconvert.patches.change.generated import with_generated
from tqconvert.patches.change.move import at_work, carry_out, contents_of, operation, recover
from tqconvert.patches.change.obstacles import Change, changes_between, require_clear, require_quiet
from tqconvert.patches.change.operation import EDIT, REFS, State, new_id
from tqconvert.patches.change.repository import Blobs, Entry, Place, Repository
from tqconvert.patches.change.stack import (
    Situation,
    Stacked,
    branch_name,
    commits_of,
    find_step,
    look,
    same_as,
    stack,
)
from tqconvert.patches.queue import Queue, Step


class ApplyPlan(NamedTuple):
    """What applying comes to."""

    now: Situation
    stacked: Stacked
    commits: tuple[NewCommit, ...]
    """All patches of the branch, those that are there already included."""
    changes: Mapping[str, Change]
    ref: str
    """The branch, `refs/heads/...`."""
    done: bool
    """Nothing is left to do."""


class Applied(NamedTuple):
    """What applying did."""

    plan: ApplyPlan
    head: Place
    """Where HEAD is now."""
    recovered: str | None
    """What became of an operation that had been interrupted."""


def plan_apply(
    repo: Repository,
    queue: Queue,
    blobs: Blobs,
    *,
    to: str | None = None,
    branch: str | None = None,
) -> ApplyPlan:
    """Put the queue on the tree's base in memory, and compare with what is there.

    Conflicts are in the plan. Raises RefusedError, NotFoundError, UnknownBaseError, UsageError.
    """
    step = find_step(queue, to) if to else None
    now = look(repo, blobs)
    stacked = stack(now.files, queue, step)
    _require_in_reach(stacked, step, queue)
    commits = with_generated(commits_of(stacked, now.tree), now.files.original)
    old = repo.tree(now.work.head.oid) if now.chain.links or now.chain.on_top else now.tree
    new = tree_after(now.tree, commits)
    changes = changes_between(old, new)
    done = not changes and not now.chain.on_top and same_as(now.chain, commits)
    on_own = now.chain.links and now.work.head.ref
    if branch:
        ref = f"refs/heads/{branch}"
        if repo.git.run("check-ref-format", "--branch", branch).returncode:
            raise UsageError(f"--branch {branch!r}: not a name for a branch")
    elif on_own:
        ref = own_branch(str(now.work.head.ref))
    else:
        ref = f"refs/heads/{branch_name(repo, queue, now.chain.base)}"
    done = done and (ref == now.work.head.ref or not commits)
    return ApplyPlan(now, stacked, commits, changes, ref, done)


def require_safe(repo: Repository, plan: ApplyPlan) -> dict[str, str]:
    """The refs that matter to the plan. Raises RefusedError where carrying it out would lose something."""
    require_quiet(repo, plan.now.work)
    there = repo.refs(plan.ref, f"{REFS}/applied/")
    chain, recorded = plan.now.chain, {v for k, v in there.items() if k != plan.ref}
    head = plan.now.work.head
    if chain.on_top:
        names = ", ".join(f"{oid[:9]} {subject}" for oid, subject in chain.on_top[:3])
        raise RefusedError(
            f"{repo.root}: commits on top of the patches: {names}",
            hint="tqconvert ollama-build refresh takes them into a patch; unapply --backup puts them aside",
        )
    if chain.links and not is_recorded(repo, chain):
        raise RefusedError(
            f"{repo.root}: the patches in the history are not as tqconvert wrote them",
            hint="tqconvert ollama-build export takes edits over; unapply --backup puts them aside",
        )
    tip = there.get(plan.ref)
    if tip and plan.ref != head.ref and tip not in recorded:
        raise RefusedError(
            f"{plan.ref.removeprefix('refs/heads/')}: a branch of that name holds something else"
            f" ({tip[:9]})", hint="give another: --branch NAME",
        )  # fmt: skip
    _require_free(repo, plan.ref)
    require_clear(repo, plan.now.work, plan.changes)
    return there


def apply_queue(
    repo: Repository, queue: Queue, *, to: str | None = None, branch: str | None = None
) -> Applied:
    """Put the queue on the tree: one branch, one checkout, or nothing.

    Where a patch does not go on, the plan tells all conflicts and nothing is written. Raises
    RefusedError, LockedError, StorageError; then everything is as it was.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recovered = recover(repo, state)
        plan = plan_apply(repo, queue, blobs, to=to, branch=branch)
        require_no_rebase(state)
        if plan.done or plan.stacked.conflicts:
            return Applied(plan, plan.now.work.head, recovered)
        there = require_safe(repo, plan)
        name = new_id("apply")
        fresh = f"{REFS}/new/{name}"
        top = write_commits(repo, plan.now.chain.base, plan.commits, fresh)
        before, after = plan.now.work.head, Place(top, plan.ref)
        record = applied_ref(plan.ref)
        refs = {
            plan.ref: (top, there.get(plan.ref)),
            record: (top, there.get(record)),
            fresh: (None, top),
        }
        if before.ref and own_branch(before.ref) != before.ref:
            refs[before.ref] = (None, before.oid)
        op = operation("apply", before, after, plan.changes, refs, name=name)
        carry_out(
            repo,
            state,
            op,
            plan.changes,
            contents_of(blobs, plan.commits),
            base=plan.now.chain.base,
        )
        return Applied(plan, after, recovered)


def tree_after(tree: Mapping[str, Entry], commits: tuple[NewCommit, ...]) -> dict[str, Entry]:
    """The files of a tree after some commits."""
    new = dict(tree)
    for commit in commits:
        for path, data in commit.changes.items():
            if data is None:
                new.pop(path, None)
            else:
                new[path] = Entry(commit.modes.get(path, "100644"), commit.ids[path])
    return new


def applied_ref(branch: str) -> str:
    """The ref that records what was made of a branch."""
    return f"{REFS}/applied/{branch.removeprefix('refs/heads/')}"


def own_branch(ref: str) -> str:
    """The branch of all patches, where the one on which a patch is edited is checked out."""
    return ref.removesuffix(EDIT) if ref.startswith("refs/heads/tq/") else ref


def is_recorded(repo: Repository, chain: Chain) -> bool:
    """Whether the patches of a chain are as tqconvert wrote them, up to the last or one before it."""
    return bool(
        repo.git.bytes_of("for-each-ref", "--count=1", "--contains", chain.top, f"{REFS}/applied/")
    )


def require_no_rebase(state: State) -> None:
    """Raise RefusedError while a rebase of ours waits."""
    op = state.pending()
    if op is not None:
        raise RefusedError(
            f"a {op.command} is under way (in {op.more.get('folder')})",
            hint="tqconvert ollama-build continue, skip or abort",
        )


def _require_in_reach(stacked: Stacked, step: Step | None, queue: Queue) -> None:
    if step is not None and step in queue.upstream and step not in {f.step for f in stacked.fits}:
        raise RefusedError(
            f"{step.name}: Ollama's own, and in this tree already",
            hint="--to takes a patch of ours here: tqconvert ollama-build list",
        )


def _require_free(repo: Repository, ref: str) -> None:
    """Raise RefusedError if another work tree has the branch checked out."""
    if not (repo.common_dir / "worktrees").is_dir():
        return
    folder = ""
    for row in repo.git.text_of("worktree", "list", "--porcelain").splitlines():
        if row.startswith("worktree "):
            folder = row[9:]
        elif row == f"branch {ref}" and Path(folder).resolve() != repo.root.resolve():
            raise RefusedError(
                f"{ref.removeprefix('refs/heads/')}: checked out in {folder}",
                hint="give another: --branch NAME",
            )
