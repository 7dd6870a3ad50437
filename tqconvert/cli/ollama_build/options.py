"""Options that mean the same in every command of the patch queue."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.output import Output

if TYPE_CHECKING:
    from tqconvert.patches.queue import Queue

TreeArg = Annotated[
    Path, typer.Argument(metavar="[TREE]", help="An Ollama or llama.cpp source tree.")
]
OllamaOpt = Annotated[
    Path | None,
    typer.Option(
        "--ollama", metavar="DIR", help="For a llama.cpp TREE: the Ollama whose patches come first."
    ),
]
PatchesOpt = Annotated[
    Path | None,
    typer.Option("--patches", metavar="DIR", help="Patches to use instead of tqconvert's own."),
]
GgmlOnlyOpt = Annotated[
    bool, typer.Option("--ggml-only", help="The types and their tests alone, for older trees.")
]


def open_queue(
    tree: Path, ollama: Path | None, patches: Path | None, *, ggml_only: bool = False
) -> "Queue":
    """The queue of the tree that the user names. Raises NotFoundError, BadSeriesError, BadPatchError."""
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.patches.queue import read_queue
    from tqconvert.patches.series import Scope

    return read_queue(
        find_checkout(tree.expanduser()),
        patches_folder(patches),
        ollama=find_checkout(ollama.expanduser()) if ollama else None,
        scope=Scope.GGML if ggml_only else None,
    )


def open_for_writing(
    tree: Path, ollama: Path | None, patches: Path | None, out: Output, *, ggml_only: bool = False
) -> "tuple[Queue, str | None]":
    """The queue of a tree that is about to be changed, and what an interrupted command came to before.

    That is ended first: it may have been about patch files, which are read here.
    Raises NotFoundError, BadSeriesError, BadPatchError, RefusedError, LockedError, StorageError.
    """
    from tqconvert.patches.change.move import recover_tree

    recovered = recover_tree(tree.expanduser().absolute(), os.environ)
    if recovered:
        out.note(recovered)
    return open_queue(tree, ollama, patches, ggml_only=ggml_only), recovered


def patches_folder(patches: Path | None) -> Path:
    """The folder with our patches and the locks. Raises NotFoundError."""
    from tqconvert.patches.series import find_patches

    return patches.expanduser().absolute() if patches else find_patches()
