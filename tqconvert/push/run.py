"""Carry a push out: all blobs first, then the manifests, the plain tag last.

Nobody sees a tag before all that it names is in the registry; a push that ends early has announced
nothing, and the next one sends what is missing.
"""

import time
from dataclasses import dataclass, field

from tqconvert.progress import Progress, Silent
from tqconvert.push.plan import Announced, BlobPlan, PushPlan
from tqconvert.registry.http import ProtocolError
from tqconvert.registry.oci import OciRegistry, finish
from tqconvert.registry.sessions import Notes
from tqconvert.registry.upload import CHUNK, Sent, Upload, UploadStats

SHOWN_BYTES = 1 << 20
"""Blobs from this size on show their progress."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """One blob that is in the registry now, and how it came there."""

    blob: BlobPlan
    how: Sent
    mounted_from: str | None = None


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did."""

    plan: PushPlan
    blobs: tuple[Pushed, ...]
    seconds: float
    stats: UploadStats = field(default_factory=UploadStats)

    def bytes_of(self, how: Sent) -> int:
        """Bytes of the blobs that came to be there this way."""
        return sum(x.blob.source.size for x in self.blobs if x.how is how)


def run_push(
    plan: PushPlan, notes: Notes, progress: Progress, *, retries: int = 6, chunk: int = CHUNK
) -> PushResult:
    """Do what the plan says; a no-op where everything is there.

    Raises DigestMismatchError if a blob here is damaged, AuthError, NetworkError, StorageError.
    """
    began, stats = time.monotonic(), UploadStats()
    place = f"{plan.registry.host}/{plan.registry.reference.repository}"
    pushed = []
    for blob in plan.blobs:
        if blob.there:
            pushed.append(Pushed(blob, Sent.PRESENT))
        else:
            shown = progress if blob.source.size >= SHOWN_BYTES else Silent()
            upload = Upload(
                plan.registry, blob.source, notes, progress=shown, retries=retries, chunk=chunk
            )
            shown.start(blob.source.subject, blob.source.size)
            try:
                how = upload.run(blob.mount_from)
            finally:
                shown.finish()
                stats.add(upload.stats)
            pushed.append(Pushed(blob, how, upload.stats.mounted_from))
        if blob.source.path is not None:
            notes.add_place(place, blob.source.digest)
    for manifest in reversed(plan.manifests):
        if manifest.status != "unchanged":
            _announce(plan.registry, manifest)
    return PushResult(plan, tuple(pushed), time.monotonic() - began, stats)


def _announce(registry: OciRegistry, manifest: Announced) -> None:
    """Put the manifest under its tag."""
    formed, subject = manifest.formed, str(manifest.reference)
    url = registry.url(f"manifests/{manifest.reference.tag}")

    def put() -> str | None:
        headers = {"Content-Type": formed.form.manifest_type}
        response = registry.ask("PUT", url, headers, body=formed.data)
        registry.check(response, subject, url)
        finish(response)
        return response.headers.get("Docker-Content-Digest")

    said = registry.retrying(put)
    if said is not None and said != str(formed.digest):
        raise ProtocolError(
            f"{subject}: the registry made {said[:80]} of the manifest (expected {formed.digest})",
            hint="a registry that rewrites manifests cannot be verified against",
        )
