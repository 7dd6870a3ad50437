"""The git repository whose top folder is a source tree: where it stands, what is changed, what it holds."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from tqconvert.errors import GitFailedError, NotFoundError, RefusedError
from tqconvert.patches.files import Reader
from tqconvert.patches.git import Git, failed
from tqconvert.patches.objects import ABSENT, blob_id

if TYPE_CHECKING:
    import subprocess

_BUSY = {
    "rebase-apply": "git am or git rebase", "rebase-merge": "git rebase", "MERGE_HEAD": "git merge",
    "CHERRY_PICK_HEAD": "git cherry-pick", "REVERT_HEAD": "git revert", "BISECT_LOG": "git bisect",
}  # fmt: skip


_OFFLINE = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
"""A partial clone says that it lacks content, instead of asking the network for it."""


class Place(NamedTuple):
    """Where HEAD is."""

    oid: str
    ref: str | None
    """`refs/heads/...`, None if no branch is checked out."""

    @property
    def name(self) -> str:
        """The branch, or the commit's beginning."""
        return self.ref.removeprefix("refs/heads/") if self.ref else self.oid[:12]


class Work(NamedTuple):
    """What differs from HEAD's commit, untracked files aside."""

    head: Place
    staged: tuple[str, ...]
    changed: tuple[str, ...]
    """Changed or removed in the folder, against the index."""
    unmerged: tuple[str, ...]


class Entry(NamedTuple):
    """One file of a commit."""

    mode: str
    id: str


class Repository:
    """A work tree with its git folder, which may lie elsewhere (`git worktree`)."""

    def __init__(self, root: Path, git: Git, git_dir: Path, common_dir: Path) -> None:
        self.root, self.git, self.git_dir, self.common_dir = root, git, git_dir, common_dir
        git.ignore_drivers()

    def work(self) -> Work:
        """What is changed. Raises NotFoundError for a repository without a commit."""
        out = self.git.bytes_of(
            "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=no", "--no-renames",
            "--ignore-submodules=all",
        )  # fmt: skip
        oid, ref = "", None
        staged, changed, unmerged = [], [], []
        for row in os.fsdecode(out).split("\0"):
            if row.startswith("# branch.oid "):
                oid = row[13:]
            elif row.startswith("# branch.head ") and row[14:] != "(detached)":
                ref = f"refs/heads/{row[14:]}"
            elif row.startswith("1 "):
                path = row.split(" ", 8)[8]
                if row[2] != ".":
                    staged.append(path)
                if row[3] != ".":
                    changed.append(path)
            elif row.startswith("u "):
                unmerged.append(row.split(" ", 10)[10])
        if oid in ("", "(initial)"):
            raise NotFoundError(
                f"{self.root}: a repository without a commit",
                hint="commit the source first: git add -A && git commit -m base",
            )
        return Work(Place(oid, ref), tuple(staged), tuple(changed), tuple(unmerged))

    def busy(self) -> str | None:
        """The operation of git that is under way, None without one."""
        for name, what in _BUSY.items():
            if (self.git_dir / name).exists():
                return what
        return None

    def tree(self, commit: str) -> dict[str, Entry]:
        """Path -> mode and id of everything in a commit."""
        out = os.fsdecode(self.git.bytes_of("ls-tree", "-r", "-z", commit))
        found = {}
        for row in out.split("\0"):
            head, tab, path = row.partition("\t")
            if tab:
                mode, _, oid = head.split(" ")
                found[path] = Entry(mode, oid)
        return found

    def reader(self, tree: Mapping[str, Entry], blobs: "Blobs") -> Reader:
        """Reads files of a commit; from the folder where they are the same, which is faster."""
        top = str(self.root)

        def read(path: str) -> bytes | None:
            entry = tree.get(path)
            if entry is None:
                return None
            if not entry.mode.startswith("100"):
                raise RefusedError(
                    f"{path}: a symbolic link or a submodule in the tree (expected a file)"
                )
            try:
                with open(f"{top}/{path}", "rb") as f:  # noqa: PTH123 - half the time of Path.open
                    data = f.read()
            except OSError:
                return blobs.read(entry.id)
            return data if blob_id(data) == entry.id else blobs.read(entry.id)

        return read

    def branch_at(self, ref: str) -> str | None:
        """The commit of a ref, None if there is no such ref."""
        done = self.git.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return os.fsdecode(done.stdout).strip() or None

    def refs(self, *patterns: str) -> dict[str, str]:
        """Ref -> object, of all that match."""
        out = self.git.text_of("for-each-ref", "--format=%(objectname) %(refname)", *patterns)
        return {ref: oid for oid, _, ref in (row.partition(" ") for row in out.splitlines())}

    def update_refs(self, changes: Mapping[str, tuple[str | None, str | None]], why: str) -> None:
        """Set refs all at once: ref -> (new commit, None to delete it; commit that must be there now).

        Raises GitFailedError; then none is changed.
        """
        lines = []
        for ref, (new, old) in changes.items():
            if new is None:
                lines.append(f"delete {ref}" + (f" {old}" if old else ""))
            else:
                lines.append(f"update {ref} {new} {old or ABSENT}")
        if lines:
            data = "".join(f"{row}\n" for row in lines).encode()
            self.git.bytes_of("update-ref", "-m", f"tqconvert: {why}", "--stdin", data=data)

    def point_head(self, place: Place, why: str) -> None:
        """Let HEAD name a branch, or a commit."""
        reason = f"tqconvert: {why}"
        if place.ref:
            self.git.bytes_of("symbolic-ref", "-m", reason, "HEAD", place.ref)
        else:
            self.git.bytes_of("update-ref", "--no-deref", "-m", reason, "HEAD", place.oid)

    def head(self) -> Place:
        """Where HEAD is, without a look at the files."""
        ref = self.git.run("symbolic-ref", "--quiet", "HEAD")
        oid = self.branch_at("HEAD")
        if oid is None:
            raise NotFoundError(f"{self.root}: a repository without a commit")
        return Place(oid, os.fsdecode(ref.stdout).strip() or None)


class Blobs:
    """Contents by id, from one `git cat-file` that starts with the first question."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process.wait()

    def read(self, name: str) -> bytes:
        """The content of a blob, by its id or as COMMIT:PATH. Raises GitFailedError."""
        if self._process is None:
            self._process = self._git.start("cat-file", "--batch")
        asked, answered = self._process.stdin, self._process.stdout
        assert asked
        assert answered
        asked.write(os.fsencode(name) + b"\n")
        asked.flush()
        head = answered.readline().split()
        if len(head) != 3 or head[1] != b"blob":
            raise GitFailedError(
                f"git cat-file: {name} is not in this repository",
                hint="a partial or shallow clone? git fetch --refetch, or clone in full",
            )
        data = _exactly(answered, int(head[2]))
        answered.read(1)
        return data


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise GitFailedError("git cat-file: ended early")
    return data


def find_repository(root: Path, env: Mapping[str, str]) -> Repository | None:
    """The repository that has `root` as its top folder, None for a plain folder."""
    if not (root / ".git").exists():
        return None
    git = Git(root, {**env, **_OFFLINE})
    done = git.run(
        "rev-parse", "--path-format=absolute", "--absolute-git-dir", "--git-common-dir",
        "--is-inside-work-tree",
    )  # fmt: skip
    rows = os.fsdecode(done.stdout).splitlines()
    if done.returncode or len(rows) != 3 or rows[2] != "true":
        git.version()  # too old a git is the first thing to say
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["not a work tree"]
        raise GitFailedError(
            f"{root}: {re.sub(r'^fatal: ', '', said[0])[:300]}", hint=failed((), done).hint
        )
    return Repository(git.folder, git, Path(rows[0]), Path(rows[1]))


def require_repository(root: Path, env: Mapping[str, str]) -> Repository:
    """The same. Raises RefusedError for a plain folder."""
    found = find_repository(root, env)
    if found is None:
        raise RefusedError(
            f"{root}: not the top folder of a git repository",
            hint="`tqconvert ollama-build apply --init` makes one of it first",
        )
    return found
