"""One process at a time works on one thing in the cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import LockedError


@contextmanager
def held(path: Path, what: str) -> Iterator[int]:
    """Hold the lock file `path`; yields its descriptor. Raises LockedError, StorageError.

    The lock ends with the last process that has the descriptor open. Children that get it keep others
    out for as long as they run, even where their parent was killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise fs.storage_error(e, path) from e
    try:
        try:
            fs.lock(fd)
        except BlockingIOError:
            raise LockedError(
                f"{what}: another process works on it", hint="wait for it, then run this again"
            ) from None
        yield fd
    finally:
        os.close(fd)
