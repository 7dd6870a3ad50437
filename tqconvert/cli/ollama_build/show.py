"""`ollama-build list`, `status`, `verify` and `lock`: what a tree holds."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tqconvert.cli.ollama_build.options import TreeArg
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output

BaseGitOpt = Annotated[
    Path | None,
    typer.Option("--base-git", metavar="REPO", help="A llama.cpp repository with the base commit."),
]


def lock(
    tree: TreeArg = Path(),
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="A release that holds this; repeatable."),
    ] = None,
    base_git: BaseGitOpt = None,
    base_files: Annotated[
        Path | None,
        typer.Option("--base-files", metavar="DIR", help="Files of llama.cpp that the tree lacks."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE|DIR", help="Write here, not to stdout."),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Compute the lock of a release: what Ollama's patches are and make, as hashes.

    TREE is a release as it was tagged. Into a folder the lock goes under its
    name, with a listing of the base's files; one that is there is completed.

    \b
    Examples:
      tqconvert ollama-build lock ../ollama --tag v0.24.0
      tqconvert ollama-build lock ../ollama --tag v0.24.0 --base-git ../llama.cpp -o .

    \b
    Writes: FILE, if given.
    -q prints the hash of the series, or the file that was written.
    Exit codes: 0 computed, 2 usage, 4 tree and patches contradict each other,
    5 no such tree or commit, 8 git is missing, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.patches.lock import Sources, compute_lock, open_base
    from tqconvert.patches.release import lock_document, render_lock

    checkout = find_checkout(tree.expanduser())
    env = dict(os.environ)
    commit = open_base(checkout, base_git.expanduser(), env) if base_git else None
    sources = Sources(commit, base_files.expanduser().absolute() if base_files else None)
    computed = compute_lock(checkout, tag or (), env, sources)
    out = Output("ollama-build.lock", json=json, quiet=quiet)
    if output is None:
        found = computed.lock
        document = {k: v for k, v in lock_document(found).items() if k != "schema"}
        out.result({"path": None, **document}, render_lock(found).rstrip("\n"), found.series)
        return
    from tqconvert.patches.lockfile import store_lock

    path, found = store_lock(computed, output.expanduser())
    document = {k: v for k, v in lock_document(found).items() if k != "schema"}
    ladder = sum(len(p.files) for p in found.patches)
    text = f"{path}: {len(found.patches)} patches, {ladder} files of theirs, {len(found.unresolved)} open"
    out.result({"path": str(path), **document}, text, str(path))


COMMANDS: tuple[Callable[..., None], ...] = (lock,)
