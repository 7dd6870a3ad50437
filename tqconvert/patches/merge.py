"""Three versions of a file merged by git, without a repository."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tqconvert.errors import GitFailedError
from tqconvert.patches.git import Git

_MARK = 61
"""Length of the conflict marks, longer than any line of a source that looks like one."""


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._folder.cleanup()

    def merge(self, ours: bytes, base: bytes, theirs: bytes) -> Merged:
        """The change from `base` to `theirs` brought into `ours`. Raises ToolMissingError, GitFailedError."""
        if base == theirs:
            return Merged(ours, 0)
        if ours in (base, theirs):
            return Merged(theirs, 0)
        if self._git is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tqconvert-merge-")
            self._git = Git(Path(self._folder.name), self._env)
        for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
            (self._git.folder / name).write_bytes(data)
        done = self._git.run(
            "merge-file", "-p", "-q", f"--marker-size={_MARK}", "ours", "base", "theirs"
        )
        if done.returncode > 127 or done.returncode < 0:
            said = os.fsdecode(done.stderr).strip() or f"ended with {done.returncode}"
            if "binary" in said:
                return Merged(theirs, 1)
            raise GitFailedError(f"git merge-file: {said.splitlines()[-1][:300]}")
        return Merged(_with_theirs(done.stdout), done.returncode)


_CONFLICT = re.compile(
    rb"^<{%d} .*?\n(?:.*?\n)??={%d}\n(.*?)^>{%d} .*?\n" % (_MARK, _MARK, _MARK),
    re.DOTALL | re.MULTILINE,
)


def _with_theirs(data: bytes) -> bytes:
    return _CONFLICT.sub(lambda m: m[1], data)
