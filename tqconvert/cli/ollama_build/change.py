"""`ollama-build apply`, `unapply` and `abort`: patches put on a tree and taken off."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.ollama_build.options import (
    GgmlOnlyOpt,
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

    from tqconvert.patches.change.apply_queue import ApplyPlan
    from tqconvert.patches.change.stack import Conflict
    from tqconvert.patches.queue import Queue


def apply(
    tree: TreeArg = Path(),
    to: Annotated[
        str | None, typer.Option("--to", metavar="NAME", help="Up to this patch, not all.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="Branch to put them on.")
    ] = None,
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    ggml_only: GgmlOnlyOpt = False,
    init: Annotated[
        bool, typer.Option("--init", help="Make a git repository of a plain tree first.")
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Put the patches on a tree, one commit each, on a branch of their own.

    Everything is computed in memory first: where a patch does not go on, all
    conflicts are listed and nothing is written. The same patches on the same base
    give the same commits everywhere. What is applied already stays; with --to an
    earlier patch than the last one, those after it are taken off.

    An Ollama tree up to v0.24 holds Ollama's own patches, and ours come on top; on
    a llama.cpp tree --ollama puts Ollama's there first.

    \b
    Examples:
      tqconvert ollama-build apply ../ollama
      tqconvert ollama-build apply ../llama.cpp --ollama ../ollama --dry-run

    \b
    Writes: the tree, its git repository (branch tq/..., refs/tqconvert/...).
    -q prints the commit.
    Exit codes: 0 applied or there already, 2 usage, 3 a patch of ours does not go
    on, 4 bad patch, 5 no such tree, patch or base, 6 edits in the way, no git
    repository, or another operation under way, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.errors import UnknownBaseError
    from tqconvert.patches.change.apply_queue import apply_queue, plan_apply
    from tqconvert.patches.change.repository import Blobs, require_repository

    out = Output("ollama-build.apply", json=json, quiet=quiet)
    recovered = None
    if dry_run:
        queue = open_queue(tree, ollama, patches, ggml_only=ggml_only)
    else:
        queue, recovered = open_for_writing(tree, ollama, patches, out, ggml_only=ggml_only)
    root = queue.checkout.root
    if init:
        from tqconvert.patches.change.make_repository import make_repository

        if dry_run and not (root / ".git").exists():
            out.result({"dry_run": True, "tree": str(root)}, f"would make {root} a repository")
            return
        if make_repository(root, os.environ):
            out.note(f"{root}: a git repository now")
    repo = require_repository(root, os.environ)
    if dry_run:
        with Blobs(repo.git) as blobs:
            plan = plan_apply(repo, queue, blobs, to=to, branch=branch)
        head = plan.now.work.head.oid
    else:
        done = apply_queue(repo, queue, to=to, branch=branch)
        plan, head = done.plan, done.head.oid
    conflicts = plan.stacked.conflicts
    document = {
        **_about(queue), "dry_run": dry_run, "base": {"commit": plan.now.chain.base},
        "branch": plan.ref.removeprefix("refs/heads/"), "head": head,
        "done": plan.done and not dry_run, "recovered": recovered, "files": sorted(plan.changes),
        "there": [s.name for s in plan.stacked.there],
        "patches": [
            {"name": f.patch.name.removesuffix(".patch"), "origin": f.step.origin.value,
             "verdict": f.fit.value, "left_out": list(f.left_out)} for f in plan.stacked.fits
        ],
        "conflicts": conflicts_json(conflicts), "next": _next(root, plan, dry_run=dry_run),
    }  # fmt: skip
    text = _text(queue, plan, head, dry_run=dry_run)
    code = conflict_code(conflicts)
    if code == UnknownBaseError.exit_code and queue.source:
        from tqconvert.patches.locks.origin import made_for

        known = made_for(patches_folder(patches), queue.source)
        document["patches_are"] = known
        text += f"\nanother base than Ollama's patches have: they are {known}"
    out.result(document, text, head)
    if code:
        raise typer.Exit(code)


def unapply(
    tree: TreeArg = Path(),
    backup: Annotated[
        bool,
        typer.Option("--backup", help="Save edits on top in a ref, and take off all the same."),
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take the patches off a tree again, back to the commit that they stand on.

    Only what `apply` made is taken off. Commits or changes on top of it are
    refused; --backup saves them in refs/tqconvert/backup first.

    \b
    Examples:
      tqconvert ollama-build unapply ../ollama
      tqconvert ollama-build unapply ../ollama --backup --json

    \b
    Writes: the tree, its git repository.
    -q prints the commit.
    Exit codes: 0 taken off, or nothing was on, 5 no such tree, 6 edits on top or
    another operation under way, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.patches.change.repository import require_repository
    from tqconvert.patches.change.unapply import unapply as take_off

    out = Output("ollama-build.unapply", json=json, quiet=quiet)
    root = tree.expanduser().absolute()
    done = take_off(require_repository(root, os.environ), backup=backup)
    if done.recovered:
        out.note(done.recovered)
    document = {
        "tree": str(root), "head": done.head.oid, "branch": done.head.name if done.head.ref else None,
        "patches": list(done.patches), "backup": done.backup, "recovered": done.recovered,
    }  # fmt: skip
    text = f"{root}: nothing of tqconvert's is applied"
    if done.patches:
        text = f"{root}: {counted(len(done.patches))} taken off, on {done.head.name} again"
    if done.backup:
        text += f"\n  edits are in {done.backup}"
    out.result(document, text, done.head.oid)


def abort(
    tree: TreeArg = Path(),
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take back the operation under way, whatever state it is in.

    After an interruption, a kill or a full disk: the tree, branch and patch files
    are as they were before the command. A rebase that waits for you is given up.

    \b
    Examples:
      tqconvert ollama-build abort ../ollama
      tqconvert ollama-build abort ../ollama --json

    \b
    Writes: the tree, its git repository, patch files.
    -q prints the commit.
    Exit codes: 0 taken back, or nothing was under way, 5 no such tree, 6 HEAD was
    moved by hand since, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.patches.change.abort import abort as give_up
    from tqconvert.patches.change.repository import require_repository

    out = Output("ollama-build.abort", json=json, quiet=quiet)
    root = tree.expanduser().absolute()
    done = give_up(require_repository(root, os.environ), os.environ)
    document = {
        "tree": str(root),
        "head": done.head.oid,
        "aborted": done.what,
        "backup": done.backup,
    }
    text = f"{root}: {done.what or 'nothing was under way'}"
    if done.backup:
        text += f"\n  what you had done is in {done.backup}"
    out.result(document, text, done.head.oid)


def counted(number: int, what: str = "patch") -> str:
    """`1 patch`, `2 patches`."""
    plural = "es" if what.endswith("ch") else "s"
    return f"{number} {what}{'' if number == 1 else plural}"


def conflict_code(conflicts: "Sequence[Conflict]") -> int:
    """0 without any; 5 where Ollama's own do not go on, as the base is another; 3 for ours alone."""
    from tqconvert.errors import ConflictError, UnknownBaseError
    from tqconvert.patches.queue import Origin

    if not conflicts:
        return 0
    of_ollama = any(c.step.origin is Origin.OLLAMA for c in conflicts)
    return UnknownBaseError.exit_code if of_ollama else ConflictError.exit_code


def conflict_rows(conflicts: "Sequence[Conflict]") -> list[list[str]]:
    """One row a file that does not take its patch."""
    rows = []
    for conflict in conflicts:
        why = "conflict"
        if conflict.blocked_by:
            # Ollama's have numbers, which are enough.
            names = (n.partition("-")[0] if n[:4].isdigit() else n for n in conflict.blocked_by)
            why = f"after {', '.join(names)}"
        name = conflict.step.name
        for path, hunks, reason in conflict.files:
            where = reason or f"hunk {', '.join(map(str, hunks))}"
            rows.append([name, why, f"{path}: {where}"])
            name = why = ""
    return rows


def conflicts_json(conflicts: "Sequence[Conflict]") -> list[dict[str, Any]]:
    """The conflicts of a document."""
    return [_conflict(c) for c in conflicts]


def _conflict(conflict: "Conflict") -> dict[str, Any]:
    files = [{"path": p, "hunks": list(h), "reason": r} for p, h, r in conflict.files]
    return {"name": conflict.step.name, "origin": conflict.step.origin.value, "files": files,
            "blocked_by": list(conflict.blocked_by)}  # fmt: skip


def _about(queue: "Queue") -> dict[str, Any]:
    checkout = queue.checkout
    return {"tree": str(checkout.root), "generation": checkout.generation.value,
            "made_for": checkout.base}  # fmt: skip


def _next(root: Path, plan: "ApplyPlan", *, dry_run: bool) -> list[str]:
    if plan.stacked.conflicts:
        verbs = ["status", "rebase"]
    elif dry_run:
        verbs = [] if plan.done else ["apply"]
    else:
        verbs = ["unapply"]
    return [f"tqconvert ollama-build {verb} {root}" for verb in verbs]


def _text(queue: "Queue", plan: "ApplyPlan", head: str, *, dry_run: bool) -> str:
    from tqconvert.patches.queue import Origin
    from tqconvert.patches.walk import Fit

    root, stacked = queue.checkout.root, plan.stacked
    if stacked.conflicts:
        rows = table(conflict_rows(stacked.conflicts), indent=2)
        count = len(stacked.conflicts)
        return f"{root}: {count} of {counted(len(stacked.fits))} do not go on\n{rows}\nnothing was changed"
    fits = [f for f in stacked.fits if f.fit is not Fit.NOTHING]
    theirs = sum(f.step.origin is Origin.OLLAMA for f in fits)
    parts = [f"{theirs} of Ollama's"] if theirs else []
    parts.append(f"{len(fits) - theirs} of tqconvert's")
    moved = sum(f.fit is Fit.OFFSET for f in fits)
    if moved:
        parts.append(f"{moved} at an offset")
    branch = plan.ref.removeprefix("refs/heads/")
    if plan.done:
        return f"{root}: applied already ({', '.join(parts)})"
    verb = "would be applied" if dry_run else "applied"
    where = f"branch {branch}" if dry_run else f"branch {branch}, commit {head[:12]}"
    return f"{root}: {counted(len(fits))} {verb}, {counted(len(plan.changes), 'file')}\n  {', '.join(parts)}; {where}"


COMMANDS = (apply, unapply)
