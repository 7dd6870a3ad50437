"""Our patches for llama.cpp: new files laid over its tree, and small hooks in a fixed order.

`ollama_patches/llama.cpp/series` names one patch a line. `a.patch | b.patch` are alternatives, of which
the first that applies to a base is used; `[ggml]` at the end marks what every base takes, `[llama]` (or
nothing) what needs the layer above ggml. New files lie in `ollama_patches/files`, as in llama.cpp's tree,
and in `metal/`.
"""

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqconvert.errors import BadSeriesError, NotFoundError
from tqconvert.patches.kernels import kernel_files

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.patch")
_TAG = re.compile(r"\[([^\]]*)\]$")
_FILE_LINE = re.compile(r"^(?:---|\+\+\+) (?:[ab]/([^\t\n]+)|/dev/null)", re.MULTILINE)
GGML_FOLDERS = ("ggml", "tests")
"""Where the new files lie that a build of ggml alone needs."""


class Scope(StrEnum):
    """How much of the tree is patched."""

    ALL = "all"
    GGML = "ggml"
    """Types and their tests, on trees whose upper layer our other hooks do not know."""


class Entry(NamedTuple):
    """One line of a series."""

    alternatives: tuple[str, ...]
    ggml: bool
    """Whether a build of ggml alone takes it."""


class NewFile(NamedTuple):
    """A file that the source gets; `path` is relative to the tree, with slashes."""

    path: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Digest of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class Patch(NamedTuple):
    """One patch file."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Digest of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths that the patch changes, makes or removes."""
        text = self.data.decode("utf-8", "replace")
        return tuple(dict.fromkeys(path for path in _FILE_LINE.findall(text) if path))


class Series(NamedTuple):
    """Everything that goes onto a tree, read from disk once."""

    steps: tuple[tuple[Patch, ...], ...]
    """Per line of the series its alternatives."""
    new_files: tuple[NewFile, ...]
    scope: Scope

    @property
    def id(self) -> str:
        """What tells this series from another: a hash of all names and bytes, unused ones too."""
        total = hashlib.sha256(self.scope.encode())
        for step in self.steps:
            parts = " | ".join(f"{p.name} {p.sha256}" for p in step)
            total.update(f"\npatch {parts}".encode())
        for file in self.new_files:
            total.update(f"\nfile {file.path} {file.sha256}".encode())
        return total.hexdigest()


def find_patches() -> Path:
    """The folder `ollama_patches`: inside the installed package, else beside it in a checkout.

    Raises NotFoundError.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "ollama_patches", package.parent / "ollama_patches"):
        if (folder / "llama.cpp" / "series").is_file():
            return folder
    raise NotFoundError(
        "ollama_patches: not in this installation",
        hint="install tqconvert anew, or give --patches DIR",
    )


def parse_series(text: str, name: str = "series") -> tuple[Entry, ...]:
    """The entries of a series file. Raises BadSeriesError."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for number, whole in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", whole).strip()
        if not line:
            continue
        tag = _TAG.search(line)
        if tag and tag[1] not in ("ggml", "llama"):
            raise BadSeriesError(
                f"{name}:{number}: unknown tag {tag[0]} (expected [ggml] or [llama])"
            )
        names = [n.strip() for n in (line[: tag.start()] if tag else line).split("|")]
        for patch in names:
            if not _NAME.fullmatch(patch):
                raise BadSeriesError(f"{name}:{number}: {patch!r} (expected NAME.patch)")
            if patch in seen:
                raise BadSeriesError(f"{name}:{number}: {patch} stands in it twice")
            seen.add(patch)
        entries.append(Entry(tuple(names), ggml=bool(tag and tag[1] == "ggml")))
    return tuple(entries)


def read_series(folder: Path, scope: Scope = Scope.ALL) -> Series:
    """What of `ollama_patches` in `folder` goes onto a tree. Raises NotFoundError, BadSeriesError."""
    steps = read_steps(folder / "llama.cpp", scope)
    return Series(steps, llama_cpp_files(folder, scope), scope)


def read_steps(folder: Path, scope: Scope = Scope.ALL) -> tuple[tuple[Patch, ...], ...]:
    """Per line of the series in `folder` its alternatives. Raises NotFoundError, BadSeriesError."""
    path = folder / "series"
    try:
        steps = tuple(
            tuple(Patch(name, (folder / name).read_bytes()) for name in entry.alternatives)
            for entry in parse_series(path.read_text("utf-8"), str(path))
            if entry.ggml or scope is Scope.ALL
        )
    except FileNotFoundError as e:
        raise NotFoundError(f"{e.filename}: no such file (named by {path})") from None
    except UnicodeDecodeError:
        raise BadSeriesError(f"{path}: not UTF-8") from None
    for patch in (p for step in steps for p in step):
        _require_paths(patch.name, patch.files)
    return steps


def _require_paths(name: str, paths: tuple[str, ...]) -> None:
    """Raise BadSeriesError if the patch changes nothing, or something outside of the tree."""
    if not paths:
        raise BadSeriesError(f"{name}: changes no file (expected a diff with a/ and b/ paths)")
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise BadSeriesError(f"{name}: {path} is outside of the tree")


def llama_cpp_files(folder: Path, scope: Scope = Scope.ALL) -> tuple[NewFile, ...]:
    """All files that llama.cpp's tree gets from `ollama_patches` in `folder` and from the Metal kernels."""
    kernels = (NewFile(path, data) for path, data in kernel_files(folder))
    return (*read_new_files(folder / "files", scope), *kernels)


def read_new_files(folder: Path, scope: Scope = Scope.ALL) -> Iterable[NewFile]:
    """The new files below `folder`, which is laid out as the tree that they go into."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        wanted = scope is Scope.ALL or relative.parts[0] in GGML_FOLDERS
        if wanted and path.is_file() and not is_litter(path):
            yield NewFile(relative.as_posix(), path.read_bytes())


def is_litter(path: Path) -> bool:
    """Whether an editor or the system left the file there."""
    return path.name.startswith(".") or path.suffix in (".orig", ".rej", ".swp", ".pyc")
