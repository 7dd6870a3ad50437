"""`ollama-build status --onto` and `bisect-base`: the queue on another llama.cpp."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.ollama_build.options import (
    GgmlOnlyOpt,
    OllamaOpt,
    PatchesOpt,
    open_queue,
    patches_folder,
)
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output, table
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.patches.bases.onto import Tried
    from tqconvert.patches.bases.trial import Trial
    from tqconvert.patches.queue import Queue

GitOpt = Annotated[
    Path | None,
    typer.Option("--git", metavar="DIR", help="The repository of what --onto names, bare or not."),
]


def status_onto(
    queue: "Queue", folder: Path, name: str, out: Output, *, repository: Path | None, deep: bool,
    ggml_only: bool,
) -> None:  # fmt: skip
    """Print how the queue goes onto `name`; leave with 1 if a patch does not go on as it is."""
    from tqconvert.patches.bases.target import open_target
    from tqconvert.patches.bases.trial import try_onto
    from tqconvert.patches.checkout import Generation
    from tqconvert.patches.series import Scope

    env = dict(os.environ)
    given = repository.expanduser().absolute() if repository else None
    place = given or (queue.checkout.root if (queue.checkout.root / ".git").exists() else None)
    target = open_target(name, place, env)
    # The repository is of help for merges only if it is llama.cpp's.
    of_llama = target.generation is Generation.LLAMA_CPP and (given or target.commit)
    trial = try_onto(
        queue, folder, target, env, repository=place if of_llama else None, deep=deep,
        scope=Scope.GGML if ggml_only else None,
    )  # fmt: skip
    counts = [f"{count} {verdict}" for verdict, count in trial.counts.items()]
    out.result(_document(queue, trial), _text(queue, trial, counts), counts)
    if not trial.ok:
        raise typer.Exit(1)


def _document(queue: "Queue", trial: "Trial") -> dict[str, Any]:
    target = trial.target
    return {
        "generation": str(queue.checkout.generation),
        "tree": str(queue.checkout.root),
        "onto": {
            "name": target.name, "generation": str(target.generation),
            "commit": target.commit.id if target.commit else None,
        },
        "ok": trial.ok,
        "counts": trial.counts,
        "patches": [tried_document(t) for t in trial.tried],
        "not_covered": list(trial.not_covered),
    }  # fmt: skip


def tried_document(tried: "Tried") -> dict[str, Any]:
    """One verdict."""
    from tqconvert.patches.tree.ours import tq_id

    signs = tried.signs
    return {
        "name": tried.step.name, "patch": tried.patch.name, "id": tq_id(tried.patch),
        "origin": str(tried.step.origin), "verdict": str(tried.verdict), "evidence": tried.evidence,
        "offsets": list(tried.offsets),
        "clashes": [
            {"path": c.path, "hunks": list(c.hunks), "reason": c.reason, "conflicts": c.merged}
            for c in tried.clashes
        ],
        "blocked_by": list(tried.blocked_by),
        "landed": [
            {"path": f.path, "hunks": f.hunks, "present": list(f.present),
             "added_lines": f.lines, "found_lines": f.found}
            for f in (signs.files if signs else ()) if f.present or f.found
        ],
        "commits": [c._asdict() for c in tried.commits], "note": tried.note,
        "not_vendored": list(tried.left_out),
    }  # fmt: skip


def tried_table(tried: "tuple[Tried, ...]") -> str:
    """The verdicts that are not `clean`, a line each."""
    rows = [
        (t.patch.name.removesuffix(".patch"), str(t.verdict), t.evidence)
        for t in tried
        if t.note or t.verdict not in ("clean", "not-vendored")
    ]
    return table(rows, indent=2) if rows else ""


def _text(queue: "Queue", trial: "Trial", counts: list[str]) -> str:
    target = trial.target
    what = "llama.cpp" if target.generation == "llama.cpp" else f"Ollama ({target.generation})"
    commit = f", commit {target.commit.id[:9]}" if target.commit else ""
    lines = [
        f"{queue.checkout.root}: onto {target.name}, {what}{commit}",
        f"  {len(trial.tried)} patches: {', '.join(counts) or 'none'}",
        tried_table(trial.tried),
        *(f"  not looked at: {text}" for text in trial.not_covered),
    ]
    return "\n".join(line for line in lines if line)


def bisect_base(
    commits: Annotated[
        str, typer.Argument(metavar="OLD..NEW", help="Commits or tags of llama.cpp, OLD fits.")
    ],
    git: Annotated[Path, typer.Option("--git", metavar="DIR", help="A llama.cpp repository.")],
    tree: Annotated[
        Path, typer.Option("--tree", metavar="DIR", help="The tree whose queue it is.")
    ] = Path(),
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    ggml_only: GgmlOnlyOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Find the newest llama.cpp that all patches go onto as they are.

    Halves the commits between OLD and NEW, along first parents; patches are tried
    in memory. It takes for granted that what fails on one commit fails on later
    ones.

    \b
    Examples:
      tqconvert ollama-build bisect-base b7437..b9000 --git ../llama.cpp
      tqconvert ollama-build bisect-base b1..b9 --git ../lc --tree ../ollama

    \b
    Writes: nothing.
    -q prints the commit.
    Exit codes: 0 found, 1 they do not go onto OLD, 2 usage, 5 no such commit or
    tree, 8 git is missing.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.bases.bisect import bisect
    from tqconvert.patches.series import Scope

    old, dots, new = commits.partition("..")
    if not (old and dots and new) or new.startswith("."):
        raise UsageError(f"{commits}: expected OLD..NEW")
    queue = open_queue(tree, ollama, patches, ggml_only=ggml_only)
    found = bisect(
        queue, patches_folder(patches), git.expanduser(), (old, new), dict(os.environ),
        scope=Scope.GGML if ggml_only else None,
    )  # fmt: skip
    document = {
        "newest": found.newest, "subject": found.subject, "commits": found.commits,
        "tried": found.tried, "next": found.next, "failing": list(found.failing),
    }  # fmt: skip
    text = (
        f"{found.newest} {found.subject}\n  newest of {found.commits} commits, {found.tried} tried"
    )
    if found.next:
        text += f"\n  {found.next[:9]} ends it: {', '.join(found.failing)}"
    Output("ollama-build.bisect-base", json=json, quiet=quiet).result(document, text, found.newest)
