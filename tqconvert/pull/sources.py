"""The four places that a model comes from: each is asked what it has, and gives a plan."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.digest import Digest
from tqconvert.errors import NotFoundError
from tqconvert.modelfile.make import from_gguf
from tqconvert.progress import Progress, Reporting
from tqconvert.pull.destination import Destination, destination_of, target_of
from tqconvert.pull.expected import Expected
from tqconvert.pull.hub.model import HubModel
from tqconvert.pull.hub.name import HubName
from tqconvert.pull.joining import Shards
from tqconvert.pull.oci import find_in_registry
from tqconvert.pull.plan import Origin, PullPlan, header_here, plan_pull
from tqconvert.pull.receive import Workplace
from tqconvert.pull.request import PullRequest
from tqconvert.reference import ModelName
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.login import find_credential
from tqconvert.registry.oci import OciRegistry
from tqconvert.registry.ocireference import OciReference
from tqconvert.registry.ollama import OllamaRegistry
from tqconvert.settings import Settings
from tqconvert.store.hashing import hash_file
from tqconvert.store.manifest import MODEL_TYPE, Layer, Manifest
from tqconvert.store.recipe import config_blob, recipe_blobs, recipe_of
from tqconvert.store.source import check_source


@dataclass(frozen=True, slots=True)
class Job:
    """A plan with all that it takes to carry it out."""

    request: PullRequest
    plan: PullPlan
    place: Workplace
    source_of: Callable[[Digest], Endpoint]
    shards: Callable[[], Shards] | None = None
    expected: Expected | None = None
    """What must come out, where a lock file says it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Asks for the model where a request says it is; each method plans the pull and writes nothing.

    They raise UsageError, NotFoundError, NetworkError, AuthError, BadManifestError, RefusedError.
    """

    request: PullRequest
    settings: Settings
    http: Http
    progress: Progress

    def from_registry(self, name: ModelName) -> Job:
        """The job for a name in an Ollama registry."""
        destination = self._destination(name)
        registry = OllamaRegistry(self.http, name, find_credential(self.settings, name.host))
        manifest = registry.fetch_manifest(name)
        plan = plan_pull(name, self._target(name), manifest, destination, self.request.wish)
        return Job(self.request, plan, self._workplace(destination), registry.blob)

    def from_file(self, path: Path) -> Job:
        """The job for a GGUF on this disk: hashed first, so that a second pull finds it unchanged."""
        header = check_source(path)
        name = _name_of(path)
        destination = self._destination(name)
        with Reporting(self.progress, f"hashing {path.name}", header.size):
            digest = hash_file(path, advance=self.progress.advance)[0]
        model = Layer.make(MODEL_TYPE, digest, header.size)
        recipe = recipe_of(from_gguf(header, from_=str(path), num_ctx=None))
        extra = recipe_blobs(recipe)
        layers = (model, *(blob.layer for blob in extra))
        config = config_blob(header, recipe, tuple(layer.digest for layer in layers))
        plan = plan_pull(
            path, self._target(name), Manifest.make(config.layer, layers), destination, self.request.wish,
            local=path, inline={blob.layer.digest: blob.data for blob in (*extra, config)},
        )  # fmt: skip
        return Job(self.request, plan, self._workplace(destination), _no_source)

    def from_hub(self, name: HubName) -> Job:
        """The job for a model of Hugging Face: its files at the commit that is there now."""
        model = HubModel(self.http, self.settings.hf_endpoint, name, self.progress)
        target, destination = self._target(model.name), self._destination(model.name)
        content = model.read(lambda digest: header_here(destination, target, digest))
        plan = plan_pull(
            model.name, target, content.manifest, destination, self.request.wish, inline=content.inline,
            origin=model.origin, header=content.header, shards=content.shards, here=content.cached,
        )  # fmt: skip
        place = self._workplace(destination, content.heads)
        return Job(self.request, plan, place, model.source_of, lambda: model.shards(content))

    def from_oci(self, reference: OciReference) -> Job:
        """The job for a model in an OCI registry, in whatever form it is there."""
        name = reference.model_name()
        destination = self._destination(name)
        registry = OciRegistry(self.http, reference, find_credential(self.settings, reference.host))
        found = find_in_registry(registry, self.http)
        plan = plan_pull(
            reference, self._target(name), found.manifest, destination, self.request.wish,
            inline=found.inline, origin=Origin(str(reference), str(found.digest), ()),
        )  # fmt: skip
        return Job(self.request, plan, self._workplace(destination), registry.blob)

    def _target(self, name: ModelName) -> ModelName:
        return target_of(name, self.request)

    def _destination(self, name: ModelName) -> Destination:
        return destination_of(self.request, self.settings, self._target(name))

    def _workplace(
        self, destination: Destination, heads: Mapping[Digest, bytes] | None = None
    ) -> Workplace:
        return Workplace(
            destination.partials, self.http, self.progress,
            connections=self.request.connections or self.settings.connections,
            retries=self.settings.retries, heads=heads or {},
        )  # fmt: skip


def _no_source(digest: Digest) -> Endpoint:
    raise NotFoundError(f"{digest}: not on this disk any more", hint="run the same command again")


def _name_of(path: Path) -> ModelName:
    """A name for a file: its own, in the characters that names have."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")
    return ModelName.parse(stem or "model")
