"""Files and index of a move: written aside first, then put in place by rename."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import TqError
from tqconvert.patches.change.chain import writing_failed
from tqconvert.patches.change.obstacles import Change, has_crlf, plain
from tqconvert.patches.change.operation import Operation, State
from tqconvert.patches.change.repository import Repository


class Stage:
    """Files written aside, then put in place."""

    def __init__(self, repo: Repository, state: State) -> None:
        self.root, self.new, self.old = repo.root, state.stage / "new", state.stage / "old"
        self.changes: Mapping[str, Change] = {}

    def fill(self, changes: Mapping[str, Change], contents: Callable[[str], bytes]) -> None:
        """Write the new files and the folders that they need; nothing in the tree has changed yet."""
        fs.make_folders(self.new)
        fs.make_folders(self.old)
        self.changes = changes
        converted = {p for p, (before, _) in changes.items() if has_crlf(self.root, p, before)}
        for number, (path, (before, after)) in enumerate(changes.items()):
            if after is not None:
                data = contents(after.id)
                if path in converted or (before is None and converted and b"\0" not in data):
                    data = plain(data).replace(b"\n", b"\r\n")
                fs.write_new(
                    self.new / str(number), data, 0o777 if after.mode == "100755" else 0o666
                )

    def swap(self) -> None:
        """Each new file to its place, the one that was there aside."""
        for number, (path, (before, after)) in enumerate(self.changes.items()):
            place, kept = self.root / path, self.old / str(number)
            if before is not None and place.exists():
                if after is None:
                    fs.rename(place, kept)
                    prune(self.root, path)
                    continue
                try:
                    fs.link(place, kept)  # so that the place is never empty
                except OSError as e:
                    if not fs.unsupported(e):
                        raise
                    fs.rename(place, kept)
            if after is not None:
                if before is None:
                    fs.make_folders(place.parent)
                fs.rename(self.new / str(number), place)


def index_with(repo: Repository, state: State, changes: Mapping[str, Change]) -> None:
    """A copy of the index with the new entries, beside a copy of the old one."""
    data = (repo.git_dir / "index").read_bytes()
    fs.write_new(state.stage / "index.part", data, 0o644)
    fs.rename(state.stage / "index.part", state.stage / "index.old")
    fs.write_new(state.stage / "index", data, 0o644)
    rows = []
    for path, (_, after) in changes.items():
        mode, oid = after or ("0", "0" * 40)
        rows.append(f"{mode} {oid}\t{path}\0")
    done = repo.git.run(
        "update-index", "-z", "--index-info", data=os.fsencode("".join(rows)), env=_own(state)
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise writing_failed("git update-index", said, done.returncode)


def check_index(
    repo: Repository, state: State, op: Operation, changes: Mapping[str, Change]
) -> None:
    """Compare index and folder with what was computed."""
    done = repo.git.run("update-index", "-q", "--refresh", env=_own(state))
    if done.returncode not in (0, 1):
        said = done.stderr.decode("utf-8", "replace").strip()
        raise writing_failed("git update-index", said, done.returncode)
    stale = {r.removesuffix(": needs update") for r in os.fsdecode(done.stdout).splitlines()}
    wrong = sorted(p for p in stale & changes.keys() if not has_crlf(repo.root, p, changes[p][1]))
    wrong += os.fsdecode(
        repo.git.bytes_of(
            "diff-index", "--cached", "--name-only", "-z", op.after.oid, "--", env=_own(state)
        )
    ).split("\0")[:-1]
    if wrong:
        raise TqError(
            f"{', '.join(wrong[:5])}: not what was computed (a bug, or a disk that fails)"
        )


def _own(state: State) -> dict[str, str]:
    return {"GIT_INDEX_FILE": str(state.stage / "index")}


def prune(root: Path, path: str) -> None:
    """Remove the folders that a file left empty."""
    folder = path.rpartition("/")[0]
    while folder and not os.listdir(root / folder):
        fs.remove_folder(root / folder)
        folder = folder.rpartition("/")[0]
