"""Lock files written: completed from what an earlier lock of the same patches knows, and put in place."""

from pathlib import Path

from tqconvert.errors import IntegrityError
from tqconvert.fs import storage_error, write_atomic
from tqconvert.patches.locks.lock import Computed
from tqconvert.patches.locks.release import (
    SUFFIX,
    LockedPatch,
    ReleaseLock,
    Unresolved,
    listing_document,
    listing_name,
    read_lock,
    render_json,
    render_lock,
)


def store_lock(computed: Computed, output: Path) -> tuple[Path, ReleaseLock]:
    """Write a lock; returns its path, and it as written.

    Into a folder goes the listing of the base's files too, and the lock gets the name that `find_lock`
    looks for; one of the same patches and base that is there is completed and replaced.
    Raises IntegrityError, BadLockError, StorageError.
    """
    lock = computed.lock
    earlier, replaced = _earlier(lock, output)
    if earlier:
        lock = completed(lock, earlier)
    is_folder = output.is_dir()
    path = output / lock.file_name if is_folder else output
    try:
        if is_folder and computed.listing:
            document = listing_document(lock.base, computed.listing)
            write_atomic(output / listing_name(lock.base), render_json(document).encode())
        write_atomic(path, render_lock(lock).encode())
        if replaced and replaced != path:
            replaced.unlink()
    except OSError as e:
        raise storage_error(e, path) from e
    return path, lock


def _earlier(lock: ReleaseLock, output: Path) -> tuple[ReleaseLock | None, Path | None]:
    """The lock that is there already, and its file."""
    found = output.glob(f"*.{lock.series[:8]}{SUFFIX}") if output.is_dir() else (output,)
    for path in found:
        if path.exists():
            earlier = read_lock(path)
            if path == output or (earlier.base.tag, earlier.series) == (lock.base.tag, lock.series):
                return earlier, path
    return None, None


def completed(lock: ReleaseLock, earlier: ReleaseLock) -> ReleaseLock:
    """The lock with what only an earlier one of the same patches knows.

    Raises IntegrityError where they contradict each other.
    """
    if earlier.series != lock.series or earlier.generation is not lock.generation:
        raise IntegrityError("the earlier lock is of other patches", hint="write to another file")
    kept = []
    base = lock.base
    for field in ("tag", "commit", "tree"):
        old, new = getattr(earlier.base, field), getattr(base, field)
        if old and new and old != new:
            raise IntegrityError(f"base.{field}: {new}, the earlier lock has {old}")
        if old and not new:
            base = base._replace(**{field: old})
            kept.append(f"base.{field}")
    result = lock.result_tree
    if earlier.result_tree and result and result != earlier.result_tree:
        raise IntegrityError(f"result.tree: {result}, the earlier lock has {earlier.result_tree}")
    if earlier.result_tree and not result:
        result = earlier.result_tree
        kept.append("result.tree")
    patches, unresolved = _kept_files(lock, earlier)
    if len(unresolved) < len(lock.unresolved):
        kept.append("patches.files of what is not vendored")
    releases = lock.releases if any(g.tags for g in lock.releases) else earlier.releases
    return lock._replace(
        base=base, result_tree=result, patches=patches, unresolved=unresolved, releases=releases,
        not_recomputed=tuple(kept),
    )  # fmt: skip


def _kept_files(
    lock: ReleaseLock, earlier: ReleaseLock
) -> tuple[tuple[LockedPatch, ...], tuple[Unresolved, ...]]:
    missing = {(u.patch, u.path): u for u in lock.unresolved}
    patches = []
    for new, old in zip(lock.patches, earlier.patches, strict=True):
        files = dict(new.files)
        for path, ids in old.files.items():
            if path in files and files[path] != ids:
                raise IntegrityError(f"{new.name}: {path}: other ids than in the earlier lock")
            if missing.pop((new.name, path), None):
                files[path] = ids
        patches.append(new._replace(files=files))
    return tuple(patches), tuple(missing.values())
