"""Check a model or a GGUF from its bytes: digests, sizes, media types, GGUF bounds, tags.

All problems are found in one run. Nothing is written.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqconvert.digest import Digest
from tqconvert.errors import IntegrityError, NotFoundError
from tqconvert.fs import require_readable, storage_error
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.tags import PAGE, KvTags, is_tagged, is_whole, read_tags
from tqconvert.progress import Progress, Reporting, Silent
from tqconvert.reference import ModelName
from tqconvert.store.hashing import hash_file
from tqconvert.store.layout import Store
from tqconvert.store.manifest import CONFIG_TYPE, SOURCE_KEY, Layer

CheckKind = Literal["manifest", "media_type", "size", "digest", "gguf", "content", "tags", "source"]

_GGUF_KINDS = frozenset(("model", "projector", "adapter", "draft"))
_TEXT_KINDS = frozenset(("template", "prompt", "system", "license"))
_JSON_KINDS: dict[str, type] = {"config": dict, "params": dict, "messages": list}
_OTHER_KINDS = frozenset(("tensor", "json", "embed"))
_MAX_TEXT = 16 << 20
_BLOB_NAME_LENGTH = len("sha256-") + 64


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    """What it is about: `model sha256:...`, `manifest`, a path."""
    check: CheckKind
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one model or file."""

    subject: str
    digest: Digest
    """Of the manifest, or of the file."""
    size: int
    checks: tuple[Check, ...]
    tags: KvTags | None = None
    source: Digest | None = None
    """Digest of the model before it was tagged."""

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(c for c in self.checks if not c.ok)


@dataclass(slots=True)
class _Findings:
    """Checks as they come; `add` answers whether it was good."""

    checks: list[Check] = field(default_factory=list)
    tags: KvTags | None = None
    source: Digest | None = None

    def add(self, subject: str, check: CheckKind, ok: bool, detail: str) -> bool:
        self.checks.append(Check(subject, check, ok, detail))
        return ok


def verify_model(store: Store, name: ModelName, progress: Progress | None = None) -> Report:
    """Check all blobs of an installed model.

    Raises NotFoundError if it is not installed, BadManifestError if its manifest cannot be read.
    """
    progress = progress or Silent()
    manifest = store.require_manifest(name)
    found = _Findings()
    if name.digest is not None:
        same = manifest.digest == name.digest
        found.add("manifest", "manifest", same, f"{manifest.digest} (expected {name.digest})")
    _check_kinds(found, manifest.config, manifest.layers)
    with Reporting(progress, f"verifying {name}", sum(b.size for b in manifest.blobs)):
        for layer in manifest.blobs:
            is_config = layer.digest == manifest.config.digest
            kind = "config" if is_config else layer.kind  # whatever media type it came with
            _check_blob(found, store.blob(layer.digest), layer, kind, progress)
    size = sum(b.size for b in manifest.blobs)
    return Report(str(name), manifest.digest, size, tuple(found.checks), found.tags, found.source)


def verify_file(path: Path, progress: Progress | None = None) -> Report:
    """Check a GGUF; if its name is that of a blob, its bytes must have that digest.

    Raises NotFoundError, StorageError.
    """
    progress = progress or Silent()
    require_readable(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: no regular file (expected a GGUF file)")
    found, subject, size = _Findings(), str(path), path.stat().st_size
    header = _check_gguf(found, path, subject)
    with Reporting(progress, f"verifying {path.name}", size):
        digests = _hash(found, path, header, progress)
    if path.name.startswith("sha256-") and len(path.name) == _BLOB_NAME_LENGTH:
        want = Digest.parse(path.name)
        found.add(subject, "digest", digests[0] == want, _compared(digests[0], want))
    return Report(subject, digests[0], size, tuple(found.checks), found.tags, found.source)


def _check_kinds(found: _Findings, config: Layer, layers: Iterable[Layer]) -> None:
    known = _GGUF_KINDS | _TEXT_KINDS | _OTHER_KINDS | _JSON_KINDS.keys() - {"config"}
    kinds = [layer.kind for layer in layers]
    found.add(
        _subject("config", config),
        "media_type",
        config.media_type == CONFIG_TYPE,
        config.media_type,
    )
    for layer in layers:
        # A newer Ollama may know more; an unknown type is worth a line, not a failure.
        note = "" if layer.kind in known else " (unknown to this version)"
        found.add(_subject(layer.kind, layer), "media_type", True, layer.media_type + note)
    if not {"model", "tensor"} & set(kinds):
        found.add("manifest", "media_type", False, "no model layer")


def _check_blob(found: _Findings, path: Path, layer: Layer, kind: str, progress: Progress) -> None:
    subject = _subject(kind, layer)
    try:
        size = path.stat().st_size
    except OSError:
        found.add(subject, "size", False, f"missing (expected {layer.size} bytes)")
        return
    if not path.is_file():
        found.add(subject, "size", False, "no regular file")
        return
    found.add(subject, "size", size == layer.size, f"{size} bytes (expected {layer.size})")
    header = None
    if kind in _GGUF_KINDS:
        header = _check_gguf(found, path, subject)
    digests = _hash(found, path, header, progress)
    same = found.add(
        subject, "digest", digests[0] == layer.digest, _compared(digests[0], layer.digest, path)
    )
    if same and (kind in _TEXT_KINDS or kind in _JSON_KINDS):
        _check_content(found, path, subject, kind)
    if want := layer.annotations.get(SOURCE_KEY):
        _check_source(found, subject, digests[1:], str(want))


def _check_gguf(found: _Findings, path: Path, subject: str) -> Header | None:
    """Bounds-check the GGUF, and its tag page if it has one."""
    try:
        header = read_header(path)
    except IntegrityError as e:
        found.add(subject, "gguf", False, e.message.removeprefix(f"{path}: "))
        return None
    detail = f"{header.architecture or 'unknown'}, {len(header.tensors)} tensors inside the file"
    found.add(subject, "gguf", True, detail)
    found.tags = read_tags(header) or found.tags
    if is_tagged(header):
        with path.open("rb") as f:
            whole = is_whole(f.read(PAGE))
        found.add(subject, "tags", whole, "tag page whole" if whole else "tag page torn")
    return header


def _hash(
    found: _Findings, path: Path, header: Header | None, progress: Progress
) -> tuple[Digest, ...]:
    """Digest of the file, and of a tagged one also that of the file before it was tagged."""
    offsets = (0, PAGE) if header is not None and is_tagged(header) else (0,)
    digests = hash_file(path, offsets=offsets, advance=progress.advance)
    if len(digests) > 1:
        found.source = digests[1]
    return digests


def _check_source(found: _Findings, subject: str, source: tuple[Digest, ...], want: str) -> None:
    """Bytes 4096 onward must be the model that was tagged."""
    if not source:
        found.add(subject, "source", False, f"no tag page before {want}")
        return
    same = str(source[0]) == want
    detail = (
        f"bytes {PAGE} onward are {want}: only the tag page was added"
        if same
        else f"bytes {PAGE} onward are {source[0]} (expected {want})"
    )
    found.add(subject, "source", same, detail)


def _check_content(found: _Findings, path: Path, subject: str, kind: str) -> None:
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_TEXT + 1)
        if len(data) > _MAX_TEXT:
            found.add(subject, "content", False, f"more than {_MAX_TEXT} bytes of text")
            return
        text = data.decode("utf-8")
        if kind in _JSON_KINDS and not isinstance(json.loads(text), _JSON_KINDS[kind]):
            found.add(subject, "content", False, f"JSON, but no {_JSON_KINDS[kind].__name__}")
            return
    except OSError as e:
        raise storage_error(e, path) from e
    except UnicodeDecodeError:
        found.add(subject, "content", False, "not UTF-8")
    except (ValueError, RecursionError):
        found.add(subject, "content", False, "not JSON")
    else:
        found.add(subject, "content", True, "JSON" if kind in _JSON_KINDS else "UTF-8")


def _compared(have: Digest, want: Digest, path: Path | None = None) -> str:
    if have == want:
        return str(have)
    linked = path is not None and path.stat().st_nlink > 1
    why = "; the blob is hard-linked: its other name was edited in place" if linked else ""
    return f"{have} (expected {want}){why}"


def _subject(kind: str, layer: Layer) -> str:
    return f"{kind} sha256:{layer.digest.short}"
