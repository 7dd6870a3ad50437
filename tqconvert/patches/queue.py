"""The queue of a tree: Ollama's own patches, our new files and our hooks, as one ordered list of steps.

    legacy      Ollama's patches (in the tree, applied), our files and `llama.cpp/` [ggml], `legacy/`
    modern      `modern/`: Ollama's Go and CMake; llama.cpp is prepared apart, as the third kind of tree
    llama.cpp   the patches that the Ollama tree given with it brings, if any, then our files and `llama.cpp/`

New files are a step like any other: a diff that makes them. Ollama's patches are read from the user's
tree; their text is nowhere in this package.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import BadPatchError, NotFoundError
from tqconvert.patches.checkout import Checkout, Generation
from tqconvert.patches.diff import FileDiff, Hunk, parse_diffs
from tqconvert.patches.layout import Layout, Plain
from tqconvert.patches.objects import ABSENT, blob_id
from tqconvert.patches.series import (
    NewFile,
    Patch,
    Scope,
    llama_cpp_files,
    read_new_files,
    read_steps,
)

NEW_FILES = "new-files"


class Origin(StrEnum):
    """Whose a step is."""

    OLLAMA = "ollama"
    OURS = "tqconvert"


class Layer(StrEnum):
    """The repository that a step's paths belong to."""

    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"


class Located(NamedTuple):
    """The diffs of a patch at their places in a tree."""

    diffs: tuple[FileDiff, ...]
    left_out: tuple[str, ...]
    """Paths that the tree does not carry."""


class Step:
    """One place in the queue: a patch, or alternatives of which the first that applies is taken."""

    def __init__(self, alternatives: tuple[Patch, ...], origin: Origin, layer: Layer) -> None:
        self.alternatives, self.origin, self.layer = alternatives, origin, layer

    @property
    def name(self) -> str:
        """The name of the first alternative, without `.patch`."""
        return self.alternatives[0].name.removesuffix(".patch")

    def located(self, patch: Patch, layout: Layout) -> Located:
        """One of the alternatives at its place. Raises BadPatchError."""
        return locate_diffs(diffs_of(patch), layout if self.layer is Layer.LLAMA_CPP else Plain())


class FilesStep(Step):
    """New files of ours."""

    def __init__(self, files: tuple[NewFile, ...], layer: Layer) -> None:
        data = b"".join(f"{f.path} {f.sha256}\n".encode() for f in files)
        super().__init__((Patch(f"{NEW_FILES}.patch", data),), Origin.OURS, layer)
        self.files = files

    @cached_property
    def _diffs(self) -> tuple[FileDiff, ...]:
        return tuple(creation(f.path, f.data) for f in self.files)

    def located(self, patch: Patch, layout: Layout) -> Located:
        """The files at their places."""
        assert patch is self.alternatives[0]
        return locate_diffs(self._diffs, layout if self.layer is Layer.LLAMA_CPP else Plain())


class Queue(NamedTuple):
    """Everything that goes onto a tree, in order."""

    checkout: Checkout
    steps: tuple[Step, ...]
    source: Checkout | None = None
    """The Ollama tree whose patches come first."""

    @property
    def upstream(self) -> tuple[Step, ...]:
        """Ollama's own."""
        return tuple(s for s in self.steps if s.origin is Origin.OLLAMA)

    @property
    def ours(self) -> tuple[Step, ...]:
        """What this project adds."""
        return tuple(s for s in self.steps if s.origin is Origin.OURS)


@lru_cache(256)
def diffs_of(patch: Patch) -> tuple[FileDiff, ...]:
    """The diffs of a patch file. Raises BadPatchError."""
    found = parse_diffs(patch.data, patch.name)
    if not found:
        raise BadPatchError(f"{patch.name}: changes no file (expected `diff --git a/PATH b/PATH`)")
    return found


def locate_diffs(diffs: Iterable[FileDiff], layout: Layout) -> Located:
    """Each diff at the place of its file."""
    found, left_out = [], []
    for diff in diffs:
        old = layout.locate(diff.old) if diff.old else None
        new = layout.locate(diff.new) if diff.new else None
        if (diff.old and old is None) or (diff.new and new is None):
            left_out.append(diff.path)
        else:
            found.append(diff if (old, new) == (diff.old, diff.new) else diff.moved(old, new))
    return Located(tuple(found), tuple(left_out))


def creation(path: str, data: bytes) -> FileDiff:
    """The diff that makes a file."""
    lines = data.count(b"\n") + (bool(data) and not data.endswith(b"\n"))
    hunk = Hunk(0, 0, 1, lines, b"", data, 0, (), ())
    return FileDiff(None, path, ABSENT, blob_id(data), None, "100644", (hunk,) if data else ())


def read_queue(
    checkout: Checkout, folder: Path, *, ollama: Checkout | None = None, scope: Scope | None = None
) -> Queue:
    """The queue of a tree, with our patches from `folder`.

    For a llama.cpp tree `ollama` is the tree whose patches come first. `scope` tells how much of our
    llama.cpp series is taken; by default what the generation can take.
    Raises NotFoundError, BadSeriesError, BadPatchError.
    """
    source = ollama or checkout
    steps: list[Step] = []
    if checkout.generation is not Generation.MODERN and source.is_ollama:
        steps += upstream_steps(source)
    steps += our_steps(folder, checkout.generation, source.generation, scope)
    return Queue(checkout, tuple(steps), source if source.is_ollama else None)


def our_steps(
    folder: Path, generation: Generation, source: Generation, scope: Scope | None = None
) -> list[Step]:
    """What of our patches in `folder` goes onto a tree of that generation.

    `source` is that of the Ollama whose llama.cpp it is, the same for a tree of Ollama.
    Raises NotFoundError, BadSeriesError, BadPatchError.
    """
    scope = scope or (Scope.GGML if source is Generation.LEGACY else Scope.ALL)
    steps: list[Step] = []
    if generation is not Generation.MODERN:
        files = llama_cpp_files(folder, scope)
        steps.append(FilesStep(files, Layer.LLAMA_CPP))
        steps += _ours(folder / "llama.cpp", Layer.LLAMA_CPP, scope)
        if source is not Generation.LLAMA_CPP:
            steps += _ours(folder / source / "llama.cpp", Layer.LLAMA_CPP)
    if generation is not Generation.LLAMA_CPP:
        files = tuple(read_new_files(folder / generation / "files"))
        if files:
            steps.append(FilesStep(files, Layer.OLLAMA))
        steps += _ours(folder / generation / "ollama-go", Layer.OLLAMA)
    return steps


def upstream_steps(source: Checkout) -> list[Step]:
    """Ollama's own patches, in its tree. Raises NotFoundError."""
    paths = source.upstream_patches()
    if not paths:
        raise NotFoundError(f"{source.root}: holds no patches of Ollama's (expected *.patch files)")
    patches = [Patch(p.name, p.read_bytes()) for p in paths]
    return [Step((p,), Origin.OLLAMA, Layer.LLAMA_CPP) for p in patches]


def _ours(folder: Path, layer: Layer, scope: Scope = Scope.ALL) -> list[Step]:
    if not (folder / "series").is_file():
        return []
    return [Step(patches, Origin.OURS, layer) for patches in read_steps(folder, scope)]
