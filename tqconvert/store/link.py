"""Put a file at a second path, without copying its bytes where the file system can.

What each method means for the file it came from:

    reflink   shares blocks until one side changes: both are independent (xfs, btrfs, apfs)
    hardlink  one file with two names: editing one in place edits the other
    symlink   only a pointer: the file must stay where it is
    copy      independent, and takes its size once more
"""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import StorageError
from tqconvert.units import format_bytes


class LinkMethod(StrEnum):
    """How a file comes to a second path."""

    REFLINK = "reflink"
    HARDLINK = "hardlink"
    SYMLINK = "symlink"
    COPY = "copy"

    @property
    def meaning(self) -> str:
        """What the user should know about the file from now on."""
        return _MEANING[self]


_MEANING = {
    LinkMethod.REFLINK: "no bytes copied; file and blob are independent",
    LinkMethod.HARDLINK: "no bytes copied; file and blob are one file with two names, so do not "
    "edit the file in place (tqconvert refuses to); deleting or replacing it is safe",
    LinkMethod.SYMLINK: "no bytes copied; the model is gone when the file is moved or deleted",
    LinkMethod.COPY: "bytes copied; file and blob are independent",
}

DEFAULT_METHODS = (LinkMethod.REFLINK, LinkMethod.HARDLINK, LinkMethod.COPY)
"""Tried in this order. A symbolic link is made only where somebody asks for one."""

_NO_PRIVILEGE = 1314
"""Windows: who is no administrator makes symbolic links in Developer Mode only."""

_TRY_NEXT = {errno.EXDEV, errno.EMLINK, errno.EACCES, errno.EPERM}


def link_file(
    source: Path, target: Path, *, methods: Sequence[LinkMethod] = DEFAULT_METHODS,
    advance: Callable[[int], None] | None = None,
) -> LinkMethod:  # fmt: skip
    """Make the bytes of `source` appear at `target`, which must not exist; on the disk on return.

    The first of `methods` that works is taken and returned. A hard link is passed over where
    others than the file's owner could not read it through the target's folder.
    Raises StorageError; then there is no `target`.
    """
    source = source.resolve()
    last: OSError | None = None
    for method in methods:
        try:
            _by(method, source, target, advance)
        except OSError as e:
            with contextlib.suppress(OSError):
                fs.remove(target)
            if not (fs.unsupported(e) or e.errno in _TRY_NEXT):
                raise fs.storage_error(e, target) from e
            last = e
        except BaseException:
            fs.remove(target)
            raise
        else:
            return method
    names = ", ".join(methods)
    lacks = getattr(last, "winerror", None) == _NO_PRIVILEGE
    raise StorageError(
        f"{target}: cannot be made from {source} by {names}: {last.strerror if last else 'none'}",
        hint="turn on Developer Mode of Windows, or let it be copied: --link copy"
        if lacks
        else "let it be copied: --link copy",
    )


def _by(
    method: LinkMethod, source: Path, target: Path, advance: Callable[[int], None] | None
) -> None:
    match method:
        case LinkMethod.REFLINK:
            fs.clone_file(source, target)
            _sync(target)
        case LinkMethod.HARDLINK:
            if not _readable_there(source, target.parent):
                raise OSError(errno.EACCES, "its owner alone may read it")
            _sync(source)
            fs.link(source, target)
        case LinkMethod.SYMLINK:
            fs.symlink(source, target)
        case LinkMethod.COPY:
            _copy(source, target, advance)


def _readable_there(source: Path, folder: Path) -> bool:
    """Whether the owner of `folder` (Ollama's service user) can read the file as it is."""
    file = source.stat()
    return fs.is_windows() or file.st_uid == folder.stat().st_uid or bool(file.st_mode & 0o004)


def _sync(path: Path) -> None:
    fd = fs.open_fd(path, os.O_RDONLY)
    try:
        fs.sync(fd)
    finally:
        os.close(fd)


def _copy(source: Path, target: Path, advance: Callable[[int], None] | None) -> None:
    """Copy the bytes; the disk space is asked for before the first one."""
    size = source.stat().st_size
    free = fs.free_bytes(target.parent)
    if size > free:
        raise StorageError(
            f"{target.parent}: a copy needs {format_bytes(size)}, {format_bytes(free)} are free",
            hint="free space, or keep file and store on one disk so that a link is enough",
        )
    src = fs.open_fd(source, os.O_RDONLY)
    try:
        dst = fs.open_fd(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fs.allocate(dst, size)
            fs.copy_range(src, dst, src_offset=0, dst_offset=0, length=size, advance=advance)
            fs.sync(dst)
        finally:
            os.close(dst)
    finally:
        os.close(src)
