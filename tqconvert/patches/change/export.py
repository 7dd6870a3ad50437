"""Patch files from the commits of a tree: for who edits these with git itself, and as a test of drift."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.patches.change.apply_queue import require_no_rebase
from tqconvert.patches.change.chain import Chain, read_chain
from tqconvert.patches.change.move import at_work, recover
from tqconvert.patches.change.obstacles import require_quiet
from tqconvert.patches.change.operation import REFS, State
from tqconvert.patches.change.refresh import commit_diffs, settle
from tqconvert.patches.change.repository import Blobs, Place, Repository
from tqconvert.patches.change.restack import (
    Edit,
    Member,
    files_to_write,
    members_of,
    restack,
)
from tqconvert.patches.change.stack import Situation, look
from tqconvert.patches.embed import TARGET
from tqconvert.patches.objects import ABSENT
from tqconvert.patches.queue import Origin, Queue
from tqconvert.patches.walk import apply_step

EDITED = "edited in the tree"


class Drift(NamedTuple):
    """A patch whose file and commit differ."""

    name: str
    what: str


class Exported(NamedTuple):
    """What exporting did, or found."""

    head: Place
    patches: tuple[str, ...]
    """All that were compared."""
    drift: tuple[Drift, ...]
    files: tuple[Path, ...]
    """Files of `ollama_patches` that were written."""


def check_export(repo: Repository, queue: Queue) -> Exported:
    """Compare each commit of a patch with its file; nothing is written. Raises RefusedError."""
    with Blobs(repo.git) as blobs:
        now = look(repo, blobs)
        members = _members(repo, now, queue)
        edited = edited_members(repo, blobs, now, members, queue)
        stale = _texts(members)
        names = {d.name for d in stale}
        found = [
            *stale,
            *(Drift(n, EDITED) for i in edited if (n := members[i].link.name) not in names),
        ]
        return Exported(now.work.head, tuple(m.link.name for m in members), tuple(found), ())


def export(repo: Repository, queue: Queue, folder: Path) -> Exported:
    """Write the files of all patches whose commits were edited, and the chain anew.

    Files whose change is the same keep their bytes. Raises RefusedError, LockedError, StorageError;
    then everything is as it was.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recover(repo, state)
        require_no_rebase(state)
        now = look(repo, blobs)
        require_quiet(repo, now.work)
        members = _members(repo, now, queue)
        if stale := _texts(members):
            raise RefusedError(
                f"{stale[0].name}: {stale[0].what}",
                hint="tqconvert ollama-build apply takes the files' side",
            )
        edited = edited_members(repo, blobs, now, members, queue)
        edits = [whole_edit(repo, members, n) for n in edited]
        names = tuple(m.link.name for m in members)
        if not edits:
            return Exported(now.work.head, names, (), ())
        done = restack(repo, now.tree, now.files, members, edits, queue)
        files = files_to_write(folder, queue, members, done)
        record = _record(repo, now.chain)
        head = settle(repo, state, blobs, now, record, done, files, "export")
        drift = tuple(Drift(members[n].link.name, EDITED) for n in edited)
        return Exported(head, names, drift, tuple(files))


def _members(repo: Repository, now: Situation, queue: Queue) -> tuple[Member, ...]:
    if now.chain.on_top:
        oid, subject = now.chain.on_top[0]
        raise RefusedError(
            f"{oid[:9]} {subject}: a commit that is no patch",
            hint="tqconvert ollama-build refresh takes it into one",
        )
    if not now.chain.links:
        raise RefusedError(
            f"{repo.root}: no patches of tqconvert are applied",
            hint="tqconvert ollama-build apply",
        )
    return members_of(now.chain, queue)


def _texts(members: Sequence[Member]) -> list[Drift]:
    """Patches whose files are not those that were applied."""
    return [
        Drift(m.link.name, "its file was changed since it was applied")
        for m in members
        if m.patch.sha256 != m.link.sha256
    ]


def edited_members(
    repo: Repository, blobs: Blobs, now: Situation, members: Sequence[Member], queue: Queue,
    *, theirs: bool = False,
) -> list[int]:  # fmt: skip
    """Members whose commits do something else than their patches.

    Raises RefusedError if one of them is Ollama's, unless `theirs` may be among them.
    """
    found = []
    rows = _changed(repo, [m.link.commit for m in members])
    files = now.files.copy()
    for number, member in enumerate(members):
        made = files.copy()
        fit = apply_step(made, member.alone, queue.checkout.layout)
        wanted = rows[member.link.commit]
        paths = {*wanted, *(p for f in fit.files for p in (f.diff.old, f.diff.new) if p)}
        paths.discard(TARGET)
        if not fit.ok or any(made.id(p) != wanted.get(p, files.id(p)) for p in paths):
            if member.step.origin is Origin.OLLAMA and not theirs:
                raise RefusedError(
                    f"{member.link.name}: Ollama's own, and edited in the tree",
                    hint="put the edit into a patch of ours",
                )
            found.append(number)
        for path, oid in wanted.items():
            files.put(path, None if oid == ABSENT else blobs.read(oid))
    return found


def _changed(repo: Repository, commits: Sequence[str]) -> dict[str, dict[str, str]]:
    """Commit -> path -> blob id that it leaves, of everything that it changes."""
    out = repo.git.bytes_of(
        "diff-tree", "--stdin", "-r", "-z", "--raw", "--no-renames", "--no-abbrev",
        data="".join(f"{c}\n" for c in commits).encode(),
    )  # fmt: skip
    found: dict[str, dict[str, str]] = {c: {} for c in commits}
    commit, parts = "", iter(os.fsdecode(out).split("\0"))
    for part in parts:
        row = part.lstrip("\n")
        if row in found:
            commit = row
        elif row.startswith(":"):
            found[commit][next(parts)] = row.split(" ")[3]
    return found


def whole_edit(repo: Repository, members: Sequence[Member], number: int) -> Edit:
    """Everything that a commit does, in the stead of its patch."""
    commit = members[number].link.commit
    return Edit(
        number, commit_diffs(repo, f"{commit}~1", commit), f"commit {commit[:9]}", whole=True
    )


def _record(repo: Repository, chain: Chain) -> str | None:
    """The ref that records what tqconvert had written on this base."""
    for ref, oid in repo.refs(f"{REFS}/applied/").items():
        if read_chain(repo, oid).base == chain.base:
            return ref
    return None
