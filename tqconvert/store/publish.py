"""Make a model visible, replace it, take it away: manifests, and the blobs that nobody needs any more.

A model exists from the moment its manifest does, so the manifest comes last and goes first. Blobs are
in place right before it: an Ollama server that starts in between removes blobs that no manifest
names (server/images.go PruneLayers; v0.19.0 at once, v0.32 those older than an hour). A running
server reads manifests when it uses them and needs no restart.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import BadManifestError, IntegrityError, NotFoundError, RefusedError, TqError
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Layer, Manifest

OWN_PREFIX = "tqconvert."
"""Layers with an annotation of this prefix were installed by tqconvert."""

LOCK = "store"
REMOVAL = ".removal"
"""End of the names of notes, in the staging folder, of blobs that are being removed."""

Status = Literal["new", "unchanged", "replace"]


@dataclass(frozen=True, slots=True)
class ReplacePlan:
    """What publishing a manifest would do to the store."""

    name: ModelName
    status: Status
    previous: Digest | None
    """Digest of the manifest that has the name now."""
    missing: tuple[Layer, ...]
    """Blobs that must be brought first."""
    unused: tuple[Layer, ...]
    """Blobs of the previous manifest that no model would need any more; they are removed."""


@dataclass(frozen=True, slots=True)
class RemovePlan:
    """What removing a model would do to the store."""

    name: ModelName
    path: Path
    manifest: Digest
    unused: tuple[Layer, ...]
    """Blobs that no other model needs; they are removed."""
    kept: tuple[Layer, ...]
    own: bool
    """Whether tqconvert installed it."""
    unreadable: tuple[str, ...]
    """Models whose manifests cannot be read: they may need any blob, so none is removed."""

    freed: int
    """Bytes that the disk gets back: blobs that have another name (hard links) free nothing."""


def plan_replace(store: Store, name: ModelName, manifest: Manifest) -> ReplacePlan:
    """What `install_manifest` would do. Models of the same blobs are the same model."""
    missing = tuple(layer for layer in manifest.blobs if not _has(store, layer))
    try:
        previous = store.read_manifest(name)
    except BadManifestError:
        return ReplacePlan(name, "replace", _digest_of(store.manifest_path(name)), missing, ())
    if previous is None:
        return ReplacePlan(name, "new", None, missing, ())
    if _content(previous) == _content(manifest):
        return ReplacePlan(name, "unchanged", previous.digest, missing, ())
    needed, unreadable = needed_blobs(store, without=name)
    needed |= {layer.digest for layer in manifest.blobs}
    unused = () if unreadable else tuple(b for b in previous.blobs if b.digest not in needed)
    return ReplacePlan(name, "replace", previous.digest, missing, unused)


def install_manifest(store: Store, name: ModelName, manifest: Manifest, *, replace: bool) -> None:
    """Publish the manifest under `name`, and remove what only its predecessor needed.

    All blobs must be in the store. The same manifest again writes nothing.
    Raises RefusedError if another manifest has the name and `replace` is not set, or if the name
    differs from an installed one by case alone; NotFoundError if a blob is missing; LockedError.
    """
    with store.locked(LOCK):
        publish_locked(store, name, manifest, replace=replace)


def publish_locked(
    store: Store, name: ModelName, manifest: Manifest, *, replace: bool
) -> ReplacePlan:
    """`install_manifest` for a caller that holds the store's lock; returns what was done."""
    refuse_case_clash(store, name)
    plan = plan_replace(store, name, manifest)
    if plan.missing:
        layer = plan.missing[0]
        raise NotFoundError(
            f"{store.blob(layer.digest)}: the {layer.label} blob is missing or of another size",
            hint="another program removed it meanwhile; run the same command again",
        )
    if plan.status == "unchanged":
        return plan
    if plan.status == "replace" and not replace:
        raise name_taken(name, plan.previous)
    with _noted_removal(store, plan.unused):
        store.write_manifest(name, manifest.data)
    finish_removals(store)  # not before: this model may have taken up blobs that were noted
    return plan


def name_taken(name: ModelName, previous: Digest | None) -> RefusedError:
    """The error for a name that another model has."""
    digest = previous.short if previous else "unknown"
    return RefusedError(
        f"{name}: another model has this name ({digest})",
        hint="--yes replaces it, --as installs under another name",
    )


def refuse_case_clash(store: Store, name: ModelName) -> None:
    """Raise RefusedError if an installed name differs by case alone.

    Ollama takes both for one name and picks either (server/routes.go getExistingName).
    """
    for other in store.names():
        if other != name and str(store.manifest_path(other)).lower() == (
            str(store.manifest_path(name)).lower()
        ):
            raise RefusedError(
                f"{name}: is installed as {other}, and Ollama does not tell case apart",
                hint=f"use the name {other}",
            )


def plan_remove(store: Store, name: ModelName) -> RemovePlan:
    """What removing the model would do. Raises NotFoundError.

    A manifest that cannot be read can be removed too; then its blobs are not known and stay.
    """
    path = store.manifest_path(name)
    try:
        manifest = store.read_manifest(name)
    except BadManifestError:
        return RemovePlan(name, path, _digest_of(path), (), (), False, (), 0)
    if manifest is None:
        raise NotFoundError(f"{name}: not in the store {store.root}")
    needed, unreadable = needed_blobs(store, without=name)
    here = [b for b in manifest.blobs if os.path.lexists(store.blob(b.digest))]
    unused = () if unreadable else tuple(b for b in here if b.digest not in needed)
    return RemovePlan(
        name, path, manifest.digest, unused, tuple(b for b in here if b not in unused),
        is_own(manifest), unreadable, sum(_only_here(store.blob(b.digest)) for b in unused),
    )  # fmt: skip


def apply_remove(store: Store, plan: RemovePlan) -> RemovePlan:
    """Remove the manifest, then the blobs; returns what was removed.

    A kill in between leaves blobs that no manifest names, and a note of them, by which the next change
    of the store or `cache prune` removes them; Ollama does when it starts.
    Raises NotFoundError, RefusedError if the model changed since the plan, LockedError.
    """
    with store.locked(LOCK):
        current = plan_remove(store, plan.name)
        if current.manifest != plan.manifest:
            raise RefusedError(
                f"{plan.name}: changed since the plan was made",
                hint="run the same command again",
            )
        finish_removals(store)
        with _noted_removal(store, current.unused):
            _remove(plan.path)
        _remove_empty_folders(plan.path.parent, store.manifests)
    return current


@contextmanager
def _noted_removal(store: Store, layers: Sequence[Layer]) -> Iterator[None]:
    """Make a manifest go in the body, then remove the blobs that only it needed.

    They are noted first: of blobs alone nobody could tell whether they are of a model that is coming.
    """
    if not layers:
        yield
        return
    note = store.staging() / f"{layers[0].digest.short}{REMOVAL}"
    fs.write_atomic(note, "".join(f"{x.digest}\n" for x in layers).encode())
    yield
    for layer in layers:
        _remove(store.blob(layer.digest))
    _remove(note)


def finish_removals(store: Store) -> None:
    """Remove blobs that a killed process had noted, where no model needs them.

    The caller holds the store's lock. Raises StorageError.
    """
    notes = sorted(store.staging().glob(f"*{REMOVAL}"))
    if not notes:
        return
    needed, unreadable = needed_blobs(store)
    if unreadable:
        return
    for note in notes:
        for line in note.read_text("ascii", "replace").splitlines():
            with suppress(IntegrityError):
                digest = Digest.parse(line)
                if digest not in needed:
                    _remove(store.blob(digest))
        _remove(note)


def needed_blobs(
    store: Store, *, without: ModelName | None = None
) -> tuple[set[Digest], tuple[str, ...]]:
    """Blobs that the installed models need, and the models whose manifests cannot be read."""
    needed: set[Digest] = set()
    unreadable = []
    for name in store.names():
        if name == without:
            continue
        try:
            manifest = store.read_manifest(name)
        except TqError:
            unreadable.append(str(name))
            continue
        if manifest is not None:
            needed.update(b.digest for b in manifest.blobs)
    return needed, tuple(unreadable)


def is_own(manifest: Manifest) -> bool:
    """Whether tqconvert installed the model."""
    return any(key.startswith(OWN_PREFIX) for la in manifest.layers for key in la.annotations)


def _content(manifest: Manifest) -> list[tuple[str, Digest]]:
    return [(layer.media_type, layer.digest) for layer in (manifest.config, *manifest.layers)]


def _has(store: Store, layer: Layer) -> bool:
    """Whether the blob is there with the size that the manifest says."""
    try:
        return store.blob(layer.digest).stat().st_size == layer.size
    except OSError:
        return False


def _only_here(path: Path) -> int:
    """Bytes that removing the file frees."""
    state = path.lstat()
    return state.st_size if state.st_nlink == 1 else 0


def _digest_of(path: Path) -> Digest:
    from tqconvert.digest import digest_path

    try:
        return digest_path(path)
    except OSError as e:
        raise fs.storage_error(e, path) from e


def _remove(path: Path) -> None:
    try:
        fs.remove(path)
        fs.sync_folder(path.parent)
    except OSError as e:
        raise fs.storage_error(e, path) from e


def _remove_empty_folders(folder: Path, top: Path) -> None:
    while folder != top and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
