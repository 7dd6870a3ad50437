"""What interrupted commands left in a store, and its removal.

Partial downloads would be resumed by the next pull, so they go only when somebody asks. What a
running command holds by its lock is never touched. Blobs and manifests are Ollama's business, but for
blobs that a killed command of ours had begun to remove.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import LockedError
from tqconvert.store.layout import PRIVATE, Store
from tqconvert.store.publish import REMOVAL, finish_removals

STORE_LOCK = "store"
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Leftover:
    """Files of one interrupted piece of work, and the lock that a running one would hold."""

    paths: tuple[Path, ...]
    lock: str
    n_bytes: int
    """Bytes that they take on the disk."""
    age_s: float
    """Seconds since the last write."""
    in_use: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, and what was left alone because a running command holds it."""

    removed: tuple[Leftover, ...]
    in_use: tuple[Leftover, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes freed."""
        return sum(x.n_bytes for x in self.removed)


def plan_prune(store: Store, *, older_than_s: float, now: float) -> tuple[Leftover, ...]:
    """Leftovers last written more than `older_than_s` ago, the oldest first. Raises StorageError."""
    try:
        found = [_leftover(store, lock, paths, now) for lock, paths in _files(store).items()]
    except OSError as e:
        raise fs.storage_error(e, store.private) from e
    return tuple(sorted((x for x in found if x.age_s >= older_than_s), key=lambda x: -x.age_s))


def apply_prune(store: Store, leftovers: Sequence[Leftover]) -> Pruned:
    """Remove the leftovers, each under its lock. Raises StorageError."""
    removed, in_use = list[Leftover](), list[Leftover]()
    for x in leftovers:
        try:
            with store.locked(x.lock, timeout_s=0):
                if any(path.suffix == REMOVAL for path in x.paths):
                    finish_removals(store)
                gone = [_remove(path) for path in x.paths]
        except LockedError:
            in_use.append(x)
        else:
            (removed if all(gone) else in_use).append(x)
    return Pruned(tuple(removed), tuple(in_use))


def _files(store: Store) -> dict[str, list[Path]]:
    """Leftover files by the lock that guards them."""
    folders = {
        store.partials, store.private / "partial", store.private / "install",
        store.blobs / PRIVATE, store.blobs / PRIVATE / "partial",
    }  # fmt: skip
    groups: dict[str, list[Path]] = {}
    for folder in sorted(folders):
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                groups.setdefault(_lock_of(path), []).append(path)
    return groups


def _lock_of(path: Path) -> str:
    """A download's files carry the digest that it locks; all else is written under the store's."""
    stem = path.name.split(".", 1)[0]
    is_digest = len(stem) == 64 and not set(stem) - set("0123456789abcdef")
    return stem if is_digest else STORE_LOCK


def _leftover(store: Store, lock: str, paths: list[Path], now: float) -> Leftover:
    stats = [p.stat() for p in paths]
    n_bytes = sum(s.st_blocks * 512 if hasattr(s, "st_blocks") else s.st_size for s in stats)
    age = max(0.0, now - max(s.st_mtime for s in stats))
    return Leftover(tuple(paths), lock, n_bytes, age, _is_held(store, lock))


def _is_held(store: Store, lock: str) -> bool:
    """Whether a process holds the lock; looking creates no lock file."""
    if not (store.private / "locks" / f"{lock}.lock").exists():
        return False
    try:
        with store.locked(lock, timeout_s=0):
            return False
    except LockedError:
        return True


def _remove(path: Path) -> bool:
    """Remove the file; False for a small one that a process is writing without the store's lock."""
    try:
        if path.suffix == ".tmp":
            return fs.remove_idle(path)
        fs.remove(path)
    except OSError as e:
        raise fs.storage_error(e, path) from e
    return True
