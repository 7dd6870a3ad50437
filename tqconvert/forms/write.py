"""From a model of a store to the manifests of its forms, over the same blobs.

Everything is derived from the store's manifest and the GGUF's header, without a clock: the same model
gives the same bytes everywhere, so registries and `share` agree on the digests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import RefusedError
from tqconvert.forms.types import (
    DOC_TYPE,
    DOCKER_CONFIG_TYPE,
    DOCKER_GGUF_TYPE,
    DOCKER_LICENSE_TYPE,
    DOCKER_LORA_TYPE,
    DOCKER_PROJECTOR_TYPES,
    FILEPATH_KEY,
    MODELPACK_ARTIFACT_TYPE,
    MODELPACK_CONFIG_TYPE,
    OCI_MANIFEST_TYPE,
    OLLAMA_CONFIG_FILE,
    OLLAMA_TYPE_KEY,
    TITLE_KEY,
    WEIGHT_CONFIG_TYPE,
    WEIGHT_TYPE,
    Form,
    file_names,
)
from tqconvert.gguf.header import Header
from tqconvert.gguf.types import FILE_TYPES
from tqconvert.store.manifest import Layer, Manifest
from tqconvert.store.recipe import SmallBlob, human_number

_DOCKER_TYPES = {
    "model": DOCKER_GGUF_TYPE, "projector": DOCKER_PROJECTOR_TYPES[0], "adapter": DOCKER_LORA_TYPE,
    "license": DOCKER_LICENSE_TYPE,
}  # fmt: skip
_MODELPACK_TYPES = {
    "model": WEIGHT_TYPE, "projector": WEIGHT_TYPE, "adapter": WEIGHT_TYPE, "draft": WEIGHT_TYPE,
    "license": DOC_TYPE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Formed:
    """A model in one form: the manifest's bytes and the blobs that it names."""

    form: Form
    data: bytes
    blobs: tuple[Layer, ...]
    """Each once; those of `made` are in memory, all others in the store."""
    made: tuple[SmallBlob, ...] = ()

    @property
    def digest(self) -> Digest:
        """sha256 of the manifest."""
        return digest_bytes(self.data)


def write_form(form: Form, manifest: Manifest, header: Header | None) -> Formed:
    """The model in this form; `header` is that of its first model layer, None where it has none.

    Raises RefusedError for a form that is for GGUFs alone.
    """
    match form:
        case Form.OLLAMA:
            return Formed(form, manifest.data, manifest.blobs)
        case Form.OCI:
            return _oci(manifest)
        case Form.MODELPACK:
            return _modelpack(manifest, _needed(header, form))
        case Form.DOCKER:
            return _docker(manifest, _needed(header, form))


def _needed(header: Header | None, form: Form) -> Header:
    if header is None:
        raise RefusedError(
            f"{form}: only a model with a GGUF has this form", hint="--form ollama or --form oci"
        )
    return header


def _oci(manifest: Manifest) -> Formed:
    layers = _annotated(manifest, TITLE_KEY)
    value = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST_TYPE, "config": dict(manifest.config.raw),
        "layers": layers,
    }  # fmt: skip
    return Formed(Form.OCI, _compact(value), manifest.blobs)


def _modelpack(manifest: Manifest, header: Header) -> Formed:
    """Every layer, and Ollama's config beside them: what comes back is the same model."""
    layers = []
    for layer, raw in zip(manifest.layers, _annotated(manifest, FILEPATH_KEY), strict=True):
        media_type = _MODELPACK_TYPES.get(layer.kind, WEIGHT_CONFIG_TYPE)
        annotations = {OLLAMA_TYPE_KEY: layer.media_type, **raw["annotations"]}
        layers.append({**raw, "mediaType": media_type, "annotations": annotations})
    own = manifest.config
    annotations = {OLLAMA_TYPE_KEY: own.media_type, FILEPATH_KEY: OLLAMA_CONFIG_FILE}
    layers.append({**own.raw, "mediaType": WEIGHT_CONFIG_TYPE, "annotations": annotations})
    descriptor: dict[str, Any] = {"family": header.architecture or "unknown"}
    if name := header.text("general.name"):
        descriptor["name"] = name
    if licence := header.text("general.license"):
        descriptor["licenses"] = [licence]
    config = {
        "descriptor": descriptor,
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        "config": {
            "architecture": header.architecture or "unknown", "format": "gguf",
            "paramSize": _parameters(header), "quantization": _quantization(header),
        },
    }  # fmt: skip
    made = SmallBlob.make(MODELPACK_CONFIG_TYPE, _compact(config))
    value = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST_TYPE, "artifactType": MODELPACK_ARTIFACT_TYPE,
        "config": dict(made.layer.raw), "layers": layers,
    }  # fmt: skip
    return Formed(Form.MODELPACK, _compact(value), (made.layer, *manifest.blobs), (made,))


def _docker(manifest: Manifest, header: Header) -> Formed:
    """What model-runner knows of; Ollama's template and parameters have no place there."""
    kept = [layer for layer in manifest.layers if layer.kind in _DOCKER_TYPES]
    names = file_names(tuple(layer.kind for layer in kept))
    layers = [
        {
            "mediaType": _DOCKER_TYPES[layer.kind], "digest": str(layer.digest), "size": layer.size,
            "annotations": {FILEPATH_KEY: name, **layer.annotations},
        }
        for layer, name in zip(kept, names, strict=True)
    ]  # fmt: skip
    config = {
        "config": {
            "format": "gguf", "quantization": _quantization(header),
            "parameters": _parameters(header), "architecture": header.architecture or "unknown",
        },
        "descriptor": {},
        "rootfs": {"type": "rootfs", "diff_ids": [str(layer.digest) for layer in kept]},
    }  # fmt: skip
    made = SmallBlob.make(DOCKER_CONFIG_TYPE, _compact(config))
    value = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST_TYPE, "config": dict(made.layer.raw),
        "layers": layers,
    }  # fmt: skip
    unique = {layer.digest: layer for layer in kept}.values()
    return Formed(Form.DOCKER, _compact(value), (made.layer, *unique), (made,))


def _annotated(manifest: Manifest, key: str) -> list[dict[str, Any]]:
    """The layers with a file name under `key`, which comes last so that reading can take it away."""
    names = file_names(tuple(layer.kind for layer in manifest.layers))
    return [
        {**layer.raw, "annotations": {**layer.annotations, key: name}}
        for layer, name in zip(manifest.layers, names, strict=True)
    ]


def _parameters(header: Header) -> str:
    return human_number(sum(t.n_values for t in header.tensors))


def _quantization(header: Header) -> str:
    return FILE_TYPES.get(header.integer("general.file_type") or -1, "unknown")


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
