"""Git-style diffs, parsed strictly: what each patch does to which file, hunk by hunk.

Bytes everywhere: sources hold what they hold. Paths are text, undecodable bytes as surrogates
(os.fsdecode). What cannot be checked by its text is refused: binary hunks, symlinks, submodules, paths
that leave the tree.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from tqconvert.errors import BadPatchError

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_INDEX = re.compile(rb"index ([0-9a-f]{7,40})\.\.([0-9a-f]{7,40})(?: (\d{6}))?$")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_FILE_MODES = ("100644", "100755")


class Hunk(NamedTuple):
    """One place of one file: `old` is found there, `new` put in its stead."""

    old_start: int
    """Line, counted from 1; 0 for a file that is made."""
    old_lines: int
    new_start: int
    new_lines: int
    old: bytes
    """Context and removed lines as they stand in the file, line ends included."""
    new: bytes
    trailing: int
    """Context lines at the end; none means that the hunk ends where the file does."""
    removed: tuple[bytes, ...]
    added: tuple[bytes, ...]


class FileDiff(NamedTuple):
    """What a patch does to one file."""

    old: str | None
    """Path before, None for a file that is made."""
    new: str | None
    """Path afterwards, None for a file that is removed."""
    old_id: str | None
    """Blob id of the `index` line, abbreviated as it stands there; None without such a line."""
    new_id: str | None
    old_mode: str | None
    new_mode: str | None
    hunks: tuple[Hunk, ...]

    @property
    def path(self) -> str:
        """Path afterwards, or before for a file that is removed."""
        path = self.new or self.old
        assert path is not None
        return path

    def moved(self, old: str | None, new: str | None) -> "FileDiff":
        """The same change of files that lie elsewhere."""
        return self._replace(old=old, new=new)

    def reversed(self) -> "FileDiff":
        """The change that takes this one back."""
        hunks = tuple(
            Hunk(h.new_start, h.new_lines, h.old_start, h.old_lines, h.new, h.old, h.trailing,
                 h.added, h.removed)
            for h in self.hunks
        )  # fmt: skip
        return FileDiff(
            self.new, self.old, self.new_id, self.old_id, self.new_mode, self.old_mode, hunks
        )


def parse_diffs(data: bytes, name: str) -> tuple[FileDiff, ...]:
    """The file diffs of a patch, in their order; text around them (mail, header) is passed over.

    Raises BadPatchError, which names the line.
    """
    if b"\r\ndiff --git " in data or b"\r\n@@ -" in data:
        raise BadPatchError(
            f"{name}: has CRLF line ends (expected LF: a diff of a CRLF file has them in hunks only)",
            hint=f"convert it: sed -i 's/\\r$//' {name}, and keep it so with `*.patch -text`",
        )
    return tuple(_Parser(data.split(b"\n"), name).diffs())


def split_header(data: bytes) -> tuple[bytes, bytes]:
    """What stands before the first diff, and the rest."""
    if data.startswith(b"diff --git "):
        return b"", data
    head, found, rest = data.partition(b"\ndiff --git ")
    return (head + b"\n", b"diff --git " + rest) if found else (data, b"")


class _Parser:
    def __init__(self, lines: list[bytes], name: str) -> None:
        self.lines, self.name, self.at = lines, name, 0

    def diffs(self) -> Iterator[FileDiff]:
        while self.at < len(self.lines):
            if self.lines[self.at].startswith(b"diff --git "):
                yield self._diff()
            else:
                self.at += 1

    def _error(self, text: str) -> BadPatchError:
        return BadPatchError(f"{self.name}:{self.at + 1}: {text}")

    def _diff(self) -> FileDiff:
        start = self.at
        old, new = self._names(self.lines[start][len(b"diff --git ") :])
        ids: tuple[str | None, str | None] = (None, None)
        modes: list[str | None] = [None, None]
        hunks: list[Hunk] = []
        made = gone = moved = False
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith(b"@@ -"):
                hunks.append(self._hunk())
                continue
            if line.startswith((b"diff --git ", b"-- ")) or hunks:
                break
            if m := _INDEX.match(line):
                ids = (m[1].decode(), m[2].decode())
                if m[3]:
                    modes = [self._mode(m[3]), self._mode(m[3])]
            elif line.startswith(b"new file mode "):
                made, modes[1] = True, self._mode(line[14:])
            elif line.startswith(b"deleted file mode "):
                gone, modes[0] = True, self._mode(line[18:])
            elif line.startswith(b"old mode "):
                modes[0] = self._mode(line[9:])
            elif line.startswith(b"new mode "):
                modes[1] = self._mode(line[9:])
            elif line.startswith(b"rename from "):
                moved, old = True, self._path(line[12:])
            elif line.startswith(b"rename to "):
                moved, new = True, self._path(line[10:])
            elif line.startswith(b"--- "):
                self._same(line[4:], b"a/", old, absent=made)
            elif line.startswith(b"+++ "):
                self._same(line[4:], b"b/", new, absent=gone)
            elif line.startswith((b"GIT binary patch", b"Binary files ")):
                raise self._error("binary patches are refused (expected text that can be read)")
            elif line.startswith((b"copy from ", b"copy to ")):
                raise self._error("copies are refused (expected a new file with all its lines)")
            elif not line.startswith((b"similarity index ", b"dissimilarity index ")) and line:
                break
            self.at += 1
        if old != new and not moved:
            raise self._error(f"{old} and {new} differ without a rename")
        if not hunks and not made and not gone and not moved and modes[0] == modes[1]:
            raise self._error(f"{new}: no hunk (expected @@ lines after its header)")
        return FileDiff(
            None if made else old, None if gone else new, *ids, modes[0], modes[1], tuple(hunks)
        )

    def _names(self, text: bytes) -> tuple[str, str]:
        """Both paths of a `diff --git` line; unquoted ones are equal halves, or named again below."""
        if text.startswith(b'"') or text.endswith(b'"'):
            parts = re.findall(rb'"(?:[^"\\]|\\.)*"|[^ "]+', text)
        else:
            half = len(text) // 2
            parts = [text[:half], text[half + 1 :]]
            if parts[0][2:] != parts[1][2:]:
                parts = text.split(b" ") if text.count(b" ") == 1 else []
        if len(parts) != 2:
            raise self._error("not a diff header (expected a/PATH b/PATH)")
        return self._path(parts[0], b"a/"), self._path(parts[1], b"b/")

    def _path(self, raw: bytes, prefix: bytes = b"") -> str:
        if raw.startswith(b'"'):
            raw = self._unquoted(raw)
        if not raw.startswith(prefix):
            raise self._error(f"path without {prefix.decode()} (expected a git-style diff)")
        path = os.fsdecode(raw[len(prefix) :])
        parts = path.split("/")
        if "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in parts):
            raise self._error(f"{path!r} is not a path inside of the tree")
        if any(p.lower() == ".git" for p in parts):
            raise self._error(f"{path!r} is inside of a .git folder")
        return path

    def _unquoted(self, raw: bytes) -> bytes:
        out, text = bytearray(), raw.decode("latin-1")
        if len(text) < 2 or text[-1] != '"':
            raise self._error("a quoted path does not end")
        at = 1
        while at < len(text) - 1:
            if text[at] != "\\":
                out.append(ord(text[at]))
                at += 1
            elif m := re.compile(r"\\([0-3][0-7]{2})").match(text, at):
                out.append(int(m[1], 8))
                at = m.end()
            elif text[at + 1] in _ESCAPES:
                out.append(_ESCAPES[text[at + 1]])
                at += 2
            else:
                raise self._error(f"unknown escape {text[at : at + 2]} in a path")
        return bytes(out)

    def _same(self, raw: bytes, prefix: bytes, path: str, *, absent: bool) -> None:
        """Check a --- or +++ line against the header."""
        raw = raw.split(b"\t")[0]
        if absent:
            if raw != b"/dev/null":
                raise self._error("expected /dev/null for a file that is not there")
        elif raw == b"/dev/null" or self._path(raw, prefix) != path:
            raise self._error(f"names another file than its header ({path})")

    def _mode(self, raw: bytes) -> str:
        mode = raw.decode("ascii", "replace")
        if mode not in _FILE_MODES:
            raise self._error(f"mode {mode} is refused (expected a plain file: 100644 or 100755)")
        return mode

    def _hunk(self) -> Hunk:
        m = _HUNK.match(self.lines[self.at])
        if not m:
            raise self._error("not a hunk header (expected @@ -LINE,COUNT +LINE,COUNT @@)")
        left_old = int(m[2]) if m[2] is not None else 1
        left_new = int(m[4]) if m[4] is not None else 1
        counts = (left_old, left_new)
        old, new, removed, added = [], [], [], []
        trailing, last = 0, b""
        self.at += 1
        while (
            left_old
            or left_new
            or self.lines[self.at : self.at + 1] == [b"\\ No newline at end of file"]
        ):
            if self.at >= len(self.lines):
                raise self._error("the patch ends inside of a hunk")
            line = self.lines[self.at]
            mark, text = line[:1] or b" ", line[1:] + b"\n"
            if mark == b" ":
                old.append(text)
                new.append(text)
                left_old, left_new, trailing = left_old - 1, left_new - 1, trailing + 1
            elif mark == b"-":
                old.append(text)
                removed.append(text)
                left_old, trailing = left_old - 1, 0
            elif mark == b"+":
                new.append(text)
                added.append(text)
                left_new, trailing = left_new - 1, 0
            elif mark == b"\\":
                for side, marks in ((old, b" -"), (removed, b"-"), (new, b" +"), (added, b"+")):
                    if side and last and last in marks:
                        side[-1] = side[-1].removesuffix(b"\n")
            else:
                raise self._error("not a line of a hunk (expected one of ' ', '-', '+', '\\')")
            if left_old < 0 or left_new < 0:
                raise self._error("the hunk has more lines than its header says")
            last = mark
            self.at += 1
        return Hunk(
            int(m[1]), counts[0], int(m[3]), counts[1], b"".join(old), b"".join(new), trailing,
            tuple(removed), tuple(added),
        )  # fmt: skip
