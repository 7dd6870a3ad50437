"""The manifest of a build: what went in, what came out. `build.json` beside the programs."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqconvert.errors import BadManifestError, NotFoundError
from tqconvert.fs import storage_error

SCHEMA = "tqconvert.build/1"
NAME = "build.json"
_OUTSIDE = {"date": "", "seconds": 0.0, "programs": []}
"""Fields that only the file beside the programs has."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program of a build."""

    name: str
    """A program in `bin`, or a path below the build's folder."""
    bytes: int
    sha256: str

    @property
    def path(self) -> str:
        """Where it lies below the build's folder."""
        return self.name if "/" in self.name else f"bin/{self.name}"


@dataclass(frozen=True, slots=True)
class NamedHash:
    """A patch or a new file."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The source as it was before patches."""

    kind: str
    name: str
    tree: str
    commit: str | None
    archive_sha256: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A second tree that was compiled into the build."""

    source: Origin
    tree: str
    """Id of the tree that was compiled."""


@dataclass(frozen=True, slots=True)
class Build:
    """One finished build."""

    id: str
    target: str
    scope: str
    variant: str
    tool: str
    """Name and version of what built it."""
    date: str
    seconds: float
    source: Origin
    series: str
    """Hash of all patches and new files, those of other bases too."""
    patches: tuple[NamedHash, ...]
    new_files: tuple[NamedHash, ...]
    tree: str
    """Id of the tree that was compiled."""
    flags: tuple[str, ...]
    """Arguments of cmake that make a difference."""
    environment: Mapping[str, str]
    """CFLAGS and the like, where set."""
    compiler: Mapping[str, str]
    cpu: Mapping[str, Any]
    """machine, flags, id; flags and id only of a native build."""
    programs: tuple[Program, ...]
    release: str | None = None
    """The release of Ollama, where that is known."""
    base: str | None = None
    """The llama.cpp that the release names: a commit's beginning or a tag."""
    upstream: tuple[NamedHash, ...] = ()
    """Ollama's own patches for llama.cpp that are in it."""
    llama_cpp: Part | None = None
    """llama.cpp, where it is a tree of its own beside Ollama's."""

    def to_json(self) -> dict[str, Any]:
        """The document, with its schema."""
        return {"schema": SCHEMA, **asdict(self)}

    def inner(self) -> dict[str, Any]:
        """What stands inside of the binaries: the same without what differs from build to build."""
        return {k: v for k, v in self.to_json().items() if k not in _OUTSIDE}

    @property
    def is_patched(self) -> bool:
        """Whether our patches are in it."""
        return bool(self.patches)

    @property
    def version(self) -> str:
        """What a reader knows the source by."""
        return (
            f"{short_commit(self.source.commit)} ({self.source.name})"
            if self.source.commit
            else self.source.name
        )


def short_commit(commit: str) -> str:
    """The beginning of a commit, and whether the tree differs from it."""
    return commit[:9] + ("-dirty" if commit.endswith("-dirty") else "")


def parse_build(text: str, name: str) -> Build:
    """The manifest in `text`. Raises BadManifestError."""
    try:
        return build_of(json.loads(text), name)
    except ValueError as e:
        raise BadManifestError(f"{name}: not a build manifest ({type(e).__name__}: {e})") from e


def build_of(document: Any, name: str) -> Build:
    """The manifest that a document is, one from inside of a binary too. Raises BadManifestError."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadManifestError(f"{name}: not a build manifest (expected schema {SCHEMA})")
    given = {**_OUTSIDE, **document}
    try:
        known = {
            f.name: given[f.name] for f in fields(Build) if f.default is MISSING or f.name in given
        }
        known["source"] = Origin(**known["source"])
        known["programs"] = tuple(Program(**x) for x in known["programs"])
        for field in ("patches", "new_files", "upstream"):
            known[field] = tuple(NamedHash(**x) for x in known.get(field, ()))
        known["flags"] = tuple(known["flags"])
        if part := known.get("llama_cpp"):
            known["llama_cpp"] = Part(Origin(**part["source"]), part["tree"])
        return Build(**known)
    except (ValueError, KeyError, TypeError) as e:
        raise BadManifestError(f"{name}: not a build manifest ({type(e).__name__}: {e})") from e


def read_build(folder: Path) -> Build:
    """The manifest of the build in `folder`. Raises NotFoundError, BadManifestError, StorageError."""
    path = folder / NAME
    try:
        return parse_build(path.read_text("utf-8", "replace"), str(path))
    except FileNotFoundError:
        raise NotFoundError(
            f"{path}: no such file (expected beside the programs of a build)"
        ) from None
    except OSError as e:
        raise storage_error(e, path) from e
