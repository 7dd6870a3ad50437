"""Made-up files, changes and the diffs that tell of them, for comparison with git.

Few different lines, so that a hunk's old lines stand in several places and the search for the right
one matters.
"""

import difflib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.patches.releases import ENV, GIT
from tqconvert.patches.diff import FileDiff

Lines = list[bytes]
NO_END = b"\n\\ No newline at end of file\n"
WORDS = [b"}\n", b"\n", b"x\n", b"  x\n", b"y\r\n", b"\xff\n", *(b"u%d\n" % n for n in range(12))]

words = st.sampled_from(WORDS)
blocks = st.lists(words, max_size=8)


@dataclass(frozen=True)
class Case:
    """A diff, made between two files, and a third that it is to be put on."""

    old: bytes
    new: bytes
    target: bytes
    context: int
    lie: int
    """How far the line numbers of the diff are off."""

    def diff(self, name: str) -> bytes:
        """The diff with its header, empty if nothing changes."""
        body = hunks(self.old, self.new, self.context)
        if self.lie:
            body = re.sub(
                rb"^@@ -(\d+)(\S*) \+(\d+)",
                lambda m: b"@@ -%d%s +%d"
                % (max(int(m[1]) + self.lie, 0), m[2], max(int(m[3]) + self.lie, 0)),
                body, flags=re.MULTILINE,
            )  # fmt: skip
        path = name.encode()
        head = b"diff --git a/%s b/%s\n--- a/%s\n+++ b/%s\n" % (path, path, path, path)
        return head + body if body else b""


def split(data: bytes) -> Lines:
    """Lines with their ends, at LF alone."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def hunks(old: bytes, new: bytes, context: int) -> bytes:
    """The hunks of a unified diff."""
    before, after = split(old), split(new)
    out = []
    for group in difflib.SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(
        context
    ):
        first, last = group[0], group[-1]
        out.append(f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n".encode())
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                rows = [(b" ", line) for line in before[i1:i2]]
            else:
                rows = [(b"-", line) for line in before[i1:i2]] + [
                    (b"+", line) for line in after[j1:j2]
                ]
            out += [mark + (line if line.endswith(b"\n") else line + NO_END) for mark, line in rows]
    return b"".join(out)


def _range(start: int, end: int) -> str:
    count = end - start
    return f"{start + 1 if count else start}" + ("" if count == 1 else f",{count}")


@st.composite
def edited(draw: st.DrawFn, data: bytes, most: int) -> bytes:
    """The file with lines put in, taken out, changed, and blocks repeated."""
    lines = split(data)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.sampled_from([0, len(lines), draw(st.integers(0, len(lines)))]))
        end = min(at + draw(st.integers(0, 3)), len(lines))
        if draw(st.booleans()):
            lines[at:end] = draw(st.lists(words, max_size=3))
        else:
            lines[at:at] = lines[end : end + 6]
    return ended(draw, lines)


def ended(draw: st.DrawFn, lines: Lines) -> bytes:
    """Lines as one file, sometimes without the last line end."""
    data = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    return data[:-1] if draw(st.integers(0, 3)) == 0 else data


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One case; its target is near the file that the diff was made from."""
    old = ended(draw, [w for block in draw(st.lists(blocks, max_size=4)) for w in block])
    new = draw(edited(old, 3))
    target = draw(edited(old, 4))
    lie = draw(st.sampled_from([0, 0, 0, -2, 1, 5]))
    return Case(old, new, target, draw(st.sampled_from([1, 3, 3, 2, 0])), lie)


def git_joins_lines(diff: FileDiff) -> bool:
    """Whether a hunk's last old line has no end.

    git compares such a line with the beginning of one, and then writes the new line over it
    without an end (apply.c, match_fragment): the next line is glued to it. We take the file's end only.
    """
    return any(h.old and not h.old.endswith(b"\n") for h in diff.hunks)


def apply_with_git(
    folder: Path, patch: bytes, *options: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """`git apply` in a folder that belongs to no repository, or to the one in `folder`."""
    return subprocess.run(
        [GIT, "-c", "apply.whitespace=nowarn", "-c", "core.autocrlf=false", "apply", *options, "-"],
        cwd=folder, input=patch, capture_output=True, check=False,
        env={**ENV, "GIT_CEILING_DIRECTORIES": str(folder.parent.resolve()), **(env or {})},
    )  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What git made of one file of many."""

    data: bytes
    offsets: dict[int, int]
    rejected: int


def reject_with_git(folder: Path, targets: dict[str, bytes], patch: bytes) -> dict[str, Said]:
    """`git apply --reject` on many files in one process: hunks without a place are counted."""
    for name, data in targets.items():
        (folder / name).write_bytes(data)
        (folder / f"{name}.rej").unlink(missing_ok=True)
    done = apply_with_git(folder, patch, "--reject", "-v")
    offsets: dict[str, dict[int, int]] = {}
    current: dict[int, int] = {}
    for line in done.stderr.split(b"\n"):
        if m := re.match(rb"Checking patch (\S+)\.\.\.$", line):
            current = offsets.setdefault(os.fsdecode(m[1]), {})
        elif m := re.match(rb"Hunk #(\d+) succeeded at \d+ \(offset (-?\d+) lines?\)", line):
            current[int(m[1]) - 1] = int(m[2])
    found = {}
    for name in targets:
        path, rejected = folder / name, folder / f"{name}.rej"
        count = (
            len(re.findall(rb"^@@ -", rejected.read_bytes(), re.MULTILINE))
            if rejected.exists()
            else 0
        )
        found[name] = Said(path.read_bytes(), offsets.get(name, {}), count)
    assert offsets, done.stderr
    return found
