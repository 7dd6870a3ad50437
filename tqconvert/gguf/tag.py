"""Put the tag page in front of a GGUF, change it, take it out again.

In place the file grows at its start without moving a byte (`insert`), or the page that is there is
written anew (`edit`), or is taken out (`collapse`). Where the file system cannot do that, a new file
that shares the data (`reflink`) or holds a copy (`copy`) takes the old one's name.
A kill at any instant leaves the old file, the new file, or a torn page in front of the whole original,
which the next `tag` overwrites and `untag` and `recover` take out.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tqconvert import fs
from tqconvert.gguf.guard import exclusive
from tqconvert.gguf.rewrite import Content, remove_leftover, write_beside
from tqconvert.gguf.tagplan import Method, TagPlan, look_at, plan_tag, plan_untag
from tqconvert.gguf.tags import PAGE
from tqconvert.progress import Progress, Silent

__all__ = [
    "Recovery", "TagPlan", "TagResult", "apply_tag", "apply_untag", "look_at", "plan_tag", "plan_untag", "recover",
]  # fmt: skip


class TagResult(NamedTuple):
    """What was done. `lease` is None where the file itself was not changed."""

    method: Method
    path: Path
    bytes_written: int
    lease: bool | None = None


class Recovery(NamedTuple):
    """An interrupted run was found and undone; `method` is None if it left only a temporary file."""

    path: Path
    method: Method | None


def apply_tag(plan: TagPlan, *, progress: Progress | None = None) -> TagResult:
    """Carry out a plan of `plan_tag`.

    Raises LockedError if the file is no longer what the plan looked at, RefusedError if it is open
    elsewhere, StorageError; then the file is as it was.
    """
    try:
        return _apply(plan, progress or Silent())
    except OSError as e:
        raise fs.storage_error(e, plan.target) from e


def apply_untag(plan: TagPlan, *, progress: Progress | None = None) -> TagResult:
    """Carry out a plan of `plan_untag`. Raises as `apply_tag` does."""
    return apply_tag(plan, progress=progress)


def recover(path: str | os.PathLike[str]) -> Recovery | None:
    """Undo what an interrupted run left at `path` or beside it; None if all is well.

    For commands that change a file; `tag` and `untag` do it as part of their work.
    """
    found = look_at(path)
    real = found.path
    try:
        leftover = remove_leftover(real)
    except OSError as e:
        raise fs.storage_error(e, real) from e
    if found.kind == "interrupted":
        return Recovery(real, apply_untag(plan_untag(found)).method)
    return Recovery(real, None) if leftover else None


def _apply(plan: TagPlan, progress: Progress) -> TagResult:
    remove_leftover(plan.target)
    if plan.method == "unchanged":
        return TagResult("unchanged", plan.target, 0)
    if not plan.in_place:
        return _write_new(plan, progress, lease=None)
    with _opened(plan.found.path, os.O_RDWR) as fd, exclusive(fd, plan.found.path) as lease:
        plan.found.check_unchanged(fd)
        if _change(plan, fd):
            return TagResult(plan.method, plan.target, len(plan.page), lease)
    # From here on readers of the old file keep it: a new one takes its name.
    return _write_new(plan, progress, lease=lease)


def _change(plan: TagPlan, fd: int) -> bool:
    """Change the open file; False, and nothing changed, where that takes a new file."""
    match plan.method:
        case "insert":
            return _insert(fd, plan.page)
        case "edit":
            fs.write_at(fd, plan.page, 0)
        case "collapse":
            try:
                fs.collapse_range(fd, 0, PAGE)
            except OSError as e:
                if fs.unsupported(e):
                    return False
                raise
        case _:
            return False
    fs.sync(fd)
    return True


def _insert(fd: int, page: bytes) -> bool:
    try:
        fs.insert_range(fd, 0, PAGE)
    except OSError as e:
        if fs.unsupported(e):
            return False
        raise
    try:
        fs.write_at(fd, page, 0)
        fs.sync(fd)
    except BaseException:
        fs.collapse_range(fd, 0, PAGE)
        raise
    return True


def _write_new(plan: TagPlan, progress: Progress, *, lease: bool | None) -> TagResult:
    found = plan.found
    with closing(fs.Own(fs.open_fd(found.path, os.O_RDONLY))) as source:
        found.check_unchanged(source.fd)
        content = Content(plan.page, source.fd, found.start, found.stamp.size - found.start)
        mode = os.fstat(source.fd).st_mode & 0o777

        def check() -> None:
            found.check_unchanged(source.fd)
            if fs.is_windows():  # an open file cannot be replaced there
                source.close()

        method = write_beside(
            content, plan.target, mode=mode if plan.in_place else mode | 0o200,
            progress=progress, check=check,
        )  # fmt: skip
    written = content.size if method == "copy" else len(plan.page)
    return TagResult(method, plan.target, written, lease)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = fs.open_fd(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
