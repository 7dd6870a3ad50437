"""From a manifest of any form to the model in it: which blob is the GGUF, which the licence.

A manifest that holds all of Ollama's layers gives the very manifest that was pushed; of others the
GGUF, the projector and the licences are known, and the rest is made from the GGUF's header.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from tqconvert.errors import BadManifestError, NotFoundError, RefusedError
from tqconvert.forms.types import (
    DOCKER_CONFIG_TYPE,
    DOCKER_GGUF_TYPE,
    DOCKER_INDEX_TYPE,
    DOCKER_LICENSE_TYPE,
    DOCKER_LORA_TYPE,
    DOCKER_PREFIX,
    DOCKER_PROJECTOR_TYPES,
    FILEPATH_KEY,
    MODELPACK_PREFIX,
    OCI_INDEX_TYPE,
    OLLAMA_TYPE_KEY,
    TITLE_KEY,
    WEIGHT_PREFIX,
)
from tqconvert.store.manifest import (
    CONFIG_TYPE,
    LAYER_PREFIX,
    MANIFEST_TYPE,
    Layer,
    Manifest,
    read_object,
)

MAX_LICENSE_BYTES = 16 << 20
MAX_ENTRIES = 64
"""Manifests of an index that are looked at."""

_PACKED = (".tar", ".tar+gzip", ".tar+zstd", "+gzip", "+zstd")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a foreign manifest holds; media types are Ollama's already."""

    model: Layer
    others: tuple[Layer, ...]
    """Projectors, adapters and licences."""
    form: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One manifest of an index."""

    layer: Layer
    platform: str


def read_index(data: bytes, *, subject: str) -> tuple[Entry, ...] | None:
    """Manifests of an index that may be models; None if the bytes are no index.

    Raises BadManifestError. Attestations, which build tools put beside images, are left out.
    """
    value = read_object(data, subject=subject)
    is_index = value.get("mediaType") in (OCI_INDEX_TYPE, DOCKER_INDEX_TYPE)
    entries = value.get("manifests")
    if not is_index and ("layers" in value or entries is None):
        return None
    if not isinstance(entries, list) or not entries:
        raise BadManifestError(f"{subject}: an index without manifests")
    found = []
    for i, raw in enumerate(entries[:MAX_ENTRIES]):
        layer = Layer.from_json(raw, f"{subject}: manifests[{i}]")
        platform = raw.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        words = [str(platform.get(k)) for k in ("os", "architecture") if platform.get(k)]
        if "attestation" in str(layer.annotations.get("vnd.docker.reference.type", "")):
            continue
        found.append(Entry(layer, "/".join(words)))
    return tuple(found)


def read_manifest(data: bytes, *, subject: str) -> Manifest | Parts:
    """The model in a manifest: as Ollama's manifest where it holds all of it, else its parts.

    Raises BadManifestError, NotFoundError if there is no GGUF, RefusedError if it is packed or split.
    """
    manifest = Manifest.parse(data, subject=subject)
    if manifest.layers_of("model") or manifest.layers_of("tensor"):
        return _ollama(manifest)
    restored = _restored(manifest)
    if restored is not None:
        return restored
    return _parts(manifest, subject)


def _ollama(manifest: Manifest) -> Manifest:
    """Ollama's layers: the bytes as they are in Docker's manifest, else that manifest made of them."""
    if json.loads(manifest.data).get("mediaType") in (None, MANIFEST_TYPE):
        return manifest
    layers = tuple(_without(layer, TITLE_KEY) for layer in manifest.layers)
    config = manifest.config
    if config.media_type != CONFIG_TYPE:
        raw = {**config.raw, "mediaType": CONFIG_TYPE}
        config = replace(config, media_type=CONFIG_TYPE, raw=raw)
    return Manifest.make(config, layers)


def _restored(manifest: Manifest) -> Manifest | None:
    """Ollama's manifest out of a form whose layers say which of Ollama's they are."""
    config: Layer | None = None
    layers = []
    for layer in manifest.layers:
        media_type = layer.annotations.get(OLLAMA_TYPE_KEY)
        if not isinstance(media_type, str):
            return None
        own = _without(layer, OLLAMA_TYPE_KEY, FILEPATH_KEY)
        own = replace(own, media_type=media_type, raw={**own.raw, "mediaType": media_type})
        if media_type == CONFIG_TYPE:
            config = own
        else:
            layers.append(own)
    if config is None or not any(layer.kind == "model" for layer in layers):
        return None
    return Manifest.make(config, tuple(layers))


def _without(layer: Layer, *keys: str) -> Layer:
    """The layer without these annotations, and without an empty set of them."""
    raw: dict[str, Any] = dict(layer.raw)
    left = {k: v for k, v in layer.annotations.items() if k not in keys}
    raw.pop("annotations", None)
    if left:
        raw["annotations"] = left
    return replace(layer, raw=raw)


def _parts(manifest: Manifest, subject: str) -> Parts:
    models, others = [], []
    for layer in manifest.layers:
        kind = _kind(layer)
        if kind == "model":
            models.append(layer)
        elif kind == "license" and layer.size > MAX_LICENSE_BYTES:
            continue
        elif kind is not None:
            others.append(_as(layer, kind))
    if not models:
        raise _no_gguf(manifest, subject)
    if len(models) > 1:
        names = ", ".join(_name(layer) or layer.digest.short for layer in models[:4])
        raise RefusedError(
            f"{subject}: {len(models)} GGUFs ({names}), and a model in Ollama's store is one",
            hint="shards must be joined first: llama-gguf-split --merge FIRST-SHARD OUT",
        )
    return Parts(_as(models[0], "model"), tuple(others), _form(manifest))


def _kind(layer: Layer) -> str | None:
    """`model`, `projector`, `adapter`, `license`, or None for what a GGUF model needs not."""
    media_type, name = layer.media_type, _name(layer).lower()
    base = name.rpartition("/")[2]
    if _packed(media_type):
        return None
    if media_type in DOCKER_PROJECTOR_TYPES:
        return "projector"
    if media_type == DOCKER_LORA_TYPE:
        return "adapter"
    is_license = media_type == DOCKER_LICENSE_TYPE or base.split(".")[0] in ("license", "licence")
    if is_license:
        return "license"
    is_weight = media_type.startswith(WEIGHT_PREFIX) and (base.endswith(".gguf") or not base)
    if media_type == DOCKER_GGUF_TYPE or is_weight or base.endswith(".gguf"):
        return "projector" if "mmproj" in base else "model"
    return None


def _as(layer: Layer, kind: str) -> Layer:
    """The blob as one of Ollama's layers; annotations of ours stay."""
    own = {k: v for k, v in layer.annotations.items() if k.startswith("tqconvert.source")}
    return Layer.make(LAYER_PREFIX + kind, layer.digest, layer.size, own)


def _name(layer: Layer) -> str:
    found = layer.annotations.get(FILEPATH_KEY) or layer.annotations.get(TITLE_KEY) or ""
    return "".join(c if c.isprintable() else "?" for c in str(found)[:120])


def _packed(media_type: str) -> bool:
    return media_type.endswith(_PACKED)


def _form(manifest: Manifest) -> str:
    if manifest.config.media_type == DOCKER_CONFIG_TYPE or any(
        layer.media_type.startswith(DOCKER_PREFIX) for layer in manifest.layers
    ):
        return "docker"
    if any(layer.media_type.startswith(MODELPACK_PREFIX) for layer in manifest.layers):
        return "modelpack"
    return "artifact"


def _no_gguf(manifest: Manifest, subject: str) -> NotFoundError | RefusedError:
    types = sorted({layer.label for layer in manifest.layers})
    shown = ", ".join(types[:4]) + (", ..." if len(types) > 4 else "")
    packed = [x for x in manifest.layers if _packed(x.media_type) and "model" in x.media_type]
    if packed:
        return RefusedError(
            f"{subject}: its files are packed ({shown}), and only a GGUF as it is can be pulled",
            hint="unpack it with the tool that made it, then: tqconvert pull ./FILE.gguf",
        )
    return NotFoundError(
        f"{subject}: no GGUF in it ({shown})", hint="is it a model? Only GGUF models can be pulled"
    )
