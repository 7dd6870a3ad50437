"""Manifests: which blobs make a model. Read with suspicion, written byte for byte.

Media types and fields: ollama manifest/manifest.go and server/images.go (v0.19.0).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import BadManifestError, IntegrityError

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."
MODEL_TYPE = LAYER_PREFIX + "model"
MAX_MANIFEST_BYTES = 4 << 20
MAX_BLOB_BYTES = 1 << 44

SOURCE_KEY = "tqconvert.source.digest"
"""Annotation of a tagged model layer: digest of the blob before it was tagged."""

SOURCE_MANIFEST_KEY = "tqconvert.source.manifest"
"""Annotation of a tagged model layer: digest of the manifest it was pulled by."""

SHARDS_KEY = "tqconvert.source.shards"
"""Annotation of a model layer that was joined of shards: stands for their digests."""

INSTALLED_KEY = "tqconvert.installed"
"""Annotation of a model layer that `install` put into the store from a file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob of a model. `raw` keeps fields that this program does not know."""

    media_type: str
    digest: Digest
    size: int
    raw: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`model`, `template`, `params`, `config`, ..., or the whole media type of foreign ones."""
        if self.media_type == CONFIG_TYPE:
            return "config"
        return self.media_type.removeprefix(LAYER_PREFIX)

    @property
    def label(self) -> str:
        """The kind as people know it; what a terminal would obey is left out."""
        text = "config" if self.media_type == CONFIG_TYPE else self.kind
        return "".join(c if c.isprintable() else "?" for c in text[:80])

    @property
    def annotations(self) -> Mapping[str, str]:
        """Annotations of the layer."""
        found = self.raw.get("annotations")
        return found if isinstance(found, dict) else {}

    @classmethod
    def from_json(cls, value: object, context: str) -> "Layer":
        """Layer from its JSON object. Raises BadManifestError."""
        if not isinstance(value, dict):
            raise BadManifestError(f"{context}: {_brief(value)} (expected an object)")
        media_type, size = value.get("mediaType"), value.get("size")
        if not isinstance(media_type, str):
            raise BadManifestError(f"{context}.mediaType: {_brief(media_type)} (expected a string)")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BLOB_BYTES:
            raise BadManifestError(f"{context}.size: {_brief(size)} (expected a number of bytes)")
        try:
            digest = Digest.parse(str(value.get("digest")))
        except IntegrityError as e:
            raise BadManifestError(f"{context}.digest: {e.message}") from None
        return cls(media_type, digest, size, value)

    @classmethod
    def make(
        cls,
        media_type: str,
        digest: Digest,
        size: int,
        annotations: Mapping[str, str] | None = None,
    ) -> "Layer":
        """A layer of our own."""
        raw: dict[str, Any] = {"mediaType": media_type, "digest": str(digest), "size": size}
        if annotations:
            raw["annotations"] = dict(annotations)
        return cls(media_type, digest, size, raw)


def read_object(data: bytes, *, subject: str) -> dict[str, Any]:
    """The JSON object that a manifest of any kind is. Raises BadManifestError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise BadManifestError(
            f"{subject}: manifest of {len(data)} bytes (limit {MAX_MANIFEST_BYTES})"
        )
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadManifestError(f"{subject}: manifest is not JSON ({data[:40]!r})") from None
    if not isinstance(value, dict):
        raise BadManifestError(f"{subject}: manifest is no object")
    return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's manifest with the bytes it came as: their sha256 is what `ollama list` shows."""

    config: Layer
    layers: tuple[Layer, ...]
    data: bytes

    @classmethod
    def parse(cls, data: bytes, *, subject: str) -> "Manifest":
        """Manifest from the bytes of its file. Raises BadManifestError."""
        value = read_object(data, subject=subject)
        if "manifests" in value and "layers" not in value:
            raise BadManifestError(f"{subject}: an index of manifests, not a model's manifest")
        layers = value.get("layers")
        if not isinstance(layers, list) or not layers:
            raise BadManifestError(f"{subject}: manifest without layers")
        config = Layer.from_json(value.get("config"), f"{subject}: config")
        found = tuple(Layer.from_json(x, f"{subject}: layers[{i}]") for i, x in enumerate(layers))
        return cls(config, found, data)

    @classmethod
    def make(
        cls, config: Layer, layers: tuple[Layer, ...], like: "Manifest | None" = None
    ) -> "Manifest":
        """A manifest of these blobs, in Ollama's form; other fields as in `like`."""
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
        if like is not None:
            value.update(json.loads(like.data))
        value["config"] = dict(config.raw)
        value["layers"] = [dict(layer.raw) for layer in layers]
        return cls(config, layers, json.dumps(value, separators=(",", ":")).encode())

    @property
    def digest(self) -> Digest:
        """sha256 of the manifest's bytes."""
        return digest_bytes(self.data)

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """All blobs that the model needs, each once, the config first."""
        seen: dict[Digest, Layer] = {}
        for layer in (self.config, *self.layers):
            seen.setdefault(layer.digest, layer)
        return tuple(seen.values())

    def layers_of(self, kind: str) -> tuple[Layer, ...]:
        """Layers of one kind: `model`, `projector`, `license`, ..."""
        return tuple(layer for layer in self.layers if layer.kind == kind)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
