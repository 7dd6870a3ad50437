"""Faults of `ollama_patches`, all of them in one go, each with a code of `lint_codes.CODES`."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import BadLockError, BadPatchError, BadSeriesError, NotFoundError
from tqconvert.findings import Finding
from tqconvert.patches.diff import FileDiff, Hunk, parse_diffs, split_header
from tqconvert.patches.header import EXPECTED, FIELDS, SUBJECT_MOST, parse_header
from tqconvert.patches.layout import Layout
from tqconvert.patches.lint_codes import finding
from tqconvert.patches.locks.release import SUFFIX, read_lock
from tqconvert.patches.series import Entry, is_litter, parse_series

_MARKER = re.compile(rb"(<{7}|\|{7}|>{7})( |$)")
_CONTEXT = 3
_KINDS = (
    (".git folder", "PQ402"),
    ("not a path", "PQ402"),
    ("refused", "PQ403"),
    ("CRLF", "PQ301"),
)
"""Words of BadPatchError's message -> code; all others are PQ401."""


class Linted(NamedTuple):
    """What was found, and how much was looked at."""

    findings: tuple[Finding, ...]
    series: int
    patches: int
    new_files: int
    locks: int
    not_covered: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing but notes was found, in something."""
        return all(f.severity == "note" for f in self.findings)


def lint(folder: Path, layout: Layout | None = None) -> Linted:
    """Look at every series, patch, new file and lock below `folder`.

    `layout` is that of an Ollama tree of the legacy generation, whose filters new files must pass.
    Raises NotFoundError if there is no such folder.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    work = _Lint(folder, layout)
    patches = sorted(
        p for p in folder.rglob("*.patch") if "files" not in p.relative_to(folder).parts
    )
    series = sorted(p for p in folder.rglob("series") if p.is_file())
    for path in series:
        work.series(path)
    for path in patches:
        work.patch(path)
    work.unnamed(patches)
    new_files = [p for top in sorted(folder.rglob("files")) if top.is_dir()
                 for p in sorted(top.rglob("*")) if p.is_file()]  # fmt: skip
    for path in new_files:
        work.new_file(path)
    locks = sorted(folder.rglob(f"*{SUFFIX}"))
    for path in locks:
        work.lock(path)
    if not patches:
        work.find(folder, 0, "PQ001", "no patch in this folder (expected series and *.patch)")
    found = sorted(set(work.found), key=lambda f: (f.path, f.line, f.code, f.message))
    skipped = () if layout else ("PQ406: whether Ollama's filters pass new files (--ollama DIR)",)
    return Linted(tuple(found), len(series), len(patches), len(new_files), len(locks), skipped)


class _Lint:
    def __init__(self, folder: Path, layout: Layout | None) -> None:
        self.folder, self.layout = folder, layout
        self.found: list[Finding] = []
        self.named: set[Path] = set()
        self.vendored: set[Path] = set()
        """Patches that legacy trees take."""
        self.ids: dict[str, str] = {}
        self.made: dict[str, str] = {}
        """Path that a diff makes -> patch."""

    def find(self, path: Path, line: int, code: str, message: str) -> None:
        name = path.relative_to(self.folder).as_posix()
        self.found.append(finding(name, line, code, message))

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError as e:
            self.find(path, 0, "PQ002", str(e.strerror))
            return None

    def series(self, path: Path) -> None:
        data = self._read(path)
        if data is None:
            return
        if b"\r" in data:
            self.find(
                path, data.count(b"\n", 0, data.index(b"\r")) + 1, "PQ301", "CR before the line end"
            )
        seen: set[str] = set()
        legacy = "legacy" in path.relative_to(self.folder).parts
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            for entry in self._entries(path, number, line):
                for name in entry.alternatives:
                    if name in seen:
                        self.find(path, number, "PQ104", f"{name} stands in it twice")
                    seen.add(name)
                    target = path.parent / name
                    self.named.add(target)
                    if (entry.ggml or legacy) and path.parent.name == "llama.cpp":
                        self.vendored.add(target)
                    if not target.is_file():
                        self.find(path, number, "PQ102", f"{name} is not there")

    def _entries(self, path: Path, number: int, line: str) -> Sequence[Entry]:
        try:
            return parse_series(line)
        except BadSeriesError as e:
            twice = "twice" in e.message
            text = e.message.removeprefix("series:1: ")
            self.find(path, number, "PQ104" if twice else "PQ101", text)
            return ()

    def unnamed(self, patches: Sequence[Path]) -> None:
        for path in patches:
            if path not in self.named:
                self.find(path, 0, "PQ103", "no series names it")
            if re.match(r"\d+[-_.]", path.name):
                self.find(path, 0, "PQ105", "a number in its name (the series has the order)")

    def patch(self, path: Path) -> None:
        data = self._read(path)
        if data is None:
            return
        self._bytes(path, data)
        self._header(path, data)
        try:
            diffs = parse_diffs(data, path.name)
        except BadPatchError as e:
            where, _, text = e.message.removeprefix(f"{path.name}:").partition(": ")
            code = next((c for word, c in _KINDS if word in text), "PQ401")
            self.find(path, int(where), code, text)
            return
        if not diffs:
            self.find(path, 0, "PQ405", "no diff in it (expected `diff --git a/PATH b/PATH`)")
        for diff in diffs:
            self._diff(path, diff)

    def _bytes(self, path: Path, data: bytes) -> None:
        head, body = split_header(data)
        if not data.endswith(b"\n") or data.endswith(b"\n\n"):
            self.find(path, data.count(b"\n"), "PQ302", "expected one line end at the end")
        if b"\r" in head:
            self.find(
                path, head.count(b"\n", 0, head.index(b"\r")) + 1, "PQ301", "CR before the line end"
            )
        try:
            head.decode()
        except UnicodeDecodeError as e:
            self.find(path, head.count(b"\n", 0, e.start) + 1, "PQ305", "not UTF-8")
        first = head.count(b"\n") + 1
        for number, line in enumerate(body.split(b"\n"), start=first):
            if not line.startswith(b"+") or line.startswith(b"+++ "):
                continue
            if _MARKER.match(line, 1):
                self.find(path, number, "PQ303", "a conflict marker is added")
            if line[1:].rstrip(b" \t") != line[1:]:
                self.find(path, number, "PQ304", "white space at the end of an added line")
            elif line.endswith(b"\r"):
                self.find(path, number, "PQ301", "a line is added with CR at its end")

    def _header(self, path: Path, data: bytes) -> None:
        header = parse_header(data)
        for number in header.strange:
            self.find(
                path, number, "PQ206", "not a field (expected `Key: value`, folded by blanks)"
            )
        seen: set[str] = set()
        for key, value, number in header.lines:
            if key not in FIELDS:
                near = next((f for f in FIELDS if f.lower() == key.lower()), None)
                self.find(
                    path,
                    number,
                    "PQ206",
                    f"{key}: not known{f' (expected {near})' if near else ''}",
                )
            elif key in seen:
                self.find(path, number, "PQ205", f"{key} stands in it twice")
            elif not re.fullmatch(FIELDS[key], value):
                self.find(
                    path,
                    number,
                    "PQ202",
                    f"{key}: {value!r} (expected {EXPECTED.get(key, 'some text')})",
                )
            elif key == "Subject" and len(value) > SUBJECT_MOST:
                self.find(
                    path,
                    number,
                    "PQ203",
                    f"{len(value)} characters (expected {SUBJECT_MOST} at most)",
                )
            elif key == "TQ-Id":
                self._id(path, number, value)
            seen.add(key)
        for key in FIELDS:
            if key not in seen:
                self.find(path, 0, "PQ201", f"{key} is missing")

    def _id(self, path: Path, number: int, value: str) -> None:
        name = path.relative_to(self.folder).as_posix()
        if (other := self.ids.setdefault(value, name)) != name:
            self.find(path, number, "PQ204", f"{value} is that of {other}")
        top = name.partition("/")[0]
        wanted = top if top in ("legacy", "modern") else "all"
        if "/" in name and not value.startswith(f"tq-{wanted}-"):
            self.find(path, number, "PQ204", f"{value} (expected tq-{wanted}-NAME in this folder)")

    def _diff(self, path: Path, diff: FileDiff) -> None:
        for oid in (diff.old_id, diff.new_id):
            if oid and len(oid) < 40:
                self.find(path, 0, "PQ404", f"{diff.path}: {oid} (expected 40 digits)")
        if diff.old is None:
            self.made[diff.path] = path.name
            if self.layout and path in self.vendored and self.layout.locate(diff.path) is None:
                self.find(path, 0, "PQ406", f"{diff.path}: Ollama's sync would remove it")
        for number, hunk in enumerate(diff.hunks, start=1):
            most = max(_around(hunk), hunk.trailing)
            if diff.old and diff.new and most > _CONTEXT:
                self.find(
                    path,
                    0,
                    "PQ407",
                    f"{diff.path}: hunk {number} has {most} lines of context in a row",
                )

    def new_file(self, path: Path) -> None:
        parts = path.relative_to(self.folder).parts
        inner = "/".join(parts[parts.index("files") + 1 :])
        if is_litter(path):
            self.find(path, 0, "PQ501", "it would be left out")
        if inner in self.made:
            self.find(path, 0, "PQ502", f"{self.made[inner]} makes it too")
        if (
            self.layout
            and parts[0] == "files"
            and inner.startswith("ggml/")
            and self.layout.locate(inner) is None
        ):
            self.find(path, 0, "PQ406", "Ollama's sync would remove it")

    def lock(self, path: Path) -> None:
        try:
            wanted = read_lock(path).file_name
        except BadLockError as e:
            self.find(path, 0, "PQ601", e.message.removeprefix(f"{path}: "))
            return
        if path.name != wanted:
            self.find(path, 0, "PQ602", f"expected {wanted}")


def _around(hunk: Hunk) -> int:
    """Lines of context at the hunk's beginning."""
    count = 0
    for old, new in zip(_rows(hunk.old), _rows(hunk.new), strict=False):
        if old != new:
            break
        count += 1
    return count


def _rows(data: bytes) -> Iterator[bytes]:
    yield from data.splitlines(keepends=True)
