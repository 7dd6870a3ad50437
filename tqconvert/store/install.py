"""Install a GGUF file into an Ollama store, without a server and without a copy.

Order of writes, so that a kill at any of them leaves a valid store: the model's blob is made in
.tqconvert/install and synced; then, under the store's lock, small blobs and the model's blob get their
names in blobs/, and the manifest comes last.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import LockedError, RefusedError
from tqconvert.gguf.tags import PAGE, is_tagged
from tqconvert.progress import Progress, Reporting, Silent
from tqconvert.reference import ModelName
from tqconvert.store.hashing import hash_file
from tqconvert.store.layout import Store, inherit_owner
from tqconvert.store.link import DEFAULT_METHODS, LinkMethod, link_file
from tqconvert.store.manifest import (
    INSTALLED_KEY,
    MODEL_TYPE,
    SOURCE_KEY,
    Layer,
    Manifest,
)
from tqconvert.store.publish import (
    LOCK,
    name_taken,
    plan_replace,
    publish_locked,
    refuse_case_clash,
)
from tqconvert.store.recipe import Recipe, SmallBlob, config_blob, recipe_blobs
from tqconvert.store.source import FileState, check_source, refuse_changed, refuse_writers

InstallStatus = Literal["new", "unchanged", "repair", "replace"]

_STAGED = ".blob"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done, for people and for --dry-run."""

    action: Literal["link", "write", "keep", "publish", "remove"]
    kind: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """How a file becomes a model of the store."""

    name: ModelName
    store: Store
    source: Path
    source_state: FileState
    manifest: Manifest
    model: Layer
    small: tuple[SmallBlob, ...]
    present: frozenset[Digest]
    """Blobs that are in the store, with the right bytes."""
    status: InstallStatus
    previous: Digest | None
    unused: tuple[Layer, ...]
    methods: tuple[LinkMethod, ...]
    replace: bool
    has_template: bool
    """Whether stock Ollama before 0.30 knows how to prompt the model."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What `apply_install` does, in its order."""
        if self.status == "unchanged":
            return ()
        steps = [self._step("link", self.model)]
        steps += [self._step("write", blob.layer) for blob in self.small]
        if self.status != "repair":
            m = self.manifest
            steps.append(Step("publish", "manifest", m.digest, len(m.data)))
            steps += [Step("remove", b.kind, b.digest, b.size) for b in self.unused]
        return tuple(steps)

    def _step(self, action: Literal["link", "write"], layer: Layer) -> Step:
        here = layer.digest in self.present
        return Step("keep" if here else action, layer.kind, layer.digest, layer.size)


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What was done. `method` is None if the model's blob was in the store already."""

    name: ModelName
    status: InstallStatus
    manifest: Digest
    model: Digest
    size: int
    method: LinkMethod | None
    bytes_written: int
    removed: tuple[Layer, ...]


def plan_install(
    source: Path, name: ModelName, store: Store, *, recipe: Recipe | None = None,
    methods: Sequence[LinkMethod] = DEFAULT_METHODS, replace: bool = False,
    progress: Progress | None = None,
) -> InstallPlan:  # fmt: skip
    """Check and hash the file, and say what installing it would do. Writes nothing.

    Raises NotFoundError, InvalidGgufError, RefusedError for what Ollama cannot hold (a shard, a
    projector, an adapter) and for files that are being written.
    """
    progress, recipe, name = progress or Silent(), recipe or Recipe(), name.local()
    header = check_source(source)
    refuse_case_clash(store, name)
    state = FileState.of(source)
    refuse_writers(source)
    annotations = {INSTALLED_KEY: "file"}
    offsets = (0, PAGE) if is_tagged(header) else (0,)
    with Reporting(progress, f"hashing {source.name}", state.size):
        digests = hash_file(source, offsets=offsets, advance=progress.advance)
    refuse_changed(source, state)
    if is_tagged(header):
        annotations[SOURCE_KEY] = str(digests[1])
    model = Layer.make(MODEL_TYPE, digests[0], state.size, annotations)
    extra = recipe_blobs(recipe)
    layers = (model, *(blob.layer for blob in extra))
    config = config_blob(header, recipe, tuple(layer.digest for layer in layers))
    manifest = Manifest.make(config.layer, layers)
    small = tuple({b.layer.digest: b for b in (*extra, config)}.values())
    present = {b.layer.digest for b in small if _holds(store.blob(b.layer.digest), b.data)}
    if _holds_model(store.blob(model.digest), model, state, progress):
        present.add(model.digest)
    published = plan_replace(store, name, manifest)
    status: InstallStatus = published.status
    if status == "unchanged" and any(b.digest not in present for b in manifest.blobs):
        status = "repair"
    return InstallPlan(
        name, store, source, state, manifest, model, small, frozenset(present), status,
        published.previous, published.unused, tuple(methods), replace,
        bool(recipe.template or recipe.renderer),
    )  # fmt: skip


def apply_install(plan: InstallPlan, progress: Progress | None = None) -> InstallResult:
    """Do what the plan says; on an error the store is as it was.

    Raises RefusedError if another model has the name and the plan may not replace it, or if file or
    store changed since the plan; StorageError; LockedError.
    """
    progress = progress or Silent()
    if plan.status == "unchanged":
        return _result(plan, None, plan.previous or plan.manifest.digest)
    if plan.status == "replace" and not plan.replace:
        raise name_taken(plan.name, plan.previous)
    if plan.model.digest in plan.present:
        return _publish(plan, None, None)
    # Who makes a blob holds the lock of its digest, so long copies do not keep others out.
    with plan.store.locked(plan.model.digest.hex):
        staged = plan.store.staging() / f"{plan.model.digest.hex}{_STAGED}"
        fs.remove(staged)
        try:
            with Reporting(progress, f"installing {plan.source.name}", plan.model.size):
                method = link_file(
                    plan.source, staged, methods=plan.methods, advance=progress.advance
                )
            refuse_changed(plan.source, plan.source_state)
            return _publish(plan, staged, method)
        finally:
            fs.remove(staged)


def _publish(plan: InstallPlan, staged: Path | None, method: LinkMethod | None) -> InstallResult:
    store, made = plan.store, list[Path]()
    with store.locked(LOCK):
        _sweep(store, staged)
        refuse_case_clash(store, plan.name)
        current = plan_replace(store, plan.name, plan.manifest)
        if current.previous != plan.previous:
            raise RefusedError(
                f"{plan.name}: changed since the plan was made", hint="run the same command again"
            )
        try:
            for blob in plan.small:
                if blob.layer.digest not in plan.present:
                    path = _noted(store.blob(blob.layer.digest), made)
                    fs.write_atomic(path, blob.data, temporary_in=store.staging())
                    inherit_owner(path)
            if staged is not None:
                path = _noted(store.blob(plan.model.digest), made)
                if method in (LinkMethod.REFLINK, LinkMethod.COPY):
                    os.chmod(staged, 0o644)
                    inherit_owner(staged)
                fs.replace(staged, path)
            done = publish_locked(store, plan.name, plan.manifest, replace=plan.replace)
        except BaseException as e:
            for path in made:
                fs.remove(path)
            if isinstance(e, OSError):
                raise fs.storage_error(e, store.blobs) from e
            raise
    kept = done.status == "unchanged" and done.previous
    return _result(plan, method, kept or plan.manifest.digest, done.unused)


def _noted(path: Path, made: list[Path]) -> Path:
    """The path; kept in `made` if nothing is there yet. A damaged blob that gets its right bytes
    stays even if the rest fails: others may need it.
    """
    if not os.path.lexists(path):
        made.append(path)
    return path


def _result(
    plan: InstallPlan, method: LinkMethod | None, manifest: Digest, removed: tuple[Layer, ...] = ()
) -> InstallResult:
    written = sum(len(b.data) for b in plan.small if b.layer.digest not in plan.present)
    if plan.status == "unchanged":
        written = 0
    if method is LinkMethod.COPY:
        written += plan.model.size
    return InstallResult(
        plan.name, plan.status, manifest, plan.model.digest, plan.model.size, method, written,
        removed,
    )  # fmt: skip


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _holds_model(path: Path, model: Layer, source: FileState, progress: Progress) -> bool:
    """Whether the blob is there with the right bytes; read unless it is the source itself."""
    if not path.is_file():
        return False
    state = FileState.of(path)
    if state.size != model.size:
        return False
    if (state.device, state.inode) == (source.device, source.inode):
        return True
    with Reporting(progress, "checking the blob that is there", model.size):
        return hash_file(path, advance=progress.advance)[0] == model.digest


def _sweep(store: Store, own: Path | None) -> None:
    """Remove what killed runs left. The caller holds the store's lock."""
    for path in store.staging().iterdir():
        if path == own:
            continue
        if path.suffix == ".tmp":
            fs.remove_idle(path)  # a pull writes small files without this lock
        elif path.suffix == _STAGED:
            try:
                with store.locked(path.stem, timeout_s=0):
                    fs.remove(path)
            except LockedError:
                continue  # another process is making it
