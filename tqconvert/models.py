"""What FILE|NAME means: a path if it looks like one or exists, else a model in the store."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqconvert.errors import DigestMismatchError, NotFoundError, TqError

# A file needs nothing of the store, whose import is a fifth of the time of `inspect FILE`.
if TYPE_CHECKING:
    from tqconvert.reference import ModelName
    from tqconvert.store.layout import Store
    from tqconvert.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Model:
    """A model at hand: its GGUF, and name and manifest where it comes from a store."""

    path: Path
    name: "ModelName | None" = None
    manifest: "Manifest | None" = None

    def __str__(self) -> str:
        return str(self.name) if self.name else str(self.path)


def looks_like_path(text: str) -> bool:
    """Whether the text can only be a path, or is one that exists."""
    return (
        text.startswith((".", "/", "~"))
        or text.lower().endswith(".gguf")
        or (os.sep in text and os.path.exists(text))
        or os.path.isfile(text)
    )


def find_file(text: str) -> Model | None:
    """The model if the text means a file, None if it can only be a name.

    Raises NotFoundError, StorageError.
    """
    if not looks_like_path(text):
        return None
    from tqconvert.fs import expand_user, require_readable

    path = expand_user(text)
    require_readable(path)
    return Model(path)


def find_model(text: str, store: "Store") -> Model:
    """The model that FILE|NAME means. Raises NotFoundError, DigestMismatchError for a pinned name."""
    file = find_file(text)
    if file is not None:
        return file
    name = find_name(text, store)
    manifest = store.require_manifest(name)
    if name.digest not in (None, manifest.digest):
        raise DigestMismatchError(
            f"{name}: the store has {manifest.digest} under this name (expected {name.digest})"
        )
    layers = manifest.layers_of("model")
    if not layers:
        raise NotFoundError(f"{name}: has no GGUF layer", hint="only GGUF models can be used")
    return Model(store.blob(layers[0].digest), name.local(), manifest)


def find_name(text: str, store: "Store") -> "ModelName":
    """The name that FILE|NAME means where it is no file. Raises NotFoundError if it can be none."""
    from tqconvert.reference import ModelName

    try:
        name = ModelName.parse(text)
    except TqError:
        raise NotFoundError(
            f"{text!r}: no such file, and no model's name (expected NAME[:TAG])"
        ) from None
    if os.path.isdir(text) and store.read_manifest(name) is None:
        raise NotFoundError(f"{text}: is a folder (expected a GGUF file or a model's name)")
    return name


def files_of(model: Model, store: "Store") -> tuple[Path, ...]:
    """All GGUF files of the model: the shards of a file's set, or the model layers of a manifest.

    Raises what `find_shards` raises.
    """
    if model.manifest is not None:
        return tuple(store.blob(layer.digest) for layer in model.manifest.layers_of("model"))
    from tqconvert.gguf.shards import find_shards

    return find_shards(model.path)
