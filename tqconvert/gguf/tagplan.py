"""How a file would get a tag page or lose it: the method, and why that one."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from tqconvert import fs
from tqconvert.errors import RefusedError, UsageError
from tqconvert.gguf.guard import check_in_place
from tqconvert.gguf.state import Found, look
from tqconvert.gguf.tags import BALANCE, KEYS, PAGE, KvTags, render_page
from tqconvert.units import format_bytes

Method = Literal["insert", "edit", "collapse", "reflink", "copy", "unchanged"]

_INSERT_WHY = "the file system grows files at their start without moving data"
_NO_TAGS_WHY = "it has no tags"
_COLLAPSE_WHY = "the file system takes the page out without moving data"
_EDIT_WHY = "the page is there already"
_INTERRUPTED_WHY = "an interrupted run left a page in front of the whole original"
_REFLINK_WHY = "the file system shares data between files"
_COPY_WHY = "the file system has neither range insertion nor reflinks"
_NEW_COPY_WHY = "the file system cannot share data between files"


class TagPlan(NamedTuple):
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


def plan_tag(
    path: str | os.PathLike[str] | Found,
    tags: KvTags,
    *,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> TagPlan:
    """How the file gets these tags, in place or into `output`; changes nothing.

    A file that was looked at already is not read again. One that tells its own balance keeps telling it.
    Raises RefusedError for files that must not change, UsageError for tags that do not fit, and what
    `read_header` raises.
    """
    found = path if isinstance(path, Found) else look_at(path)
    _check_first_shard(found)
    tags = tags._replace(balance=found.header.text(BALANCE) or tags.balance)
    page = render_page(found.header, tags, subject=str(found.path))
    target = _target(found, output, replace=replace)
    method, why = _tag_method(found, page, target)
    return TagPlan(found, target, method, why, _steps(method, found, target, len(page)), page, tags)


def plan_untag(
    path: str | os.PathLike[str] | Found,
    *,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> TagPlan:
    """How the file loses its page, in place or into `output`; changes nothing.

    Raises RefusedError for files that must not change and for tags that are not in a page.
    """
    found = path if isinstance(path, Found) else look_at(path)
    foreign = [key for key in KEYS if key in found.header.entries and key != BALANCE]
    if foreign:
        raise RefusedError(
            f"{found.path}: {foreign[0]} is not in a page of ours; another program wrote this header",
            hint=f"gguf-new-metadata --remove-metadata {foreign[0]} IN OUT",
        )
    if output is None and found.kind == "plain":  # whoever else has the file, nothing changes
        return TagPlan(found, found.path, "unchanged", _NO_TAGS_WHY, (), b"")
    target = _target(found, output, replace=replace)
    method, why = _untag_method(found, target)
    return TagPlan(found, target, method, why, _steps(method, found, target, 0), b"")


def look_at(path: str | os.PathLike[str]) -> Found:
    """The state of the file that `path` leads to, symbolic links resolved. Raises as `look` does."""
    return look(_real(path))


def _check_first_shard(found: Found) -> None:
    number = found.header.integer("split.no")
    if number:
        raise RefusedError(
            f"{found.path}: is shard {number + 1}, and runtimes read the keys of the first",
            hint="tag the first shard",
        )


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _target(found: Found, output: str | os.PathLike[str] | None, *, replace: bool) -> Path:
    """The file that is written; refused if it must keep its bytes."""
    if output is None:
        check_in_place(found.path)
        return found.path
    return new_target(
        found, output, replace=replace, hint="leave -o out to change the file in place"
    )


def new_target(
    found: Found, output: str | os.PathLike[str], *, replace: bool, hint: str | None = None
) -> Path:
    """The path of another file than `found`, which may be there already if it may be replaced.

    Raises UsageError (with `hint` for the file itself), RefusedError.
    """
    target = _real(output)
    if target == found.path or (target.exists() and target.samefile(found.path)):
        raise UsageError(f"{target}: is the file itself", hint=hint)
    if target.is_dir():
        raise UsageError(f"{target}: is a folder (expected a file name)")
    if target.exists():
        if not replace:
            raise RefusedError(f"{target}: exists", hint="--yes replaces it")
        check_in_place(target)
    return target


def _tag_method(found: Found, page: bytes, target: Path) -> tuple[Method, str]:
    if target != found.path:
        return new_file_method(found, target)
    if found.kind == "interrupted":
        return "edit", _INTERRUPTED_WHY
    if found.kind == "tagged":
        return ("unchanged", "it has these tags") if found.page == page else ("edit", _EDIT_WHY)
    if fs.can_insert(target.parent, PAGE):
        return "insert", _INSERT_WHY
    return new_file_method(found, target)


def _untag_method(found: Found, target: Path) -> tuple[Method, str]:
    if target != found.path:
        return new_file_method(found, target)
    if fs.can_insert(target.parent, PAGE):
        return "collapse", _INTERRUPTED_WHY if found.kind == "interrupted" else _COLLAPSE_WHY
    return new_file_method(found, target)


def new_file_method(found: Found, target: Path) -> tuple[Method, str]:
    """How `target` would get the bytes of `found`, and why so. Raises UsageError."""
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder", hint=f"mkdir -p {target.parent}")
    same_disk = found.stamp.device == target.parent.stat().st_dev
    if same_disk and fs.can_clone(target.parent):
        return "reflink", _REFLINK_WHY
    if not same_disk:
        return "copy", "the new file is on another file system"
    return "copy", _COPY_WHY if target == found.path else _NEW_COPY_WHY


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
