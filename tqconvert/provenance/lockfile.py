"""`tqconvert.lock`: which models a project uses, by the digests of what came and of what was made.

TOML, one `[[model]]` a model, sorted by the name it is installed under, one field a line: a change of
one model is a change of its lines. The same models give the same bytes. docs/pipelines.md describes it.
"""

import json
import time
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import BadLockError, IntegrityError, LockedError, NotFoundError
from tqconvert.gguf.rewrite import locked_temporary
from tqconvert.gguf.tags import CacheTypes

LOCK_FILE = "tqconvert.lock"
VERSION = 1
WAIT_S = 10.0
MAX_BYTES = 4 << 20

_HEAD = (
    "# Written by `tqconvert pull NAME --lock`, checked by `tqconvert pull --locked`.\n"
    "# Belongs into version control; to drop a model, remove its block.\n"
    f"version = {VERSION}\n"
)


@dataclass(frozen=True, slots=True)
class LockedModel:
    """One model. Digests of layers are None where the model has no GGUF."""

    target: str
    """The name it is installed under; unique in the file."""
    name: str
    """What was pulled: a name, or a path that begins with `.` (from the file's folder) or `/`."""
    source_manifest: Digest
    result_manifest: Digest
    tool: str
    """Program and version that made the result."""
    source: Digest | None = None
    """The GGUF as it came."""
    result: Digest | None = None
    """The GGUF as it is installed."""
    size: int = 0
    """Bytes of that."""
    type_k: CacheTypes | None = None
    """What the pull tagged it with; None where it left it as it came, tagged or not."""
    type_v: CacheTypes | None = None
    revision: str | None = None
    """The commit of a repository of Hugging Face, or the digest of what an `oci://` name named: both still have
    these bytes when the name has moved on."""

    @property
    def is_tagged(self) -> bool:
        """Whether the pull itself tagged the model."""
        return self.type_k is not None

    def to_toml(self) -> str:
        """Its block."""
        values: dict[str, str | int | Digest | CacheTypes | None] = {
            "target": self.target, "name": self.name, "revision": self.revision, "source": self.source,
            "source_manifest": self.source_manifest, "result": self.result,
            "result_manifest": self.result_manifest, "bytes": self.size, "type_k": self.type_k,
            "type_v": self.type_v, "tool": self.tool,
        }  # fmt: skip
        lines = ["[[model]]"]
        for key, value in values.items():
            if value is not None:
                plain = str(value) if isinstance(value, Digest) else value
                # JSON's texts, numbers and arrays of texts are TOML's too, but for U+007F.
                text = json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
                lines.append(f"{key} = {text}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, value: Mapping[str, Any], where: str) -> "LockedModel":
        """The model of a block. Raises BadLockError."""
        unknown = sorted(value.keys() - _KEYS)
        if unknown:
            raise BadLockError(
                f"{where}: unknown field {unknown[0]} (expected one of {', '.join(_KEYS)})",
                hint="a newer tqconvert may have written it",
            )
        found = cls(
            target=_text(value, "target", where),
            name=_text(value, "name", where),
            source_manifest=_required(_digest(value, "source_manifest", where), where),
            result_manifest=_required(_digest(value, "result_manifest", where), where),
            tool=_text(value, "tool", where),
            source=_digest(value, "source", where),
            result=_digest(value, "result", where),
            size=_size(value, where),
            type_k=_types(value, "type_k", where),
            type_v=_types(value, "type_v", where),
            revision=_text(value, "revision", where) if "revision" in value else None,
        )
        if (found.source is None) != (found.result is None):
            raise BadLockError(f"{where}: source and result go together (one is missing)")
        if (found.type_k is None) != (found.type_v is None):
            raise BadLockError(f"{where}: type_k and type_v go together (one is missing)")
        return found


_KEYS = (
    "target", "name", "revision", "source", "source_manifest", "result", "result_manifest", "bytes", "type_k",
    "type_v", "tool",
)  # fmt: skip


def read_lock(path: Path) -> tuple[LockedModel, ...]:
    """The models of the file, sorted. Raises NotFoundError, StorageError, BadLockError."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"{path}: no such file", hint="tqconvert pull NAME --lock writes it"
        ) from None
    except OSError as e:
        raise fs.storage_error(e, path) from e
    return parse_lock(data, subject=str(path))


def parse_lock(data: bytes, *, subject: str) -> tuple[LockedModel, ...]:
    """The models in the bytes of a lock file, sorted by target. Raises BadLockError."""
    if len(data) > MAX_BYTES:
        raise BadLockError(f"{subject}: more than {MAX_BYTES} bytes (expected a lock file)")
    if any(line.startswith((b"<<<<<<< ", b">>>>>>> ")) for line in data.splitlines()):
        raise BadLockError(
            f"{subject}: holds a merge conflict of git",
            hint="keep the [[model]] blocks of both sides, remove the marks between them",
        )
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as e:
        raise BadLockError(f"{subject}: not TOML: {e}") from None
    version = value.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise BadLockError(
            f"{subject}: version {version} (expected {VERSION})",
            hint="a newer tqconvert may have written it",
        )
    blocks = value.pop("model", [])
    if value:
        raise BadLockError(f"{subject}: unknown field {next(iter(value))}")
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        raise BadLockError(f"{subject}: model is no array of tables (expected [[model]])")
    models = [LockedModel.from_toml(b, f"{subject}: model {i}") for i, b in enumerate(blocks, 1)]
    names = [m.target for m in models]
    for name in names:
        if names.count(name) > 1:
            raise BadLockError(f"{subject}: {name} is there twice", hint="remove one of the blocks")
    return _sorted(models)


def render_lock(models: Iterable[LockedModel]) -> bytes:
    """The bytes of a lock file."""
    return "\n".join([_HEAD, *(m.to_toml() for m in _sorted(models))]).encode()


def update_lock(path: Path, model: LockedModel) -> bool:
    """Put the model into the file, in place of the one of the same target; False if it was there so.

    Readers see the old bytes or the new ones; of two processes at once the second waits, and both
    models are in the file. Raises BadLockError for a file that is none, LockedError, StorageError.
    """
    path = Path(path).resolve()
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return _update(path, model)
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        except OSError as e:
            raise fs.storage_error(e, path) from e


def _update(path: Path, model: LockedModel) -> bool:
    with locked_temporary(path) as (own, temporary):
        before, mode = b"", 0o644
        with suppress(FileNotFoundError):
            before, mode = path.read_bytes(), path.stat().st_mode & 0o777
        models = {m.target: m for m in (parse_lock(before, subject=str(path)) if before else ())}
        there = models.get(model.target)
        if there is None or replace(there, revision=model.revision) != model:
            models[model.target] = model  # else the same bytes at another commit: no change
        data = render_lock(models.values())
        if data == before:
            fs.remove_open(own, temporary)
            return False
        fs.truncate(own.fd, 0)  # a killed run may have left bytes
        fs.write_at(own.fd, data, 0)
        fs.set_mode(own.fd, mode)
        fs.sync(own.fd)
        fs.replace_open(own, temporary, path)
        return True


def _sorted(models: Iterable[LockedModel]) -> tuple[LockedModel, ...]:
    return tuple(sorted(models, key=lambda m: m.target))


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found:
        raise BadLockError(f"{where}: {key} is {found!r} (expected a text)")
    return found


def _digest(value: Mapping[str, Any], key: str, where: str) -> Digest | None:
    if key not in value:
        return None
    try:
        return Digest.parse(str(value[key]))
    except IntegrityError as e:
        raise BadLockError(f"{where}: {key}: {e.message}") from None


def _required(digest: Digest | None, where: str) -> Digest:
    if digest is None:
        raise BadLockError(f"{where}: source_manifest and result_manifest are needed")
    return digest


def _size(value: Mapping[str, Any], where: str) -> int:
    found = value.get("bytes", 0)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise BadLockError(f"{where}: bytes is {found!r} (expected a number of bytes)")
    return found


def _types(value: Mapping[str, Any], key: str, where: str) -> CacheTypes | None:
    found = value.get(key)
    if found is None or (isinstance(found, str) and found):
        return found
    if isinstance(found, list) and found and all(isinstance(x, str) and x for x in found):
        return tuple(found)
    raise BadLockError(f"{where}: {key} is {found!r} (expected a cache type, or one per layer)")
