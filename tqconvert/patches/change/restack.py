"""Patches that are applied, some with new content: the rest put on again in memory, texts written anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import RefusedError, TqError
from tqconvert.patches.change.chain import Chain, Link, NewCommit, plan_commits, read_chain
from tqconvert.patches.change.generated import with_generated
from tqconvert.patches.change.operation import REFS
from tqconvert.patches.change.repository import Entry, Repository
from tqconvert.patches.change.stack import Conflict, find_conflicts
from tqconvert.patches.diff import FileDiff
from tqconvert.patches.files import Files
from tqconvert.patches.kernels import MADE
from tqconvert.patches.layout import Layout
from tqconvert.patches.place import place
from tqconvert.patches.queue import FilesStep, Layer, Origin, Queue, Step
from tqconvert.patches.render import Change, Side, render_patch
from tqconvert.patches.series import NewFile, Patch
from tqconvert.patches.walk import apply_step


class Member(NamedTuple):
    """An applied patch: its commit, and where it stands in the queue."""

    link: Link
    step: Step
    patch: Patch

    @property
    def alone(self) -> Step:
        """The step with nothing but the alternative that was taken."""
        if isinstance(self.step, FilesStep):
            return self.step
        return Step((self.patch,), self.step.origin, self.step.layer)

    def paths(self, layout: Layout) -> tuple[str, ...]:
        """The files that the patch leaves, where they lie in the tree."""
        return tuple(d.new for d in self.alone.located(self.patch, layout).diffs if d.new)


class Edit(NamedTuple):
    """A change that belongs into one of the patches."""

    member: int
    """Its place among those that are applied."""
    diffs: tuple[FileDiff, ...]
    what: str
    """Where it comes from, for messages."""
    whole: bool = False
    """Whether it stands in the patch's stead."""
    name: str | None = None
    """What the patch is called from then on, with `.patch`; None: as it is."""


class Restacked(NamedTuple):
    """The patches with edits taken in."""

    steps: tuple[Step, ...]
    """One a member, in order, new where its content is."""
    changed: tuple[int, ...]
    """Members whose patch is another now."""
    commits: tuple[NewCommit, ...]
    files: Files
    conflicts: tuple[Conflict, ...]
    """Patches that do not go on after the edits; then nothing else here holds."""


def full_chain(repo: Repository, chain: Chain) -> tuple[Chain, str | None]:
    """The chain with the patches above HEAD too, while one is edited; and the ref that records it.

    Raises RefusedError if no patches are applied, or not as they were recorded.
    """
    if not chain.links:
        raise RefusedError(
            f"{repo.root}: no patches of tqconvert are applied",
            hint="tqconvert ollama-build apply",
        )
    out = repo.git.text_of(
        "for-each-ref", "--contains", chain.top, "--format=%(objectname) %(refname)",
        f"{REFS}/applied/",
    )  # fmt: skip
    best: tuple[Chain, str] | None = None
    for row in out.splitlines():
        oid, _, ref = row.partition(" ")
        found = read_chain(repo, oid)
        if found.on_top or found.base != chain.base:
            continue
        if best is None or len(found.links) > len(best[0].links):
            best = found, ref
    return best or (chain, None)


def members_of(chain: Chain, queue: Queue) -> tuple[Member, ...]:
    """The patches of a chain in the queue. Raises RefusedError for one that is not there as applied."""
    found, at = [], 0
    for link in chain.links:
        for number in range(at, len(queue.steps)):
            step = queue.steps[number]
            names = {p.name.removesuffix(".patch"): p for p in step.alternatives}
            if link.name in names:
                found.append(Member(link, step, names[link.name]))
                at = number + 1
                break
        else:
            raise RefusedError(
                f"{link.name}: applied, but not in the series (or elsewhere in it)",
                hint="tqconvert ollama-build apply brings the tree to the series; "
                "for a llama.cpp tree give --ollama as for apply",
            )
    return tuple(found)


def require_unchanged(members: Sequence[Member]) -> None:
    """Raise RefusedError if a patch file is not the one that was applied."""
    for member in members:
        if member.patch.sha256 != member.link.sha256:
            raise RefusedError(
                f"{member.patch.name}: changed since it was applied",
                hint="put your edits aside, then: tqconvert ollama-build apply",
            )


def restack(
    repo: Repository, tree: Mapping[str, Entry], files: Files, members: Sequence[Member],
    edits: Sequence[Edit], queue: Queue,
) -> Restacked:  # fmt: skip
    """Put the members on a base again, with edits taken into the patches that they belong to.

    Patches without an edit keep their bytes. Raises RefusedError for an edit that its patch cannot hold.
    """
    layout = queue.checkout.layout
    modes = {p: e.mode for p, e in tree.items()}
    trial, steps, failed = files.copy(), [m.alone for m in members], []
    changed = []
    for index, member in enumerate(members):
        own = [e for e in edits if e.member == index]
        located = member.alone.located(member.patch, layout).diffs
        diffs = [*located, *(d for e in own for d in e.diffs)]
        paths = dict.fromkeys(p for d in diffs for p in (d.old, d.new) if p)
        before = {p: _side(trial, modes, p) for p in paths}
        if not any(e.whole for e in own):
            fit = apply_step(trial, member.alone, layout)
            if not fit.ok:
                failed.append(fit)
                continue
            _learn_modes(modes, located)
        for edit in own:
            _take_in(trial, modes, edit, member)
        if own:
            after = {p: _side(trial, modes, p) for p in paths}
            name = next((e.name for e in own if e.name), member.patch.name)
            both = {p: Change(before[p], after[p]) for p in paths}
            new = _renewed(repo, member, both, queue, name)
            if new.alternatives[0].sha256 != member.patch.sha256:
                steps[index] = new
                changed.append(index)
    if failed:
        return Restacked((), (), (), trial, find_conflicts(failed))
    again = files.copy()
    fits = [apply_step(again, step, layout) for step in steps]
    if any(not f.ok for f in fits) or again.changes() != trial.changes():
        raise TqError(f"{repo.root}: the patches do not make again what was edited (a bug)")
    commits = with_generated(plan_commits(fits, tree), files.original)
    return Restacked(tuple(steps), tuple(changed), commits, again, ())


def files_to_write(
    folder: Path, queue: Queue, members: Sequence[Member], restacked: Restacked
) -> dict[Path, bytes | None]:
    """Path -> content of every file of `ollama_patches` that the edits change."""
    found: dict[Path, bytes | None] = {}
    for index in restacked.changed:
        member, step = members[index], restacked.steps[index]
        if member.step.origin is Origin.OLLAMA:
            continue
        if isinstance(member.step, FilesStep) and isinstance(step, FilesStep):
            place_ = files_folder(folder, queue, member.step.layer)
            old = {f.path: f.data for f in member.step.files}
            new = {f.path: f.data for f in step.files}
            for path in old.keys() | new.keys():
                if old.get(path) != new.get(path):
                    found[place_ / path] = new.get(path)
        else:
            found[patch_path(folder, member.patch)] = step.alternatives[0].data
    return found


def patch_path(folder: Path, patch: Patch) -> Path:
    """Where a patch lies in `ollama_patches`. Raises RefusedError if it is not there any more."""
    for path in sorted(folder.rglob(patch.name)):
        if path.read_bytes() == patch.data:
            return path
    raise RefusedError(f"{patch.name}: not in {folder} as it was read")


def files_folder(folder: Path, queue: Queue, layer: Layer) -> Path:
    """Where new files of a layer lie in `ollama_patches`."""
    if layer is Layer.LLAMA_CPP:
        return folder / "files"
    return folder / queue.checkout.generation / "files"


def _side(files: Files, modes: Mapping[str, str], path: str) -> Side | None:
    data = files.get(path)
    return None if data is None else Side(data, modes.get(path, "100644"))


def _learn_modes(modes: dict[str, str], diffs: Sequence[FileDiff]) -> None:
    for diff in diffs:
        if diff.new and diff.new_mode and (diff.old is None or diff.old_mode != diff.new_mode):
            modes[diff.new] = diff.new_mode


def _take_in(files: Files, modes: dict[str, str], edit: Edit, member: Member) -> None:
    """Put an edit on what the member made."""
    for diff in edit.diffs:
        done = place(files.get(diff.old or diff.path), diff)
        if not done.ok:
            raise RefusedError(
                f"{diff.path}: {edit.what} does not go into {member.link.name}: later patches change"
                " the same lines",
                hint=f"tqconvert ollama-build edit {member.link.name}, and make the change there",
            )
        files.put(diff.path, done.data)
    _learn_modes(modes, edit.diffs)


def _renewed(
    repo: Repository, member: Member, changes: Mapping[str, Change], queue: Queue, filename: str
) -> Step:
    """The step with the content that it has now."""
    step = member.step
    named: dict[str, Change] = {}
    for path, change in changes.items():
        name = queue.checkout.layout.source(path) if step.layer is Layer.LLAMA_CPP else path
        if name is None:
            raise RefusedError(
                f"{path}: not a file of llama.cpp, for which {member.link.name} is",
                hint="put the change into a patch for Ollama's own files",
            )
        named[name] = change
    if isinstance(step, FilesStep):
        return _renewed_files(step, named)
    text = render_patch(repo, member.patch.data, named)
    if b"\ndiff --git " not in b"\n" + text:
        raise RefusedError(
            f"{member.link.name}: nothing would be left of it", hint="take it out of the series"
        )
    return Step((Patch(filename, text),), step.origin, step.layer)


def _renewed_files(step: FilesStep, changes: Mapping[str, Change]) -> FilesStep:
    files = {f.path: f for f in step.files}
    for path, change in changes.items():
        if path in MADE:
            raise RefusedError(
                f"{path}: made from metal/ of this project", hint="change the kernels there"
            )
        if change.before is not None:
            raise RefusedError(
                f"{path}: a file of the base (new-files holds files that it does not have)",
                hint="name the patch that the change belongs to",
            )
        if change.after is None:
            files.pop(path, None)
        else:
            files[path] = NewFile(path, change.after.data)
    return FilesStep(tuple(files[p] for p in sorted(files)), step.layer)
