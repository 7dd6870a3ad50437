"""A source tree's Metal folder: which files hold kernels, and the header they share with the host."""

import re
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import NotFoundError
from tqconvert.metal.build import Unit
from tqconvert.metal.kargs import Struct, parse_structs

_PLACES = (
    ".",
    "ggml/src/ggml-metal",
    "llama.cpp/ggml/src/ggml-metal",
    "vendor/llama.cpp/ggml/src/ggml-metal",
    "ml/backend/ggml/ggml/src/ggml-metal",
)
"""Where the folder lies in a tree: of llama.cpp, of what vendors it, and of Ollama before 0.30."""
_HEADER = "ggml-metal-impl.h"
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(\d+)\b", re.MULTILINE)
_EMBEDDED = "ggml-metal-embed.metal"
"""Generated from the single file and its headers, where it lies in a tree."""


@dataclass(frozen=True, slots=True)
class MetalTree:
    """The Metal folder of a tree."""

    folder: Path
    sources: tuple[Path, ...]
    """Files that are compiled, each on its own."""
    structs: dict[str, Struct]
    defines: dict[str, int]
    """Macros of the header that are numbers."""

    def unit(
        self, path: Path, *, keep: str | None = None, checked: bool = True, fast_math: bool = False
    ) -> Unit:
        """What to compile for one of the sources."""
        includes = (self.folder, self.folder.parent, self.folder / "kernels")
        return Unit(path, includes, keep=keep, checked=checked, fast_math=fast_math)


def open_tree(path: Path) -> MetalTree:
    """The Metal folder at or below `path`. Raises NotFoundError, KernelSourceError."""
    for place in _PLACES:
        folder = (path / place).absolute()
        if (folder / _HEADER).is_file():
            break
    else:
        raise NotFoundError(
            f"{path}: no {_HEADER}",
            hint="give a folder ggml-metal, or the tree of llama.cpp or Ollama that holds it",
        )
    folder = folder.resolve()
    sources = _sources(folder)
    if not sources:
        raise NotFoundError(f"{folder}: no .metal file")
    header = folder / _HEADER
    defines = {k: int(v) for k, v in _DEFINE.findall(header.read_text("utf-8", "replace"))}
    return MetalTree(folder, sources, parse_structs(header), defines)


def _sources(folder: Path) -> tuple[Path, ...]:
    """Files that no other one includes: those that do are compiled with them."""
    found = sorted([*folder.glob("*.metal"), *folder.glob("kernels/*.metal")])
    texts = {f: f.read_text("utf-8", "replace") for f in found}
    included = {m for t in texts.values() for m in re.findall(r'#include[ \t]+"([^"]+\.metal)"', t)}
    return tuple(f for f in found if f.name not in included and f.name != _EMBEDDED)
