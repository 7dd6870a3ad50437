"""The files of a llama.cpp tree that a build reads: listed, hashed to one id, copied."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqconvert.errors import NotFoundError, StorageError
from tqconvert.fs import storage_error

SKIPPED = (".git", ".github", "docs", "media", "models")
"""Folders at the top that no target needs; `models` holds 75 MB of vocabularies."""

_MARKS = ("CMakeLists.txt", "ggml/CMakeLists.txt", "ggml/include/ggml.h")


def find_tree(folder: Path) -> Path:
    """The llama.cpp tree in `folder`: itself, or what an unpacked sdist of llama-cpp-python holds.

    Raises NotFoundError.
    """
    for root in (folder, folder / "vendor" / "llama.cpp"):
        if all((root / mark).is_file() for mark in _MARKS):
            return root
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder")
    raise NotFoundError(
        f"{folder}: no llama.cpp tree (expected {_MARKS[1]} in it or in its vendor/llama.cpp)",
        hint="--source sdist takes one that is known to work",
    )


def is_read(path: str) -> bool:
    """Whether a build reads the file at `path` (with slashes): no build folders, nothing of git's own."""
    top, slash, _ = path.partition("/")
    if top in SKIPPED or (slash and top.startswith("build")):
        return False
    return not path.endswith((".gguf", ".pyc"))


def is_read_of_ollama(path: str) -> bool:
    """The same for a tree of Ollama: no tests over the network, no pages, nothing built in the tree."""
    top, slash, rest = path.partition("/")
    if top in (".git", ".github", "docs", "integration", "dist", "ollama"):
        return False
    if (slash and top == "build") or (top == "llama" and rest.startswith("vendor/")):
        return False
    return "/testdata/" not in path and not path.endswith(".pyc")


def list_files(root: Path, wanted: Callable[[str], bool] = is_read) -> Iterator[str]:
    """Paths, with slashes, of the files below `root` that a build reads; no pipes, no links to nowhere."""
    for folder, names, files in os.walk(root):
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        names[:] = sorted(n for n in names if wanted(f"{prefix}{n}/"))
        yield from (
            prefix + n for n in files if wanted(prefix + n) and os.path.isfile(f"{folder}/{n}")
        )


def hash_files(root: Path, wanted: Callable[[str], bool] = is_read) -> dict[str, str]:
    """Path -> sha256 of each file that a build reads. Raises StorageError."""

    def digest(path: str) -> str:
        return hashlib.sha256((root / path).read_bytes()).hexdigest()

    paths = sorted(list_files(root, wanted))
    try:
        # Reading and hashing release the lock of the interpreter.
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(paths, pool.map(digest, paths), strict=True))
    except OSError as e:
        raise storage_error(e, e.filename or root) from e


def tree_id(files: Mapping[str, str]) -> str:
    """One id for all paths and contents, in hex: equal for equal trees, wherever they lie."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\0{files[path]}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def changed_id(
    files: Mapping[str, str],
    changes: Mapping[str, bytes | None],
    wanted: Callable[[str], bool] = is_read,
) -> str:
    """The id of the tree after the changes (None: the file is removed)."""
    after = dict(files)
    for path, data in changes.items():
        if not wanted(path):
            continue
        if data is None:
            after.pop(path, None)
        else:
            after[path] = hashlib.sha256(data).hexdigest()
    return tree_id(after)


def copy_files(root: Path, paths: Iterable[str], target: Path) -> None:
    """Copy the files into `target`, which need not exist. Raises StorageError."""
    import shutil

    made: set[str] = set()
    try:
        for path in paths:
            folder = os.path.dirname(path)
            if folder not in made:
                (target / folder).mkdir(parents=True, exist_ok=True)
                made.add(folder)
            shutil.copyfile(root / path, target / path)
    except OSError as e:
        raise storage_error(e, target) from e
    if not made:
        raise StorageError(f"{root}: no files to copy")
