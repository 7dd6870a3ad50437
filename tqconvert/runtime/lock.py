"""One process at a time works on one thing in the cache."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqconvert import filelocks, fs
from tqconvert.errors import LockedError


@contextmanager
def held(path: Path, what: str, *, wait_s: float = 0) -> Iterator[int]:
    """Hold the lock file `path`; yields its descriptor. Raises LockedError, StorageError.

    `wait_s` is for what others hold for a short time only.

    The lock ends with the last process that has the descriptor open. Children that get it keep others
    out for as long as they run, even where their parent was killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise fs.storage_error(e, path) from e
    try:
        _lock(fd, what, time.monotonic() + wait_s)
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, what: str, until: float) -> None:
    while True:
        try:
            filelocks.lock(fd)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise LockedError(
                    f"{what}: another process works on it", hint="wait for it, then run this again"
                ) from None
            time.sleep(0.05)
        else:
            return
