"""Edits in a tree taken into the patches: what is not committed, and `fixup!` commits."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.patches.change.apply_queue import applied_ref, require_no_rebase, tree_after
from tqconvert.patches.change.chain import write_commits
from tqconvert.patches.change.move import at_work, carry_out, contents_of, operation, recover
from tqconvert.patches.change.obstacles import changes_between, has_crlf, plain, require_clear
from tqconvert.patches.change.operation import REFS, Operation, State, new_id
from tqconvert.patches.change.repository import Blobs, Entry, Place, Repository
from tqconvert.patches.change.restack import (
    Edit,
    Member,
    Restacked,
    files_to_write,
    full_chain,
    members_of,
    require_unchanged,
    restack,
)
from tqconvert.patches.change.stack import Conflict, Situation, look
from tqconvert.patches.diff import FileDiff, parse_diffs
from tqconvert.patches.embed import TARGET
from tqconvert.patches.layout import Layout
from tqconvert.patches.objects import blob_id
from tqconvert.patches.queue import FilesStep, Origin, Queue


class Refreshed(NamedTuple):
    """What refreshing did."""

    head: Place
    patches: tuple[str, ...]
    """Patches with a new text."""
    files: tuple[Path, ...]
    """Files of `ollama_patches` that were written."""
    conflicts: tuple[Conflict, ...]
    """Later patches that do not go on any more; then nothing was changed."""
    recovered: str | None


def refresh(repo: Repository, queue: Queue, folder: Path, name: str | None = None) -> Refreshed:
    """Take the edits in the tree into a patch (by default the last one at HEAD), and put the rest on again.

    A commit `fixup! SUBJECT` goes into the patch of that subject. Patches whose change stays the same
    keep their bytes. Raises RefusedError, LockedError, StorageError; then everything is as it was.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recovered = recover(repo, state)
        require_no_rebase(state)
        now = look(repo, blobs)
        _require_idle(repo, now)
        full, record = full_chain(repo, now.chain)
        members = members_of(full, queue)
        require_unchanged(members)
        edits = find_edits(repo, now, members, queue.checkout.layout, name)
        done = restack(repo, now.tree, now.files, members, edits, queue)
        if done.conflicts:
            return Refreshed(now.work.head, (), (), done.conflicts, recovered)
        _require_same(repo, blobs, now, members, done, edits)
        files = files_to_write(folder, queue, members, done)
        head = settle(repo, state, blobs, now, record, done, files, "refresh")
        names = tuple(members[i].link.name for i in done.changed)
        return Refreshed(head, names, tuple(files), (), recovered)


def find_edits(
    repo: Repository, now: Situation, members: Sequence[Member], layout: Layout, name: str | None
) -> list[Edit]:
    """The commits on top of the patches and what is not committed, each with its patch.

    Raises RefusedError if a commit or a change belongs to no patch.
    """
    top = len(now.chain.links) - 1
    default = _index_of(members, name, top) if name else top
    edits = []
    for oid, subject in now.chain.on_top:
        wanted = subject.removeprefix("fixup! ").removeprefix("squash! ")
        index = default
        if wanted != subject:
            index = _index_of(members, wanted, top)
        edits.append(Edit(index, commit_diffs(repo, f"{oid}~1", oid), f"commit {oid[:9]}"))
    if now.work.staged or now.work.changed:
        edits.append(Edit(default, commit_diffs(repo, now.work.head.oid), "your change"))
    edits = [part for edit in edits for part in _by_owner(edit, members[: top + 1], layout)]
    for edit in edits:
        if members[edit.member].step.origin is Origin.OLLAMA:
            raise RefusedError(
                f"{members[edit.member].link.name}: Ollama's own, and stays as it is",
                hint="tqconvert ollama-build refresh NAME, with a patch of ours",
            )
    return edits


def _by_owner(edit: Edit, members: Sequence[Member], layout: Layout) -> list[Edit]:
    """The edit, parted: what changes a new file of ours goes to where that file is made."""
    made = {
        path: n
        for n, m in enumerate(members)
        if isinstance(m.step, FilesStep)
        for path in m.paths(layout)
    }
    parts: dict[int, list[FileDiff]] = {}
    for diff in edit.diffs:
        parts.setdefault(made.get(diff.old or "", edit.member), []).append(diff)
    return [edit._replace(member=n, diffs=tuple(d)) for n, d in sorted(parts.items())]


def settle(
    repo: Repository, state: State, blobs: Blobs, now: Situation, record: str | None,
    done: Restacked, files: Mapping[Path, bytes | None], command: str, *,
    outer: Operation | None = None,
) -> Place:  # fmt: skip
    """Write the new chain and patch files, and go to its top; on the branch that the record names.

    `outer` is the operation that waits meanwhile, and waits again if this one is taken back.
    """
    head = now.work.head
    own = record.removeprefix(f"{REFS}/applied/") if record else None
    ref = f"refs/heads/{own}" if own and repo.branch_at(f"refs/heads/{own}") else head.ref
    name = new_id(command)
    fresh = f"{REFS}/new/{name}"
    top = write_commits(repo, now.chain.base, done.commits, fresh)
    after = Place(top, ref)
    changes = changes_between(repo.tree(head.oid), tree_after(now.tree, done.commits))
    in_place = {p for p, (_, new) in changes.items() if _holds(repo.root, p, new and new.id)}
    work = now.work._replace(changed=tuple(p for p in now.work.changed if p not in in_place))
    require_clear(repo, work, {p: c for p, c in changes.items() if p not in in_place})
    refs: dict[str, tuple[str | None, str | None]] = {fresh: (None, top)}
    there = repo.refs(*[r for r in (ref, record) if r]) if ref or record else {}
    if ref:
        refs[ref] = (top, there.get(ref))
    record = record or (applied_ref(ref) if ref else None)
    if record:
        refs[record] = (top, there.get(record))
    if head.ref and head.ref != ref:
        refs[head.ref] = (None, head.oid)
    op = operation(command, head, after, changes, refs, files, name=name, in_place=in_place)
    if outer:
        op = op._replace(more={"outer": outer.to_json()})
    carry_out(
        repo, state, op, changes, contents_of(blobs, done.commits), files, base=now.chain.base
    )
    return after


def _require_idle(repo: Repository, now: Situation) -> None:
    if what := repo.busy():
        raise RefusedError(
            f"{repo.root}: {what} is under way", hint="finish or abort it first: git status"
        )
    if now.work.unmerged:
        raise RefusedError(f"{', '.join(now.work.unmerged[:5])}: unmerged", hint="git status")


def _index_of(members: Sequence[Member], wanted: str, top: int) -> int:
    wanted = wanted.removesuffix(".patch")
    for index in range(top, -1, -1):
        link = members[index].link
        if wanted in (link.name, link.subject):
            return index
    above = [m.link.name for m in members[top + 1 :]]
    raise RefusedError(
        f"{wanted}: {'not applied yet here' if wanted in above else 'no such patch is applied'}",
        hint="tqconvert ollama-build list",
    )


def commit_diffs(repo: Repository, *commits: str) -> tuple[FileDiff, ...]:
    """What was changed between two commits, or since one, as diffs; what is generated is left out."""
    command = ("diff-tree", "-r") if len(commits) == 2 else ("diff",)
    crlf = ("-c", "core.autocrlf=true") if len(commits) == 1 and _is_crlf(repo) else ()
    text = repo.git.bytes_of(
        *crlf, *command, "-p", "-U3", "--full-index", "--no-renames", "--no-color",
        "--no-ext-diff", "--no-textconv", *commits, "--",
    )  # fmt: skip
    return tuple(d for d in parse_diffs(text, "your change") if d.path != TARGET)


def _is_crlf(repo: Repository) -> bool:
    """Whether this repository is set up for CRLF in the folder."""
    done = repo.git.run("config", "--local", "--get", "core.autocrlf")
    return done.stdout.strip() == b"true"


def _require_same(
    repo: Repository, blobs: Blobs, now: Situation, members: Sequence[Member], done: Restacked,
    edits: Sequence[Edit],
) -> None:  # fmt: skip
    """Raise RefusedError if the patches would not end in what the user has in the folder."""
    if len(members) != len(now.chain.links):
        return  # patches above HEAD change more
    read = repo.reader(repo.tree(now.work.head.oid), blobs)
    changed = {*now.work.staged, *now.work.changed}
    for path in sorted({d.path for e in edits for d in e.diffs}):
        if path in changed:
            file = repo.root / path
            have = plain(file.read_bytes()) if file.is_file() else None
            made = done.files.get(path)
            same = have == (plain(made) if made is not None else None)
        else:
            same = read(path) == done.files.get(path)
        if not same:
            raise RefusedError(
                f"{path}: would not be what it is now: later patches change it too",
                hint="tqconvert ollama-build edit NAME, and make the change there",
            )


def _holds(root: Path, path: str, oid: str | None) -> bool:
    """Whether the folder holds what will be there already."""
    place = root / path
    if oid is None:
        return not os.path.lexists(place)
    if not place.is_file() or place.is_symlink():
        return False
    return blob_id(place.read_bytes()) == oid or has_crlf(root, path, Entry("100644", oid))
