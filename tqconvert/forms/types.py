"""Media types and annotations of the four forms, and which names their files get.

ollama     Docker's manifest with Ollama's layers: what a store holds and stock `ollama pull` asks for
oci        the same layers in an OCI manifest: for skopeo, oras and whatever mirrors OCI artifacts
modelpack  CNCF ModelPack, model-spec v0.0.7 (docs/spec.md, docs/annotations.md, specs-go/v1)
docker     Docker's model-spec v0.1 (spec.md, config.md), as docker/model-runner reads it

None has an edition of the weights of its own: the GGUF is the same blob in all of them.
"""

from enum import StrEnum
from typing import Final

from tqconvert.store.manifest import MANIFEST_TYPE

OCI_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_INDEX_TYPE: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

MODELPACK_ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
MODELPACK_PREFIX: Final = "application/vnd.cncf.model."
WEIGHT_PREFIX: Final = MODELPACK_PREFIX + "weight.v1."
WEIGHT_TYPE: Final = WEIGHT_PREFIX + "raw"
WEIGHT_CONFIG_TYPE: Final = MODELPACK_PREFIX + "weight.config.v1.raw"
DOC_TYPE: Final = MODELPACK_PREFIX + "doc.v1.raw"

DOCKER_PREFIX: Final = "application/vnd.docker.ai."
DOCKER_CONFIG_TYPE: Final = DOCKER_PREFIX + "model.config.v0.1+json"
DOCKER_GGUF_TYPE: Final = DOCKER_PREFIX + "gguf.v3"
DOCKER_LORA_TYPE: Final = DOCKER_GGUF_TYPE + ".lora"
DOCKER_LICENSE_TYPE: Final = DOCKER_PREFIX + "license"
DOCKER_PROJECTOR_TYPES: Final = (DOCKER_PREFIX + "mmproj", DOCKER_GGUF_TYPE + ".mmproj")
"""What model-runner writes, and what the specification names."""

TITLE_KEY: Final = "org.opencontainers.image.title"
FILEPATH_KEY: Final = "org.cncf.model.filepath"
OLLAMA_TYPE_KEY: Final = "tqconvert.ollama.type"
"""Annotation of a layer of a foreign form: which of Ollama's layers it is."""

SOURCE_OCI_KEY: Final = "tqconvert.source.oci"
"""Annotation of a model layer that came by a foreign form: digest of that manifest."""


class Form(StrEnum):
    """A form, by the name that users give."""

    OLLAMA = "ollama"
    OCI = "oci"
    MODELPACK = "modelpack"
    DOCKER = "docker"

    @property
    def manifest_type(self) -> str:
        """Media type of the manifest."""
        return MANIFEST_TYPE if self is Form.OLLAMA else OCI_MANIFEST_TYPE


_FILES: Final = {
    "model": "model.gguf", "projector": "mmproj.gguf", "adapter": "adapter.gguf",
    "draft": "draft.gguf", "template": "template", "system": "system", "license": "LICENSE",
    "params": "params.json", "messages": "messages.json",
}  # fmt: skip
OLLAMA_CONFIG_FILE: Final = "ollama.json"


def file_names(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """A file name for each layer by its kind, the second of a kind with a number.

    The same for every model, so that the same layers give the same manifest.
    """
    seen: dict[str, int] = {}
    names = []
    for kind in kinds:
        name = _FILES.get(kind, kind.rpartition("/")[2])
        n = seen[name] = seen.get(name, 0) + 1
        stem, dot, end = name.partition(".")
        names.append(name if n == 1 else f"{stem}-{n}{dot}{end}")
    return tuple(names)


def tag_of(tag: str, form: Form, *, first: Form) -> str:
    """The tag of a form where several share a repository: TAG for the first, TAG-FORM for the rest."""
    return tag if form is first else f"{tag}-{form}"


def form_of_tag(tag: str) -> tuple[str, Form] | None:
    """TAG and FORM of `TAG-FORM`, None where the tag does not end like that."""
    stem, _, end = tag.rpartition("-")
    if not stem or end not in (Form.OCI, Form.MODELPACK, Form.DOCKER):
        return None
    return stem, Form(end)
