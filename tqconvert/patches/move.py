"""A work tree moved from one commit to another so that it arrives or stays where it was.

Unlike `git checkout`: everything is written aside first (a full disk is met there), then files trade
places by rename, which needs no space, forth or back. Files that both commits hold alike are not touched,
whatever was done to them. git's own `index.lock` is held throughout, so that no other git runs in between.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import GitFailedError, LockedError, RefusedError, StorageError, TqError
from tqconvert.patches.chain import writing_failed
from tqconvert.patches.objects import blob_id
from tqconvert.patches.obstacles import Change, has_crlf, plain
from tqconvert.patches.operation import REFS, Operation, State, new_id
from tqconvert.patches.patch_files import digests, restore_files, write_files
from tqconvert.patches.repository import Blobs, Place, Repository

_MARK = b"tqconvert "
"""How an `index.lock` of ours begins; git's are empty or begin with DIRC."""


def carry_out(
    repo: Repository, state: State, op: Operation, changes: Mapping[str, Change],
    contents: Callable[[str], bytes], files: Mapping[Path, bytes | None] | None = None,
    **facts: object,
) -> None:  # fmt: skip
    """Take files of `ollama_patches`, work tree, index, refs and HEAD from `op.before` to `op.after`.

    `contents` gives the bytes of a blob, `facts` go into the log. Whatever is raised, all is as it was.
    """
    state.begin(op)
    try:
        if files:
            write_files(state, files)
        if changes or op.after != op.before or op.refs:
            _move(repo, state, op, changes, contents)
    except BaseException as e:
        _take_back(repo, state, op, e)
        if isinstance(e, OSError):
            raise fs.storage_error(e, e.filename or repo.root) from e
        raise
    clear(repo, state)
    state.end(op, **facts)


def operation(
    command: str, before: Place, after: Place, changes: Mapping[str, Change],
    refs: Mapping[str, tuple[str | None, str | None]],
    files: Mapping[Path, bytes | None] | None = None, *, name: str | None = None,
    in_place: Collection[str] = (),
) -> Operation:  # fmt: skip
    """A move to be carried out; `refs/tqconvert/orig/ID` will hold where HEAD was.

    Files `in_place` are what they will be: the user wrote them, and only the index learns of them.
    """
    name = name or new_id(command)
    paths = {
        p: (a.id if a else None, b.id if b else None)
        for p, (a, b) in changes.items() if p not in in_place
    }  # fmt: skip
    kept = {f"{REFS}/orig/{name}": (before.oid, None)}
    return Operation(
        name, command, "move", before, after, {**refs, **kept}, paths, digests(files or {}), {}
    )


def _move(
    repo: Repository, state: State, op: Operation, changes: Mapping[str, Change],
    contents: Callable[[str], bytes],
) -> None:  # fmt: skip
    take_index_lock(repo, op)
    stage = _Stage(repo, state)
    stage.fill({p: c for p, c in changes.items() if p in op.paths}, contents)
    _index_with(repo, state, changes)
    stage.swap()
    _check_index(repo, state, op, changes)
    fs.rename(state.stage / "index", repo.git_dir / "index")
    repo.update_refs({r: v for r, v in op.refs.items() if v[0]}, op.command)
    if op.after != op.before:
        repo.point_head(op.after, op.command)
    _drop_refs(repo, op)


def _drop_refs(repo: Repository, op: Operation) -> None:
    """Delete the refs that the operation ends, once HEAD is on none of them."""
    gone = {r: (None, was) for r, (new, was) in op.refs.items() if new is None}
    there = repo.refs(*gone) if gone else {}
    repo.update_refs({r: v for r, v in gone.items() if there.get(r) == v[1]}, op.command)


def _take_back(repo: Repository, state: State, op: Operation, cause: BaseException) -> None:
    try:
        roll_back(repo, state, op)
        fs.remove(state.op_path)
    except OSError as e:
        raise StorageError(
            f"{e.filename}: {e.strerror}; what `{op.command}` changed could not be put back yet",
            hint="make room, then: tqconvert ollama-build abort",
        ) from cause


def take_index_lock(repo: Repository, op: Operation) -> None:
    """Keep all other git commands from changing the index. Raises LockedError with its age."""
    path = repo.git_dir / "index.lock"
    try:
        fs.write_new(path, _MARK + op.id.encode() + b"\n", 0o644)
    except FileExistsError:
        import time

        age = int(time.time() - path.stat().st_mtime) if path.exists() else 0
        raise LockedError(
            f"{path}: another git command is at work, or was killed (the lock is {age} s old)",
            hint=f"if no git runs in this repository: rm {path}",
        ) from None
    except OSError as e:
        raise fs.storage_error(e, path) from e


def recover(repo: Repository, state: State) -> str | None:
    """End an operation that a killed process left; says which and how, None if there was none.

    One that had come to its end is finished, any other is taken back. Raises RefusedError if HEAD has
    been moved since by hand.
    """
    op = state.pending()
    if op is None:
        clear(repo, state)
        if (repo.common_dir / REFS / "new").is_dir():
            stray = repo.refs(f"{REFS}/new/")
            repo.update_refs({ref: (None, oid) for ref, oid in stray.items()}, "clear")
        return None
    if op.phase != "move":
        return None
    head = repo.head()
    if head == op.after and op.after != op.before:
        _drop_refs(repo, op)
        clear(repo, state)
        state.end(op, recovered="finished")
        return f"finished `{op.command}`, which had been interrupted"
    if head.ref != op.before.ref or head.oid != op.before.oid:
        raise RefusedError(
            f"{repo.root}: `{op.command}` was interrupted, and HEAD has been moved since",
            hint=f"refs/tqconvert/orig/{op.id} is where it was; rm {state.op_path} to go on from here",
        )
    roll_back(repo, state, op)
    state.end(op, recovered="taken back")
    return f"took back `{op.command}`, which had been interrupted"


def roll_back(repo: Repository, state: State, op: Operation) -> None:
    """Put back everything that an operation has changed so far."""
    old = state.stage / "old"
    for number, (path, (_, after)) in enumerate(op.paths.items()):
        place, kept = repo.root / path, old / str(number)
        if kept.exists():
            with suppress(FileNotFoundError):
                now = place.read_bytes()
                if blob_id(now) not in op.paths[path] and now != kept.read_bytes():
                    fs.rename(place, f"{place}.tqconvert-saved")
            fs.make_folders(place.parent)
            fs.rename(kept, place)
        elif op.paths[path][0] is None and after and _holds(place, after):
            fs.remove(place)
            _prune(repo.root, path)
    restore_files(state, op)
    if (state.stage / "index.old").exists():
        fs.rename(state.stage / "index.old", repo.git_dir / "index")
    there = repo.refs(*op.refs) if op.refs else {}
    back = {r: (was, new) for r, (new, was) in op.refs.items() if there.get(r) == new != was}
    with suppress(GitFailedError):
        repo.update_refs(back, f"{op.command} taken back")
    clear(repo, state)


def clear(repo: Repository, state: State) -> None:
    """Remove what is staged, and an `index.lock` of ours."""
    lock = repo.git_dir / "index.lock"
    with suppress(OSError):
        if lock.read_bytes().startswith(_MARK):
            fs.remove(lock)
    for stage in {state.stage, state.folder / "stage"}:
        if stage.is_dir():
            import shutil

            shutil.rmtree(stage, ignore_errors=True)


class _Stage:
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
                    _prune(self.root, path)
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


def _index_with(repo: Repository, state: State, changes: Mapping[str, Change]) -> None:
    """A copy of the index with the new entries, beside a copy of the old one."""
    data = (repo.git_dir / "index").read_bytes()
    fs.write_new(state.stage / "index.old", data, 0o644)
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


def _check_index(
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


def _holds(place: Path, oid: str) -> bool:
    """Whether the file there is this blob, whatever its line ends."""
    if not place.is_file():
        return False
    data = place.read_bytes()
    return oid in (blob_id(data), blob_id(plain(data)))


def _prune(root: Path, path: str) -> None:
    """Remove the folders that a file left empty."""
    folder = path.rpartition("/")[0]
    while folder and not os.listdir(root / folder):
        fs.remove_folder(root / folder)
        folder = folder.rpartition("/")[0]


def contents_of(blobs: Blobs, known: Iterable[bytes] = ()) -> Callable[[str], bytes]:
    """Contents by blob id: what is in memory already, else from the repository."""
    table = {blob_id(data): data for data in known}

    def read(oid: str) -> bytes:
        return table[oid] if oid in table else blobs.read(oid)

    return read
