"""The model that is pushed, checked: its manifest, its blobs here, the header of its GGUF."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.digest import Digest
from tqconvert.errors import IntegrityError, InvalidGgufError, NotFoundError
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.tags import PAGE, is_tagged
from tqconvert.models import find_file, find_name
from tqconvert.progress import Progress, Reporting
from tqconvert.reference import ModelName
from tqconvert.registry.reading import Source
from tqconvert.store.hashing import hash_file
from tqconvert.store.layout import Store
from tqconvert.store.manifest import MODEL_TYPE, SOURCE_KEY, Layer, Manifest
from tqconvert.store.recipe import config_blob, recipe_blobs, recipe_of
from tqconvert.store.source import check_source, refuse_writers

GGUF_KINDS = ("model", "projector", "adapter", "draft")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and where its bytes are."""

    label: str
    name: ModelName | None
    manifest: Manifest
    header: Header | None
    files: Mapping[Digest, Path]
    made: Mapping[Digest, bytes]
    """Blobs in memory: config, template and parameters of a file."""

    def source(self, layer: Layer) -> Source:
        """Where the bytes of a blob are."""
        label = f"{layer.label} {layer.digest.short}"
        data = self.made.get(layer.digest)
        if data is not None:
            return Source(label, layer.digest, layer.size, None, data)
        return Source(label, layer.digest, layer.size, self.files[layer.digest])


def find_subject(text: str, store: Store, progress: Progress) -> Subject:
    """The model that FILE|NAME means, its GGUFs checked as `install` checks them.

    Raises NotFoundError, InvalidGgufError, RefusedError, StorageError, IntegrityError.
    """
    if file := find_file(text):
        return _of_file(file.path, progress)
    return _of_store(find_name(text, store), store)


def _of_store(name: ModelName, store: Store) -> Subject:
    manifest = store.require_manifest(name)
    if name.digest not in (None, manifest.digest):
        raise IntegrityError(
            f"{name}: the store has {manifest.digest} under this name (expected {name.digest})"
        )
    files, header = {}, None
    for layer in manifest.blobs:
        path = store.blob(layer.digest)
        if not path.is_file():
            raise NotFoundError(
                f"{path}: the {layer.label} blob of {name} is missing",
                hint="pull the model again, or: tqconvert verify " + str(name),
            )
        if path.stat().st_size != layer.size:
            raise IntegrityError(
                f"{path}: {path.stat().st_size} bytes (the manifest of {name} says {layer.size})",
                hint=f"tqconvert verify {name}",
            )
        files[layer.digest] = path
    for layer in manifest.layers:
        if layer.kind in GGUF_KINDS:
            found = read_header(files[layer.digest])
            if layer.kind == "model" and header is None:
                header = found
                if not found.tensors:
                    raise InvalidGgufError(f"{found.path}: no tensors (expected a model)")
    return Subject(str(name.local()), name.local(), manifest, header, files, {})


def _of_file(path: Path, progress: Progress) -> Subject:
    """A GGUF with what its header says for certain beside it, as `pull FILE` makes it."""
    from tqconvert.modelfile.make import from_gguf

    header = check_source(path)
    refuse_writers(path)
    offsets = (0, PAGE) if is_tagged(header) else (0,)
    with Reporting(progress, f"hashing {path.name}", header.size):
        digest, *source = hash_file(path, offsets=offsets, advance=progress.advance)
    annotations = {SOURCE_KEY: str(source[0])} if source else None
    model = Layer.make(MODEL_TYPE, digest, header.size, annotations)
    recipe = recipe_of(from_gguf(header, from_=str(path), num_ctx=None))
    small = recipe_blobs(recipe)
    layers = (model, *(blob.layer for blob in small))
    config = config_blob(header, recipe, tuple(layer.digest for layer in layers))
    made = {blob.layer.digest: blob.data for blob in (*small, config)}
    return Subject(
        str(path), None, Manifest.make(config.layer, layers), header, {digest: path}, made
    )
