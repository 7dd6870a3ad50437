"""The newest commit of llama.cpp that the whole queue goes onto."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError, PatchError
from tqconvert.patches.bases.target import NO_FETCH, target_of
from tqconvert.patches.bases.trial import paths_of, steps_onto
from tqconvert.patches.files import Files
from tqconvert.patches.git import Git
from tqconvert.patches.locks.history import Commit
from tqconvert.patches.queue import Queue
from tqconvert.patches.series import Scope
from tqconvert.patches.walk import apply_steps


class Bisected(NamedTuple):
    """Where the patches stop to fit."""

    newest: str
    subject: str
    commits: int
    """Between both ends."""
    tried: int
    next: str | None
    """The commit after it, None if all fit."""
    failing: tuple[str, ...]
    """Patches that do not go onto that."""


def bisect(
    queue: Queue, folder: Path, repository: Path, ends: tuple[str, str], env: Mapping[str, str], *,
    scope: Scope | None = None,
) -> Bisected:  # fmt: skip
    """Halve the first parents between two commits until the last one that fits is found.

    Raises NotFoundError, and PatchError if the patches do not go onto the first.
    """
    git = Git(repository, {**env, **NO_FETCH})
    old, new = (Commit(git, name) for name in ends)
    between = git.text_of("rev-list", "--reverse", "--first-parent", f"{old.id}..{new.id}").split()
    if old.id != new.id and git.run("merge-base", "--is-ancestor", old.id, new.id).returncode:
        raise NotFoundError(
            f"{repository}: {ends[1]} does not come after {ends[0]} (expected the history between them)",
            hint=f"git -C {repository} fetch --unshallow",
        )
    commits = [old.id, *between]
    failing: dict[int, tuple[str, ...]] = {}

    def fails(number: int) -> bool:
        commit = Commit(git, commits[number])
        target = target_of(commit.id, commit, git)
        steps = steps_onto(queue, folder, target, scope)
        target.fetch(paths_of(steps))
        fits = apply_steps(Files(target.read), steps, target.layout)
        failing[number] = tuple(f.step.name for f in fits if not f.ok)
        return bool(failing[number])

    if fails(0):
        raise PatchError(
            f"{ends[0]}: {', '.join(failing[0])} does not go on (expected an OLD that all fit)",
            patch=failing[0][0],
            hint=f"tqconvert ollama-build status TREE --onto {ends[0]} --git {repository}",
        )
    low, high = 0, len(commits)
    middle = high - 1
    while low + 1 < high:
        if fails(middle):
            high = middle
        else:
            low = middle
        middle = (low + high) // 2
    subject = git.text_of("log", "-1", "--format=%s", commits[low])
    after = commits[high] if high < len(commits) else None
    return Bisected(commits[low], subject, len(commits), len(failing), after, failing.get(high, ()))
