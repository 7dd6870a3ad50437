"""Diffs applied in memory, at the places where `git apply` puts them: no fuzz, offsets reported.

A hunk goes where its old lines stand, as near as possible to the line that it names. One without
trailing context must end where the file ends, one that starts at line 1 must start there, and lines
that an earlier hunk wrote are not matched again (git's apply.c: match_fragment, find_pos). The whole
search is on bytes, so that a file of 700 KB costs microseconds a hunk.
"""

from typing import NamedTuple

from tqconvert.patches.diff import FileDiff, Hunk


class Placement(NamedTuple):
    """What became of one file."""

    data: bytes | None
    """The file afterwards (None: removed); without meaning if something failed."""
    offsets: tuple[int, ...]
    """Per hunk, how many lines from its own place it went; 0 for those that failed."""
    failed: tuple[int, ...]
    """Hunks, counted from 0, that have no place."""
    reason: str | None = None
    """Why the file as a whole does not take the diff: it is missing, or there already."""

    @property
    def ok(self) -> bool:
        """Whether the file took the diff."""
        return not self.failed and self.reason is None


def place(data: bytes | None, diff: FileDiff) -> Placement:
    """Apply `diff` to the file `data` (None: no such file).

    With hunks that fail the others are placed all the same, so that all failures are known at once.
    """
    if diff.old is None:
        if data is not None:
            return Placement(None, (), (), "exists already")
        data = b""
    elif data is None:
        return Placement(None, (), (), "is not there")
    image = _Image(data)
    offsets, failed = [], []
    for number, hunk in enumerate(diff.hunks):
        offset = image.put(hunk)
        offsets.append(offset or 0)
        if offset is None:
            failed.append(number)
    if diff.new is None:
        if image.data and not failed:
            return Placement(None, tuple(offsets), (), "has more lines than the diff removes")
        return Placement(None, tuple(offsets), tuple(failed))
    return Placement(image.data, tuple(offsets), tuple(failed))


class _Image:
    """A file while hunks are put into it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.written: list[tuple[int, int]] = []
        """Byte ranges that hunks have written."""
        self._near = (0, 0)
        """A byte offset and its line, from which lines are counted on."""

    def put(self, hunk: Hunk) -> int | None:
        """Put a hunk in; returns its offset in lines, None if it has no place."""
        wanted = max(hunk.new_start - 1, 0)
        best: tuple[int, int, int] | None = None
        for start, line in self._places(hunk):
            distance = line - wanted
            # git looks forward before it looks back at the same distance.
            rank = (abs(distance), 0 if distance >= 0 else 1, start)
            if best is None or rank < best:
                best = rank
                found = (start, distance)
            elif distance > 0:
                break
        if best is None:
            return None
        start, distance = found
        self._splice(start, hunk)
        return distance

    def _places(self, hunk: Hunk) -> "list[tuple[int, int]]":
        """Byte offset and line of each place where the hunk's old lines stand, in order."""
        old, data = hunk.old, self.data
        at_end = not hunk.trailing
        if not old:
            at_start = hunk.old_start <= 1
            line = self._line_of(len(data)) + (not data.endswith(b"\n") and bool(data))
            return [] if (at_start and data) else [(len(data), line)]
        if hunk.old_start <= 1:
            starts = [0] if data.startswith(old) else []
        elif at_end:
            starts = [len(data) - len(old)] if data.endswith(old) else []
        else:
            starts, at = [], data.find(old)
            while at >= 0:
                starts.append(at)
                at = data.find(old, at + 1)
        whole = old.endswith(b"\n")
        return [
            (s, self._line_of(s))
            for s in starts
            if (s == 0 or data[s - 1] == 10)
            and (not at_end or s + len(old) == len(data))
            and (whole or s + len(old) == len(data))
            and not any(a < s + len(old) and s < b for a, b in self.written)
        ]

    def _line_of(self, offset: int) -> int:
        near, line = self._near
        if offset >= near:
            line += self.data.count(b"\n", near, offset)
        else:
            line -= self.data.count(b"\n", offset, near)
        self._near = (offset, line)
        return line

    def _splice(self, start: int, hunk: Hunk) -> None:
        end = start + len(hunk.old)
        grown = len(hunk.new) - len(hunk.old)
        self.data = self.data[:start] + hunk.new + self.data[end:]
        self.written = [(a + grown, b + grown) if a >= end else (a, b) for a, b in self.written]
        if hunk.new:
            self.written.append((start, start + len(hunk.new)))
        if self._near[0] > start:
            self._near = (0, 0)
