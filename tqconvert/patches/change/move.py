"""A work tree moved from one commit to another so that it arrives or stays where it was.

Unlike `git checkout`: everything is written aside first (a full disk is met there), then files trade
places by rename, which needs no space, forth or back. Files that both commits hold alike are not touched,
whatever was done to them. git's own `index.lock` is held throughout, so that no other git runs in between.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import GitFailedError, LockedError, RefusedError, StorageError
from tqconvert.patches.change.chain import NewCommit, drop_crash_reports
from tqconvert.patches.change.obstacles import Change, plain
from tqconvert.patches.change.operation import (
    DONE,
    FOLDER,
    MOVE,
    REFS,
    Operation,
    State,
    new_id,
)
from tqconvert.patches.change.patch_files import digests, restore_files, write_files
from tqconvert.patches.change.repository import Blobs, Place, Repository, find_repository
from tqconvert.patches.change.stage import Stage, check_index, index_with, prune
from tqconvert.patches.objects import blob_id

KEPT = 20
"""Operations of which it is kept where HEAD was before them."""
_MARK = b"tqconvert "
"""How an `index.lock` of ours begins; git's are empty or begin with DIRC."""


def carry_out(
    repo: Repository, state: State, op: Operation, changes: Mapping[str, Change],
    contents: Callable[[str], bytes], files: Mapping[Path, bytes | None] | None = None,
    then: Operation | None = None, **facts: object,
) -> None:  # fmt: skip
    """Take files of `ollama_patches`, work tree, index, refs and HEAD from `op.before` to `op.after`.

    `contents` gives the bytes of a blob, `facts` go into the log; `then` is on record afterwards.
    Whatever is raised, all is as it was.
    """
    try:
        state.begin(op, then or op._replace(phase=DONE))
        if files:
            write_files(state, files)
        if changes or op.after != op.before or op.refs:
            _move(repo, state, op, changes, contents)
        # What is staged goes only once it is on record that nothing is to be taken back any more.
        state.advance()
    except BaseException as e:
        _take_back(repo, state, op, e)
        if isinstance(e, OSError):
            raise fs.storage_error(e, e.filename or repo.root) from e
        raise
    clear(repo, state)
    if not then:
        state.end(op, **facts)
    _drop_oldest(repo)


def _drop_oldest(repo: Repository) -> None:
    """Forget where HEAD was before operations of long ago."""
    folder = repo.common_dir / REFS / "orig"
    if folder.is_dir() and len(os.listdir(folder)) > 2 * KEPT:
        there = sorted(repo.refs(f"{REFS}/orig/").items())  # their names begin with the time
        with suppress(GitFailedError):  # the operation is done; the next one tries again
            repo.update_refs({ref: (None, oid) for ref, oid in there[:-KEPT]}, "clear")


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
        name, command, MOVE, before, after, {**refs, **kept}, paths, digests(files or {}), {}
    )


def _move(
    repo: Repository, state: State, op: Operation, changes: Mapping[str, Change],
    contents: Callable[[str], bytes],
) -> None:  # fmt: skip
    take_index_lock(repo, state, op)
    stage = Stage(repo, state)
    stage.fill({p: c for p, c in changes.items() if p in op.paths}, contents)
    index_with(repo, state, changes)
    stage.swap()
    check_index(repo, state, op, changes)
    fs.rename(state.stage / "index", repo.git_dir / "index")
    # Refs that were only needed until there is another go in the same step.
    now = {r: v for r, v in op.refs.items() if v[0] or r.startswith(f"{REFS}/new/")}
    repo.update_refs(now, op.command)
    if op.after != op.before:
        repo.point_head(op.after, op.command)
    _drop_refs(repo, op)


def _drop_refs(repo: Repository, op: Operation) -> None:
    """Delete the refs that the operation ends, once HEAD is on none of them."""
    gone = {
        r: (None, was)
        for r, (new, was) in op.refs.items()
        if new is None and not r.startswith(f"{REFS}/new/")
    }
    there = repo.refs(*gone) if gone else {}
    repo.update_refs({r: v for r, v in gone.items() if there.get(r) == v[1]}, op.command)


def _take_back(repo: Repository, state: State, op: Operation, cause: BaseException) -> None:
    try:
        if op.after != op.before and repo.head() == op.after:
            repo.point_head(op.before, f"{op.command} taken back")
        roll_back(repo, state, op)
        if "outer" in op.more:
            state.begin(Operation.from_json(op.more["outer"]))
        else:
            fs.remove(state.op_path)
    except (OSError, GitFailedError) as e:
        reason = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) else str(e)
        raise StorageError(
            f"{reason}; what `{op.command}` changed could not be put back yet",
            hint="make room, then: tqconvert ollama-build abort",
        ) from cause


def take_index_lock(repo: Repository, state: State, op: Operation) -> None:
    """Keep all other git commands from changing the index. Raises LockedError with its age."""
    path = repo.git_dir / "index.lock"
    mine = state.stage / "mark"
    mark = _MARK + op.id.encode() + b"\n"
    try:
        fs.make_folders(state.stage)
        fs.write_new(mine, mark, 0o644)
        try:
            fs.link(mine, path)  # never without the mark that tells it from git's own
        except OSError as e:
            if not fs.unsupported(e):
                raise
            fs.write_new(path, mark, 0o644)
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
        drop_fresh(repo)
        return None
    if op.phase not in (MOVE, DONE):
        clear(repo, state)
        return None
    head = repo.head()
    if op.phase == DONE or (head == op.after and op.after != op.before):
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
    if "outer" in op.more:
        state.begin(Operation.from_json(op.more["outer"]))
    else:
        state.end(op, recovered="taken back")
    return f"took back `{op.command}`, which had been interrupted"


def recover_tree(root: Path, env: Mapping[str, str]) -> str | None:
    """End what a killed process left in a tree, patch files included: before these are read.

    Returns what it was and how it ended. Raises RefusedError, LockedError, StorageError.
    """
    git_dir = root / ".git"
    if git_dir.is_dir() and not (git_dir / FOLDER / "op.json").exists():
        return None  # without asking git
    repo = find_repository(root, env)
    if repo is None:
        return None
    state = State(repo)
    if not state.op_path.exists():
        return None
    with state.locked():
        return recover(repo, state)


@contextmanager
def at_work(repo: Repository, state: State) -> Iterator[None]:
    """Hold the lock; commits that were made for an operation that never began are let go."""
    with state.locked():
        try:
            yield
        except BaseException:
            if not state.op_path.exists():
                with suppress(GitFailedError):
                    drop_fresh(repo)
            raise


def drop_fresh(repo: Repository) -> None:
    """Delete the refs that hold commits until an operation has a place for them."""
    if not (repo.common_dir / REFS / "new").is_dir():
        return
    stray = repo.refs(f"{REFS}/new/")
    repo.update_refs({ref: (None, oid) for ref, oid in stray.items()}, "clear")


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
            prune(repo.root, path)
    restore_files(state, op)
    if (state.stage / "index.old").exists():
        fs.rename(state.stage / "index.old", repo.git_dir / "index")
    there = repo.refs(*op.refs) if op.refs else {}
    back = {r: (was, new) for r, (new, was) in op.refs.items() if there.get(r) == new != was}
    with suppress(GitFailedError):
        repo.update_refs(back, f"{op.command} taken back")
    if "outer" not in op.more:
        drop_fresh(repo)
    clear(repo, state)


def clear(repo: Repository, state: State) -> None:
    """Remove what is staged, an `index.lock` of ours, and scratch."""
    drop_crash_reports(repo)
    fs.remove(state.next_path)
    for path in state.folder.glob(".tqconvert-*.tmp"):
        path.unlink(missing_ok=True)
    lock = repo.git_dir / "index.lock"
    with suppress(OSError):
        if lock.read_bytes().startswith(_MARK):
            fs.remove(lock)
    for stage in {state.stage, state.folder / "stage"}:
        if stage.is_dir():
            import shutil

            shutil.rmtree(stage, ignore_errors=True)


def _holds(place: Path, oid: str) -> bool:
    """Whether the file there is this blob, whatever its line ends."""
    if not place.is_file():
        return False
    data = place.read_bytes()
    return oid in (blob_id(data), blob_id(plain(data)))


def contents_of(blobs: Blobs, commits: Iterable[NewCommit] = ()) -> Callable[[str], bytes]:
    """Contents by blob id: what is in memory already, else from the repository."""
    table = {c.ids[p]: d for c in commits for p, d in c.changes.items() if d is not None}

    def read(oid: str) -> bytes:
        return table[oid] if oid in table else blobs.read(oid)

    return read
