"""Put the tag page in front of a GGUF, change it, take it out again.

In place the file grows at its start without moving a byte (`insert`), or the page that is there is
written anew (`edit`), or is taken out (`collapse`). Where the file system cannot do that, a new file
that shares the data (`reflink`) or holds a copy (`copy`) takes the old one's name.
A kill at any instant leaves the old file, the new file, or a torn page in front of the whole original,
which the next `tag` overwrites and `untag` and `recover` take out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqconvert import fs
from tqconvert.errors import RefusedError, UsageError
from tqconvert.gguf.guard import check_in_place, exclusive
from tqconvert.gguf.rewrite import Content, remove_leftover, write_beside
from tqconvert.gguf.state import Found, look
from tqconvert.gguf.tags import KEYS, PAGE, KvTags, render_page
from tqconvert.progress import Progress, Silent
from tqconvert.units import format_bytes

Method = Literal["insert", "edit", "collapse", "reflink", "copy", "unchanged"]

_INSERT_WHY = "the file system grows files at their start without moving data"
_COLLAPSE_WHY = "the file system takes the page out without moving data"
_EDIT_WHY = "the page is there already"
_INTERRUPTED_WHY = "an interrupted run left a page in front of the whole original"
_REFLINK_WHY = "the file system shares data between files"
_COPY_WHY = "the file system has neither range insertion nor reflinks"


@dataclass(frozen=True, slots=True)
class TagPlan:
    """What `tag` or `untag` would do; `page` is what stands before the original then, b"" for none."""

    found: Found
    target: Path
    method: Method
    why: str
    steps: tuple[str, ...]
    page: bytes
    tags: KvTags | None = None

    @property
    def in_place(self) -> bool:
        """Whether the file itself changes, and no other is written."""
        return self.target == self.found.path

    @property
    def repairs(self) -> bool:
        """Whether the file is as an interrupted run left it."""
        return self.found.kind == "interrupted"


@dataclass(frozen=True, slots=True)
class TagResult:
    """What was done. `lease` is None where the file itself was not changed."""

    method: Method
    path: Path
    bytes_written: int
    lease: bool | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """An interrupted run was found and undone; `method` is None if it left only a temporary file."""

    path: Path
    method: Method | None


def plan_tag(
    path: str | os.PathLike[str],
    tags: KvTags,
    *,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> TagPlan:
    """How the file gets these tags, in place or into `output`; changes nothing.

    Raises RefusedError for files that must not change, UsageError for tags that do not fit, and what
    `read_header` raises.
    """
    found = look(_real(path))
    page = render_page(found.header, tags, subject=str(found.path))
    target = _target(found, output, replace=replace)
    method, why = _tag_method(found, page, target)
    return TagPlan(found, target, method, why, _steps(method, found, target, len(page)), page, tags)


def plan_untag(
    path: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> TagPlan:
    """How the file loses its page, in place or into `output`; changes nothing.

    Raises RefusedError for files that must not change and for tags that are not in a page.
    """
    found = look(_real(path))
    foreign = [key for key in KEYS if key in found.header.entries]
    if foreign:
        raise RefusedError(
            f"{found.path}: {foreign[0]} is not in a page of ours; another program wrote this header",
            hint=f"gguf-new-metadata --remove-metadata {foreign[0]} IN OUT",
        )
    target = _target(found, output, replace=replace)
    method, why = _untag_method(found, target)
    return TagPlan(found, target, method, why, _steps(method, found, target, 0), b"")


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
    real = _real(path)
    found = look(real)
    try:
        leftover = remove_leftover(real)
    except OSError as e:
        raise fs.storage_error(e, real) from e
    if found.kind == "interrupted":
        return Recovery(real, apply_untag(plan_untag(real)).method)
    return Recovery(real, None) if leftover else None


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _target(found: Found, output: str | os.PathLike[str] | None, *, replace: bool) -> Path:
    """The file that is written; refused if it must keep its bytes."""
    if output is None:
        check_in_place(found.path)
        return found.path
    target = _real(output)
    if target == found.path or (target.exists() and target.samefile(found.path)):
        raise UsageError(
            f"{target}: is the file itself", hint="leave -o out to change the file in place"
        )
    if target.is_dir():
        raise UsageError(f"{target}: is a folder (expected a file name)")
    if target.exists():
        if not replace:
            raise RefusedError(f"{target}: exists", hint="--yes replaces it")
        check_in_place(target)
    return target


def _tag_method(found: Found, page: bytes, target: Path) -> tuple[Method, str]:
    if target != found.path:
        return _new_file_method(found, target)
    if found.kind == "interrupted":
        return "edit", _INTERRUPTED_WHY
    if found.kind == "tagged":
        return ("unchanged", "it has these tags") if found.page == page else ("edit", _EDIT_WHY)
    if fs.can_insert(target.parent, PAGE):
        return "insert", _INSERT_WHY
    return _new_file_method(found, target)


def _untag_method(found: Found, target: Path) -> tuple[Method, str]:
    if target != found.path:
        return _new_file_method(found, target)
    if found.kind == "plain":
        return "unchanged", "it has no tags"
    if fs.can_insert(target.parent, PAGE):
        return "collapse", _INTERRUPTED_WHY if found.kind == "interrupted" else _COLLAPSE_WHY
    return _new_file_method(found, target)


def _new_file_method(found: Found, target: Path) -> tuple[Method, str]:
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder", hint=f"mkdir -p {target.parent}")
    same_disk = found.stamp.device == target.parent.stat().st_dev
    if same_disk and fs.can_clone(target.parent):
        return "reflink", _REFLINK_WHY
    return "copy", _COPY_WHY if same_disk else "the new file is on another file system"


def _steps(method: Method, found: Found, target: Path, n_page: int) -> tuple[str, ...]:
    """The steps in words, in their order."""
    page = f"write a page of {PAGE} bytes"
    n = format_bytes(found.stamp.size - found.start)
    match method:
        case "unchanged":
            return ()
        case "insert":
            return f"insert {PAGE} bytes at the start of {target}", page
        case "edit":
            return (f"{page} at the start of {target}",)
        case "collapse":
            return (f"take the first {PAGE} bytes out of {target}",)
        case "reflink" | "copy":
            how = f"share {n} of data" if method == "reflink" else f"copy {n}"
            write = (page,) if n_page else ()
            return f"{how} into a temporary file", *write, f"give it the name {target}"


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
    with _opened(found.path, os.O_RDONLY) as fd:
        found.check_unchanged(fd)
        content = Content(plan.page, fd, found.start, found.stamp.size - found.start)
        mode = os.fstat(fd).st_mode & 0o777
        method = write_beside(
            content, plan.target, mode=mode if plan.in_place else mode | 0o200,
            progress=progress, check=lambda: found.check_unchanged(fd),
        )  # fmt: skip
    written = content.size if method == "copy" else len(plan.page)
    return TagResult(method, plan.target, written, lease)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
