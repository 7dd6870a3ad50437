"""`ollama-build lint`, `watch` and `bisect-base`: checks of the patches themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tqconvert.cli.ollama_build.onto import bisect_base
from tqconvert.cli.ollama_build.options import patches_folder
from tqconvert.cli.ollama_build.watch import watch
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output


def lint(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Default: tqconvert's own patches.")
    ] = None,
    ollama: Annotated[
        Path | None,
        typer.Option(
            "--ollama", metavar="DIR", help="A v0.17.1 to v0.24.0 tree, whose filters count."
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Check patches, series, new files and locks; print all findings.

    Each has a code: docs/patch-queue.md. Notes do not make it fail; that there is
    nothing to look at does.

    \b
    Examples:
      tqconvert ollama-build lint
      tqconvert ollama-build lint my-patches --ollama ../ollama --json

    \b
    Writes: nothing.
    -q prints code, file and line of each finding.
    Exit codes: 0 nothing found but notes, 1 findings, 2 usage, 5 no such folder.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.checkout import find_checkout
    from tqconvert.patches.lint import lint as lint_folder

    layout = find_checkout(ollama.expanduser()).layout if ollama else None
    place = patches_folder(folder)
    found = lint_folder(place, layout)
    counts = {
        "series": found.series, "patches": found.patches, "new_files": found.new_files,
        "locks": found.locks,
    }  # fmt: skip
    document = {
        "folder": str(place), "ok": found.ok, "looked_at": counts,
        "findings": [f.as_json() for f in found.findings], "not_covered": list(found.not_covered),
    }  # fmt: skip
    looked = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items())
    lines = [str(f) for f in found.findings]
    lines.append(f"{place}: {'ok' if found.ok else 'faulty'}, {looked}")
    lines += [f"  not looked at: {text}" for text in found.not_covered]
    out = Output("ollama-build.lint", json=json, quiet=quiet)
    out.result(document, "\n".join(lines), [f"{f.code} {f.path} {f.line}" for f in found.findings])
    if not found.ok:
        raise typer.Exit(1)


COMMANDS: tuple[Callable[..., None], ...] = (lint, watch, bisect_base)
