"""A pull from request to result: what the command line and other programs call."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert.digest import Digest
from tqconvert.errors import NotFoundError, UsageError
from tqconvert.fs import expand_user
from tqconvert.modelfile.make import from_gguf
from tqconvert.models import looks_like_path
from tqconvert.progress import Progress, Reporting
from tqconvert.pull.hub.model import HubModel
from tqconvert.pull.hub.name import HubName, parse_hub_name
from tqconvert.pull.joining import Shards
from tqconvert.pull.modelfile import write_modelfile
from tqconvert.pull.oci import find_in_registry
from tqconvert.pull.plan import Destination, PullPlan, Wish, check_plan, header_here, plan_pull
from tqconvert.pull.receive import Workplace
from tqconvert.pull.run import Expected, PullResult, run_pull
from tqconvert.reference import ModelName
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.login import find_credential
from tqconvert.registry.oci import OciRegistry
from tqconvert.registry.ocireference import OciReference, is_oci
from tqconvert.registry.ollama import OllamaRegistry
from tqconvert.settings import Settings
from tqconvert.store.hashing import hash_file
from tqconvert.store.layout import Store
from tqconvert.store.manifest import MODEL_TYPE, Layer, Manifest
from tqconvert.store.recipe import config_blob, recipe_blobs, recipe_of
from tqconvert.store.source import check_source


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What the user asked for."""

    source: str
    as_name: str | None = None
    to: Path | None = None
    wish: Wish = field(default_factory=Wish)
    memory: int | None = None
    connections: int | None = None


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


def prepare(request: PullRequest, settings: Settings, progress: Progress) -> Job:
    """Ask the source what it has and plan the pull; nothing is written.

    Raises UsageError, NotFoundError, NetworkError, AuthError, BadManifestError, RefusedError.
    """
    connections = request.connections or settings.connections
    http = Http(
        insecure=settings.insecure, offline=settings.offline, stall_s=settings.stall_s,
        connections=connections,
    )  # fmt: skip
    hub_name = None
    if not os.path.isfile(request.source):
        hub_name = parse_hub_name(request.source, settings.hf_endpoint)
    if hub_name is not None:
        return _prepare_hub(hub_name, request, settings, http, progress)
    if looks_like_path(request.source) and not is_oci(request.source):
        return _prepare_file(request, settings, http, progress)
    if is_oci(request.source):
        return _prepare_oci(request, settings, http, progress)
    name = ModelName.parse(request.source)
    target = _target(name, request)
    registry = OllamaRegistry(http, name, find_credential(settings, name.host))
    manifest = registry.fetch_manifest(name)
    destination = destination_of(request, settings, target)
    plan = plan_pull(name, target, manifest, destination, request.wish)
    place = Workplace(
        destination.partials, http, progress, connections=connections, retries=settings.retries
    )
    return Job(request, plan, place, registry.blob)


def _prepare_file(request: PullRequest, settings: Settings, http: Http, progress: Progress) -> Job:
    """The job for a GGUF on this disk: hashed first, so that a second pull finds it unchanged."""
    path = expand_user(request.source)
    header = check_source(path)
    with Reporting(progress, f"hashing {path.name}", header.size):
        digest = hash_file(path, advance=progress.advance)[0]
    model = Layer.make(MODEL_TYPE, digest, header.size)
    recipe = recipe_of(from_gguf(header, from_=str(path), num_ctx=None))
    extra = recipe_blobs(recipe)
    layers = (model, *(blob.layer for blob in extra))
    config = config_blob(header, recipe, tuple(layer.digest for layer in layers))
    name = _name_of(path)
    target = _target(name, request)
    destination = destination_of(request, settings, target)
    plan = plan_pull(
        path, target, Manifest.make(config.layer, layers), destination, request.wish,
        local=path, inline={blob.layer.digest: blob.data for blob in (*extra, config)},
    )  # fmt: skip
    place = Workplace(destination.partials, http, progress)
    return Job(request, plan, place, _no_source)


def _prepare_hub(
    hub_name: HubName, request: PullRequest, settings: Settings, http: Http, progress: Progress
) -> Job:
    """The job for a model of Hugging Face: its files at the commit that is there now."""
    model = HubModel(http, settings.hf_endpoint, hub_name, progress)
    target = _target(model.name, request)
    destination = destination_of(request, settings, target)
    content = model.read(lambda digest: header_here(destination, target, digest))
    plan = plan_pull(
        model.name, target, content.manifest, destination, request.wish, inline=content.inline,
        origin=model.origin, header=content.header, shards=content.shards, here=content.cached,
    )  # fmt: skip
    place = Workplace(
        destination.partials, http, progress, connections=request.connections or settings.connections,
        retries=settings.retries, heads=content.heads,
    )  # fmt: skip
    return Job(request, plan, place, model.source_of, lambda: model.shards(content))


def _prepare_oci(request: PullRequest, settings: Settings, http: Http, progress: Progress) -> Job:
    """The job for a model in an OCI registry, in whatever form it is there."""
    reference = OciReference.parse(request.source)
    registry = OciRegistry(http, reference, find_credential(settings, reference.host))
    found = find_in_registry(registry, http)
    target = _target(reference.model_name(), request)
    destination = destination_of(request, settings, target)
    plan = plan_pull(
        reference, target, found.manifest, destination, request.wish, inline=found.inline
    )
    place = Workplace(
        destination.partials, http, progress,
        connections=request.connections or settings.connections, retries=settings.retries,
    )  # fmt: skip
    return Job(request, plan, place, registry.blob)


def _no_source(digest: Digest) -> Endpoint:
    raise NotFoundError(f"{digest}: not on this disk any more", hint="run the same command again")


def _name_of(path: Path) -> ModelName:
    """A name for a file: its own, in the characters that names have."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")
    return ModelName.parse(stem or "model")


def destination_of(request: PullRequest, settings: Settings, target: ModelName) -> Destination:
    """Where the model of this name would go. Raises UsageError."""
    folder = request.to or settings.store
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file (expected a folder)")
    if request.to:
        return Destination.in_folder(request.to, target)
    return Destination.in_store(Store(settings.store), target)


def carry_out(job: Job, *, yes: bool = False) -> PullResult:
    """Do it. Raises RefusedError, StorageError, NetworkError, IntegrityError and their kin."""
    check_plan(job.plan, yes=yes)
    try:
        result = run_pull(job.plan, job.source_of, job.place, job.shards, job.expected)
        write_modelfile(result, job.request.memory, replace=yes)
        return result
    finally:
        job.place.http.close()


def _target(name: ModelName, request: PullRequest) -> ModelName:
    """The name the result gets: NAME-tq, NAME itself where nothing is tagged, or what --as says."""
    if request.as_name:
        return ModelName.parse(request.as_name).local()
    return name.tagged() if request.wish.tag else name.local()
