"""The layers of an installed model that its Modelfile can show, read from their blobs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqconvert.digest import digest_bytes
from tqconvert.errors import BadManifestError, DigestMismatchError, NotFoundError
from tqconvert.fs import storage_error
from tqconvert.modelfile.parse import MAX_BYTES
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Layer, Manifest

_TEXTS = {"template": "template", "prompt": "template", "system": "system"}
_FILES = ("projector", "adapter", "draft")


@dataclass(frozen=True, slots=True)
class OwnLayers:
    """What a model carries beside its weights."""

    texts: Mapping[str, str]
    """`template` and `system`, where the model has them."""
    params: Mapping[str, Any]
    messages: tuple[tuple[str, str], ...]
    """Role and content."""
    licenses: tuple[str, ...]
    config: Mapping[str, Any]
    files: tuple[Layer, ...]
    """Projectors, adapters and drafts."""


def read_own(manifest: Manifest, read: Callable[[Layer], bytes]) -> OwnLayers:
    """The model's own layers; `read` gives the bytes of a small blob. Raises BadManifestError."""
    texts: dict[str, str] = {}
    params: dict[str, Any] = {}
    messages: tuple[tuple[str, str], ...] = ()
    licenses: list[str] = []
    for layer in manifest.layers:
        if kind := _TEXTS.get(layer.kind):
            texts[kind] = _text(read(layer))
        elif layer.kind == "license":
            licenses.append(_text(read(layer)))
        elif layer.kind == "params":
            params = _object(read(layer), "params layer")
        elif layer.kind == "messages":
            messages = _messages(read(layer))
    files = tuple(layer for layer in manifest.layers if layer.kind in _FILES)
    config = _object(read(manifest.config), "config")
    return OwnLayers(texts, params, messages, tuple(licenses), config, files)


def blob_reader(store: Store) -> Callable[[Layer], bytes]:
    """Reader of small blobs of the store; each is checked against its digest.

    It raises NotFoundError, StorageError, DigestMismatchError and, for blobs too large to be text,
    BadManifestError.
    """

    def read(layer: Layer) -> bytes:
        path = store.blob(layer.digest)
        if layer.size > MAX_BYTES:
            raise BadManifestError(
                f"{path}: {layer.label} of {layer.size} bytes (limit {MAX_BYTES})"
            )
        try:
            with path.open("rb") as f:
                data = f.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such blob ({layer.label})") from None
        except OSError as e:
            raise storage_error(e, path) from e
        if digest_bytes(data) != layer.digest:
            raise DigestMismatchError(f"{path}: its bytes have another digest ({layer.label})")
        return data

    return read


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = _json(data, what)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadManifestError(f"{what}: {str(value)[:40]!r} (expected a JSON object)")
    return value


def _messages(data: bytes) -> tuple[tuple[str, str], ...]:
    value = _json(data, "messages layer")
    if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
        raise BadManifestError("messages layer: expected a JSON list of messages")
    return tuple((str(m.get("role", "")), str(m.get("content", ""))) for m in value)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadManifestError(f"{what}: not JSON ({data[:40]!r})") from None
