"""The model behind an OCI address: through an index if need be, in any of the forms.

What comes out is a manifest as Ollama has it. Of a form that is not Ollama's, template and parameters
are made from the GGUF's header, as they are for a file; it is looked at by a range beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tqconvert.digest import Digest
from tqconvert.errors import NotFoundError, RefusedError, UsageError
from tqconvert.forms.read import Entry, Parts, read_index, read_manifest
from tqconvert.forms.types import SOURCE_OCI_KEY
from tqconvert.gguf.header import Header
from tqconvert.modelfile.make import from_gguf
from tqconvert.pull.head import fetch_head
from tqconvert.registry.http import Http
from tqconvert.registry.oci import FetchedManifest, OciRegistry
from tqconvert.store.manifest import CONFIG_TYPE, MODEL_TYPE, Layer, Manifest
from tqconvert.store.recipe import Recipe, SmallBlob, config_blob, go_json, recipe_blobs, recipe_of


@dataclass(frozen=True, slots=True)
class InRegistry:
    """A model that a registry holds. `inline` are the blobs that were made here."""

    manifest: Manifest
    inline: Mapping[Digest, bytes]
    form: str
    digest: Digest
    """Of the manifest that the registry has, whatever its form."""


def find_in_registry(registry: OciRegistry, http: Http) -> InRegistry:
    """The model that the registry's reference means.

    Raises NotFoundError, AuthError, NetworkError, BadManifestError, DigestMismatchError, RefusedError
    for what cannot be pulled, UsageError for an index of several models.
    """
    subject = str(registry.reference)
    fetched = registry.fetch_manifest(registry.reference.wanted, subject)
    entries = read_index(fetched.data, subject=subject)
    if entries is not None:
        fetched, found = _chosen(registry, entries, subject)
    else:
        found = read_manifest(fetched.data, subject=subject)
    if isinstance(found, Manifest):
        return InRegistry(found, {}, "ollama", fetched.digest)
    return _completed(registry, http, found, fetched.digest)


def _chosen(
    registry: OciRegistry, entries: tuple[Entry, ...], subject: str
) -> tuple[FetchedManifest, Manifest | Parts]:
    """The one model of an index. The same weights in several forms are one: the first is taken."""
    found: list[tuple[Entry, FetchedManifest, Manifest | Parts]] = []
    refused: NotFoundError | RefusedError | None = None
    for entry in entries:
        fetched = registry.fetch_manifest(str(entry.layer.digest), subject)
        if read_index(fetched.data, subject=subject) is not None:
            continue
        try:
            model = read_manifest(fetched.data, subject=subject)
        except (NotFoundError, RefusedError) as e:
            refused = e
            continue
        found.append((entry, fetched, model))
    if not found:
        raise refused or NotFoundError(f"{subject}: an index without a model")
    if len({_weights(model) for _, _, model in found}) > 1:
        shown = ", ".join(f"{e.layer.digest.short} {e.platform}".strip() for e, _, _ in found[:6])
        first = found[0][0].layer.digest
        raise UsageError(
            f"{subject}: an index of {len(found)} different models ({shown})",
            hint=f"name one: oci://{registry.host}/{registry.reference.repository}@{first}",
        )
    return found[0][1], found[0][2]


def _weights(model: Manifest | Parts) -> Digest:
    if isinstance(model, Parts):
        return model.model.digest
    return (model.layers_of("model") or model.layers)[0].digest


def _completed(registry: OciRegistry, http: Http, parts: Parts, source: Digest) -> InRegistry:
    """A manifest of a foreign form's blobs, with what the GGUF's header says beside them."""
    model = parts.model
    subject = f"model {model.digest.short}"
    head = registry.retrying(
        lambda: fetch_head(http, registry.blob(model.digest), model.size, subject)
    )
    header = head[1] if head else None
    annotations = {**model.annotations, SOURCE_OCI_KEY: str(source)}
    first = Layer.make(MODEL_TYPE, model.digest, model.size, annotations)
    recipe = Recipe()
    if header is not None:
        recipe = recipe_of(from_gguf(header, from_="model.gguf", num_ctx=None))
    small = recipe_blobs(recipe)
    layers = (first, *parts.others, *(blob.layer for blob in small))
    config = _config(header, recipe, layers)
    inline = {blob.layer.digest: blob.data for blob in (*small, config)}
    return InRegistry(Manifest.make(config.layer, layers), inline, parts.form, source)


def _config(header: Header | None, recipe: Recipe, layers: tuple[Layer, ...]) -> SmallBlob:
    if header is not None:
        return config_blob(header, recipe, tuple(layer.digest for layer in layers))
    return SmallBlob.make(CONFIG_TYPE, go_json({"model_format": "gguf"}))
