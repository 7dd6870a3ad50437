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

_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_INDEX = re.compile(rb"index ([0-9a-f]{7,40})\.\.([0-9a-f]{7,40})(?: (\d{6}))?$")
_CRLF = re.compile(rb"^diff --git .*\r$", re.MULTILINE)
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_FILE_MODES = ("100644", "100755")
_GIT_FOLDER = re.compile(r"(?i)(?:\.git|git~\d+)(?:[. ]*|:.*)")
"""Names that some file system takes for `.git`."""
_NO_END = b"\\ No newline at end of file"


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
    if found := _CRLF.search(data):
        line = data.count(b"\n", 0, found.start()) + 1
        raise BadPatchError(
            f"{name}:{line}: CRLF line end (expected LF: a diff of a CRLF file has them in hunks only)",
            hint=f"convert it: sed -i 's/\\r$//' {name}, and keep it so with `*.patch -text`",
        )
    return tuple(_Parser(data, name).diffs())


def split_header(data: bytes) -> tuple[bytes, bytes]:
    """What stands before the first diff, and the rest."""
    if data.startswith(b"diff --git "):
        return b"", data
    head, found, rest = data.partition(b"\ndiff --git ")
    return (head + b"\n", b"diff --git " + rest) if found else (data, b"")


class _Head:
    """What stands between `diff --git` and the first hunk."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new
        self.ids: tuple[str | None, str | None] = (None, None)
        self.modes: tuple[str | None, str | None] = (None, None)
        self.made = self.gone = False
        self.moved: set[str] = set()
        """Which of `rename from` and `rename to` it has."""
        self.sides = 0
        """How many of --- and +++ were there."""


class _Parser:
    def __init__(self, data: bytes, name: str) -> None:
        self.lines, self.name, self.at = data.split(b"\n"), name, 0
        self.cut = bool(self.lines[-1])
        """Whether the last line lacks its end."""
        if not self.cut:
            self.lines.pop()

    def diffs(self) -> Iterator[FileDiff]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith(b"diff --git "):
                yield self._diff()
            elif line.startswith(b"@@ -"):
                raise self._error(
                    "a hunk that changes no file (expected `diff --git a/PATH b/PATH` above)"
                )
            else:
                self.at += 1

    def _error(self, text: str) -> BadPatchError:
        return BadPatchError(f"{self.name}:{self.at + 1}: {text}")

    def _diff(self) -> FileDiff:
        head = _Head(*self._names(self.lines[self.at][len(b"diff --git ") :]))
        hunks: list[Hunk] = []
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith(b"@@ -"):
                if head.sides != 2:
                    raise self._error("a hunk without its file (expected --- and +++ lines above)")
                hunks.append(self._hunk())
                continue
            if hunks or not self._take(line, head):
                break
            self.at += 1
        if hunks and line[:1] in (b"+", b"-", b" ", b"\\") and line not in (b"-- ", b"--"):
            raise self._error("the hunk has more lines than its header says")
        old, new = None if head.made else head.old, None if head.gone else head.new
        if head.moved and len(head.moved) == 1:
            raise self._error(f"{head.new}: a rename has two lines (rename from, rename to)")
        if head.old != head.new and not head.moved:
            raise self._error(f"{head.old} and {head.new} differ without a rename")
        if head.made + head.gone + bool(head.moved) > 1:
            raise self._error(f"{head.new}: made, removed, renamed: one at a time")
        if (head.made and any(h.old for h in hunks)) or (head.gone and any(h.new for h in hunks)):
            raise self._error(f"{head.new}: lines of a file that is not there")
        changed = old != new or head.modes[0] != head.modes[1]
        if not hunks and not changed:
            raise self._error(f"{head.new}: no hunk (expected @@ lines after its header)")
        return FileDiff(old, new, *head.ids, *head.modes, tuple(hunks))

    def _take(self, line: bytes, head: "_Head") -> bool:
        """Read a line between `diff --git` and the first hunk; whether it is one."""
        word, _, rest = line.partition(b" ")
        if m := _INDEX.match(line):
            head.ids = (m[1].decode(), m[2].decode())
            if m[3]:
                head.modes = (self._mode(m[3]), self._mode(m[3]))
        elif line.startswith((b"new file mode ", b"new mode ")):
            head.made = head.made or word + rest[:4] == b"newfile"
            head.modes = (head.modes[0], self._mode(line.rpartition(b" ")[2]))
        elif line.startswith((b"deleted file mode ", b"old mode ")):
            head.gone = head.gone or word == b"deleted"
            head.modes = (self._mode(line.rpartition(b" ")[2]), head.modes[1])
        elif line.startswith(b"rename from "):
            head.old = self._path(line[12:])
            head.moved.add("from")
        elif line.startswith(b"rename to "):
            head.new = self._path(line[10:])
            head.moved.add("to")
        elif word == b"---":
            self._same(rest, b"a/", head.old, absent=head.made)
            head.sides += 1
        elif word == b"+++":
            self._same(rest, b"b/", head.new, absent=head.gone)
            head.sides += 1
        elif line.startswith((b"GIT binary patch", b"Binary files ")):
            raise self._error("binary patches are refused (expected text that can be read)")
        elif line.startswith((b"copy from ", b"copy to ")):
            raise self._error("copies are refused (expected a new file with all its lines)")
        else:
            return line.startswith((b"similarity index ", b"dissimilarity index "))
        return True

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
        if any(_GIT_FOLDER.fullmatch(p) for p in parts):
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
        trailing, last, ended = 0, b"", b""
        self.at += 1
        while left_old or left_new or self.lines[self.at : self.at + 1] == [_NO_END]:
            if self.at >= len(self.lines):
                raise self._error("the patch ends inside of a hunk")
            line = self.lines[self.at]
            mark, text = line[:1] or b" ", line[1:] + b"\n"
            if mark != b"\\" and (mark in ended or (self.cut and self.at == len(self.lines) - 1)):
                raise self._error("a line after the end of the file, or one without its end")
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
            elif mark == b"\\" and last:
                for side, marks in ((old, b" -"), (removed, b"-"), (new, b" +"), (added, b"+")):
                    if last in marks:
                        side[-1] = side[-1].removesuffix(b"\n")
                ended += {b" ": b" -+", b"-": b" -", b"+": b" +"}[last]
                mark = b""
            else:
                raise self._error("not a line of a hunk (expected one of ' ', '-', '+', '\\')")
            if left_old < 0 or left_new < 0:
                raise self._error("the hunk has more lines than its header says")
            last = mark
            self.at += 1
        if not removed and not added:
            raise self._error("a hunk that changes nothing")
        return Hunk(
            int(m[1]), counts[0], int(m[3]), counts[1], b"".join(old), b"".join(new), trailing,
            tuple(removed), tuple(added),
        )  # fmt: skip
