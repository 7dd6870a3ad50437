"""A push from request to result: what the command line and other programs call."""

from dataclasses import dataclass

from tqconvert.errors import UsageError
from tqconvert.progress import Progress
from tqconvert.push.plan import PushPlan, parse_forms, plan_push
from tqconvert.push.run import PushResult, run_push
from tqconvert.push.subject import find_subject
from tqconvert.registry.http import Http
from tqconvert.registry.login import find_credential
from tqconvert.registry.oci import OciRegistry
from tqconvert.registry.ocireference import OciReference
from tqconvert.registry.sessions import Notes
from tqconvert.registry.upload import CHUNK
from tqconvert.settings import Settings
from tqconvert.store.layout import Store


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What the user asked for."""

    model: str
    destination: str
    forms: tuple[str, ...] = ()
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True)
class Job:
    """A plan with all that it takes to carry it out."""

    request: PushRequest
    plan: PushPlan
    http: Http
    notes: Notes
    progress: Progress
    retries: int


def prepare(request: PushRequest, settings: Settings, progress: Progress) -> Job:
    """Check the model, ask the registry what it has, and plan; nothing is changed.

    Raises UsageError, NotFoundError, IntegrityError, RefusedError, NetworkError, AuthError.
    """
    forms = parse_forms(request.forms)
    destination = parse_destination(request.destination)
    subject = find_subject(request.model, Store(settings.store), progress)
    http = Http(insecure=settings.insecure, offline=settings.offline, stall_s=settings.stall_s)
    registry = OciRegistry(http, destination, find_credential(settings, destination.host))
    notes = Notes(settings.cache / "push")
    plan = plan_push(subject, registry, forms, notes)
    return Job(request, plan, http, notes, progress, settings.retries)


def carry_out(job: Job) -> PushResult:
    """Do it. Raises what `run_push` raises."""
    try:
        return run_push(
            job.plan, job.notes, job.progress, retries=job.retries, chunk=job.request.chunk
        )
    finally:
        job.http.close()


def parse_destination(text: str) -> OciReference:
    """The place in a registry, `[oci://]HOST[:PORT]/REPOSITORY[:TAG]`. Raises UsageError."""
    destination = OciReference.parse(text)
    if destination.digest is not None:
        raise UsageError(
            f"{text}: a digest cannot be pushed to (expected a tag)",
            hint="the digest follows from the manifest; push to a tag",
        )
    return destination
