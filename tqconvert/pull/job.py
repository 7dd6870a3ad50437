"""A pull from request to result: what the command line and other programs call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert.digest import Digest
from tqconvert.errors import UsageError
from tqconvert.models import looks_like_path
from tqconvert.progress import Progress
from tqconvert.pull.modelfile import write_modelfile
from tqconvert.pull.plan import Destination, PullPlan, Wish, check_plan, plan_pull
from tqconvert.pull.receive import Workplace
from tqconvert.pull.run import PullResult, run_pull
from tqconvert.reference import ModelName
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.ollama import OllamaRegistry
from tqconvert.settings import Settings
from tqconvert.store.layout import Store


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


def prepare(request: PullRequest, settings: Settings, progress: Progress) -> Job:
    """Ask the source what it has and plan the pull; nothing is written.

    Raises UsageError, NotFoundError, NetworkError, AuthError, BadManifestError.
    """
    if looks_like_path(request.source):
        raise UsageError(f"{request.source}: local files come next")
    name = ModelName.parse(request.source)
    target = _target(name, request)
    http = Http(
        insecure=settings.insecure, offline=settings.offline, stall_s=settings.stall_s,
        connections=request.connections or settings.connections,
    )  # fmt: skip
    registry = OllamaRegistry(http, name)
    manifest = registry.fetch_manifest(name)
    destination = (
        Destination.in_folder(request.to, target)
        if request.to
        else Destination.in_store(Store(settings.store), target)
    )
    plan = plan_pull(name, target, manifest, destination, request.wish)
    place = Workplace(
        destination.partials, http, progress,
        connections=request.connections or settings.connections, retries=settings.retries,
    )  # fmt: skip
    return Job(request, plan, place, registry.blob)


def carry_out(job: Job, *, yes: bool = False) -> PullResult:
    """Do it. Raises RefusedError, StorageError, NetworkError, IntegrityError and their kin."""
    check_plan(job.plan, yes=yes)
    try:
        result = run_pull(job.plan, job.source_of, job.place)
        write_modelfile(result, job.request.memory)
        return result
    finally:
        job.place.http.close()


def _target(name: ModelName, request: PullRequest) -> ModelName:
    """The name the result gets: NAME-tq, NAME itself where nothing is tagged, or what --as says."""
    if request.as_name:
        return ModelName.parse(request.as_name).local()
    return name.tagged() if request.wish.tag else name.local()
