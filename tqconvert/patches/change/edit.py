"""One of the applied patches checked out, to be changed where it stands."""

from typing import NamedTuple

from tqconvert.errors import NotFoundError, RefusedError
from tqconvert.patches.change.apply_queue import require_no_rebase
from tqconvert.patches.change.chain import read_chain
from tqconvert.patches.change.move import at_work, carry_out, contents_of, operation, recover
from tqconvert.patches.change.obstacles import changes_between, require_clear, require_quiet
from tqconvert.patches.change.operation import EDIT, REFS, State
from tqconvert.patches.change.repository import Blobs, Place, Repository
from tqconvert.patches.change.restack import full_chain


class Editing(NamedTuple):
    """Where the patch is checked out."""

    head: Place
    patch: str
    above: int
    """Patches that are put on again by `refresh`."""
    recovered: str | None


def edit(repo: Repository, name: str) -> Editing:
    """Check out the commit of an applied patch on a branch of its own.

    Raises RefusedError, NotFoundError, LockedError, StorageError; then everything is as it was.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recovered = recover(repo, state)
        require_no_rebase(state)
        work = repo.work()
        require_quiet(repo, work)
        chain = read_chain(repo, work.head.oid)
        full, record = full_chain(repo, chain)
        if chain.on_top or record is None:
            raise RefusedError(
                f"{repo.root}: edits on top of the patches", hint="tqconvert ollama-build refresh"
            )
        wanted = name.removesuffix(".patch")
        found = [n for n, link in enumerate(full.links) if link.name == wanted]
        if not found:
            raise NotFoundError(
                f"{name}: no such patch is applied", hint="tqconvert ollama-build list"
            )
        link = full.links[found[-1]]
        ref = f"refs/heads/{record.removeprefix(f'{REFS}/applied/')}{EDIT}"
        tip = repo.branch_at(ref)
        if tip and ref != work.head.ref:
            raise RefusedError(
                f"{ref}: is there already", hint="git branch -D it, if it is not needed"
            )
        after = Place(link.commit, ref)
        changes = changes_between(repo.tree(work.head.oid), repo.tree(link.commit))
        require_clear(repo, work, changes)
        op = operation("edit", work.head, after, changes, {ref: (link.commit, tip)})
        carry_out(repo, state, op, changes, contents_of(blobs), dirty=list(work.changed))
        return Editing(after, link.name, len(full.links) - 1 - found[-1], recovered)
