"""What every target of a build has: trees that are prepared, a way to compile them, files that come out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tqconvert.progress import Steps
from tqconvert.runtime.golang import Go
from tqconvert.runtime.source import Source
from tqconvert.runtime.toolchain import Cpu, Toolchain
from tqconvert.runtime.tree import changed_id, is_read


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree that is compiled: a source and what changes in its copy."""

    name: str
    """Its folder below the build's work folder."""
    source: Source
    changes: Mapping[str, bytes | None]
    """Path -> content, None where the file is removed."""
    wanted: Callable[[str], bool] = is_read

    @property
    def id(self) -> str:
        """The id of the tree with its changes."""
        return changed_id(self.source.files, self.changes, self.wanted)

    def with_file(self, path: str, data: bytes) -> "Tree":
        """The same tree with one file more."""
        return replace(self, changes={**self.changes, path: data})


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that compile, and the processor that they compile for."""

    chain: Toolchain
    cpu: Cpu
    native: bool
    go: Go | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Where and how a build runs."""

    work: Path
    log: Path
    lock: int
    """Descriptor that stays open in children, so that nobody else works there while one runs."""
    env: Mapping[str, str]
    tools: Tools
    flags: tuple[str, ...]
    """`NAME=VALUE`, for cmake."""
    jobs: int
    steps: Steps
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a finished build."""

    name: str
    """A program in `bin`, or a path below the build's folder."""
    built: Path


class Recipe(Protocol):
    """How the prepared trees of a target are compiled."""

    revision: int
    """Raised where the same inputs are compiled another way, so that a build of before is not taken."""

    def compile(self, site: Site, version: str) -> tuple[Artifact, ...]:
        """Compile; `version` is what the programs tell of themselves."""

    def probe(self) -> tuple[str, ...] | None:
        """A command, its program by the name of an artifact, that shows that the build runs here."""
