"""Commits of llama.cpp's history that look like a patch: the same change, or a subject like it."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tqconvert.patches.bases.onto import Commit, Tried
from tqconvert.patches.bases.target import Target
from tqconvert.patches.git import Git
from tqconvert.patches.locks import history
from tqconvert.patches.patch_id import patch_id
from tqconvert.patches.verdict import Verdict

_MOST = 3
"""Commits that are named for one patch."""
_PLAIN = frozenset(
    ("a", "an", "and", "add", "fix", "for", "from", "in", "of", "on", "the", "to", "with", "use",
     "ggml", "llama", "cuda", "metal", "vulkan", "cpu", "server")
)  # fmt: skip
"""Words that stand in many subjects."""


class _Logged(NamedTuple):
    id: str
    subject: str
    patch_id: str | None
    paths: frozenset[str]


def add_commits(
    tried: Sequence[Tried], git: Git | None, base: history.Commit | None, target: Target
) -> tuple[list[Tried], str | None]:
    """The verdicts with commits that have to do with them, and what could not be looked at.

    A commit with the same change makes the verdict `upstream-exact`. Raises GitFailedError.
    """
    if git is None or base is None or target.commit is None:
        return list(
            tried
        ), "history: the patches' own llama.cpp is in no repository at hand (--git DIR)"
    since = git.run("merge-base", "--is-ancestor", base.id, target.commit.id)
    if since.returncode:
        return list(tried), f"history: {target.name} does not come after {base.id[:9]} in it"
    wanted = [t for t in tried if not t.ok]
    paths = sorted({d.path for t in wanted for d in t.step.located(t.patch, target.layout).diffs})
    log = list(_log(git, f"{base.id}..{target.commit.id}", paths)) if paths else []
    return [_with(t, log, target) if not t.ok else t for t in tried], None


def _log(git: Git, commits: str, paths: Iterable[str]) -> Iterable[_Logged]:
    out = git.bytes_of(
        "log", "-p", "--no-merges", "--full-diff", "--no-color", "--no-ext-diff", "--no-textconv",
        "--format=%x00%H%x09%s%n", commits, "--", *paths,
    )  # fmt: skip
    for part in out.split(b"\0")[1:]:
        head, _, rest = part.partition(b"\n")
        oid, _, subject = head.decode("utf-8", "replace").partition("\t")
        touched = re.findall(rb"^diff --git a/(.+) b/", rest, re.MULTILINE)
        names = frozenset(t.decode("utf-8", "surrogateescape") for t in touched)
        yield _Logged(oid, subject, patch_id(rest), names)


def _with(tried: Tried, log: Sequence[_Logged], target: Target) -> Tried:
    own = patch_id(tried.patch.data)
    same = [Commit(c.id, c.subject, "same change") for c in log if own and c.patch_id == own]
    if same:
        return tried._replace(verdict=Verdict.EXACT, commits=tuple(same[:_MOST]))
    paths = {d.path for d in tried.step.located(tried.patch, target.layout).diffs}
    words = _words(_subject(tried.patch.data))
    near = [c for c in log if c.paths & paths]
    like = [
        Commit(c.id, c.subject, "like subject") for c in near if _alike(words, _words(c.subject))
    ]
    clashing = {c.path for c in tried.clashes if c.merged != 0}
    touching = [Commit(c.id, c.subject, "same files") for c in near if c.paths & clashing]
    return tried._replace(commits=tuple((like + touching)[:_MOST]))


def _subject(data: bytes) -> str:
    found = re.search(rb"^Subject: (.*(?:\n .*)*)", data, re.MULTILINE)
    return found[1].decode("utf-8", "replace").replace("\n", "") if found else ""


def _words(subject: str) -> frozenset[str]:
    text = re.sub(r"\[PATCH[^\]]*\]|\(#\d+\)", " ", subject).lower()
    return frozenset(re.findall(r"[a-z0-9_]{2,}", text)) - _PLAIN


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether most telling words of the shorter one are in both."""
    least = min(len(one), len(other))
    return least > 0 and len(one & other) * 3 >= 2 * least and any(len(w) > 4 for w in one & other)
