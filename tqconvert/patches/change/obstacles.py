"""What a work tree holds that a change of its files would lose: edits, files, operations of git."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.patches.change.repository import Entry, Repository, Work
from tqconvert.patches.objects import blob_id

Change = tuple[Entry | None, Entry | None]
"""A file before and afterwards; None where there is none."""


class Blocked(NamedTuple):
    """Why files may not be changed."""

    changed: tuple[str, ...]
    """They hold edits that are not committed."""
    untracked: tuple[str, ...]
    """They would be made, and are there already."""
    outside: tuple[str, ...]
    """A folder on their path is a symbolic link, or a file."""


def changes_between(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> dict[str, Change]:
    """The files in which two trees differ."""
    paths = sorted(old.keys() | new.keys())
    return {p: (old.get(p), new.get(p)) for p in paths if old.get(p) != new.get(p)}


def require_quiet(repo: Repository, work: Work) -> None:
    """Raise RefusedError during an operation of git, or with anything staged."""
    if what := repo.busy():
        raise RefusedError(
            f"{repo.root}: {what} is under way", hint="finish or abort it first: git status"
        )
    if work.unmerged or work.staged:
        names = ", ".join((work.unmerged or work.staged)[:5])
        what = "unmerged" if work.unmerged else "staged"
        raise RefusedError(
            f"{repo.root}: {what} changes: {names}", hint="commit them, or: git restore --staged ."
        )


def find_blocked(repo: Repository, work: Work, changes: Mapping[str, Change]) -> Blocked:
    """What stands in the way of changing these files."""
    changed = [p for p in work.changed if p in changes and _edited(repo, p, changes[p][0])]
    untracked, outside = [], []
    folders: dict[str, bool] = {"": True}
    for path, (old, new) in changes.items():
        if not _is_inside(repo.root, path.rpartition("/")[0], folders):
            outside.append(path)
        elif old is None and new is not None and os.path.lexists(repo.root / path):
            untracked.append(path)
    return Blocked(tuple(changed), tuple(untracked), tuple(outside))


def require_clear(repo: Repository, work: Work, changes: Mapping[str, Change]) -> None:
    """Raise RefusedError where changing these files would lose something."""
    found = find_blocked(repo, work, changes)
    for paths, what, hint in (
        (found.outside, "below a symbolic link or a file", "replace it by a folder"),
        (found.changed, "changed and not committed", "commit or stash the changes first"),
        (found.untracked, "there already and not committed", "move it away, or commit it"),
    ):
        if paths:
            more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
            raise RefusedError(f"{', '.join(paths[:5])}{more}: {what}", hint=hint)


def _edited(repo: Repository, path: str, before: Entry | None) -> bool:
    """Whether a file that git calls changed holds more than other line ends."""
    try:
        data = (repo.root / path).read_bytes()
    except OSError:
        return True
    return before is None or blob_id(plain(data)) != before.id


def _is_inside(root: Path, folder: str, known: dict[str, bool]) -> bool:
    """Whether every folder on the way is a real one, or not there yet."""
    if folder not in known:
        above = _is_inside(root, folder.rpartition("/")[0], known)
        try:
            known[folder] = above and stat.S_ISDIR(os.lstat(root / folder).st_mode)
        except FileNotFoundError:
            known[folder] = above
    return known[folder]


def has_crlf(root: Path, path: str, entry: Entry | None) -> bool:
    """Whether git turned line ends into CRLF when it wrote the file (`core.autocrlf`)."""
    if entry is None:
        return False
    try:
        data = (root / path).read_bytes()
    except OSError:
        return False
    return b"\r\n" in data and blob_id(data) != entry.id and blob_id(plain(data)) == entry.id


def plain(data: bytes) -> bytes:
    """The bytes with LF alone."""
    return data.replace(b"\r\n", b"\n")
