"""The text of a patch from contents before and after it; what has not changed keeps its bytes.

The diff is git's, with fixed settings: `--full-index`, Myers, no renames, and as few context lines as
put each hunk where it belongs. Headers and the diffs of unchanged files are kept as they stand.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from tqconvert.errors import TqError
from tqconvert.patches.change.chain import new_commit, write_commits
from tqconvert.patches.change.operation import REFS, new_id
from tqconvert.patches.change.repository import Repository
from tqconvert.patches.diff import FileDiff, parse_diffs, split_header
from tqconvert.patches.place import place

CONTEXT = (1, 2, 3, 6)
"""Numbers of context lines that are tried, the fewest first."""


class Side(NamedTuple):
    """A file on one side of a patch."""

    data: bytes
    mode: str


class Change(NamedTuple):
    """A file before and after a patch; None where there is none."""

    before: Side | None
    after: Side | None


def render_patch(repo: Repository, old: bytes, changes: Mapping[str, Change]) -> bytes:
    """A patch that makes `changes` (by path as the patch names files), after the text `old`.

    Diffs in `old` of files that `changes` does not hold are kept: the tree does not carry those.
    """
    header, segments = split_segments(old)
    texts: dict[str, bytes] = {}
    stale = {p for p, c in changes.items() if c.before != c.after}
    for path, text in segments:
        if path not in changes:
            texts[path] = text
        elif path in stale:
            texts[path] = b""  # keeps its place in the order
            if _makes(text, path, changes[path]):
                texts[path] = text
                stale.discard(path)
    if stale:
        texts.update(_diffs(repo, {p: changes[p] for p in sorted(stale)}))
    return header + b"".join(texts.values())


def split_segments(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The header of a patch, and the text of each file's diff with its path."""
    header, rest = split_header(data)
    texts = [t for t in re.split(rb"^(?=diff --git )", rest, flags=re.MULTILINE) if t.strip()]
    return header, [(parse_diffs(t, "patch")[0].path, t) for t in texts]


def _makes(text: bytes, path: str, change: Change) -> bool:
    """Whether a diff as it stands makes this change."""
    diff = parse_diffs(text, path)[0]
    if diff.old not in (None, diff.new) or (change.before is None) != (diff.old is None):
        return False
    if change.before and change.after and change.before.mode != change.after.mode:
        return False
    return _applies(diff, change) is not None


def _applies(diff: FileDiff, change: Change) -> int | None:
    """The largest offset at which a diff makes the change, None if it does not."""
    done = place(change.before.data if change.before else None, diff)
    wanted = change.after.data if change.after else None
    if not done.ok or done.data != wanted:
        return None
    return max((abs(n) for n in done.offsets), default=0)


def _diffs(repo: Repository, changes: Mapping[str, Change]) -> dict[str, bytes]:
    """Git's diff of each file, with the fewest context lines that do."""
    ref = f"{REFS}/new/{new_id('diff')}"
    sides = [{p: side.data for p, c in changes.items() if (side := c[number])} for number in (0, 1)]
    modes = [{p: side.mode for p, c in changes.items() if (side := c[number])} for number in (0, 1)]
    gone = dict.fromkeys(sides[0].keys() - sides[1].keys())
    commits = (
        new_commit("before", b"before\n", sides[0], modes[0]),
        new_commit("after", b"after\n", {**sides[1], **gone}, modes[1]),
    )
    top = write_commits(repo, None, commits, ref)
    try:
        return _with_least_context(repo, top, changes)
    finally:
        repo.update_refs({ref: (None, top)}, "diff")


def _with_least_context(
    repo: Repository, top: str, changes: Mapping[str, Change]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for lines in CONTEXT:
        text = repo.git.bytes_of(
            "diff-tree", "-p", f"-U{lines}", "--full-index", "--no-renames", "--no-color",
            "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/",
            f"{top}~1", top,
        )  # fmt: skip
        for path, segment in split_segments(text)[1]:
            if path not in found and _applies(parse_diffs(segment, path)[0], changes[path]) == 0:
                found[path] = segment
        if found.keys() == changes.keys():
            return found
    missing = ", ".join(sorted(changes.keys() - found.keys()))
    raise TqError(f"{missing}: no diff that makes the change")
