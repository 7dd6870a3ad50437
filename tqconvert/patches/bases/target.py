"""Another base to look at: a folder, or a commit of a repository. Only ever read."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError
from tqconvert.patches.checkout import COMPAT, PATCHES, VERSION, Generation
from tqconvert.patches.files import Reader, folder_reader
from tqconvert.patches.git import Git
from tqconvert.patches.layout import FILTER, GGML, LLAMA, Layout, Plain, Vendored, parse_filter
from tqconvert.patches.locks.history import Commit

NO_FETCH = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
"""Lets a partial clone say that it lacks content, instead of asking the network for it."""


class Target(NamedTuple):
    """A tree that patches are tried on."""

    name: str
    generation: Generation
    read: Reader
    commit: Commit | None
    """None for a folder."""
    git: Git | None
    fetch: Callable[[Iterable[str]], None]
    """Reads many files at once."""

    @property
    def layout(self) -> Layout:
        """Where llama.cpp's files lie in it."""
        return _VendoredIn(self.read) if self.generation is Generation.LEGACY else Plain()


class _VendoredIn(Vendored):
    """An Ollama tree of the legacy generation that need not be a folder."""

    def __init__(self, read: Reader) -> None:
        texts = {top: read(f"{top}/{FILTER}") or b"" for top in (GGML, LLAMA)}
        self._filters = {t: parse_filter(d.decode("utf-8", "replace")) for t, d in texts.items()}


def open_target(name: str, repository: Path | None, env: Mapping[str, str]) -> Target:
    """What `--onto NAME` means: a folder of that name, else a commit or tag in `repository`.

    Raises NotFoundError if it is neither, or not a tree of Ollama or llama.cpp.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        root = folder.absolute()
        return Target(
            str(folder), _kind(name, lambda p: (root / p).exists()), folder_reader(root), None, None,
            lambda _: None,
        )  # fmt: skip
    if repository is None:
        raise NotFoundError(
            f"{name}: no such folder, and no repository to look for a commit in",
            hint="name a repository that has it: --git DIR",
        )
    git = Git(repository, {**env, **NO_FETCH})
    commit = Commit(git, name)
    return target_of(name, commit, git)


def target_of(name: str, commit: Commit, git: Git) -> Target:
    """A commit as a target. Raises NotFoundError if it is not a tree of Ollama or llama.cpp."""
    folders = {p.rpartition("/")[0] for p in commit.entries}
    there = {*commit.entries, *folders}
    kind = _kind(name, lambda p: p in there or any(f.startswith(f"{p}/") for f in folders))
    return Target(name, kind, commit.read, commit, git, commit.fetch)


def _kind(name: str, has: Callable[[str], bool]) -> Generation:
    if has(PATCHES) and has(GGML) and has(LLAMA):
        return Generation.LEGACY
    if has(VERSION) and has(COMPAT):
        return Generation.MODERN
    if has("ggml/include/ggml.h") and has("src"):
        return Generation.LLAMA_CPP
    raise NotFoundError(
        f"{name}: neither Ollama (v0.17.1 to v0.24.0, or v0.30 and later) nor llama.cpp"
    )
