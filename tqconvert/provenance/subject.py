"""What the documents about a model say: where it came from, what was made of it, from what to what."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tqconvert import __version__, fs
from tqconvert.digest import Digest
from tqconvert.errors import ConfigError, DigestMismatchError, TqError
from tqconvert.gguf.fingerprint import fingerprint_files
from tqconvert.gguf.header import Header
from tqconvert.gguf.tags import KvTags
from tqconvert.progress import Progress
from tqconvert.pull.plan import PullPlan, State
from tqconvert.pull.run import PullResult
from tqconvert.pull.sources import Job
from tqconvert.reference import ModelName
from tqconvert.store.hashing import hash_file

TOOL_NAME = "tqconvert"
TOOL_VERSION = __version__
TOOL_URI = "pkg:pypi/tqconvert"
MAX_LICENSE = 64 << 10


@dataclass(frozen=True, slots=True)
class Subject:
    """One model that was pulled. Digests of layers are None where it has no GGUF."""

    target: ModelName
    source_name: str
    """As the user would pull it; of a local file its name alone, for its folder is nobody's business."""
    source_url: str | None
    """Where its bytes were; None for a local file."""
    source_manifest: Digest | None
    """None where it was made here, because the source has none."""
    source: Digest | None
    shards: tuple[tuple[str, Digest], ...]
    """Where the source is several files that were joined: their paths and digests, and `source` is None."""
    result: Digest | None
    result_manifest: Digest
    size: int
    tags: KvTags | None
    header: Header | None
    fingerprint: Digest | None
    licenses: tuple[str, ...]
    """Texts of its license layers."""

    @property
    def file_name(self) -> str:
        """Name of the GGUF, as `pull --to` writes it."""
        return f"{self.target.model}-{self.target.tag}.gguf"

    @property
    def types(self) -> Mapping[str, str | list[str]] | None:
        """Its tags for a document."""
        if self.tags is None:
            return None
        k, v = self.tags.type_k, self.tags.type_v
        return {
            "type_k": k if isinstance(k, str) else list(k),
            "type_v": v if isinstance(v, str) else list(v),
            "balance": self.tags.balance,
        }


@dataclass(frozen=True, slots=True)
class Span:
    """When the work began and ended."""

    began: datetime
    ended: datetime

    def texts(self) -> tuple[str, str]:
        """Both in RFC 3339, whole seconds, UTC."""
        return _stamp(self.began), _stamp(self.ended)


def span_of(began: datetime, ended: datetime, env: Mapping[str, str]) -> Span:
    """The span, or the instant that SOURCE_DATE_EPOCH names, so that the same work gives the same bytes.

    Source: reproducible-builds.org/specs/source-date-epoch. Raises ConfigError.
    """
    text = env.get("SOURCE_DATE_EPOCH")
    if not text:
        return Span(began, ended)
    try:
        fixed = datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"SOURCE_DATE_EPOCH={text}: no time (expected seconds since 1970)"
        ) from None
    return Span(fixed, fixed)


def subject_of(job: Job, result: PullResult, progress: Progress) -> Subject:
    """The facts of a pull; the weights are hashed once more, for their fingerprint.

    Raises StorageError and what reading the model raises.
    """
    plan, manifest = result.plan, result.manifest
    models = manifest.layers_of("model")
    is_local = isinstance(plan.name, Path)
    files = [plan.destination.place_of(x, is_main=x is models[0]) for x in models]
    if files and result.state is State.UNCHANGED and hash_file(files[0])[0] != models[0].digest:
        raise DigestMismatchError(
            f"{files[0]}: is not what was installed, and nothing can be stated of it",
            hint="tqconvert verify tells more; remove it and pull it again",
        )
    return Subject(
        target=plan.target,
        source_name=plan.name.name if isinstance(plan.name, Path) else str(plan.name),
        source_url=None if is_local else _url(job),
        source_manifest=None if plan.inline else plan.manifest.digest,
        source=plan.main.digest if plan.main and not plan.shards else None,
        shards=_shards(plan),
        result=models[0].digest if models else None,
        result_manifest=manifest.digest,
        size=models[0].size if models else 0,
        tags=result.tags,
        header=result.header,
        fingerprint=fingerprint_files(files, progress=progress).digest if files else None,
        licenses=tuple(
            _text(plan.destination.place_of(layer, is_main=False))
            for layer in manifest.layers_of("license")
        ),
    )


def _shards(plan: PullPlan) -> tuple[tuple[str, Digest], ...]:
    if not plan.shards or plan.origin is None:
        return ()
    found = (
        (path, Digest.parse(f"sha256:{sha256}")) for path, sha256, _ in plan.origin.files if sha256
    )
    return tuple((path, digest) for path, digest in found if digest in plan.shards)


def _url(job: Job) -> str | None:
    """Address of the model's bytes, without what lets somebody in."""
    if job.plan.main is None:
        return None
    try:
        url = urlsplit(job.source_of(job.plan.main.digest).url)
    except TqError:
        return None
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return f.read(MAX_LICENSE).decode("utf-8", "replace")
    except OSError as e:
        raise fs.storage_error(e, path) from e


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
