"""A made-up release and made-up patches of ours, built once, copied for each test."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.patches.releases import ENV, Release, make_legacy, make_modern, make_ours
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.locks.lock import Sources, compute_lock, open_base
from tqconvert.patches.locks.lockfile import store_lock


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release | Path]:
    """What the fixtures below copy."""
    folder = tmp_path_factory.mktemp("releases")
    return {
        "legacy": make_legacy(folder / "legacy"),
        "modern": make_modern(folder / "modern"),
        "ours": make_ours(folder / "ours"),
    }


def copied(release: Release | Path, to: Path) -> Release:
    """The same release in a folder of its own."""
    assert isinstance(release, Release)
    shutil.copytree(release.ollama.parent, to)
    folder = release.ollama.parent
    return replace(
        release, ollama=to / "ollama", llama=to / "llama.cpp",
        patches=tuple(to / p.relative_to(folder) for p in release.patches),
    )  # fmt: skip


@pytest.fixture
def release(templates: dict[str, Release | Path], tmp_path: Path) -> Release:
    """A release of the legacy generation, with the llama.cpp it is made from."""
    return copied(templates["legacy"], tmp_path / "release")


@pytest.fixture
def modern(templates: dict[str, Release | Path], tmp_path: Path) -> Release:
    """A release of the modern generation, with its llama.cpp."""
    return copied(templates["modern"], tmp_path / "modern")


@pytest.fixture
def ours(templates: dict[str, Release | Path], tmp_path: Path) -> Path:
    """A small `ollama_patches` that goes onto both."""
    found = templates["ours"]
    assert isinstance(found, Path)
    return Path(shutil.copytree(found, tmp_path / "ollama_patches"))


@pytest.fixture(scope="session")
def lock_files(
    templates: dict[str, Release | Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Locks of the made-up releases, of both generations, made with their llama.cpp at hand."""
    folder = tmp_path_factory.mktemp("locks")
    for name in ("legacy", "modern"):
        release = templates[name]
        assert isinstance(release, Release)
        checkout = find_checkout(release.ollama)
        commit = open_base(checkout, release.llama, ENV)
        (folder / name / "upstream").mkdir(parents=True)
        computed = compute_lock(checkout, ["v0.99.0"], ENV, Sources(commit))
        store_lock(computed, folder / name / "upstream")
    return folder


@pytest.fixture
def locked(ours: Path, lock_files: Path) -> Path:
    """Our small `ollama_patches` with the locks of both releases."""
    shutil.copytree(lock_files, ours, dirs_exist_ok=True)
    return ours
