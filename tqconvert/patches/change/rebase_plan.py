"""What bringing the queue to another base comes to, in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError
from tqconvert.patches.bases.target import Target, open_target
from tqconvert.patches.change.chain import Chain, NewCommit, plan_commits
from tqconvert.patches.change.generated import with_generated
from tqconvert.patches.change.repository import Blobs, Entry, Repository
from tqconvert.patches.change.stack import Stacked, branch_name, look, stack
from tqconvert.patches.checkout import PATCHES, Checkout, Generation
from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.queue import Layer, Origin, Queue, Step, our_steps
from tqconvert.patches.series import Patch


class NewBase(NamedTuple):
    """The base that patches are brought to."""

    name: str
    commit: str
    tree: Mapping[str, Entry]
    queue: Queue
    layout: Layout


class RebasePlan(NamedTuple):
    """What bringing the queue to another base comes to."""

    base: NewBase
    stacked: Stacked
    commits: tuple[NewCommit, ...]
    """Those before the first conflict."""
    ref: str
    old: Chain
    """The patches on the old base."""


def plan_rebase(
    repo: Repository, queue: Queue, patches: Path, blobs: Blobs, onto: str, env: Mapping[str, str]
) -> RebasePlan:
    """Put the queue on another commit of the repository, in memory; conflicts are in the plan."""
    base = find_base(repo, queue, patches, onto, env)
    now = look(repo, blobs)
    files = Files(repo.reader(base.tree, blobs))
    stacked = stack(files, base.queue, layout=base.layout)
    whole = _until_conflict(stacked)
    planned = plan_commits([f for f in stacked.fits[:whole] if f.ok], base.tree)
    commits = with_generated(planned, files.original)
    ref = f"refs/heads/{branch_name(repo, base.queue, base.commit)}"
    return RebasePlan(base, stacked, commits, ref, now.chain)


def find_base(
    repo: Repository, queue: Queue, patches: Path, onto: str, env: Mapping[str, str]
) -> NewBase:
    """What `--onto` names, with the queue that goes there. Raises NotFoundError."""
    commit = repo.branch_at(onto)
    target = open_target(commit or onto, repo.root, env)
    if target.commit is None:
        raise RefusedError(
            f"{onto}: a folder (expected a commit, branch or tag of {repo.root})",
            hint=f"git -C {repo.root} fetch {onto} HEAD, then --onto FETCH_HEAD",
        )
    source = (
        queue.source.generation
        if queue.source and not queue.checkout.is_ollama
        else target.generation
    )
    steps: list[Step] = []
    if target.generation is Generation.LEGACY:
        steps += _vendored_steps(target)
    elif target.generation is Generation.LLAMA_CPP:
        steps += queue.upstream
    steps += our_steps(patches, target.generation, source)
    checkout = Checkout(repo.root, target.generation, None)
    tree = repo.tree(target.commit.id)
    return NewBase(
        onto, target.commit.id, tree, Queue(checkout, tuple(steps), queue.source), target.layout
    )


def _until_conflict(stacked: Stacked) -> int:
    """How many of the steps go on before the first that does not."""
    return next((n for n, f in enumerate(stacked.fits) if not f.ok), len(stacked.fits))


def _vendored_steps(target: Target) -> list[Step]:
    """Ollama's own patches in a commit."""
    assert target.commit
    names = [p for p in sorted(target.commit.entries) if p.startswith(f"{PATCHES}/")]
    names = [p for p in names if p.endswith(".patch")]
    target.fetch(names)
    patches = [Patch(p.rpartition("/")[2], target.read(p) or b"") for p in names]
    return [Step((p,), Origin.OLLAMA, Layer.LLAMA_CPP) for p in patches]
