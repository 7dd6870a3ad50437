"""`ollama-build edit`, `refresh`, `import` and `export`: patches changed, made and compared."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.ollama_build.change import conflict_rows, conflicts_json, counted
from tqconvert.cli.ollama_build.options import (
    OllamaOpt,
    PatchesOpt,
    TreeArg,
    open_for_writing,
    open_queue,
    patches_folder,
)
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output, table

if TYPE_CHECKING:
    from tqconvert.patches.change.stack import Conflict

TreeOpt = Annotated[
    Path, typer.Option("--tree", metavar="DIR", help="The tree that the patches are applied to.")
]


def edit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The patch to change.")],
    tree: TreeOpt = Path(),
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Check an applied patch out, to change it where it stands.

    The tree goes to the commit of that patch, on a branch of its own. Change files,
    then `refresh` takes the change into the patch and puts the later ones on again;
    `abort` leaves without.

    \b
    Examples:
      tqconvert ollama-build edit ggml-cpu --tree ../ollama
      tqconvert ollama-build edit ggml-cpu --json

    \b
    Writes: the tree, its git repository.
    -q prints the commit.
    Exit codes: 0 checked out, 5 no such patch, 6 edits in the way or nothing
    applied, 7 locked, 8 no git, 9 disk.
    """
    from tqconvert.patches.change.edit import edit as check_out
    from tqconvert.patches.change.repository import require_repository

    out = Output("ollama-build.edit", json=json, quiet=quiet)
    root = tree.expanduser().absolute()
    done = check_out(require_repository(root, os.environ), name)
    if done.recovered:
        out.note(done.recovered)
    document = {
        "tree": str(root), "patch": done.patch, "head": done.head.oid, "branch": done.head.name,
        "above": done.above, "recovered": done.recovered,
        "next": ["tqconvert ollama-build refresh", "tqconvert ollama-build abort"],
    }  # fmt: skip
    text = f"{root}: {done.patch} is checked out, {counted(done.above)} above it off\n  then: refresh, or abort"
    out.result(document, text, done.head.oid)


def refresh(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The patch; the last one at HEAD.")
    ] = None,
    tree: TreeOpt = Path(),
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take the changes in the tree into a patch, and put the later ones on again.

    What is not committed goes into NAME, commits `fixup! SUBJECT` into the patch of
    that subject, changes of new files of ours into these files. Only patch files
    whose change is another are written; headers stay, and so does every other byte.

    \b
    Examples:
      tqconvert ollama-build refresh --tree ../ollama
      tqconvert ollama-build refresh ggml-cpu --patches ./ollama_patches

    \b
    Writes: patch files, the tree's git repository.
    -q prints the patch files that were written.
    Exit codes: 0 taken in, or nothing was changed, 3 a later patch does not go
    on, nothing was written, 5 no such tree, 6 the change does not fit, 7
    locked, 8 no git, 9 disk.
    """
    from tqconvert.errors import ConflictError
    from tqconvert.patches.change.refresh import refresh as take_in
    from tqconvert.patches.change.repository import require_repository

    out = Output("ollama-build.refresh", json=json, quiet=quiet)
    queue, recovered = open_for_writing(tree, ollama, patches, out)
    root = queue.checkout.root
    done = take_in(require_repository(root, os.environ), queue, patches_folder(patches), name)
    document = {
        "tree": str(root), "head": done.head.oid, "branch": done.head.name,
        "patches": list(done.patches), "files": [str(f) for f in done.files],
        "conflicts": conflicts_json(done.conflicts), "recovered": recovered,
    }  # fmt: skip
    text = f"{root}: nothing to take in"
    if done.patches:
        text = f"{root}: changed {', '.join(done.patches)}"
        text += "".join(f"\n  wrote {f}" for f in done.files)
    if done.conflicts:
        text = _conflict_text(root, done.conflicts)
    out.result(document, text, [str(f) for f in done.files])
    if done.conflicts:
        raise typer.Exit(ConflictError.exit_code)


def import_(
    source: Annotated[str, typer.Argument(metavar="FILE|COMMIT", help="The patch to take in.")],
    tree: TreeOpt = Path(),
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What to call it; from its subject.")
    ] = None,
    why: Annotated[
        str | None, typer.Option("--why", metavar="TEXT", help="What it is for; from its message.")
    ] = None,
    kept: Annotated[
        str, typer.Option("--kept", metavar="KIND", help="temporary, build or feature.")
    ] = "feature",
    after: Annotated[
        str | None, typer.Option("--after", metavar="NAME", help="Behind this patch, not the last.")
    ] = None,
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take a patch from elsewhere into our series, under our header.

    It must go on without fuzz, and the patches behind it after it; its diff is
    written anew with one line of context and full ids. Where it comes from is kept:
    a commit's id, or author and sha256 of the file. `apply` then puts it on.

    \b
    Examples:
      tqconvert ollama-build import 0001-fix.patch --tree ../llama.cpp
      tqconvert ollama-build import 1a2b3c4 --as rope-fix --kept temporary

    \b
    Writes: a patch file and the series.
    -q prints the patch file.
    Exit codes: 0 taken in, 2 usage, 3 it does not go on, or a later patch does
    not, 4 not a text diff, 5 no such file or commit, 6 the name is taken, 7
    locked, 8 no git, 9 disk.
    """
    from tqconvert.errors import ConflictError
    from tqconvert.patches.change.import_patch import Wish, import_patch
    from tqconvert.patches.change.repository import require_repository

    out = Output("ollama-build.import", json=json, quiet=quiet)
    queue, _ = open_for_writing(tree, ollama, patches, out)
    repo = require_repository(queue.checkout.root, os.environ)
    wish = Wish(name, why, kept, after)
    done = import_patch(repo, queue, patches_folder(patches), source, wish)
    document = {
        "patch": str(done.path), "sha256": done.sha256 or None, "series": str(done.series),
        "offsets": done.offsets, "conflicts": conflicts_json(done.conflicts),
        "next": [] if done.conflicts else ["tqconvert ollama-build apply"],
    }  # fmt: skip
    moved = f", {counted(done.offsets, 'hunk')} at an offset" if done.offsets else ""
    text = f"wrote {done.path}{moved}\n  sha256 {done.sha256}, in {done.series}"
    if done.conflicts:
        text = _conflict_text(queue.checkout.root, done.conflicts)
    out.result(document, text, str(done.path))
    if done.conflicts:
        raise typer.Exit(ConflictError.exit_code)


def export(
    tree: TreeArg = Path(),
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; leave with 1 where something differs.")
    ] = False,
    ollama: OllamaOpt = None,
    patches: PatchesOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write the patch files whose commits were edited with git, or list them.

    For who prefers `git commit --amend` and `git rebase -i` on our branch: the
    commits keep their TQ-Patch trailer, and their content becomes the patch.

    \b
    Examples:
      tqconvert ollama-build export ../ollama --patches ./ollama_patches
      tqconvert ollama-build export ../ollama --check

    \b
    Writes: patch files, the tree's git repository; nothing with --check.
    -q prints the patch files that were written, with --check the patches.
    Exit codes: 0 nothing differs, or written, 1 --check found a difference, 5
    no such tree, 6 nothing applied, or a commit that is no patch, 7 locked, 8
    no git, 9 disk.
    """
    from tqconvert.patches.change.export import check_export
    from tqconvert.patches.change.export import export as write
    from tqconvert.patches.change.repository import require_repository

    out = Output("ollama-build.export", json=json, quiet=quiet)
    queue = (
        open_queue(tree, ollama, patches)
        if check
        else open_for_writing(tree, ollama, patches, out)[0]
    )
    root = queue.checkout.root
    repo = require_repository(root, os.environ)
    done = check_export(repo, queue) if check else write(repo, queue, patches_folder(patches))
    document = {
        "tree": str(root), "check": check, "head": done.head.oid, "patches": list(done.patches),
        "drift": [d._asdict() for d in done.drift], "files": [str(f) for f in done.files],
    }  # fmt: skip
    text = f"{root}: {counted(len(done.patches))} compared, none differs"
    if done.drift:
        rows = table([[d.name, d.what] for d in done.drift], indent=2)
        text = f"{root}: {len(done.drift)} of {counted(len(done.patches))} differ\n{rows}"
        text += "".join(f"\n  wrote {f}" for f in done.files)
    out.result(document, text, [d.name for d in done.drift] if check else map(str, done.files))
    if check and done.drift:
        raise typer.Exit(1)


def _conflict_text(root: Path, conflicts: "tuple[Conflict, ...]") -> str:
    rows = table(conflict_rows(conflicts), indent=2)
    return f"{root}: then {counted(len(conflicts))} would not go on\n{rows}\nnothing was written"


COMMANDS = (edit, refresh, import_, export)
