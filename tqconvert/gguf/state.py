"""What a file is to `tag`: plain, tagged, or left behind by an interrupted change."""

import mmap
import os
from pathlib import Path
from typing import Literal, NamedTuple

from tqconvert.errors import InvalidGgufError, LockedError
from tqconvert.gguf import tags
from tqconvert.gguf.header import FIXED_SIZE, MAGIC, Header, parse_header, read_header
from tqconvert.gguf.tags import PAGE

Kind = Literal["plain", "tagged", "interrupted"]


class Stamp(NamedTuple):
    """What changes when somebody writes a file or puts another in its place."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        """The stamp in a stat result."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Found(NamedTuple):
    """A file as it was looked at.

    `header` is that of the file without a page (it has no path then); `page` is b"" if plain.
    """

    path: Path
    kind: Kind
    header: Header
    page: bytes
    stamp: Stamp

    @property
    def start(self) -> int:
        """Where the original file begins."""
        return 0 if self.kind == "plain" else PAGE

    def check_unchanged(self, fd: int) -> None:
        """Raise LockedError if the open file is not what was looked at."""
        if Stamp.of(os.fstat(fd)) != self.stamp:
            raise LockedError(
                f"{self.path}: changed while the command ran", hint="run the command again"
            )


def look(path: Path) -> Found:
    """The state of the file, by its header and the page's checksum.

    A change that was cut off left zeros or a torn page in front of the whole original.
    Raises what `read_header` raises if the file is no GGUF in any of the three states.
    """
    try:
        stamp = Stamp.of(path.stat())
    except OSError:
        read_header(path)  # says in words what is wrong with the path
        raise
    try:
        header = read_header(path)
    except InvalidGgufError:
        original = _behind_page(path)
        if original is None:
            raise
        return Found(path, "interrupted", original, _first_bytes(path)[:PAGE], stamp)
    first = _first_bytes(path)
    if tags.is_tagged(header):
        original = tags.original_header(header)
        expected = tags.fixed_header(original, original.n_kv)
        if tags.is_whole(first[:PAGE]) and first[PAGE:] == expected:
            return Found(path, "tagged", original, first[:PAGE], stamp)
    if any(key in header.entries for key in tags.KEYS):
        original = _behind_page(path)
        if original is not None:
            return Found(path, "interrupted", original, first[:PAGE], stamp)
    return Found(path, "plain", header, b"", stamp)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb", buffering=0) as f:
        return f.read(PAGE + FIXED_SIZE)


def _behind_page(path: Path) -> Header | None:
    """Header of the whole GGUF that begins at 4096, if the bytes before it can be a torn page."""
    first = _first_bytes(path)
    if first[PAGE : PAGE + 4] != MAGIC or first[:4] not in (MAGIC, bytes(4)):
        return None
    with (
        path.open("rb") as f,
        mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m,
        memoryview(m) as whole,
        whole[PAGE:] as original,
    ):
        try:
            return parse_header(original, len(original))
        except InvalidGgufError:
            return None
