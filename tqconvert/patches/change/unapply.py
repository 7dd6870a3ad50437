"""Patches taken off a tree: back to the commit that they stand on, edits kept in a ref."""

from typing import NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.patches.change.apply_queue import (
    applied_ref,
    is_recorded,
    own_branch,
    require_no_rebase,
)
from tqconvert.patches.change.chain import Chain, read_chain
from tqconvert.patches.change.move import at_work, carry_out, contents_of, operation, recover
from tqconvert.patches.change.obstacles import (
    changes_between,
    find_blocked,
    require_clear,
    require_quiet,
)
from tqconvert.patches.change.operation import REFS, State, new_id
from tqconvert.patches.change.repository import Blobs, Place, Repository, Work


class Unapplied(NamedTuple):
    """What taking off did."""

    head: Place
    """Where HEAD is now."""
    patches: tuple[str, ...]
    """Names of those that were taken off, the last first."""
    backup: str | None
    """Ref that holds edits which were on top."""
    recovered: str | None


def unapply(repo: Repository, *, backup: bool = False) -> Unapplied:
    """Go back to the commit below the patches, and to the branch that was checked out there.

    Edits on top, committed or not, are refused, or saved in a ref with `backup`. Raises RefusedError,
    LockedError, StorageError; then everything is as it was.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recovered = recover(repo, state)
        require_no_rebase(state)
        work = repo.work()
        chain = read_chain(repo, work.head.oid)
        if not chain.links:
            return Unapplied(work.head, (), None, recovered)
        require_quiet(repo, work)
        recorded = repo.refs(f"{REFS}/applied/")
        changes = changes_between(repo.tree(work.head.oid), repo.tree(chain.base))
        edits = _edits(repo, chain)
        edits += [f"{p}: not committed" for p in find_blocked(repo, work, changes).changed]
        if edits and not backup:
            more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
            raise RefusedError(
                f"{repo.root}: edits on top of the patches: {'; '.join(edits[:3])}{more}",
                hint="refresh takes them into a patch; unapply --backup puts them aside",
            )
        name = new_id("unapply")
        refs: dict[str, tuple[str | None, str | None]] = {}
        if edits:
            refs[f"{REFS}/backup/{name}"] = (save_edits(repo, work), None)
            work = work._replace(changed=())
        require_clear(repo, work, changes)
        after = _home(repo, state, chain, work.head)
        if work.head.ref:
            refs.update(_refs(repo, work.head, after, recorded))
        op = operation("unapply", work.head, after, changes, refs, name=name)
        carry_out(repo, state, op, changes, contents_of(blobs))
        names = tuple(link.name for link in reversed(chain.links))
        return Unapplied(after, names, f"{REFS}/backup/{name}" if edits else None, recovered)


def save_edits(repo: Repository, work: Work) -> str:
    """A commit that holds what is in the folder, as `git stash` makes one; HEAD's if nothing differs."""
    if not work.changed and not work.staged:
        return work.head.oid
    return repo.git.text_of("stash", "create", env=_IDENTITY) or work.head.oid


def _refs(
    repo: Repository, head: Place, after: Place, recorded: dict[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """What becomes of the branches: ours go, one of the user's goes back."""
    assert head.ref
    own = own_branch(head.ref)
    record = applied_ref(own)
    if after.ref == head.ref:
        refs: dict[str, tuple[str | None, str | None]] = {head.ref: (after.oid, head.oid)}
    elif own != head.ref or record in recorded:
        refs = {head.ref: (None, head.oid)}
    else:
        refs = {}
    if record in recorded:
        refs[record] = (None, recorded[record])
        if own != head.ref and repo.branch_at(own) == recorded[record]:
            refs[own] = (None, recorded[record])
    return refs


def _edits(repo: Repository, chain: Chain) -> list[str]:
    """What is in the history beyond what was recorded."""
    found = [f"{oid[:9]} {subject}" for oid, subject in chain.on_top]
    if not found and not is_recorded(repo, chain):
        found.append(f"{chain.top[:9]} is not as tqconvert wrote it")
    return found


def _home(repo: Repository, state: State, chain: Chain, head: Place) -> Place:
    """The base, on the branch from which patches were put on it, if that is there still."""
    own = own_branch(head.ref) if head.ref else None
    for row in reversed(state.log()):
        before = row.get("before", {})
        if before.get("oid") == chain.base and row.get("after", {}).get("ref") == own:
            ref = before.get("ref")
            if ref is None or ref == head.ref or repo.branch_at(ref) == chain.base:
                return Place(chain.base, ref)
    there = repo.git.text_of(
        "for-each-ref", "--points-at", chain.base, "--format=%(refname)", "refs/heads/"
    ).split()
    there = [ref for ref in there if ref not in (head.ref, own)]
    return Place(chain.base, there[0] if there else None)


_IDENTITY = {
    "GIT_AUTHOR_NAME": "tqconvert", "GIT_AUTHOR_EMAIL": "tqconvert@invalid",
    "GIT_COMMITTER_NAME": "tqconvert", "GIT_COMMITTER_EMAIL": "tqconvert@invalid",
}  # fmt: skip
