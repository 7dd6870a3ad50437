"""A new file made of a page and the bytes of another, under a hidden name until it is whole."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from tqconvert import fs
from tqconvert.errors import LockedError, StorageError
from tqconvert.progress import Progress, Reporting
from tqconvert.units import format_bytes

_NAME_MAX = 255


class Content(NamedTuple):
    """What a new file holds: `page`, then `length` bytes of the open file `fd` from `start` on."""

    page: bytes
    fd: int
    start: int
    length: int

    @property
    def size(self) -> int:
        """Bytes of the new file."""
        return len(self.page) + self.length


def temporary_for(target: Path) -> Path:
    """The hidden name beside `target`; always the same, so that the next run finds what was left."""
    name = f".{target.name}.tqconvert"
    if len(os.fsencode(name)) > _NAME_MAX:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()}.tqconvert"
    return target.with_name(name)


def write_beside(
    content: Content, target: Path, *, mode: int, progress: Progress, check: Callable[[], None],
    edit: Callable[[int], None] = lambda _: None,
) -> Literal["reflink", "copy"]:  # fmt: skip
    """Give `target` this content, atomically; the way it was done.

    `edit` gets the new file's descriptor when the content is there, to write over parts of it; `check`
    runs before the new file gets its name. Both may raise. Raises StorageError, LockedError; then
    `target` is as it was.
    """
    with locked_temporary(target) as (own, temporary):
        fd = own.fd
        fs.truncate(fd, 0)  # a killed run may have left bytes
        method: Literal["reflink", "copy"] = "reflink"
        if not _clone(content, fd):
            method = "copy"
            _check_room(content, target)
            with Reporting(progress, f"copy {target.name}", content.length):
                fs.copy_range(
                    content.fd, fd, src_offset=content.start, dst_offset=len(content.page),
                    length=content.length, advance=progress.advance,
                )  # fmt: skip
        if content.page:
            fs.write_at(fd, content.page, 0)
        edit(fd)
        fs.set_mode(fd, mode)
        fs.sync(fd)
        check()
        fs.replace_open(own, temporary, target)
    return method


def remove_leftover(target: Path) -> bool:
    """Remove what a killed run left beside `target`; False if there was nothing.

    Raises LockedError if another process is writing it.
    """
    if not os.path.lexists(temporary_for(target)):
        return False
    with locked_temporary(target) as (own, temporary):
        fs.remove_open(own, temporary)
    return True


@contextmanager
def locked_temporary(target: Path) -> Iterator[tuple[fs.Own, Path]]:
    """The temporary file of `target`, open and locked; gone after an error. Raises LockedError."""
    path = temporary_for(target)
    try:
        with fs.alone(path) as own:
            yield own, path
    except BlockingIOError:
        raise LockedError(
            f"{path}: another tqconvert writes it", hint="run the command again later"
        ) from None


def _clone(content: Content, fd: int) -> bool:
    """Whether the bytes could be shared; without that nothing has changed."""
    try:
        fs.clone_range(
            content.fd, fd, src_offset=content.start, dst_offset=len(content.page),
            length=content.length,
        )  # fmt: skip
    except OSError as e:
        if fs.unsupported(e):
            return False
        raise
    return True


def _check_room(content: Content, target: Path) -> None:
    free = fs.free_bytes(target.parent)
    if free < content.size:
        raise StorageError(
            f"{target.parent}: {format_bytes(free)} free (a copy needs {format_bytes(content.size)})",
            hint="free space there, or choose another disk with -o",
        )
