"""Which model is in a manifest: every form, artifacts of other tools, indexes, and what is none."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tqconvert.errors import BadManifestError, NotFoundError, RefusedError, TqError
from tqconvert.forms.read import Parts, read_index, read_manifest
from tqconvert.forms.types import OCI_INDEX_TYPE, OCI_MANIFEST_TYPE, Form, file_names, form_of_tag
from tqconvert.forms.types import tag_of as tag
from tqconvert.store.manifest import Manifest

TITLE = "org.opencontainers.image.title"
FILE = "org.cncf.model.filepath"
OLLAMA = "application/vnd.ollama.image."


def layer(media_type: str, n: int, size: int = 7, **annotations: str) -> dict[str, Any]:
    """A descriptor; title and file stand for the long keys."""
    keys = {"title": TITLE, "file": FILE}
    raw: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{n:064x}", "size": size}
    if annotations:
        raw["annotations"] = {keys.get(k, k): v for k, v in annotations.items()}
    return raw


def manifest(
    *layers: dict[str, Any], config: str = "application/vnd.oci.empty.v1+json", **more: Any
) -> bytes:
    """An OCI manifest."""
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST_TYPE,
        "config": layer(config, 99),
        **more,
    }
    return json.dumps({**value, "layers": list(layers)}).encode()


def kinds(found: Manifest | Parts) -> dict[str, int]:
    """Kind -> number of the digest."""
    assert isinstance(found, Parts)
    return {x.kind: int(x.digest.hex, 16) for x in (found.model, *found.others)}


WEIGHT = "application/vnd.cncf.model.weight.v1."
DOCKER = "application/vnd.docker.ai."
FOREIGN = [
    # Docker's specification, and what model-runner writes.
    ((layer(DOCKER + "gguf.v3", 1), layer(DOCKER + "license", 2), layer(DOCKER + "gguf.v3.mmproj", 3),
      layer(DOCKER + "gguf.v3.lora", 4)), "docker",
     {"model": 1, "license": 2, "projector": 3, "adapter": 4}),
    ((layer(DOCKER + "gguf.v3", 1), layer(DOCKER + "mmproj", 2),
      layer(DOCKER + "chat.template.jinja", 3)), "docker", {"model": 1, "projector": 2}),
    # ModelPack: raw layers with and without file names, the type of older model-runners, other files.
    ((layer(WEIGHT + "raw", 1, file="a/m.Q4_K_M.gguf"), layer("application/vnd.cncf.model.doc.v1.raw", 2,
      file="LICENSE.txt"), layer("application/vnd.cncf.model.doc.v1.raw", 3, file="README.md"),
      layer("application/vnd.cncf.model.weight.config.v1.raw", 4, file="config.json")), "modelpack",
     {"model": 1, "license": 2}),
    ((layer(WEIGHT + "gguf", 1), layer(WEIGHT + "raw", 2, file="mmproj-F16.gguf")), "modelpack",
     {"model": 1, "projector": 2}),
    ((layer(WEIGHT + "raw", 1),), "modelpack", {"model": 1}),
    # oras push registry/repo m.gguf LICENSE
    ((layer("application/vnd.oci.image.layer.v1.tar", 9, title="x.tar"),
      layer("application/octet-stream", 1, title="m.gguf"),
      layer("application/octet-stream", 2, title="LICENSE")), "artifact", {"model": 1, "license": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "form", "want"), FOREIGN)
def test_foreign_forms(layers: tuple[dict[str, Any], ...], form: str, want: dict[str, int]) -> None:
    """The GGUF, and what belongs to it, with Ollama's media types."""
    found = read_manifest(manifest(*layers), subject="x")
    assert kinds(found) == want
    assert found.form == form
    assert all(x.media_type.startswith(OLLAMA) for x in (found.model, *found.others))


def test_ollamas_layers_in_an_oci_manifest_are_ollamas_manifest() -> None:
    """File names for oras are taken away, other annotations stay, the config gets its type."""
    model = layer(OLLAMA + "model", 1, title="model.gguf", mine="1")
    data = manifest(
        model, layer(OLLAMA + "license", 2, title="LICENSE"), config="application/x+json"
    )
    found = read_manifest(data, subject="x")
    assert isinstance(found, Manifest)
    value = json.loads(found.data)
    assert value["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert value["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert value["layers"][0]["annotations"] == {"mine": "1"}
    assert "annotations" not in value["layers"][1]


def test_dockers_manifest_of_ollama_stays_as_it_is() -> None:
    """To the byte, unknown fields included."""
    value = json.loads(manifest(layer(OLLAMA + "model", 1)))
    del value["mediaType"]
    data = json.dumps({**value, "own": 1}, indent=3).encode()
    assert read_manifest(data, subject="x").data == data


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ((layer("application/vnd.kitops.modelkit.model.v1.tar+gzip", 1),), RefusedError),
        ((layer(WEIGHT + "tar", 1, file="m.gguf"),), RefusedError),
        ((layer(DOCKER + "gguf.v3", 1), layer(DOCKER + "gguf.v3", 2)), RefusedError),
        ((layer(WEIGHT + "raw", 1, file="m-00001-of-00002.gguf"),
          layer(WEIGHT + "raw", 2, file="m-00002-of-00002.gguf")), RefusedError),
        ((layer(WEIGHT + "raw", 1, file="m.safetensors"),), NotFoundError),
        ((layer(DOCKER + "safetensors", 1),), NotFoundError),
        ((layer("application/vnd.oci.image.layer.v1.tar+gzip", 1),), NotFoundError),
    ],
)  # fmt: skip
def test_what_cannot_be_pulled(layers: tuple[dict[str, Any], ...], error: type[TqError]) -> None:
    """Packed, split, of another format, or a container: an error that names what there is."""
    with pytest.raises(error) as raised:
        read_manifest(manifest(*layers), subject="x")
    assert raised.value.hint


def test_a_licence_of_gigabytes_is_left_out() -> None:
    """Nobody reads it, and it would be held in memory."""
    big = layer(DOCKER + "license", 2, size=1 << 30)
    assert kinds(read_manifest(manifest(layer(DOCKER + "gguf.v3", 1), big), subject="x")) == {
        "model": 1
    }


def index(*entries: dict[str, Any], **more: Any) -> bytes:
    """An OCI index."""
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX_TYPE, "manifests": list(entries), **more}
    ).encode()


def test_an_index_without_its_attestations() -> None:
    """What build tools put beside an image is no model; platforms are told."""
    one = {**layer(OCI_MANIFEST_TYPE, 1), "platform": {"os": "linux", "architecture": "arm64"}}
    other = layer(OCI_MANIFEST_TYPE, 2, **{"vnd.docker.reference.type": "attestation-manifest"})
    found = read_index(index(one, other), subject="x")
    assert found is not None
    assert [(int(e.layer.digest.hex, 16), e.platform) for e in found] == [(1, "linux/arm64")]
    assert read_index(manifest(layer(WEIGHT + "raw", 1)), subject="x") is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"[" * 100000, index(), index(5), index({"digest": "sha256:x"})],
    ids=["empty", "list", "half", "deep", "none", "number", "digest"],
)  # fmt: skip
def test_what_is_no_index(data: bytes) -> None:
    """A typed error, not an exception of Python."""
    with pytest.raises(BadManifestError):
        read_index(data, subject="x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["mediaType", "digest", "size", "annotations", "layers", "config", "platform",
                         "manifests", TITLE, FILE, "tqconvert.ollama.type"]), inner, max_size=5),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(json_values, st.lists(json_values, max_size=2))
def test_any_json_is_a_model_or_an_error_of_ours(value: Any, layers: list[Any]) -> None:
    """Layers, annotations and indexes of whatever kind."""
    good = layer(WEIGHT + "raw", 1)
    texts = [json.dumps(value), json.dumps({"config": good, "layers": [*layers, good]}),
             json.dumps({"config": good, "layers": [{**good, "annotations": value}]})]  # fmt: skip
    for text in texts:
        for read in (read_index, read_manifest):
            try:
                read(text.encode(), subject="x")
            except TqError:
                continue


def test_tags_and_file_names() -> None:
    """The first form has the tag; names repeat with a number."""
    assert tag("1b", Form.OCI, first=Form.OCI) == "1b"
    assert tag("1b", Form.DOCKER, first=Form.OCI) == "1b-docker"
    assert form_of_tag("a-b-modelpack") == ("a-b", Form.MODELPACK)
    assert form_of_tag("1b") is form_of_tag("-oci") is form_of_tag("1b-ollama") is None
    assert file_names(("model", "license", "license", "projector", "projector", "odd")) == (
        "model.gguf", "LICENSE", "LICENSE-2", "mmproj.gguf", "mmproj-2.gguf", "odd",
    )  # fmt: skip
