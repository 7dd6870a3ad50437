"""A pull from request to result: what the command line and other programs call."""

import os

from tqconvert.fs import expand_user
from tqconvert.models import looks_like_path
from tqconvert.progress import Progress
from tqconvert.pull.hub.name import parse_hub_name
from tqconvert.pull.modelfile import write_modelfile
from tqconvert.pull.plan import check_plan
from tqconvert.pull.request import PullRequest
from tqconvert.pull.run import PullResult, run_pull
from tqconvert.pull.sources import Job, Sources
from tqconvert.reference import ModelName
from tqconvert.registry.http import Http
from tqconvert.registry.ocireference import OciReference, is_oci
from tqconvert.settings import Settings


def prepare(request: PullRequest, settings: Settings, progress: Progress) -> Job:
    """Ask the source what it has and plan the pull; nothing is written.

    Raises UsageError, NotFoundError, NetworkError, AuthError, BadManifestError, RefusedError.
    """
    http = Http(
        insecure=settings.insecure, offline=settings.offline, stall_s=settings.stall_s,
        connections=request.connections or settings.connections,
    )  # fmt: skip
    sources = Sources(request, settings, http, progress)
    if not os.path.isfile(request.source):
        hub_name = parse_hub_name(request.source, settings.hf_endpoint)
        if hub_name is not None:
            return sources.from_hub(hub_name)
        if is_oci(request.source):
            return sources.from_oci(OciReference.parse(request.source))
    if looks_like_path(request.source):
        return sources.from_file(expand_user(request.source))
    return sources.from_registry(ModelName.parse(request.source))


def carry_out(job: Job, *, yes: bool = False) -> PullResult:
    """Do it. Raises RefusedError, StorageError, NetworkError, IntegrityError and their kin."""
    check_plan(job.plan, yes=yes)
    try:
        result = run_pull(job.plan, job.source_of, job.place, job.shards, job.expected)
        write_modelfile(result, job.request.memory, replace=yes)
        return result
    finally:
        job.place.http.close()
