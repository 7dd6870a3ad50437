"""Patches as commits: a chain that is the same, byte for byte, wherever the same patches meet the same base.

Each commit ends in a trailer `TQ-Patch: NAME sha256:DIGEST`. What is applied is read back from there:
the commits on top of HEAD that have one, down to the first that has none, which is the base.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from tqconvert.errors import GitFailedError, StorageError
from tqconvert.patches.change.repository import Entry, Repository
from tqconvert.patches.mail import DATE, IDENTITY, read_mail
from tqconvert.patches.objects import blob_id
from tqconvert.patches.queue import FilesStep
from tqconvert.patches.walk import StepFit

TRAILER = "TQ-Patch"
DEEPEST = 400
"""Commits below HEAD among which ours are looked for."""

_VALUE = re.compile(r"(\S+) sha256:([0-9a-f]{64})")


class Link(NamedTuple):
    """A commit that is a patch."""

    commit: str
    parent: str
    tree: str
    subject: str
    name: str
    """The patch, without `.patch`."""
    sha256: str


class Chain(NamedTuple):
    """What the history below a commit says about patches."""

    links: tuple[Link, ...]
    """In order of application."""
    base: str
    """The commit that the first patch stands on."""
    on_top: tuple[tuple[str, str], ...]
    """Commits above the last patch that are no patches: id and subject, the oldest first."""

    @property
    def top(self) -> str:
        """The commit of the last patch, the base without one."""
        return self.links[-1].commit if self.links else self.base


class NewCommit(NamedTuple):
    """A patch about to become a commit."""

    name: str
    author: bytes
    date: bytes
    message: bytes
    changes: Mapping[str, bytes | None]
    """Path -> content, None for a file that goes."""
    modes: Mapping[str, str]
    ids: Mapping[str, str]
    """Path -> blob id of each content."""


def new_commit(
    name: str, message: bytes, changes: Mapping[str, bytes | None], modes: Mapping[str, str]
) -> NewCommit:
    """A commit of ours that is no patch, with its ids."""
    ids = {p: blob_id(d) for p, d in changes.items() if d is not None}
    return NewCommit(name, IDENTITY, DATE, message, changes, modes, ids)


def read_chain(repo: Repository, commit: str) -> Chain:
    """The patches that a commit stands on."""
    form = f"%H%x00%P%x00%T%x00%s%x00%(trailers:key={TRAILER},valueonly,separator=%x01)%x1e"
    out = repo.git.text_of("log", "--first-parent", f"-n{DEEPEST}", f"--format={form}", commit)
    links: list[Link] = []
    above: list[tuple[str, str]] = []
    base = ""
    for row in out.split("\x1e"):
        if not row.strip():
            continue
        oid, parents, tree, subject, trailers = row.lstrip("\n").split("\0")
        found = _VALUE.fullmatch(trailers.split("\x01")[-1].strip())
        if found and " " not in parents and parents:
            links.append(Link(oid, parents, tree, subject, found[1], found[2]))
        elif links:
            base = oid
            break
        else:
            above.append((oid, subject))
    if not links:
        return Chain((), commit, ())
    return Chain(tuple(reversed(links)), base or links[-1].parent, tuple(reversed(above)))


def plan_commits(fits: Iterable[StepFit], tree: Mapping[str, Entry]) -> tuple[NewCommit, ...]:
    """The commits of applied steps, on a base with these files; steps without a file have none."""
    modes = {path: entry.mode for path, entry in tree.items()}
    commits = []
    for fit in fits:
        changes: dict[str, bytes | None] = {}
        ids: dict[str, str] = {}
        for file in fit.files:
            diff = file.diff
            if diff.new is None:
                changes[diff.path] = None
                continue
            old_mode = modes.get(diff.old or "", "100644")
            if diff.old and diff.old != diff.new:
                changes[diff.old] = None
            changes[diff.new] = file.placement.data
            ids[diff.new] = file.after
            # An `index` line's mode says what the file had, and changes nothing.
            changed = diff.old is None or diff.old_mode != diff.new_mode
            modes[diff.new] = (diff.new_mode or old_mode) if changed else old_mode
        if not changes:
            continue
        kept = {p: modes[p] for p, d in changes.items() if d is not None}
        commits.append(commit_of(fit, changes, kept, ids))
    return tuple(commits)


def commit_of(
    fit: StepFit, changes: Mapping[str, bytes | None], modes: Mapping[str, str],
    ids: Mapping[str, str],
) -> NewCommit:  # fmt: skip
    """The commit of one patch with the changes given."""
    name = fit.patch.name.removesuffix(".patch")
    title = "Add new files" if isinstance(fit.step, FilesStep) else name
    mail = read_mail(fit.patch.data, title)
    trailer = f"\n{TRAILER}: {name} sha256:{fit.patch.sha256}\n".encode()
    return NewCommit(name, mail.author, mail.date, mail.message + trailer, changes, modes, ids)


def write_commits(
    repo: Repository, base: str | None, commits: Sequence[NewCommit], ref: str
) -> str:
    """Write the commits onto `base` (None: onto nothing) and let `ref` name the last; its id.

    One process for all of them. Raises StorageError on a full disk; then the ref is as it was.
    """
    if not commits:
        assert base
        repo.update_refs({ref: (base, None)}, "apply")
        return base
    done = repo.git.feed(
        "-c", "pack.compression=1", "-c", "core.compression=1", "fast-import", "--quiet", "--done",
        "--date-format=raw", "--force", "--depth=0", data=_stream(base, commits, ref),
    )  # fmt: skip
    if done.returncode:
        drop_crash_reports(repo)
        said = done.stderr.decode("utf-8", "replace").strip()
        raise writing_failed("git fast-import", said, done.returncode)
    return done.stdout.decode().strip()


def writing_failed(what: str, said: str, code: int) -> StorageError | GitFailedError:
    """The error of a git command that could not write, told from others by what it said."""
    first = said.splitlines()[0][:300] if said else f"ended with {code}"
    full = re.search(
        r"No space left|File too large|write error|Read-only file|Permission denied"
        r"|unable to (write|create)|Disk quota|cannot (pwrite|create)|unable to append", said
    )  # fmt: skip
    if full or code in (-25, 153):  # SIGXFSZ
        return StorageError(
            f"{what}: {first}", hint="free space on that disk and run the same command again"
        )
    return GitFailedError(f"{what}: {first}")


def _stream(base: str | None, commits: Sequence[NewCommit], ref: str) -> Iterable[bytes]:
    """What fast-import reads: contents first, then the commits that name them."""
    marks: dict[str, int] = {}
    # First, so that a crash report of git's names it, and can be told to be of ours.
    yield b"reset %s\n" % ref.encode()
    if base:
        yield b"from %s\n\n" % base.encode()
    versions: dict[str, list[tuple[str, bytes]]] = {}
    for commit in commits:
        for path, data in commit.changes.items():
            if data is not None:
                versions.setdefault(path, []).append((commit.ids[path], data))
    for rows in versions.values():
        for oid, data in rows:
            if oid not in marks:
                marks[oid] = len(marks) + 1
                yield b"blob\nmark :%d\ndata %d\n" % (marks[oid], len(data))
                yield data
                yield b"\n"
    for number, commit in enumerate(commits):
        yield b"commit %s\nmark :%d\n" % (ref.encode(), len(marks) + 1 + number)
        yield b"author %s %s\ncommitter %s %s\n" % (
            commit.author, commit.date, IDENTITY, commit.date
        )  # fmt: skip
        yield b"data %d\n%s\n" % (len(commit.message), commit.message)
        for path, new in commit.changes.items():
            if new is None:
                yield b"D %s\n" % _quoted(path)
            else:
                mode = commit.modes.get(path, "100644").encode()
                yield b"M %s :%d %s\n" % (mode, marks[commit.ids[path]], _quoted(path))
        yield b"\n"
    yield b"get-mark :%d\ndone\n" % (len(marks) + len(commits))


def _quoted(path: str) -> bytes:
    raw = os.fsencode(path)
    if raw.startswith(b'"') or b"\n" in raw:
        raw = b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
    return raw


def drop_crash_reports(repo: Repository) -> None:
    """Remove what `git fast-import` left of an import of ours that did not come to its end."""
    for report in repo.git_dir.glob("fast_import_crash_*"):
        with suppress(OSError):
            if b"refs/tqconvert/" in report.read_bytes():
                report.unlink()
