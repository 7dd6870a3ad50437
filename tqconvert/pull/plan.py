"""What a pull will do, before it does anything: names, blobs, bytes, disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import BadManifestError, RefusedError, StorageError, TqError
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.tags import PAGE, CacheTypes, is_tagged, original_header, read_tags
from tqconvert.pull.choose import choose_tags
from tqconvert.pull.destination import Destination
from tqconvert.pull.request import Wish
from tqconvert.reference import ModelName
from tqconvert.registry.ocireference import OciReference
from tqconvert.registry.partial import Partial
from tqconvert.store.manifest import (
    SHARDS_KEY,
    SOURCE_KEY,
    SOURCE_MANIFEST_KEY,
    Layer,
    Manifest,
)
from tqconvert.store.publish import refuse_case_clash
from tqconvert.units import format_bytes

RESERVE = 64 << 20
"""Bytes that must stay free on the disk beside what is pulled."""


class State(StrEnum):
    """What the pull finds under the target's name."""

    NEW = "new"
    REPLACE = "replace"
    REPAIR = "repair"
    """The same model, of which blobs are missing."""
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from whose manifest was made here; `revision` is exact: a commit, or a digest."""

    repository: str
    revision: str
    files: tuple[tuple[str, str, int], ...]
    """Path, sha256, bytes."""

    def to_json(self) -> Mapping[str, Any]:
        """The origin as a JSON object."""
        files = [{"path": p, "sha256": d, "bytes": n} for p, d, n in self.files]
        return {"repository": self.repository, "revision": self.revision, "files": files}


@dataclass(frozen=True, slots=True)
class PullPlan:
    """A pull that has not begun. `main` is the model layer that is tagged (the first of them)."""

    name: ModelName | Path | OciReference
    target: ModelName
    destination: Destination
    manifest: Manifest
    wish: Wish
    state: State
    main: Layer | None
    fetch: tuple[Layer, ...]
    reuse: tuple[Layer, ...]
    local: Path | None
    """The untagged model on this disk, copied instead of downloaded."""

    inline: Mapping[Digest, bytes]
    """Small blobs that were made here: the config of a local file."""

    kept_bytes: int
    """Bytes that an interrupted pull left here."""

    origin: Origin | None = None
    header: Header | None = None
    """The model's header where the plan was made by it."""

    here: Mapping[Digest, Path] = field(default_factory=dict)
    """Files outside the store that have the bytes of these blobs, if they are sound."""

    shards: tuple[Digest, ...] = ()
    """Set where the model is joined of several files on its way; the digest of `main` then stands for
    these, and the real one is known at the end."""

    @property
    def is_file(self) -> bool:
        """Whether the source is a file on this disk."""
        return isinstance(self.name, Path)

    @property
    def fetch_bytes(self) -> int:
        """Bytes that come over the network."""
        return sum(layer.size for layer in self.fetch) - self.kept_bytes

    def needed_bytes(self) -> int:
        """Bytes that the disk must still give: preallocated partials are already paid for."""
        total = 0
        for layer in (*self.fetch, *((self.main,) if self.local and self.main else ())):
            part = partial_of(self.destination, layer, tag=self.wish.tag and layer is self.main)
            try:
                have = os.stat(part.path)
                paid = getattr(have, "st_blocks", 0) * 512 or have.st_size
            except OSError:
                paid = 0
            total += max(0, layer.size + part.room - paid)
        return total

    def kept_files(self) -> tuple[Path, ...]:
        """Partial files of this model that are on the disk now."""
        files = (partial_of(self.destination, x, tag=False).path for x in self.manifest.blobs)
        return tuple(path for path in files if path.exists())

    def to_json(self) -> Mapping[str, Any]:
        """The plan as a JSON document."""
        return {
            "name": str(self.name),
            "target": str(self.target),
            "state": self.state.value,
            "manifest_digest": str(self.manifest.digest),
            "fetch": [
                {**_blob_json(x), "digest": None, "shards": [str(d) for d in self.shards]}
                if self.shards and x is self.main
                else _blob_json(x)
                for x in self.fetch
            ],
            "reuse": [_blob_json(layer) for layer in self.reuse],
            "fetch_bytes": self.fetch_bytes,
            "kept_bytes": self.kept_bytes,
            "needed_bytes": self.needed_bytes(),
            "tag": self.wish.tag and self.main is not None,
            "file": str(self.destination.file) if self.destination.file else None,
            "modelfile": str(self.destination.modelfile),
            "origin": self.origin.to_json() if self.origin else None,
        }


def plan_pull(
    name: ModelName | Path | OciReference, target: ModelName, manifest: Manifest, destination: Destination,
    wish: Wish, *, local: Path | None = None, inline: Mapping[Digest, bytes] | None = None,
    origin: Origin | None = None, header: Header | None = None, shards: tuple[Digest, ...] = (),
    here: Mapping[Digest, Path] | None = None,
) -> PullPlan:  # fmt: skip
    """The plan for a manifest that was fetched. Reads the store, changes nothing."""
    models = manifest.layers_of("model")
    main = models[0] if models else None
    fetch: list[Layer] = []
    reuse: list[Layer] = []
    kept, inline, files = 0, inline or {}, here or {}
    if main is not None and local is None:
        local = files.get(main.digest)
    for layer in manifest.blobs:
        tagged = wish.tag and layer is main
        place = destination.place_of(layer, is_main=layer is main)
        untagged = destination.store.blob(layer.digest)
        if layer is main and local is not None:
            continue
        if tagged and _has_size(untagged, layer.size):
            local = untagged
        elif layer.digest in inline:
            continue
        elif layer.digest in files or (not tagged and _has_size(place, layer.size)):
            reuse.append(layer)
        else:
            fetch.append(layer)
            kept += partial_of(destination, layer, tag=tagged).kept_bytes()
    state = _state(target, manifest, destination, wish)
    return PullPlan(
        name, target, destination, manifest, wish, state, main, tuple(fetch), tuple(reuse), local,
        inline, kept, origin, header, files, shards,
    )  # fmt: skip


def replan(plan: PullPlan) -> PullPlan:
    """The plan as it is now: another process may have changed the store."""
    return plan_pull(
        plan.name, plan.target, plan.manifest, plan.destination, plan.wish,
        local=plan.local if plan.is_file else None, inline=plan.inline, origin=plan.origin,
        header=plan.header, shards=plan.shards, here=plan.here,
    )  # fmt: skip


def check_plan(plan: PullPlan, *, yes: bool) -> None:
    """Refuse before the first byte: a name that is taken, a disk that is too small."""
    if plan.state is State.REPLACE and not yes:
        raise RefusedError(
            f"{plan.target}: is there already, with another content",
            hint="replace it with --yes, or install under another name with --as NAME",
        )
    if (
        plan.state is not State.UNCHANGED
        and not yes
        and plan.destination.has_own_modelfile(plan.target)
    ):
        raise RefusedError(
            f"{plan.destination.modelfile}: is there already, and not as a pull wrote it",
            hint="replace it with --yes, or choose another folder",
        )
    refuse_case_clash(plan.destination.store, plan.target)
    folder = plan.destination.partials
    while not folder.exists():
        folder = folder.parent
    try:
        free = fs.free_bytes(folder)
    except OSError as e:
        raise fs.storage_error(e, folder) from e
    needed = plan.needed_bytes()
    if needed and needed + RESERVE > free:
        raise StorageError(
            f"{folder}: {format_bytes(free)} free, {format_bytes(needed + RESERVE)} needed",
            hint="free some space, or choose another store with --store (or OLLAMA_MODELS)",
        )


def header_here(destination: Destination, target: ModelName, digest: Digest) -> Header | None:
    """Header of the untagged model with this digest, from what is installed; None where it is not."""
    try:
        there = destination.store.read_manifest(target)
        for layer in there.layers_of("model")[:1] if there else ():
            header = read_header(destination.place_of(layer, is_main=True))
            if str(digest) == layer.annotations.get(SOURCE_KEY) and is_tagged(header):
                return original_header(header)
            if str(digest) == layer.annotations.get(SHARDS_KEY):
                return original_header(header) if is_tagged(header) else header
            if digest == layer.digest:
                return header
        return read_header(destination.store.blob(digest))
    except TqError:
        return None


def partial_of(destination: Destination, layer: Layer, *, tag: bool) -> Partial:
    """The partial file of a layer; with room in front where it will be tagged."""
    return Partial(destination.partials, layer.digest, layer.size, room=PAGE if tag else 0)


def _state(target: ModelName, manifest: Manifest, destination: Destination, wish: Wish) -> State:
    try:
        there = destination.store.read_manifest(target)
    except BadManifestError:
        return State.REPLACE
    if there is None:
        return State.REPLACE if _file_taken(destination, manifest, wish) else State.NEW
    complete = all(
        _has_size(
            destination.place_of(layer, is_main=layer in there.layers_of("model")[:1]), layer.size
        )
        for layer in there.blobs
    )
    if not complete:
        return State.REPAIR if _made_from(there, manifest) else State.REPLACE
    main = there.layers_of("model")[:1]
    if there.data == manifest.data:
        would_tag = (
            wish.tag and main and _would_tag(destination.place_of(main[0], is_main=True), wish)
        )
        return State.REPLACE if would_tag else State.UNCHANGED
    if wish.tag and main and _made_from(there, manifest):
        path = destination.place_of(main[0], is_main=True)
        same = _has_tags(path, wish) if _is_tagged(path) else not _would_tag(path, wish)
        return State.UNCHANGED if same else State.REPLACE
    if main and _made_from(there, manifest):  # joined of shards: its digest does not tell
        path = destination.place_of(main[0], is_main=True)
        return State.REPLACE if _is_tagged(path) else State.UNCHANGED
    return State.REPLACE


def _file_taken(destination: Destination, manifest: Manifest, wish: Wish) -> bool:
    """Whether a file has the result's name that no pull of this model left before its manifest."""
    if destination.file is None or not destination.file.exists():
        return False
    main = manifest.layers_of("model")[:1]
    left = main and partial_of(destination, main[0], tag=wish.tag).published()
    return not left or not any(
        _has_size(destination.file, main[0].size + room) for room in (0, PAGE)
    )


def _made_from(there: Manifest, manifest: Manifest) -> bool:
    """Whether the installed manifest is this one, or was made from it by tagging."""
    models = there.layers_of("model")
    source = models[0].annotations.get(SOURCE_MANIFEST_KEY) if models else None
    return there.data == manifest.data or source == str(manifest.digest)


def _would_tag(path: Path, wish: Wish) -> bool:
    """Whether the untagged model that is there would get tags now."""
    try:
        return choose_tags(read_header(path), wish.type_k, wish.type_v).tags is not None
    except TqError:
        return True  # the pull itself says what is wrong


def _has_tags(path: Path, wish: Wish) -> bool:
    """Whether the installed model has the types that were asked for by hand."""
    if wish.type_k is None and wish.type_v is None:
        return True
    try:
        tags = read_tags(read_header(path))
    except TqError:
        return False
    if tags is None:
        return False
    pairs = ((wish.type_k, tags.type_k), (wish.type_v, tags.type_v))
    return all(asked is None or asked == _as_given(there) for asked, there in pairs)


def _is_tagged(path: Path) -> bool:
    try:
        return is_tagged(read_header(path))
    except TqError:
        return True  # it is not what was asked for


def _as_given(types: CacheTypes) -> str:
    """Types as a user writes them."""
    return types if isinstance(types, str) else ",".join(types)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _blob_json(layer: Layer) -> dict[str, Any]:
    return {"kind": layer.kind, "digest": str(layer.digest), "bytes": layer.size}
