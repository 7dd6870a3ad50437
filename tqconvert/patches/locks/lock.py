"""Locks made from a tree: what a release holds, computed from its files.

Of a legacy tree everything that is vendored can be computed: Ollama's patches are taken off in memory and
put on again. What is not vendored needs llama.cpp: a repository with the base commit, or single files of
it. What neither tells stays open.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqconvert.errors import IntegrityError, NotFoundError, UsageError
from tqconvert.patches.checkout import SYNC, VERSION, Checkout, Generation
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.git import Git
from tqconvert.patches.layout import GGML, LLAMA, Vendored
from tqconvert.patches.locks.history import Commit
from tqconvert.patches.locks.origin import FOLDERS, upstream_of
from tqconvert.patches.locks.release import (
    Base,
    Group,
    Ids,
    LockedPatch,
    ReleaseLock,
    Unresolved,
    base_fits,
)
from tqconvert.patches.objects import ABSENT, blob_id, folder_id
from tqconvert.patches.patch_id import patch_id
from tqconvert.patches.place import place
from tqconvert.patches.queue import Layer, Origin, Step, diffs_of
from tqconvert.patches.series import Patch
from tqconvert.patches.walk import reverse_steps

if TYPE_CHECKING:
    from tqconvert.patches.diff import FileDiff

REPO = "https://github.com/ggml-org/llama.cpp"


class Computed(NamedTuple):
    """A lock, and what `verify` names differing files by."""

    lock: ReleaseLock
    listing: Mapping[str, str]
    """llama.cpp's path -> blob id in the base, for what the tree carries of it."""


class Sources(NamedTuple):
    """Where files of llama.cpp come from that the tree does not carry."""

    commit: Commit | None = None
    folder: Path | None = None
    """A llama.cpp tree or a part of one; a file is taken if its id is the one that a patch states."""


def compute_lock(
    checkout: Checkout, tags: Sequence[str], env: Mapping[str, str],
    sources: Sources | None = None,
) -> Computed:  # fmt: skip
    """The lock of an Ollama tree with nothing of ours in it.

    Raises UsageError for other trees, IntegrityError where tree, patches and sources contradict each
    other.
    """
    sources = sources or Sources()
    if not checkout.is_ollama:
        raise UsageError(f"{checkout.root}: not a tree of Ollama (expected one to lock)")
    patches = upstream_of(checkout)
    if not patches:
        raise NotFoundError(f"{checkout.root}: holds no patches of Ollama's")
    ladder = _Ladder(checkout, patches, sources)
    locked = tuple(ladder.climb(p) for p in patches)
    ladder.compare_with_tree()
    commit = sources.commit
    tag = checkout.base if checkout.generation is Generation.MODERN else None
    lock = ReleaseLock(
        checkout.generation,
        _groups(checkout, patches, tags, env),
        Base(REPO, tag, commit.id if commit else None, commit.tree if commit else None),
        locked,
        commit.tree_with(ladder.files.changes()) if commit else None,
        tuple(ladder.unresolved),
        (),
    )
    if commit and not base_fits(lock, checkout.base):
        raise IntegrityError(f"{commit.id}: not the base of the tree (expected {checkout.base})")
    return Computed(lock, ladder.listing())


class _Ladder:
    """llama.cpp's files while Ollama's patches go onto them, from the base upwards."""

    def __init__(self, checkout: Checkout, patches: Sequence[Patch], sources: Sources) -> None:
        self._checkout, self._sources = checkout, sources
        self._vendored: Files | None = None
        if checkout.generation is Generation.LEGACY:
            self._vendored = _without_patches(checkout, patches)
        self._layout = checkout.layout
        first: dict[str, FileDiff] = {}
        for patch in patches:
            for diff in diffs_of(patch):
                first.setdefault(diff.old or diff.path, diff)
        self._first = first
        if sources.commit:
            sources.commit.fetch(first)
        self.files = Files(self._read)
        self.unresolved: list[Unresolved] = []

    def _read(self, path: str) -> bytes | None:
        """The file in the base, None if it is not there or not at hand."""
        where = self._layout.locate(path) if self._vendored else None
        data = self._vendored.get(where) if self._vendored and where else None
        commit, folder = self._sources
        if commit:
            if where and data != commit.read(path):
                raise IntegrityError(f"{where}: not what {commit.id[:9]} has, patches taken off")
            return commit.read(path)
        if where is None and folder and (stated := self._first[path].old_id):
            data = folder_reader(folder)(path)
            if data is not None and not blob_id(data).startswith(stated):
                return None
        return data

    def climb(self, patch: Patch) -> LockedPatch:
        """Put one patch on; the ids before and after it."""
        ids: dict[str, Ids] = {}
        stale: dict[str, Ids] = {}
        for diff in diffs_of(patch):
            source = diff.old or diff.path
            if diff.old and self.files.get(source) is None:
                self.unresolved.append(Unresolved(patch.name, diff.path, diff.old_id, diff.new_id))
                continue
            before = self.files.id(source)
            placed = place(self.files.get(source), diff)
            if not placed.ok:
                raise IntegrityError(f"{patch.name}: does not go onto {diff.path}")
            if diff.old and diff.old != diff.new:
                self.files.put(diff.old, None)
                ids[diff.old] = (before, None)
            if diff.new:
                self.files.put(diff.new, placed.data)
            after = self.files.id(diff.path)
            ids[diff.path] = (
                _or_none(before if diff.old == diff.path else ABSENT),
                _or_none(after),
            )
            if not (before.startswith(diff.old_id or "") and after.startswith(diff.new_id or "")):
                stale[diff.path] = (diff.old_id, diff.new_id)
        blob = blob_id(patch.data)
        return LockedPatch(patch.name, patch.sha256, blob, patch_id(patch.data), ids, stale)

    def compare_with_tree(self) -> None:
        """Raise IntegrityError where base and patches do not make what is vendored."""
        if not self._vendored:
            return
        for path, data in self.files.changes().items():
            where = self._layout.locate(path)
            if where and self._vendored.original(where) != data:
                raise IntegrityError(f"{where}: not what base and patches make")

    def listing(self) -> dict[str, str]:
        """Path -> id in the base of every vendored file of llama.cpp."""
        if not self._vendored:
            return {}
        assert isinstance(self._layout, Vendored)
        found = {}
        root = self._checkout.root
        made = {d.path for d in self._first.values() if d.old is None}
        for top, prefix in ((GGML, "ggml/"), (LLAMA, "")):
            for path in sorted((root / top).rglob("*")):
                where = path.relative_to(root).as_posix()
                name = prefix + where.removeprefix(f"{top}/")
                if path.is_file() and not self._layout.own(where) and name not in made:
                    found[name] = self._vendored.id(where)
        return found


def _without_patches(checkout: Checkout, patches: Sequence[Patch]) -> Files:
    steps = [Step((p,), Origin.OLLAMA, Layer.LLAMA_CPP) for p in patches]
    files = Files(folder_reader(checkout.root))
    taken = reverse_steps(files, steps, checkout.layout)
    if len(taken) < len(steps):
        raise IntegrityError(
            f"{checkout.root}: {steps[-len(taken) - 1].name} cannot be taken off (expected a "
            "release as it was tagged)",
            hint=f"tqconvert ollama-build status {checkout.root}",
        )
    return files


def _groups(
    checkout: Checkout, patches: Sequence[Patch], tags: Sequence[str], env: Mapping[str, str]
) -> tuple[Group, ...]:
    """The tags by what their trees are; each must have the patches that are in the folder."""
    folders = FOLDERS[checkout.generation]
    here = {f: folder_id(checkout.root / f) for f in folders}
    if not tags or not (checkout.root / ".git").exists():
        return (Group(dict.fromkeys(tags), here),)
    git = Git(checkout.root, env)
    wanted = {f"{folders[0]}/{p.name}": blob_id(p.data) for p in patches}
    groups: list[Group] = []
    for tag in tags:
        names = (f"{tag}^{{commit}}", *(f"{tag}:{f}" for f in folders))
        done = git.run("rev-parse", *names)
        if done.returncode:
            raise NotFoundError(f"{checkout.root}: has no tag {tag} with {', '.join(folders)}")
        commit, *ids = done.stdout.decode().split()
        entries = Commit(git, commit).entries
        found = {
            p: e.id
            for p, e in entries.items()
            if p.startswith(f"{folders[0]}/") and p.endswith(".patch")
        }
        if found != wanted:
            raise IntegrityError(f"{tag}: has other patches than {checkout.root}")
        _require_base(git, checkout, tag)
        trees: dict[str, str | None] = dict(zip(folders, ids, strict=True))
        for group in groups:
            if group.trees == trees:
                assert isinstance(group.tags, dict)
                group.tags[tag] = commit
                break
        else:
            groups.append(Group({tag: commit}, trees))
    return tuple(groups)


def _require_base(git: Git, checkout: Checkout, tag: str) -> None:
    """Raise IntegrityError if a tag names another llama.cpp than the folder."""
    name = SYNC if checkout.generation is Generation.LEGACY else VERSION
    at_tag = git.bytes_of("cat-file", "blob", f"{tag}:{name}")
    if checkout.base and checkout.base.encode() not in at_tag:
        raise IntegrityError(f"{tag}: is made for another llama.cpp than {checkout.base}")


def _or_none(oid: str) -> str | None:
    return None if oid == ABSENT else oid


def open_base(checkout: Checkout, repository: Path, env: Mapping[str, str]) -> Commit:
    """The commit that a tree names as its llama.cpp, in a repository. Raises NotFoundError."""
    if checkout.base is None:
        raise NotFoundError(f"{checkout.root}: names no llama.cpp that it is made for")
    return Commit(Git(repository, env), checkout.base)
