"""What putting patches on a tree comes to, computed in memory: what is there, what goes on, what does not."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tqconvert.errors import NotFoundError, UnknownBaseError
from tqconvert.patches.change.chain import Chain, NewCommit, plan_commits, read_chain
from tqconvert.patches.change.repository import Blobs, Entry, Repository, Work
from tqconvert.patches.checkout import Generation
from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.queue import Origin, Queue, Step
from tqconvert.patches.walk import StepFit, apply_step, reverse_steps


class Conflict(NamedTuple):
    """A step that does not go on, and where."""

    step: Step
    files: tuple[tuple[str, tuple[int, ...], str | None], ...]
    """Path, hunks counted from 1 that have no place, why the file as a whole does not take it."""
    blocked_by: tuple[str, ...]
    """Steps before it that do not go on either and change the same files."""


class Stacked(NamedTuple):
    """Steps on a base."""

    there: tuple[Step, ...]
    """They are in the base already."""
    fits: tuple[StepFit, ...]
    """What became of the others, in order."""
    conflicts: tuple[Conflict, ...]


class Situation(NamedTuple):
    """Where a tree stands: its edits, the patches in its history, the files of the base below them."""

    work: Work
    chain: Chain
    tree: Mapping[str, Entry]
    files: Files


def look(repo: Repository, blobs: Blobs) -> Situation:
    """Where a tree stands. Raises NotFoundError for a repository without a commit."""
    work = repo.work()
    chain = read_chain(repo, work.head.oid)
    tree = repo.tree(chain.base)
    return Situation(work, chain, tree, Files(repo.reader(tree, blobs)))


def stack(
    files: Files, queue: Queue, upto: Step | None = None, *, layout: Layout | None = None
) -> Stacked:
    """Put the queue on `files`, up to a step; whatever is in them already is left in.

    `layout` is given for files of another commit than the folder's. In an Ollama tree of the legacy generation Ollama's own are. Raises UnknownBaseError where not.
    """
    steps = queue.steps
    layout = layout or queue.checkout.layout
    there: tuple[Step, ...] = ()
    if queue.checkout.generation is Generation.LEGACY:
        _require_vendored(files, queue, layout)
        there, steps = queue.upstream, queue.ours
    if upto is not None:
        steps = steps[: steps.index(upto) + 1] if upto in steps else ()
    trial = files.copy()
    fits = _put_on(trial, steps, layout)
    if any(not f.ok for f in fits):
        count = _count_there(files, steps, layout)
        if count:
            there += steps[:count]
            trial = files.copy()
            fits = _put_on(trial, steps[count:], layout)
    files.take(trial)
    return Stacked(there, tuple(fits), find_conflicts(fits))


def find_step(queue: Queue, name: str) -> Step:
    """The last step of that name, `.patch` or not; Ollama's by their number too. Raises NotFoundError."""
    wanted = name.removesuffix(".patch")
    for step in reversed(queue.steps):
        names = {p.name.removesuffix(".patch") for p in step.alternatives}
        if wanted in names:
            return step
        if step.origin is Origin.OLLAMA and step.name.partition("-")[0] == wanted:
            return step
    import difflib

    names_ = [s.name for s in queue.steps]
    near = difflib.get_close_matches(wanted, names_, n=3)
    raise NotFoundError(
        f"{name}: no such patch in the queue",
        hint=f"did you mean {', '.join(near)}?" if near else "tqconvert ollama-build list",
    )


def find_conflicts(fits: Iterable[StepFit]) -> tuple[Conflict, ...]:
    """The steps that do not go on, with those before them that they fail for."""
    found: list[Conflict] = []
    touched: dict[str, str] = {}
    for fit in fits:
        if fit.ok:
            continue
        files = tuple(
            (f.path, tuple(n + 1 for n in f.placement.failed), f.placement.reason)
            for f in fit.conflicts
        )
        blocked = dict.fromkeys(touched[p] for p, _, _ in files if p in touched)
        found.append(Conflict(fit.step, files, tuple(blocked)))
        for file in fit.files:
            touched.setdefault(file.path, fit.step.name)
    return tuple(found)


def series_id(steps: Iterable[Step]) -> str:
    """A hash of the names and bytes of all steps, of alternatives that are not used too."""
    total = hashlib.sha256()
    for step in steps:
        total.update(" | ".join(f"{p.name} {p.sha256}" for p in step.alternatives).encode() + b"\n")
    return total.hexdigest()


def branch_name(repo: Repository, queue: Queue, base: str) -> str:
    """`tq/RELEASE-SERIES`: the tag at the base or what the tree is made for, the series by 8 digits."""
    tags = repo.git.text_of("tag", "--points-at", base).split()
    named = [t for t in tags if re.fullmatch(r"[vb]\d[\w.-]*", t)]
    release = (named or tags or [queue.checkout.base or base[:9]])[0]
    release = re.sub(r"[^A-Za-z0-9._-]+|\.\.+|\.lock$", "-", release).strip(".-") or base[:9]
    return f"tq/{release}-{series_id(queue.steps)[:8]}"


def same_as(chain: Chain, commits: Sequence[NewCommit]) -> bool:
    """Whether the history holds these very patches, by name and digest."""
    have = [f"{link.name} sha256:{link.sha256}" for link in chain.links]
    return have == [c.message.rpartition(b": ")[2].strip().decode() for c in commits]


def commits_of(stacked: Stacked, tree: Mapping[str, Entry]) -> tuple[NewCommit, ...]:
    """The commits of everything that goes on."""
    return plan_commits([f for f in stacked.fits if f.ok], tree)


def _put_on(files: Files, steps: Iterable[Step], layout: Layout) -> list[StepFit]:
    return [apply_step(files, step, layout) for step in steps]


def _count_there(files: Files, steps: Sequence[Step], layout: Layout) -> int:
    """How many of the steps, from the first on, are in the files: all of these come off again."""
    for count in range(len(steps), 0, -1):
        some = steps[:count]
        taken = reverse_steps(files.copy(), some, layout)
        # New files alone prove nothing of the patches before them, if none of those is in the tree.
        if len(taken) == count and any(t.files for t in taken):
            return count
    return 0


def _require_vendored(files: Files, queue: Queue, layout: Layout) -> None:
    upstream = queue.upstream
    taken = reverse_steps(files.copy(), upstream, layout)
    if len(taken) == len(upstream):
        return
    root, total = queue.checkout.root, len(upstream)
    trial = files.copy()
    clean = [apply_step(trial, s, layout).ok for s in upstream]
    if all(clean):
        what = f"none of Ollama's {total} patches is in the vendored trees"
    else:
        stuck = upstream[total - len(taken) - 1]
        fit = apply_step(files.copy(), stuck, layout, reverse=True)
        where = ", ".join(f.path for f in fit.conflicts[:3])
        what = f"Ollama's {stuck.name} is not in it as it is in llama/patches ({where})"
    raise UnknownBaseError(
        f"{root}: {what}", hint=f"tqconvert ollama-build status {root} tells what is changed"
    )
