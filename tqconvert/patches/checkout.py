"""A source tree that the queue works on, recognised by what lies in it, never by its name.

- legacy: Ollama v0.17.1 to v0.24.0, llama.cpp vendored under Ollama's own patches
- modern: Ollama v0.30 and later, a pinned llama.cpp that is fetched when it is built, and compat patches
- llama.cpp: llama.cpp itself
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError
from tqconvert.patches.layout import GGML, LLAMA, Layout, Plain, Vendored

PATCHES = "llama/patches"
COMPAT = "llama/compat"
VERSION = "LLAMA_CPP_VERSION"
SYNC = "Makefile.sync"


class Generation(StrEnum):
    """Kinds of trees."""

    LEGACY = "legacy"
    MODERN = "modern"
    LLAMA_CPP = "llama.cpp"


class Checkout(NamedTuple):
    """One tree."""

    root: Path
    generation: Generation
    base: str | None
    """The llama.cpp that an Ollama tree is made for: a commit's beginning (legacy), a tag (modern)."""

    @property
    def layout(self) -> Layout:
        """Where llama.cpp's files lie in it; of a modern tree nowhere, their source is fetched."""
        return Vendored(self.root) if self.generation is Generation.LEGACY else Plain()

    @property
    def is_ollama(self) -> bool:
        """Whether it is a tree of Ollama."""
        return self.generation is not Generation.LLAMA_CPP

    def upstream_patches(self) -> tuple[Path, ...]:
        """Ollama's own patches for llama.cpp, in the order in which Ollama applies them."""
        if self.generation is Generation.LEGACY:
            return tuple(sorted((self.root / PATCHES).glob("*.patch"), key=lambda p: p.name))
        if self.generation is Generation.MODERN:
            # apply-patch.cmake sorts by the file's name, then by its path.
            found = (self.root / COMPAT).rglob("*.patch")
            return tuple(sorted(found, key=lambda p: (p.name, p.as_posix())))
        return ()


def find_checkout(folder: Path) -> Checkout:
    """What tree `folder` is. Raises NotFoundError (exit code 5) if it is none of the three."""
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder}: no such folder", hint="give the folder of an Ollama or llama.cpp tree"
        )
    root = folder.absolute()
    if (root / PATCHES).is_dir() and (root / GGML).is_dir() and (root / LLAMA).is_dir():
        return Checkout(root, Generation.LEGACY, _sync_base(root / SYNC))
    if (root / VERSION).is_file() and (root / COMPAT).is_dir():
        text = (root / VERSION).read_text("utf-8", "replace").strip()
        return Checkout(root, Generation.MODERN, text or None)
    if (root / "ggml" / "include" / "ggml.h").is_file() and (root / "src").is_dir():
        return Checkout(root, Generation.LLAMA_CPP, None)
    raise NotFoundError(
        f"{folder}: neither Ollama (expected {PATCHES}, or {VERSION} with {COMPAT}) nor llama.cpp",
        hint="give the top folder of the tree; Ollama before v0.17.1 and v0.25 to v0.29 are not known",
    )


def _sync_base(makefile: Path) -> str | None:
    try:
        return sync_base(makefile.read_text("utf-8", "replace"))
    except OSError:
        return None


def sync_base(text: str) -> str | None:
    """The llama.cpp that a `Makefile.sync` names, None if it names none."""
    found = re.search(r"^FETCH_HEAD\s*[:?]?=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else None
