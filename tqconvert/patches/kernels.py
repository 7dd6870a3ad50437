"""Our Metal kernels as files of llama.cpp's tree.

`metal/` at the top of this project holds them as several files. A tree gets two: what the host includes,
and all kernels in one file, so that no build has to be told of more than one name.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tqconvert.errors import NotFoundError

TREE_FOLDER = "ggml/src/ggml-metal"
SOURCE = "ggml-metal-turbo.metal"
HOST_HEADER = "ggml-metal-turbo-impl.h"
MADE = frozenset({f"{TREE_FOLDER}/{SOURCE}", f"{TREE_FOLDER}/{HOST_HEADER}"})
"""Files of a tree that are changed in `metal/`, not in the tree."""

_INCLUDE = re.compile(rb'^#include "([^"]+)"[ \t]*\n', re.MULTILINE)
_GUARDS = {"ggml-metal-impl.h": b"GGML_METAL_IMPL"}
"""Headers of ggml -> what they define. Where a build has put them in already, the line must not be read."""


def kernel_files(patches: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of the files for a tree, if the kernels lie beside or in the folder of our patches.

    Raises NotFoundError if one of the kernels' own files is not there.
    """
    folder = find_kernels(patches)
    if folder is not None:
        yield f"{TREE_FOLDER}/{HOST_HEADER}", _read(folder / HOST_HEADER)
        yield f"{TREE_FOLDER}/{SOURCE}", join_kernels(folder)


def find_kernels(patches: Path) -> Path | None:
    """The folder of our kernels: in that of our patches, as installed, or beside it; None if in neither."""
    for folder in (patches / "metal", patches.parent / "metal"):
        if (folder / SOURCE).is_file():
            return folder
    return None


def join_kernels(folder: Path) -> bytes:
    """All kernels in one file: what of the folder is included put in where it is first named."""
    seen: set[str] = set()

    def put(match: re.Match[bytes]) -> bytes:
        name = match[1].decode("utf-8", "replace")
        if guard := _GUARDS.get(name):
            return b"#ifndef %s\n%s#endif\n" % (guard, match[0])
        if name in seen:
            return b""
        seen.add(name)
        text = _read(folder / name).replace(b"#pragma once\n", b"")
        return _INCLUDE.sub(put, text).lstrip(b"\n")

    return _INCLUDE.sub(put, _read(folder / SOURCE))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise NotFoundError(f"{path}: {e.strerror} (one of the Metal kernels' files)") from None
