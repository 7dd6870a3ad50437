"""What tests of the queue's operations ask about a tree: its files, refs and edits, to be compared."""

import os
from collections.abc import Mapping
from pathlib import Path

from tests.patches.releases import ENV, Release, git
from tqconvert.patches.change.apply_queue import Applied, apply_queue
from tqconvert.patches.change.repository import Repository, require_repository
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.queue import Queue, read_queue

OURS = ("new-files", "ids", "ops", "new-files", "server")
"""Patches of `make_ours` that a legacy tree takes."""


def files_of(root: Path) -> dict[str, tuple[bytes, int]]:
    """Path -> content and permission bits of every file outside of `.git`."""
    return {
        p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mode & 0o777)
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".git" not in p.relative_to(root).parts
    }


def state_of(root: Path) -> dict[str, object]:
    """Everything that an operation that fails must leave as it was: files, HEAD, branches, what is staged."""
    return {
        "files": files_of(root),
        "head": git(root, "rev-parse", "HEAD"),
        "branch": git(root, "rev-parse", "--symbolic-full-name", "HEAD"),
        "branches": git(root, "for-each-ref", "refs/heads"),
        "status": git(root, "status", "--porcelain", "--untracked-files=all"),
    }


def litter(root: Path) -> list[str]:
    """What no finished or failed operation leaves behind."""
    folder = root / ".git"
    names = ["index.lock", "tqconvert/lock", "tqconvert/op.json", "tqconvert/stage"]
    found = [n for n in names if (folder / n).exists()]
    found += [p.name for p in folder.glob("fast_import_crash_*")]
    return found + git(root, "for-each-ref", "refs/tqconvert/new").splitlines()


def queue_of(tree: Path, ours: Path, ollama: Path | None = None) -> Queue:
    """The queue of a tree."""
    return read_queue(find_checkout(tree), ours, ollama=find_checkout(ollama) if ollama else None)


def repository(tree: Path) -> Repository:
    """The repository of a tree."""
    return require_repository(tree, ENV)


def put_on(tree: Path, ours: Path, ollama: Path | None = None, **options: str) -> Applied:
    """Apply the queue."""
    return apply_queue(repository(tree), queue_of(tree, ours, ollama), **options)


def trailers(root: Path, count: int) -> list[str]:
    """Names in the trailers of the last commits, the oldest first."""
    out = git(root, "log", f"-n{count}", "--reverse", "--format=%(trailers:key=TQ-Patch,valueonly)")
    return [row.split()[0] for row in out.splitlines() if row]


def user_env(folder: Path, config: str) -> Mapping[str, str]:
    """The environment of a user with a configuration of their own."""
    path = folder / "gitconfig"
    path.write_text(config)
    return {**os.environ, "GIT_CONFIG_GLOBAL": str(path), "GIT_CONFIG_SYSTEM": str(path)}


def legacy_state(release: Release) -> dict[str, object]:
    """The state of the release's Ollama."""
    return state_of(release.ollama)
