"""A download under way: a file of its full length, and a journal of what is in it.

    <folder>/<hex>.partial   `room` bytes left free for a tag page, then the blob's bytes
    <folder>/<hex>.journal   one line for each range of the blob that was written: "start end";
                             the last one, "published <hex>", when the file gets its final name

The journal is appended to after the bytes were written, so a killed process loses a few MiB at most.
It is not trusted: every byte that was kept is hashed again before the file gets its name. It outlives
the partial file until the model is installed, so that a kill in between costs no second download.
"""

import bisect
import os
import re
from pathlib import Path
from typing import Protocol, Self

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import IntegrityError
from tqconvert.store.layout import inherit_owner, make_folder

JOURNAL_STEP = 4 << 20
"""Bytes of one range after which it is noted in the journal."""

_FIRST_LINE = re.compile(rb"room (\d{1,9}) size (\d{1,18})\n")


class Ranges:
    """Disjoint, sorted byte ranges [start, end)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add a range; touching and overlapping ones become one."""
        if start >= end:
            return
        i = bisect.bisect_left(self._ends, start)
        j = bisect.bisect_right(self._starts, end)
        if i < j:
            start, end = min(start, self._starts[i]), max(end, self._ends[j - 1])
        self._starts[i:j] = [start]
        self._ends[i:j] = [end]

    def prefix(self) -> int:
        """Bytes from 0 on without a gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def total(self) -> int:
        """Bytes in all ranges."""
        return sum(self._ends) - sum(self._starts)

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """What is missing of [0, size), in order."""
        found, at = [], 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start > at:
                found.append((at, start))
            at = end
        if at < size:
            found.append((at, size))
        return found


class Sink(Protocol):
    """Where a transfer puts the bytes of one file: a partial, or a window in one."""

    path: Path
    size: int
    done: Ranges

    def write(self, data: bytes, offset: int) -> None:
        """Put bytes of the file at `offset`; they count once they are noted."""

    def note(self, start: int, end: int) -> None:
        """Note that [start, end) is written."""

    def restart(self) -> None:
        """Forget everything that was written."""


class Partial:
    """The two files of one download, open. Use under the lock of the digest."""

    def __init__(self, folder: Path, digest: Digest, size: int, *, room: int) -> None:
        self.path = folder / f"{digest.hex}.partial"
        self._journal_path = folder / f"{digest.hex}.journal"
        self.size = size
        self.room = room
        self.done = Ranges()
        self.fd = -1
        self._journal_fd = -1

    def kept_bytes(self) -> int:
        """Bytes that an earlier process left, by the journal."""
        return self._read_journal().total() if self._room_there() is not None else 0

    def open(self) -> Self:
        """Open or create both files, with room for the whole blob on the disk.

        A partial that was begun with other room in front is taken over: missing room is inserted,
        `room` becomes what there is where that is more. Raises StorageError.
        """
        anew = False
        try:
            make_folder(self.path.parent)
            anew = not self._take_over()
            if anew:
                self.discard()
            self.fd = _opened(self.path, os.O_RDWR)
            fs.allocate(self.fd, self.room + self.size)
            self.done = self._read_journal()
            self._journal_fd = _opened(self._journal_path, os.O_WRONLY | os.O_APPEND)
            if os.fstat(self._journal_fd).st_size == 0:
                fs.append(self._journal_fd, self._first_line())
        except OSError as e:
            self.close()
            if anew:  # ext4 keeps what it reserved before it found the disk full
                self.discard()
            raise fs.storage_error(e, self.path) from e
        return self

    def _take_over(self) -> bool:
        """Make the files of an earlier process fit this wish; False where there are none that can.

        A kill between the two steps leaves a length that contradicts the journal: files of no use.
        """
        room = self._room_there()
        if room is None or room >= self.room:
            self.room = self.room if room is None else room
            return room is not None
        fd = fs.open_fd(self.path, os.O_RDWR)
        try:
            fs.insert_range(fd, 0, self.room - room)
        except OSError as e:
            if not fs.unsupported(e):
                raise
            return False
        finally:
            os.close(fd)
        _, _, ranges = self._journal_path.read_bytes().partition(b"\n")
        fs.write_atomic(self._journal_path, self._first_line() + ranges)
        inherit_owner(self._journal_path)
        return True

    def write(self, data: bytes, offset: int) -> None:
        """Put bytes of the blob at `offset`; they count once they are noted."""
        fs.write_at(self.fd, data, self.room + offset)

    def note(self, start: int, end: int) -> None:
        """Note in the journal that [start, end) is written."""
        fs.append(self._journal_fd, f"{start} {end}\n".encode())
        self.done.add(start, end)

    def restart(self) -> None:
        """Forget everything that was written."""
        fs.truncate(self._journal_fd, 0)
        fs.append(self._journal_fd, self._first_line())
        self.done = Ranges()

    def forget(self, start: int, end: int) -> None:
        """Forget that [start, end) was written. Raises StorageError."""
        gaps = [*self.done.gaps(self.size), (start, end)]
        missing, kept = Ranges(), Ranges()
        for gap in gaps:
            missing.add(*gap)
        for span in missing.gaps(self.size):
            kept.add(*span)
        lines = b"".join(b"%d %d\n" % span for span in missing.gaps(self.size))
        try:
            os.close(self._journal_fd)
            self._journal_fd = -1
            fs.write_atomic(self._journal_path, self._first_line() + lines)
            inherit_owner(self._journal_path)
            self._journal_fd = _opened(self._journal_path, os.O_WRONLY | os.O_APPEND)
        except OSError as e:
            raise fs.storage_error(e, self._journal_path) from e
        self.done = kept

    def publish(self, target: Path, digest: Digest) -> None:
        """Give the finished file its name; `digest` is what it has become.

        The caller has verified it and synced it, and calls `discard` when nobody needs the note.
        Raises StorageError.
        """
        try:
            fs.append(self._journal_fd, f"published {digest.hex}\n".encode())
            self.close()
            fs.replace(self.path, target)
        except OSError as e:
            raise fs.storage_error(e, target) from e

    def published(self) -> Digest | None:
        """Digest of the file that an earlier process finished, by the journal; not verified."""
        if self.path.exists():
            return None
        try:
            last = self._journal_path.read_bytes().splitlines()[-1:]
        except OSError:
            return None
        word, _, digits = (last[0] if last else b"").decode("ascii", "replace").partition(" ")
        if word != "published":
            return None
        try:
            return Digest.parse(f"sha256:{digits}")
        except IntegrityError:
            return None

    def discard(self) -> None:
        """Remove both files."""
        self.close()
        fs.remove(self.path)
        fs.remove(self._journal_path)

    def close(self) -> None:
        """Close both files; what was noted is kept for the next process."""
        for fd in (self.fd, self._journal_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._journal_fd = -1

    def _first_line(self) -> bytes:
        return f"room {self.room} size {self.size}\n".encode()

    def _room_there(self) -> int | None:
        """Room in front of what is on disk; None where that is not of this blob, or torn."""
        try:
            with self._journal_path.open("rb") as f:
                found = _FIRST_LINE.fullmatch(f.readline(200))
            length = self.path.stat().st_size
        except OSError:
            return None
        if not found or int(found[2]) != self.size or length != int(found[1]) + self.size:
            return None
        return int(found[1])

    def _read_journal(self) -> Ranges:
        ranges = Ranges()
        try:
            lines = self._journal_path.read_bytes().split(b"\n")[
                1:-1
            ]  # a torn last line is left out
        except OSError:
            return ranges
        for line in lines:
            start, _, end = line.partition(b" ")
            if start.isdigit() and end.isdigit() and int(start) < int(end) <= self.size:
                ranges.add(int(start), int(end))
        return ranges


class Window:
    """A part of a partial, in the offsets of the file that belongs there.

    Bytes from `start` to `size` of that file lie at `at` of the partial's blob. Those before `start` are
    known already and have no place in it.
    """

    def __init__(self, partial: Partial, *, size: int, start: int, at: int) -> None:
        self.path = partial.path
        self.size = size
        self._partial, self._start, self._shift = partial, start, at - start
        self.done = Ranges()
        self.done.add(0, start)
        missing = [(a, b) for a, b in partial.done.gaps(partial.size) if b > at]
        for gap in _between(missing, at, at + size - start):
            self.done.add(gap[0] - self._shift, gap[1] - self._shift)

    def write(self, data: bytes, offset: int) -> None:
        """Put bytes of the file at `offset`; they count once they are noted."""
        skip = max(0, self._start - offset)  # a server without ranges sends the header as well
        if data[skip:]:
            self._partial.write(data[skip:], offset + skip + self._shift)

    def note(self, start: int, end: int) -> None:
        """Note that [start, end) is written."""
        self.done.add(start, end)
        start = max(start, self._start)
        if start < end:
            self._partial.note(start + self._shift, end + self._shift)

    def restart(self) -> None:
        """Forget everything that was written of this file."""
        begin = self._start + self._shift
        self._partial.forget(begin, begin + self.size - self._start)
        self.done = Ranges()


def _between(gaps: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """What of [start, end) is in none of the gaps, which are in order."""
    found = []
    for a, b in gaps:
        if a > start:
            found.append((start, min(a, end)))
        start = max(start, b)
        if start >= end:
            return found
    found.append((start, end))
    return found


def _opened(path: Path, flags: int) -> int:
    fd = fs.open_fd(path, flags | os.O_CREAT, 0o644)
    inherit_owner(path)
    return fd
