"""Where the Metal backend lies in a source tree, and which files hold its kernels."""

import re
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError

_PLACES = (
    "ggml/src/ggml-metal",
    "vendor/llama.cpp/ggml/src/ggml-metal",
    "ml/backend/ggml/ggml/src/ggml-metal",
    "src/ggml-metal",
    "",
)
SINGLE = "ggml-metal.metal"


class MetalTree(NamedTuple):
    """A Metal backend."""

    folder: Path
    units: tuple[Path, ...]
    """Files that are compiled, each by itself."""

    @property
    def single(self) -> bool:
        """Whether all kernels are in one file (llama.cpp before b10412 and Ollama's vendored copies)."""
        return (self.folder / SINGLE).is_file()

    @property
    def includes(self) -> tuple[Path, ...]:
        """Where quoted includes are looked for."""
        return (self.folder / "kernels", self.folder, self.folder.parent)


def find_metal(tree: Path) -> MetalTree:
    """The Metal backend of a llama.cpp or Ollama tree, or the folder itself. Raises NotFoundError."""
    for place in _PLACES:
        folder = tree / place
        if (folder / "ggml-metal-impl.h").is_file():
            single = folder / SINGLE
            units = (single,) if single.is_file() else _compiled(folder)
            if units:
                return MetalTree(folder, units)
    raise NotFoundError(
        f"{tree}: no Metal backend (expected ggml/src/ggml-metal with kernels)",
        hint="give a llama.cpp or legacy Ollama tree, or unpack the llama.cpp that a modern one names",
    )


def _compiled(folder: Path) -> tuple[Path, ...]:
    """The kernel files that CMake compiles; those that are only included are not among them."""
    listed = listed_sources(folder)
    return tuple(p for p in sorted((folder / "kernels").glob("*.metal")) if p.name in listed)


def listed_sources(folder: Path) -> tuple[str, ...]:
    """Names of the files in CMake's list of kernel sources."""
    try:
        text = (folder / "CMakeLists.txt").read_text("utf-8", "replace")
    except OSError:
        return ()
    found = re.search(r"set\(METALLIB_KERNEL_SOURCES(.*?)\)", text, re.DOTALL)
    return tuple(re.findall(r"kernels/([\w.-]+\.metal)", found[1])) if found else ()


def loaded_libraries(folder: Path) -> tuple[str, ...]:
    """Names of the libraries that the host loads, one per kernel file."""
    try:
        text = (folder / "ggml-metal-device.m").read_text("utf-8", "replace")
    except OSError:
        return ()
    found = re.search(r"#define GGML_METAL_LIBS\s*\\\n((?:.*\\\n)*.*)", text)
    return tuple(re.findall(r"X\(\w+,\s*(\w+)\s*\)", found[1])) if found else ()
