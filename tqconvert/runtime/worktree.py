"""The pinned llama.cpp with our patches, as a tree in the cache: for checks that need no build."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tqconvert.patches.series import find_patches
from tqconvert.runtime import publish
from tqconvert.runtime.llamacpp import llama_cpp_inputs
from tqconvert.runtime.lock import held
from tqconvert.runtime.request import Request
from tqconvert.runtime.source import SDIST, UNPACK_S


def patched_tree(
    cache: Path, env: Mapping[str, str], *, offline: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Path:  # fmt: skip
    """The tree, made where it is not there as it must be. Do not write into it.

    Raises PatchError, NetworkError, StorageError.
    """
    request = Request(source=SDIST, cache=cache, env=env, offline=offline)
    tree = llama_cpp_inputs(request, find_patches(), note).trees[0]
    folder = cache / "trees" / tree.id[:16]
    with held(folder.with_name(f"{folder.name}.lock"), "the patched llama.cpp", wait_s=UNPACK_S):
        folder.mkdir(parents=True, exist_ok=True)
        if not publish.is_prepared(folder, tree):
            publish.prepare(folder, tree)
    return folder / tree.name
