"""The queue of one tree tried on another base: which patches go there, and what both sides of a merge are."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError
from tqconvert.patches.bases.merge import Merger
from tqconvert.patches.bases.onto import Tried, Walk
from tqconvert.patches.bases.target import NO_FETCH, Target
from tqconvert.patches.checkout import Checkout, Generation
from tqconvert.patches.files import Files
from tqconvert.patches.git import Git
from tqconvert.patches.layout import Plain
from tqconvert.patches.locks.history import Commit
from tqconvert.patches.locks.origin import compare_patches
from tqconvert.patches.queue import Origin, Queue, Step, our_steps, upstream_steps
from tqconvert.patches.series import Scope
from tqconvert.patches.tree.images import FindBlob, Images, images_of
from tqconvert.patches.tree.state import TextReader


class Trial(NamedTuple):
    """The verdicts."""

    target: Target
    tried: tuple[Tried, ...]
    not_covered: tuple[str, ...]
    """What could not be looked at, and why."""

    @property
    def ok(self) -> bool:
        """Whether all go on as they are."""
        return all(t.ok for t in self.tried)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> how many patches."""
        found: dict[str, int] = {}
        for tried in self.tried:
            found[str(tried.verdict)] = found.get(str(tried.verdict), 0) + 1
        return found


def steps_onto(
    queue: Queue, folder: Path, target: Target, scope: Scope | None = None
) -> tuple[Step, ...]:
    """What of the queue, with our patches in `folder`, goes onto the target.

    Onto llama.cpp Ollama's patches come first; onto Ollama only ours go. Raises BadSeriesError, BadPatchError.
    """
    if target.generation is not Generation.LLAMA_CPP:
        return tuple(our_steps(folder, target.generation, target.generation, scope))
    upstream = upstream_steps(queue.source) if queue.source else []
    source = (queue.source or queue.checkout).generation
    return (*upstream, *our_steps(folder, target.generation, source, scope))


def try_onto(
    queue: Queue, folder: Path, target: Target, env: Mapping[str, str], *,
    repository: Path | None = None, scope: Scope | None = None, deep: bool = False,
) -> Trial:  # fmt: skip
    """Try the queue on the target, with our patches in `folder`; nothing is written.

    `repository` is a llama.cpp repository: with the queue's own base in it, patches can be merged that
    the tree does not tell both sides of. `deep` looks for them in its history since then.
    Raises BadSeriesError, BadPatchError, GitFailedError, ToolMissingError.
    """
    steps = steps_onto(queue, folder, target, scope)
    layout = target.layout
    target.fetch(paths_of(steps, layout.locate if target.generation is Generation.LEGACY else None))
    git = Git(repository, {**env, **NO_FETCH}) if repository else None
    base = _base(queue, git) if git else None
    images, find, not_covered = Images(), None, []
    if base and queue.source:
        base.fetch(paths_of(steps))
        images = images_of(
            Queue(queue.checkout._replace(generation=Generation.LLAMA_CPP), steps), base.read
        )
    elif (
        queue.checkout.generation is not Generation.MODERN or target.generation is Generation.MODERN
    ):
        images = images_of(queue, TextReader(queue.checkout.root))
        find = _blob_finder(git) if git else None
    else:
        named = queue.checkout.base
        not_covered.append(f"merges: llama.cpp {named} is in no repository at hand (--git DIR)")
    with Merger(env) as merger:
        tried = Walk(Files(target.read), layout, images, merger, find).steps(steps)
    if queue.source and target.generation is Generation.LLAMA_CPP:
        tried = _noted(tried, folder, queue.source)
    if deep:
        from tqconvert.patches.bases.landed_commits import add_commits

        tried, missing = add_commits(tried, git, base, target)
        not_covered += [missing] if missing else []
    return Trial(target, tuple(tried), tuple(not_covered))


def _noted(tried: list[Tried], folder: Path, source: Checkout) -> list[Tried]:
    """The verdicts, with what the locks say of the files of Ollama's patches."""
    patches = [t.patch for t in tried if t.step.origin is Origin.OLLAMA]
    known = compare_patches(folder, source, patches).patches
    notes = [f"{k.verdict}: {k.evidence}" if k.evidence else "" for k in known]
    return [t._replace(note=n) for t, n in zip(tried, notes, strict=False)] + tried[len(notes) :]


def paths_of(steps: Iterable[Step], locate: Callable[[str], str | None] | None = None) -> list[str]:
    """All files that steps touch, at their places."""
    found: dict[str | None, None] = {}
    for step in steps:
        for patch in step.alternatives:
            for diff in step.located(patch, Plain()).diffs:
                for path in (diff.old, diff.new):
                    if path:
                        found[locate(path) if locate else path] = None
    return [p for p in found if p]


def _base(queue: Queue, git: Git) -> Commit | None:
    """The llama.cpp that the queue is made for, if the repository has it."""
    source = queue.source
    if source is None or source.base is None:
        return None
    try:
        return Commit(git, source.base)
    except NotFoundError:
        return None


def _blob_finder(git: Git) -> FindBlob:
    found: dict[str, bytes | None] = {}

    def find(oid: str) -> bytes | None:
        if oid not in found:
            done = git.run("cat-file", "blob", oid)
            found[oid] = done.stdout if done.returncode == 0 else None
        return found[oid]

    return find
