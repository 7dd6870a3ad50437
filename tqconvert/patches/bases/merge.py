"""Three versions of a file merged by git, without a repository."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tqconvert.errors import GitFailedError
from tqconvert.patches.git import Git

if TYPE_CHECKING:
    import subprocess

_MARK = 61
"""Length of the conflict marks, longer than any line of a source that looks like one."""


class Versions(NamedTuple):
    """Three versions of a file."""

    ours: bytes
    base: bytes
    theirs: bytes


class Merged(NamedTuple):
    """What became of a file."""

    data: bytes
    """The file with the patch in; where both sides changed the same lines, with the patch's side."""
    conflicts: int
    """Places where both sides changed the same lines."""


class Merger:
    """`git merge-file` in a folder of its own, made at the first merge and removed at the end."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._git: Git | None = None
        self._running: dict[Versions, subprocess.Popen[bytes]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.communicate()
        if self._folder:
            self._folder.cleanup()

    def ahead(self, many: Iterable[Versions]) -> None:
        """Start merges that will be asked for, all at once. Raises ToolMissingError."""
        for versions in many:
            if versions not in self._running and _settled(versions) is None:
                self._running[versions] = self._start(versions)

    def merge(self, versions: Versions) -> Merged:
        """The change from `base` to `theirs` brought into `ours`. Raises ToolMissingError, GitFailedError."""
        if settled := _settled(versions):
            return settled
        process = self._running.pop(versions, None) or self._start(versions)
        out, _ = process.communicate()
        if 0 <= process.returncode <= 127:
            return Merged(_with_theirs(out), process.returncode)
        if any(b"\0" in data for data in versions):
            return Merged(versions.theirs, 1)
        raise GitFailedError(f"git merge-file: ended with {process.returncode}")

    def _start(self, versions: Versions) -> "subprocess.Popen[bytes]":
        if self._git is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tqconvert-merge-")
            self._git = Git(Path(self._folder.name), self._env)
        self._count += 1
        names = [f"{self._count}-{field}" for field in versions._fields]
        for name, data in zip(names, versions, strict=True):
            (self._git.folder / name).write_bytes(data)
        return self._git.start("merge-file", "-p", "-q", f"--marker-size={_MARK}", *names)


def _settled(versions: Versions) -> Merged | None:
    """The result where no merge is needed."""
    ours, base, theirs = versions
    if base == theirs:
        return Merged(ours, 0)
    return Merged(theirs, 0) if ours in (base, theirs) else None


_CONFLICT = re.compile(
    rb"^<{%d} .*?\n(?:.*?\n)??={%d}\n(.*?)^>{%d} .*?\n" % (_MARK, _MARK, _MARK),
    re.DOTALL | re.MULTILINE,
)


def _with_theirs(data: bytes) -> bytes:
    return _CONFLICT.sub(lambda m: m[1], data)
