"""Signs that what a patch makes is in a file already: hunks and lines that are there."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tqconvert.patches.diff import FileDiff, Hunk

_TELLING = re.compile(rb"\w{2}.*\w|\w.*\w{2}", re.DOTALL)
"""Lines with less in them (braces, blanks) stand everywhere."""


class FileSigns(NamedTuple):
    """One file of a patch."""

    path: str
    hunks: int
    present: tuple[int, ...]
    """Hunks, counted from 1, whose new lines stand in the file."""
    lines: int
    """Added lines that tell something."""
    found: int
    """Those that stand in the file."""


class Signs(NamedTuple):
    """A whole patch."""

    files: tuple[FileSigns, ...]

    @property
    def hunks(self) -> tuple[int, int]:
        """Present, and all."""
        return sum(len(f.present) for f in self.files), sum(f.hunks for f in self.files)

    @property
    def lines(self) -> tuple[int, int]:
        """Added lines that were found, and all."""
        return sum(f.found for f in self.files), sum(f.lines for f in self.files)

    @property
    def any(self) -> bool:
        """Whether a hunk of it is there."""
        return self.hunks[0] > 0

    @property
    def likely(self) -> bool:
        """Whether so much of it is there that a person should look whether it has landed."""
        (present, hunks), (found, lines) = self.hunks, self.lines
        return (present > 0 and 2 * present >= hunks) or (lines >= 5 and 5 * found >= 3 * lines)

    @property
    def text(self) -> str:
        """`13 of 24 hunks, 41 of 52 lines`."""
        return "{} of {} hunks, {} of {} added lines".format(*self.hunks, *self.lines)


def signs_of(diffs: Iterable[tuple[FileDiff, bytes | None, bytes | None]]) -> Signs:
    """Signs of a patch from its diffs, each with the file there and, where known, the file before it."""
    return Signs(tuple(_signs(*row) for row in diffs if row[0].hunks))


def _signs(diff: FileDiff, data: bytes | None, before: bytes | None) -> FileSigns:
    added = Counter(line for h in diff.hunks for line in _added(h) if _TELLING.search(line))
    present: list[int] = []
    found = 0
    if data is not None:
        there = Counter(line for line in data.split(b"\n") if line in added)
        there.subtract(line for line in (before or b"").split(b"\n") if line in added)
        found = (added & there).total()
        present = [n for n, hunk in enumerate(diff.hunks, 1) if _is_in(hunk, data, before)]
    return FileSigns(diff.path, len(diff.hunks), tuple(present), added.total(), found)


def _added(hunk: Hunk) -> Iterable[bytes]:
    lines = hunk.added if hunk.old else hunk.new.split(b"\n")
    return (line.rstrip(b"\n") for line in lines)


def _is_in(hunk: Hunk, data: bytes, before: bytes | None) -> bool:
    """Whether the new lines stand in the file with their context, more often than before the patch.

    Where that is not known, the old ones must not stand there.
    """
    if before is None:
        return _count(hunk.new, data) > 0 and not _count(hunk.old, data)
    return _count(hunk.new, data) > _count(hunk.new, before)


def _count(block: bytes, data: bytes) -> int:
    """How often lines stand in a file; 0 for such as tell nothing."""
    if not _TELLING.search(block):
        return 0
    return data.count(b"\n" + block) + data.startswith(block)
