"""`ollama-build rebase`, `continue` and `skip`: the queue on another base."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.ollama_build.change import abort, conflict_rows, conflicts_json, counted
from tqconvert.cli.ollama_build.options import (
    OllamaOpt,
    PatchesOpt,
    TreeArg,
    open_for_writing,
    open_queue,
    patches_folder,
)
from tqconvert.cli.options import DryRunOpt, JsonOpt, QuietOpt
from tqconvert.cli.output import Output, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tqconvert.patches.change.rebase_end import Ended
    from tqconvert.patches.change.rebase_plan import RebasePlan


def rebase(
    tree: TreeArg = Path(),
    onto: Annotated[
        str, typer.Option("--onto", metavar="COMMIT", help="A commit, branch or tag of TREE.")
    ] = "HEAD",
    here: Annotated[bool, typer.Option("--here", help="In TREE itself, not beside it.")] = False,
    worktree: Annotated[
        Path | None,
        typer.Option("--worktree", metavar="DIR", help="Where a conflict is put; TREE-rebase."),
    ] = None,
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Bring the queue to another base, a later llama.cpp or Ollama.

    It is tried in memory first, and a table tells how. Where all goes on, a branch
    tq/... is made there. Where something conflicts, a work tree beside TREE waits
    in the middle of a plain `git am`: resolve, git add, then `continue` (or `git am
    --continue`), `skip` or `abort`. What was resolved becomes an alternative of its
    patch, in front of the old one, which stays for the old bases.

    \b
    Examples:
      tqconvert ollama-build rebase ../ollama --onto v0.20.0 --dry-run
      tqconvert ollama-build rebase ../llama.cpp --ollama ../ollama --onto b8390

    \b
    Writes: the git repository of TREE, a work tree beside it, patch files.
    -q prints the commit, or the folder that waits.
    Exit codes: 0 done, 3 a conflict waits (with -n: would conflict), 5 no such
    commit, 6 edits in the way or the branch is there, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.errors import ConflictError
    from tqconvert.patches.change.rebase import rebase as bring
    from tqconvert.patches.change.rebase_plan import plan_rebase
    from tqconvert.patches.change.repository import Blobs, require_repository

    out = Output("ollama-build.rebase", json=json, quiet=quiet)
    queue = (
        open_queue(tree, ollama, patches)
        if dry_run
        else open_for_writing(tree, ollama, patches, out)[0]
    )
    root = queue.checkout.root
    repo, folder = require_repository(root, os.environ), patches_folder(patches)
    if dry_run:
        with Blobs(repo.git) as blobs:
            plan = plan_rebase(repo, queue, folder, blobs, onto, os.environ)
        document = {**_plan_json(root, plan), "dry_run": True, "head": None, "waiting": None}
        out.result(document, _plan_text(root, plan), plan.base.commit)
        if plan.stacked.conflicts:
            raise typer.Exit(ConflictError.exit_code)
        return
    place = worktree.expanduser().absolute() if worktree else None
    done = bring(repo, queue, folder, onto, os.environ, here=here, folder=place)
    document = {
        **_plan_json(root, done.plan), "dry_run": False, "head": done.head,
        "folder": str(done.folder), "waiting": done.waiting, "range_diff": list(done.range_diff),
        "next": _next(done.folder) if done.waiting else [],
    }  # fmt: skip
    text = _plan_text(root, done.plan)
    if done.waiting:
        text += f"\n{_waiting_text(done.folder, done.waiting)}"
    else:
        branch = done.plan.ref.removeprefix("refs/heads/")
        text += f"\nbranch {branch} is at {done.head}{_rows(done.range_diff)}"
    out.result(document, text, str(done.folder) if done.waiting else str(done.head))
    if done.waiting:
        raise typer.Exit(ConflictError.exit_code)


def continue_(
    tree: TreeArg = Path(),
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Go on with a rebase after a conflict was resolved.

    In TREE or in the tree that waits. What plain `git am --continue` did meanwhile
    is seen. At the end the resolved patches are written as alternatives.

    \b
    Examples:
      tqconvert ollama-build continue ../llama.cpp
      tqconvert ollama-build continue --json

    \b
    Writes: the git repository, patch files.
    -q prints the commit, or the folder that waits.
    Exit codes: 0 done, 3 the next conflict waits, or something is unresolved, 6
    no rebase waits, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.patches.change.rebase_end import go_on
    from tqconvert.patches.change.repository import require_repository

    repo = require_repository(tree.expanduser().absolute(), os.environ)
    _end(Output("ollama-build.continue", json=json, quiet=quiet), go_on(repo, os.environ))


def skip(
    tree: TreeArg = Path(),
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why the patch is left out.")
    ] = "",
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Leave out the patch at which a rebase waits, and record why.

    Its file and its line of the series stay, for other bases.

    \b
    Examples:
      tqconvert ollama-build skip --reason "upstream has it since b8390"
      tqconvert ollama-build skip ../llama.cpp --reason "not needed" --json

    \b
    Writes: the git repository, patch files at the end.
    -q prints the commit, or the folder that waits.
    Exit codes: 0 done, 2 no reason, 3 the next conflict waits, 6 no rebase
    waits, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.patches.change.rebase_end import skip as leave_out
    from tqconvert.patches.change.repository import require_repository

    repo = require_repository(tree.expanduser().absolute(), os.environ)
    _end(Output("ollama-build.skip", json=json, quiet=quiet), leave_out(repo, os.environ, reason))


def _end(out: Output, done: "Ended") -> None:
    from tqconvert.errors import ConflictError

    document = {
        "folder": str(done.folder), "branch": done.branch, "head": done.head,
        "waiting": done.waiting, "files": [str(f) for f in done.files],
        "dropped": [{"name": n, "reason": r} for n, r in done.dropped.items()],
        "range_diff": list(done.range_diff), "next": _next(done.folder) if done.waiting else [],
    }  # fmt: skip
    if done.waiting:
        out.result(document, _waiting_text(done.folder, done.waiting), str(done.folder))
        raise typer.Exit(ConflictError.exit_code)
    text = f"branch {done.branch} is at {done.head}{_rows(done.range_diff)}"
    text += "".join(f"\nleft out: {n} ({r})" for n, r in done.dropped.items())
    text += "".join(f"\nwrote {f}" for f in done.files)
    out.result(document, text, str(done.head))


def _next(folder: Path) -> list[str]:
    return [
        f"tqconvert ollama-build {verb} {folder}"
        for verb in ("continue", "skip --reason TEXT", "abort")
    ]


def _waiting_text(folder: Path, patch: str) -> str:
    steps = "\n".join(f"  {row}" for row in _next(folder))
    return f'"{patch}" conflicts in {folder}: edit, git add, then one of\n{steps}'


def _rows(rows: "Sequence[str]") -> str:
    return "".join(f"\n  {row}" for row in rows)


def _plan_json(root: Path, plan: "RebasePlan") -> dict[str, Any]:
    return {
        "tree": str(root), "generation": plan.base.queue.checkout.generation.value,
        "onto": {"name": plan.base.name, "commit": plan.base.commit},
        "branch": plan.ref.removeprefix("refs/heads/"),
        "there": [s.name for s in plan.stacked.there],
        "patches": [
            {"name": f.patch.name.removesuffix(".patch"), "origin": f.step.origin.value,
             "verdict": f.fit.value, "left_out": list(f.left_out)} for f in plan.stacked.fits
        ],
        "conflicts": conflicts_json(plan.stacked.conflicts),
    }  # fmt: skip


def _plan_text(root: Path, plan: "RebasePlan") -> str:
    fits, conflicts = plan.stacked.fits, plan.stacked.conflicts
    counts: dict[str, int] = {}
    for fit in fits:
        counts[fit.fit.value] = counts.get(fit.fit.value, 0) + 1
    summary = ", ".join(f"{n} {what}" for what, n in counts.items())
    text = f"{root}: {counted(len(fits))} onto {plan.base.name} ({plan.base.commit[:9]}): {summary}"
    return f"{text}\n{table(conflict_rows(conflicts), indent=2)}" if conflicts else text


COMMANDS = (rebase, continue_, skip, abort)
