"""What the commands for Metal share."""

import os
from collections.abc import Callable
from pathlib import Path


def given_or_patched(tree: Path | None, note: Callable[[str], None]) -> Path:
    """The tree that the user names, else the pinned llama.cpp with our patches, in the cache.

    Raises NetworkError where that has to be fetched and cannot be.
    """
    if tree is not None:
        return tree.expanduser().absolute()
    from tqconvert.cli.options import settings
    from tqconvert.runtime.worktree import patched_tree

    loaded = settings()
    return patched_tree(loaded.cache, dict(os.environ), offline=loaded.offline, note=note)
