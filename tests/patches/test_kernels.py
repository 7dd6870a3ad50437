"""Metal kernels as new files of a tree: one for the host, one with all kernels."""

from pathlib import Path

import pytest

from tqconvert.errors import NotFoundError
from tqconvert.patches.kernels import kernel_files
from tqconvert.patches.series import find_patches, llama_cpp_files

PARTS = {
    "ggml-metal-turbo.metal": '#include "ggml-metal-impl.h"\n#include "ggml-metal-turbo-impl.h"\n'
    '#include <metal_stdlib>\nkernel void a() {}\n#include "ggml-metal-turbo-b.h"\n',
    "ggml-metal-turbo-b.h": '#pragma once\n\n#include "ggml-metal-turbo-impl.h"\nkernel void b() {}\n',
    "ggml-metal-turbo-impl.h": "#pragma once\n#define N 1\n",
}


def write_kernels(folder: Path) -> Path:
    """A folder of kernels beside one of patches; returns the latter."""
    (folder / "metal").mkdir(parents=True)
    for name, text in PARTS.items():
        (folder / "metal" / name).write_text(text)
    return folder / "ollama_patches"


def test_kernels_become_one_file(tmp_path: Path) -> None:
    """What belongs to us is put in once; what ggml has is read where nothing has put it in."""
    header, kernels = kernel_files(write_kernels(tmp_path))
    assert header[0] == "ggml/src/ggml-metal/ggml-metal-turbo-impl.h"
    assert kernels[0] == "ggml/src/ggml-metal/ggml-metal-turbo.metal"
    assert kernels[1].decode() == (
        '#ifndef GGML_METAL_IMPL\n#include "ggml-metal-impl.h"\n#endif\n#define N 1\n'
        "#include <metal_stdlib>\nkernel void a() {}\nkernel void b() {}\n"
    )


def test_patches_without_kernels(tmp_path: Path) -> None:
    """A folder of patches that has none beside it adds none."""
    assert list(kernel_files(tmp_path / "ollama_patches")) == []


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    """It is named, not left out."""
    patches = write_kernels(tmp_path)
    (tmp_path / "metal" / "ggml-metal-turbo-b.h").unlink()
    with pytest.raises(NotFoundError, match=r"turbo-b\.h"):
        list(kernel_files(patches))


def test_ours_are_found() -> None:
    """The folder at the top of the project, or the installed one."""
    assert [f.path.rpartition("/")[2] for f in llama_cpp_files(find_patches())[-2:]] == [
        "ggml-metal-turbo-impl.h", "ggml-metal-turbo.metal",
    ]  # fmt: skip
