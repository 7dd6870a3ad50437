"""What keeps a file from being changed in place, each with the way that works."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqconvert import filelocks
from tqconvert.errors import LockedError, RefusedError

_ELSEWHERE = "write another file: -o OUT"
_DIGEST_NAME = r"sha256[-:][0-9a-f]{64}"


def check_in_place(path: Path) -> None:
    """Raise RefusedError if the file (no symbolic link) must keep its bytes or cannot be written."""
    store = _store_of(path)
    if store:
        raise RefusedError(
            f"{path}: is in {store}, which names files by their digest",
            hint=f"{_ELSEWHERE}; `tqconvert install` puts that into Ollama's store",
        )
    found = path.stat()
    if found.st_nlink > 1:
        raise RefusedError(
            f"{path}: has {found.st_nlink} hard links, and all names would change",
            hint=_ELSEWHERE,
        )
    # The mode is looked at too, because root may write what its owner protected.
    if not found.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(f"{path}: is read-only", hint=f"chmod u+w, or {_ELSEWHERE}")
    if not os.access(path, os.W_OK):
        raise RefusedError(f"{path}: this user may not write it", hint=_ELSEWHERE)


@contextmanager
def exclusive(fd: int, path: Path) -> Iterator[bool]:
    """Nobody else has the file open; True if the kernel vouches for it (a write lease).

    The process must have no second descriptor of the file. Raises RefusedError if it is open
    elsewhere, LockedError if another tqconvert is changing it.
    """
    try:
        filelocks.lock(fd)
    except BlockingIOError:
        raise LockedError(
            f"{path}: another tqconvert is changing it", hint="run the command again later"
        ) from None
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(filelocks.write_lease(fd))
        except BlockingIOError:
            raise RefusedError(
                f"{path}: is open in another process, which would see its bytes move",
                hint=f"end that process (fuser -v {path}), or {_ELSEWHERE}",
            ) from None
        yield lease


def _store_of(path: Path) -> str | None:
    """Kind of the store that the file lies in: folders whose file names are digests."""
    folder, above = path.parent.name, path.parent.parent.name
    if folder == "blobs" and re.fullmatch(_DIGEST_NAME, path.name):
        return "an Ollama store"
    if folder == "blobs" and re.match(r"(models|datasets|spaces)--", above):
        return "a Hugging Face cache"
    if above == "blobs" and folder == "sha256":
        return "an OCI layout"
    return None
