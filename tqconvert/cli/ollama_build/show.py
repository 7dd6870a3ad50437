"""`ollama-build list`, `status`, `verify` and `lock`: what a tree holds."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tqconvert.cli.ollama_build.onto import GitOpt, status_onto
from tqconvert.cli.ollama_build.options import (
    GgmlOnlyOpt,
    OllamaOpt,
    PatchesOpt,
    TreeArg,
    open_queue,
    patches_folder,
)
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output, table
from tqconvert.errors import UsageError

BaseGitOpt = Annotated[
    Path | None,
    typer.Option("--base-git", metavar="REPO", help="A llama.cpp repository with the base commit."),
]


def list_(
    tree: TreeArg = Path(),
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    ggml_only: GgmlOnlyOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """List the patches of a tree in their order: Ollama's own, then ours.

    Ollama's are compared with the locks of its releases, by their bytes and by
    what they change. The tree's sources are not looked at: see `status`.

    \b
    Examples:
      tqconvert ollama-build list ../ollama
      tqconvert ollama-build list ../llama.cpp --ollama ../ollama --json

    \b
    Writes: nothing.
    -q prints the names.
    Exit codes: 0 listed, 2 usage, 4 a patch or a series is not valid, 5 no such
    tree.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.cli.ollama_build.show_text import head_document, head_text
    from tqconvert.patches.tree.listing import list_patches

    queue = open_queue(tree, ollama, patches, ggml_only=ggml_only)
    source, rows = list_patches(queue, patches_folder(patches))
    text = table(
        [(str(r.number), r.name, str(r.origin), r.remark) for r in rows], right=(0,), indent=2
    )
    document = {
        **head_document(queue, source),
        "patches": [
            {
                "number": r.number, "name": r.name, "id": r.id, "origin": str(r.origin),
                "sha256": r.sha256, "verdict": r.verdict and str(r.verdict), "files": list(r.files),
            }
            for r in rows
        ],
    }  # fmt: skip
    out = Output("ollama-build.list", json=json, quiet=quiet)
    out.result(document, f"{head_text(queue, source)}\n{text}", [r.name for r in rows])


def status(
    tree: TreeArg = Path(),
    ollama: OllamaOpt = None,
    onto: Annotated[
        str | None,
        typer.Option(metavar="TAG|COMMIT|DIR", help="Try the patches on this base instead."),
    ] = None,
    git: GitOpt = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="With --onto: look for them in the history too.")
    ] = False,
    patches: PatchesOpt = None,
    ggml_only: GgmlOnlyOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Say which patches are in a tree, and what else was changed there.

    The files tell it, no history and no stamp: ours are taken off in memory, the
    rest is looked up by its hashes. Patches that are not in the tree come with
    how they would go on. Nothing is written.

    --onto tries them on another llama.cpp, or ours on another Ollama: each goes
    on clean or with an offset, merges, conflicts (files and hunks), is blocked by
    an earlier one, or is upstream already (in part), with the evidence.

    \b
    Examples:
      tqconvert ollama-build status ../ollama --json
      tqconvert ollama-build status ../ollama --onto b9000 --git ../llama.cpp

    \b
    Writes: nothing.
    -q prints the number of applied patches, Ollama's and ours: `34/34 0/8`; with
    --onto how many have which verdict.
    Exit codes: 0 as expected, 1 problems, or with --onto a patch that does not
    go on as it is, 2 usage, 4 a patch or a lock is not valid, 5 no such tree or
    base, or of a release that is not known, 8 git is missing, 9 unreadable.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.cli.ollama_build.show_text import state_document, state_text
    from tqconvert.patches.tree.findings import exit_code, find_problems
    from tqconvert.patches.tree.state import read_state

    queue = open_queue(tree, ollama, patches, ggml_only=ggml_only)
    out = Output("ollama-build.status", json=json, quiet=quiet)
    if onto is not None:
        status_onto(
            queue,
            patches_folder(patches),
            onto,
            out,
            repository=git,
            deep=deep,
            ggml_only=ggml_only,
        )
        return
    if git or deep:
        raise UsageError("--git and --deep: go with --onto")
    found = read_state(queue, patches_folder(patches))
    problems = find_problems(found)
    counts = [
        f"{sum(p.applied is True for p in group)}/{len(group)}"
        for group in (found.upstream, found.ours)
    ]
    out.result(state_document(found, problems), state_text(found, problems), " ".join(counts))
    if code := exit_code(problems):
        raise typer.Exit(code)


def verify(
    tree: TreeArg = Path(),
    ollama: OllamaOpt = None,
    level: Annotated[
        int | None,
        typer.Option("--level", min=0, max=5, metavar="N", help="Look no further than level N."),
    ] = None,
    base_git: BaseGitOpt = None,
    patches: PatchesOpt = None,
    ggml_only: GgmlOnlyOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Prove that a tree's llama.cpp is its release's, and our patches are ours.

    \b
    Levels, from 0; by default all that can be done here:
      0  what git has committed      3  every other vendored file
      1  ladders of patched files    4  the Metal source that is compiled in
      2  Ollama's patches taken off  5  llama.cpp itself (--base-git)
    Each says what it looked at and what it could not look at.

    \b
    Examples:
      tqconvert ollama-build verify ../ollama
      tqconvert ollama-build verify ../ollama --base-git ../llama.cpp --json

    \b
    Writes: nothing.
    -q prints the levels that do not hold.
    Exit codes: 0 all that was looked at holds, 1 something generated is out of
    date, or there was nothing to look at, 2 usage, 4 bytes are not what they
    must be, 5 no such tree or commit, or a release that is not known, 8 git is
    missing.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.cli.ollama_build.show_text import (
        checks_document,
        checks_text,
        head_document,
        head_text,
    )
    from tqconvert.patches.tree.state import read_state
    from tqconvert.patches.verify.verify import exit_code
    from tqconvert.patches.verify.verify import verify as verify_state

    queue = open_queue(tree, ollama, patches, ggml_only=ggml_only)
    folder = patches_folder(patches)
    env = dict(os.environ)
    commit = None
    if base_git:
        from tqconvert.patches.locks.lock import open_base

        if queue.source is None:
            raise UsageError("--base-git: needs an Ollama tree (--ollama DIR)")
        commit = open_base(queue.source, base_git.expanduser(), env)
    found = read_state(queue, folder)
    checks = verify_state(found, folder, env, level=level, commit=commit)
    code = exit_code(found, checks)
    head = head_document(queue, found.source)
    document = {**head, "ok": code == 0, "checks": checks_document(checks)}
    text = f"{head_text(queue, found.source)}\n{checks_text(checks)}"
    out = Output("ollama-build.verify", json=json, quiet=quiet)
    out.result(document, text, [c.level for c in checks if c.ok is False])
    if code:
        raise typer.Exit(code)


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
      tqconvert ollama-build lock ../ollama --base-git ../llama.cpp -o lock.json

    \b
    Writes: FILE, if given.
    -q prints the hash of the series, or the file that was written.
    Exit codes: 0 computed, 2 usage, 4 tree and patches contradict each other,
    5 no such tree or commit, 8 git is missing, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.patches.locks.lock import Sources, compute_lock, open_base
    from tqconvert.patches.locks.release import lock_document, render_lock

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
    from tqconvert.patches.locks.lockfile import store_lock

    path, found = store_lock(computed, output.expanduser())
    document = {k: v for k, v in lock_document(found).items() if k != "schema"}
    ladder = sum(len(p.files) for p in found.patches)
    text = f"{path}: {len(found.patches)} patches, {ladder} files of theirs, {len(found.unresolved)} open"
    out.result({"path": str(path), **document}, text, str(path))


COMMANDS: tuple[Callable[..., None], ...] = (list_, status, verify, lock)
