"""Carry a pull out: small blobs, the model in one pass, its Modelfile, the manifest last.

Until the manifest is written nobody sees the model; whatever happens before, the next pull goes on
where this one ended.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import (
    DigestMismatchError,
    InvalidGgufError,
    LockedError,
    RefusedError,
    TqError,
)
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.tags import PAGE, KvTags, is_tagged, original_header, read_tags
from tqconvert.progress import Reporting, Silent
from tqconvert.pull.assemble import Assembled
from tqconvert.pull.choose import TagChoice, choose_tags
from tqconvert.pull.expected import Expected
from tqconvert.pull.joining import Shards, fetch_joined
from tqconvert.pull.plan import PullPlan, State, partial_of, replan
from tqconvert.pull.receive import SHOWN_BYTES, Blob, Workplace, copy_blob, fetch_blob, partial_for
from tqconvert.registry.http import Endpoint
from tqconvert.registry.transfer import Stats
from tqconvert.store.hashing import hash_file
from tqconvert.store.layout import folder_lock, inherit_owner
from tqconvert.store.manifest import (
    MODEL_TYPE,
    SHARDS_KEY,
    SOURCE_KEY,
    SOURCE_MANIFEST_KEY,
    Layer,
    Manifest,
)
from tqconvert.store.publish import LOCK, install_manifest

GGUF_KINDS = ("model", "projector", "adapter", "draft")
"""Kinds of layers whose blobs are GGUFs, and are checked as such before they are installed."""

SourceOf = Callable[[Digest], Endpoint]
"""Where a blob is to be had."""


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did. `model` is the file that a runtime loads."""

    plan: PullPlan
    state: State
    manifest: Manifest
    model: Path | None
    header: Header | None
    tags: KvTags | None
    choice: TagChoice | None
    seconds: float
    stats: Stats = field(default_factory=Stats)


def run_pull(
    plan: PullPlan, source_of: SourceOf, place: Workplace,
    shards: Callable[[], Shards] | None = None, expected: Expected | None = None,
) -> PullResult:  # fmt: skip
    """Do what the plan says and install the result; a no-op where nothing is left to do.

    `shards` is for a plan that has some. Raises what `fetch_blob` raises, LockDiffersError if the result is
    not the one that is expected, and StorageError; what has arrived is kept for the next run.
    """
    began = time.monotonic()
    with _blob_lock(plan, plan.main.digest if plan.main else plan.manifest.digest, place):
        fresh = replan(plan)
        if fresh.state is State.UNCHANGED:
            _forget(fresh)
            there = _unchanged(fresh, began)
            if expected is not None:
                expected.check_manifest(there.manifest)
            return there
        if fresh.state is State.REPLACE and plan.state is not State.REPLACE:
            raise RefusedError(
                f"{plan.target}: another process installed another content under this name meanwhile",
                hint="replace it with --yes, or install under another name with --as NAME",
            )
        run = _Run(fresh, source_of, place, shards, expected)
        manifest = run.blobs()
        if expected is not None:
            expected.check_manifest(manifest)
        _publish(fresh, manifest)
        _forget(fresh)
        return PullResult(
            fresh, fresh.state, manifest, run.model, run.header, run.tags, run.choice,
            time.monotonic() - began, run.stats,
        )  # fmt: skip


def _publish(plan: PullPlan, manifest: Manifest) -> None:
    """Write the manifest, the last step; a folder's own store does not hold the model itself."""
    store = plan.destination.store
    if plan.destination.file is None:
        install_manifest(store, plan.target, manifest, replace=plan.state is not State.NEW)
        return
    with store.locked(LOCK):
        store.write_manifest(plan.target, manifest.data)


def _forget(plan: PullPlan) -> None:
    """The model is installed: the notes of how it came are not needed any more."""
    for layer in plan.manifest.blobs:
        partial_of(plan.destination, layer, tag=False).discard()


def _unchanged(plan: PullPlan, began: float) -> PullResult:
    store = plan.destination.store
    manifest = store.require_manifest(plan.target)
    models = manifest.layers_of("model")
    model = plan.destination.place_of(models[0], is_main=True) if models else None
    header = read_header(model) if model else None
    return PullResult(
        plan, State.UNCHANGED, manifest, model, header, read_tags(header) if header else None, None,
        time.monotonic() - began,
    )  # fmt: skip


class _Run:
    """One pull under way."""

    def __init__(
        self, plan: PullPlan, source_of: SourceOf, place: Workplace,
        shards: Callable[[], Shards] | None, expected: Expected | None,
    ) -> None:  # fmt: skip
        self._plan, self._source_of, self._place = plan, source_of, place
        self._shards = shards if plan.shards else None
        self._expected = expected
        self.stats = Stats()
        self.model: Path | None = None
        self.main_layer: Layer | None = None
        self.header: Header | None = None
        self.tags: KvTags | None = None
        self.choice: TagChoice | None = None

    def blobs(self) -> Manifest:
        """Bring all blobs into their places; the manifest that names them as they are now."""
        plan = self._plan
        plan.destination.store.make_folder(plan.destination.store.blobs)
        if plan.destination.file is not None:
            plan.destination.store.make_folder(plan.destination.file.parent)
        others = [x for x in (plan.manifest.config, *plan.manifest.layers) if x is not plan.main]
        for layer in {x.digest: x for x in others}.values():
            self._whole(layer)
        if plan.main is None:
            return plan.manifest
        self._main(plan.main)
        new = self.main_layer
        if new is None or new is plan.main:
            return plan.manifest
        layers = tuple(new if x is plan.main else x for x in plan.manifest.layers)
        return Manifest.make(plan.manifest.config, layers, like=plan.manifest)

    def _whole(self, layer: Layer) -> None:
        """A blob that stays as it is: verified if it is here, else fetched."""
        path = self._plan.destination.store.blob(layer.digest)
        is_held = self._plan.main is not None and self._plan.main.digest == layer.digest
        lock = nullcontext() if is_held else _blob_lock(self._plan, layer.digest, self._place)
        with lock:
            data = self._plan.inline.get(layer.digest)
            if self._verified(layer, path):
                return
            if data is not None:
                fs.write_atomic(path, data, temporary_in=self._plan.destination.store.staging())
                inherit_owner(path)
                return
            blob = Blob(
                _subject(layer), layer.digest, layer.size, is_model=layer.kind in GGUF_KINDS
            )
            here = self._plan.here.get(layer.digest)
            if here is None or self._copied(blob, here, lambda _: path) is None:
                source = self._source_of(layer.digest)
                _, stats = fetch_blob(self._place, blob, source, lambda _: path)
                self.stats.add(stats)
            inherit_owner(path)

    def _verified(self, layer: Layer, path: Path) -> bool:
        try:
            if path.stat().st_size != layer.size:
                return False
        except OSError:
            return False
        progress = self._place.progress if layer.size >= SHOWN_BYTES else Silent()
        with Reporting(progress, f"checking {_subject(layer)}", layer.size):
            found = hash_file(path, advance=progress.advance)[0]
        if found == layer.digest:
            return True
        self._place.progress.note(
            f"{_subject(layer)}: the copy in the store is damaged; fetching it"
        )
        return False

    def _main(self, layer: Layer) -> None:
        """The model: tagged on its way into its place, or left as it is."""
        plan = self._plan
        if not plan.wish.tag and not plan.shards:
            self._untagged_main(layer)
            return
        choose = self._choose if plan.wish.tag else None
        subject = f"model of {len(plan.shards)} shards" if plan.shards else _subject(layer)
        blob = Blob(subject, layer.digest, layer.size, is_model=True, choose=choose)
        done = self._brought(blob)
        self.model = self._place_for(done.digest)
        self.header = read_header(self.model)
        self.tags = read_tags(self.header)
        self._check_header(self.header)
        self.main_layer = layer
        annotations: dict[str, str] = {}
        if done.tags is not None:
            annotations[SOURCE_KEY] = str(done.source_digest)
        if plan.shards:
            annotations[SHARDS_KEY] = str(layer.digest)
        if annotations:
            annotations[SOURCE_MANIFEST_KEY] = str(plan.manifest.digest)
            self.main_layer = Layer.make(MODEL_TYPE, done.digest, done.size, annotations)

    def _check_header(self, header: Header) -> None:
        """Refuse a manifest that was made by the header of a damaged copy on this disk."""
        planned = self._plan.header
        if planned is None or any(_alike(planned, h) for h in (header, _untagged(header))):
            return
        main = self._plan.main
        cached = self._plan.here.get(main.digest) if main else None
        raise DigestMismatchError(
            f"{self._plan.name}: the header that was read on this disk is not the model's",
            hint=f"remove the damaged copy, then run again: {cached}" if cached else "run again",
        )

    def _untagged_main(self, layer: Layer) -> None:
        path = self._place_for(layer.digest)
        if not self._verified(layer, path):
            self._brought(Blob(_subject(layer), layer.digest, layer.size, is_model=True))
        self.model, self.main_layer = path, layer
        self.header = read_header(path)
        self._check_header(self.header)
        self.tags = read_tags(self.header)

    def _brought(self, blob: Blob) -> Assembled:
        """The blob from this disk if it is there and whole, else from the source."""
        done = self._finished_before(blob)
        if done is None and self._plan.local is not None:
            done = self._copied(blob, self._plan.local, self._name_for)
        if done is None:
            if self._shards is not None:
                done, stats = fetch_joined(self._place, blob, self._shards(), self._name_for)
            else:
                source = self._source_of(blob.digest)
                done, stats = fetch_blob(self._place, blob, source, self._name_for)
            self.stats.add(stats)
        inherit_owner(self._place_for(done.digest))
        return done

    def _finished_before(self, blob: Blob) -> Assembled | None:
        """The file of a pull that was killed between its last byte and its manifest, verified."""
        digest = partial_for(self._place, blob).published()
        if digest is None:
            return None
        path = self._place_for(digest)
        try:
            header = read_header(path)
            wanted = self._choose(_untagged(header)) if blob.choose else None
            offsets = (0, PAGE) if wanted else (0,)
            found = hash_file(path, offsets=offsets)
        except TqError:
            return None
        if found[0] != digest or read_tags(header) != wanted:
            return None
        if found[-1] != blob.digest and not self._plan.shards:
            return None
        return Assembled(digest, header.size, found[-1], header, wanted)

    def _copied(
        self, blob: Blob, local: Path, target: Callable[[Digest], Path]
    ) -> Assembled | None:  # fmt: skip
        try:
            return copy_blob(self._place, blob, local, target)
        except (DigestMismatchError, InvalidGgufError):
            if self._plan.is_file:
                raise
            self._place.progress.note(f"{blob.subject}: the copy here is damaged; fetching it")
            return None

    def _choose(self, header: Header) -> KvTags | None:
        self.choice = choose_tags(header, self._plan.wish.type_k, self._plan.wish.type_v)
        tags = self.choice.tags
        if tags is None:
            self._place.progress.note(f"not tagged: {'; '.join(self.choice.reasons)}")
        return tags

    def _name_for(self, digest: Digest) -> Path:
        """Where the model that was made just now goes; nowhere if another one is expected."""
        if self._expected is not None:
            self._expected.check_model(digest)
        return self._place_for(digest)

    def _place_for(self, digest: Digest) -> Path:
        return self._plan.destination.file or self._plan.destination.store.blob(digest)


@contextmanager
def _blob_lock(plan: PullPlan, digest: Digest, place: Workplace) -> Iterator[None]:
    """Wait for other processes that fetch the same blob: the second one then finds it here."""
    private = plan.destination.store.private
    try:
        lock = folder_lock(private, digest.hex, timeout_s=0.2)
        lock.__enter__()
    except LockedError:
        place.progress.note(f"{plan.name}: another tqconvert is pulling it; waiting")
        lock = folder_lock(private, digest.hex, timeout_s=-1)
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _untagged(header: Header) -> Header:
    """The header as it was before our page went in front of it."""
    return original_header(header) if is_tagged(header) else header


def _alike(one: Header, other: Header) -> bool:
    """Whether two headers say the same; by their texts, because a NaN is unlike itself."""
    return one.tensors == other.tensors and repr(one.entries) == repr(other.entries)


def _subject(layer: Layer) -> str:
    return f"{layer.label} {layer.digest.short}"
