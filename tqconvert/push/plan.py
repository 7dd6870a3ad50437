"""What a push would do: which manifests, under which tags, which blobs and how many bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tqconvert.digest import Digest
from tqconvert.errors import UsageError
from tqconvert.forms.types import Form, tag_of
from tqconvert.forms.write import Formed, write_form
from tqconvert.push.subject import Subject
from tqconvert.registry.oci import ACCEPT, OciRegistry, finish
from tqconvert.registry.ocireference import OciReference
from tqconvert.registry.reading import Source
from tqconvert.registry.sessions import Notes

ALL: Final = "all"
MAX_MOUNTS: Final = 3
"""Repositories that are tried before the bytes are sent."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A manifest and the tag that it gets."""

    formed: Formed
    reference: OciReference
    previous: Digest | None
    """Digest of what the tag names now; None where it names nothing."""

    @property
    def status(self) -> str:
        """`new`, `unchanged` or `replace`."""
        if self.previous is None:
            return "new"
        return "unchanged" if self.previous == self.formed.digest else "replace"


@dataclass(frozen=True, slots=True)
class BlobPlan:
    """A blob that the manifests name."""

    source: Source
    kind: str
    there: bool
    mount_from: tuple[str, ...] = ()
    """Repositories of the registry that probably have it."""


@dataclass(frozen=True, slots=True)
class PushPlan:
    """A push that has not begun."""

    subject: Subject
    registry: OciRegistry
    manifests: tuple[Announced, ...]
    blobs: tuple[BlobPlan, ...]

    @property
    def unchanged(self) -> bool:
        """Whether all of it is there already."""
        return not self.missing and all(m.status == "unchanged" for m in self.manifests)

    @property
    def missing(self) -> tuple[BlobPlan, ...]:
        """Blobs that the repository lacks."""
        return tuple(blob for blob in self.blobs if not blob.there)

    @property
    def missing_bytes(self) -> int:
        """Bytes of the blobs that the repository lacks."""
        return sum(blob.source.size for blob in self.missing)

    @property
    def send_bytes(self) -> int:
        """Bytes that would go: those that no other repository of the registry is known to have."""
        return sum(blob.source.size for blob in self.missing if not blob.mount_from)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "name": self.subject.label,
            "destination": str(self.registry.reference),
            "manifests": [
                {
                    "form": m.formed.form.value, "reference": str(m.reference),
                    "digest": str(m.formed.digest), "status": m.status,
                    "previous": str(m.previous) if m.previous else None,
                }
                for m in self.manifests
            ],
            "blobs": [
                {
                    "kind": b.kind, "digest": str(b.source.digest), "bytes": b.source.size,
                    "there": b.there, "mount_from": list(b.mount_from),
                }
                for b in self.blobs
            ],
            "missing_bytes": self.missing_bytes,
            "send_bytes": self.send_bytes,
        }  # fmt: skip


def parse_forms(texts: Sequence[str]) -> tuple[Form, ...]:
    """The forms that were named, each once, in their order; `all` is all of them. Raises UsageError."""
    found: list[Form] = []
    for text in texts:
        if text == ALL:
            found += list(Form)
            continue
        try:
            found.append(Form(text))
        except ValueError:
            raise UsageError(
                f"--form {text}: unknown (expected {', '.join(Form)} or {ALL})"
            ) from None
    return tuple(dict.fromkeys(found)) or (Form.OLLAMA,)


def plan_push(
    subject: Subject, registry: OciRegistry, forms: Sequence[Form], notes: Notes
) -> PushPlan:
    """Ask the registry what it has; nothing is changed there.

    Raises RefusedError, AuthError, NetworkError.
    """
    tag = registry.reference.tag or ""
    formed = [write_form(form, subject.manifest, subject.header) for form in forms]
    made = {b.layer.digest: b.data for f in formed for b in f.made}
    subject = replace(subject, made={**subject.made, **made})
    manifests = []
    for one in formed:
        reference = registry.reference.with_tag(tag_of(tag, one.form, first=forms[0]))
        manifests.append(Announced(one, reference, _tagged(registry, reference)))
    blobs = {}
    for one in formed:
        for layer in one.blobs:
            if layer.digest not in blobs:
                source = subject.source(layer)
                there = registry.has_blob(layer.digest, source.subject)
                others = () if there else _elsewhere(subject, registry, layer.digest, notes)
                blobs[layer.digest] = BlobPlan(source, _kind(layer.label), there, others)
    return PushPlan(subject, registry, tuple(manifests), tuple(blobs.values()))


def _kind(label: str) -> str:
    return "config" if "config" in label else label


def _elsewhere(
    subject: Subject, registry: OciRegistry, digest: Digest, notes: Notes
) -> tuple[str, ...]:
    """Repositories of this registry that had the blob: by earlier pushes, or the model came from there."""
    if digest in subject.made:
        return ()
    found = list(notes.places(registry.host, digest))
    name = subject.name
    if name is not None and name.host == registry.host:
        found.append(name.repository)
    own = registry.reference.repository
    return tuple(dict.fromkeys(r for r in found if r != own))[:MAX_MOUNTS]


def _tagged(registry: OciRegistry, reference: OciReference) -> Digest | None:
    """Digest of the manifest that has the tag, None if it is free or the registry does not say."""
    url = registry.url(f"manifests/{reference.tag}")

    def head() -> Digest | None:
        response = registry.ask("HEAD", url, {"Accept": ACCEPT})
        finish(response, has_body=False)
        if response.status in (400, 403, 404, 405, 406):
            return None
        registry.check(response, str(reference), url)
        said = response.headers.get("Docker-Content-Digest", "")
        return Digest(said.removeprefix("sha256:")) if said.startswith("sha256:") else None

    return registry.retrying(head)
