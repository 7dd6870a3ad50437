"""What a user asks to be built, and what that means: the inputs of a build."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tqconvert.patches.series import NewFile, Patch, Scope
from tqconvert.runtime.recipe import Recipe, Tree
from tqconvert.runtime.source import Source


class Target(StrEnum):
    """What can be built."""

    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"


class Variant(StrEnum):
    """Processors that a build runs on."""

    NATIVE = "native"
    PORTABLE = "portable"
    """llama.cpp: x86-64 with AVX2, FMA and F16C. Ollama: every variant that its releases have."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    source: str | None
    """A folder, an archive, an address, the word `sdist`; None is the target's own default."""
    cache: Path
    env: Mapping[str, str]
    target: Target = Target.LLAMA_CPP
    tag: str | None = None
    """Revision of the source, where that is a repository."""
    llama_cpp: str | None = None
    """For Ollama that fetches llama.cpp: where to take it from instead."""
    scope: Scope = Scope.ALL
    variant: Variant = Variant.NATIVE
    cmake_args: tuple[str, ...] = ()
    """`NAME=VALUE`; they win over ours."""
    patches: Path | None = None
    """A folder to use instead of our own `ollama_patches`."""
    stock: bool = False
    """Build the source without our patches, to compare with."""
    allow_edits: bool = False
    """Build a legacy release whose vendored files were edited."""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a target makes of a request: trees with their patches in, and how they are compiled."""

    source: Source
    trees: tuple[Tree, ...]
    """The first is that of `source`."""
    patches: tuple[Patch, ...]
    new_files: tuple[NewFile, ...]
    series: str
    """Hash of all patches and new files that were to choose from."""
    flags: tuple[str, ...]
    recipe: Recipe
    manifest: tuple[str, str] | None = None
    """Tree and path of the header that puts the manifest into binaries of C; None: into none at all."""
    go: str | None = None
    """Tree that Go builds."""
    release: str | None = None
    base: str | None = None
    upstream: tuple[Patch, ...] = ()
