"""`metal names` and `metal lint`: what can be said of kernels without compiling them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tqconvert.cli.metal.options import given_or_patched
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output


def names(
    tree: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TREE]",
            help="A llama.cpp or legacy Ollama source tree.",
            show_default="the pinned llama.cpp, patched",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Prove that host code and Metal kernels of a tree agree.

    Every pipeline name that the host can form has a kernel; what a launch binds
    is what the kernel takes; function constants get values of their type.
    Nothing is compiled.

    \b
    Examples:
      tqconvert metal names ../llama.cpp
      tqconvert metal names ../ollama --json

    \b
    Writes: the cache, where TREE is not given.
    -q prints code, file and line of each finding.
    Exit codes: 0 nothing found but notes, 1 findings, 2 usage, 5 no Metal there,
    11 network.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.metal.names import check_names

    out = Output("metal.names", json=json, quiet=quiet)
    report = check_names(given_or_patched(tree, out.note))
    counts = {
        "kernels": report.kernels, "formats": report.formats, "expected": report.expected,
        "missing": sum(f.code == "MN101" for f in report.findings),
        "tuning_rows": report.tuning_rows, "launches": report.launches,
    }  # fmt: skip
    document = {
        "tree": str(report.tree.folder), "ok": report.ok, "counts": counts,
        "findings": [f.as_json() for f in report.findings], "not_covered": list(report.not_covered),
    }  # fmt: skip
    lines = [str(f) for f in report.findings]
    verdict = "ok" if report.ok else "faulty"
    lines.append(
        f"{report.tree.folder}: {verdict}, {report.kernels} kernels, {report.formats} forms of name, "
        f"{report.launches} launches; of {report.expected} names expected {counts['missing']} missing"
    )
    lines += [f"  not looked at: {text}" for text in report.not_covered]
    out.result(document, "\n".join(lines), [f"{f.code} {f.path} {f.line}" for f in report.findings])
    if not report.ok:
        raise typer.Exit(1)


def lint(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Default: tqconvert's own kernels.")
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Look for what Metal does not take, and other compilers do.

    Address spaces on pointers and references, words that Metal does not have,
    recursion, variables of the program, newer names, threadgroup arrays. Each
    finding has a code: docs/metal.md. Notes do not make it fail.

    \b
    Examples:
      tqconvert metal lint
      tqconvert metal lint ../llama.cpp/ggml/src/ggml-metal/kernels --json

    \b
    Writes: nothing.
    -q prints code, file and line of each finding.
    Exit codes: 0 nothing found but notes, 1 findings or nothing to look at,
      2 usage, 5 no such folder.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.metal.lint import lint as lint_folder
    from tqconvert.patches.kernels import find_kernels
    from tqconvert.patches.series import find_patches

    place = folder.expanduser().absolute() if folder else find_kernels(find_patches())
    report = lint_folder(place or Path("metal"))
    document = {
        "folder": str(place), "ok": report.ok, "files": [p.name for p in report.files],
        "findings": [f.as_json() for f in report.findings],
        "not_covered": ["address spaces as parts of types", "everything else that a compiler checks"],
    }  # fmt: skip
    lines = [str(f) for f in report.findings]
    lines.append(f"{place}: {'ok' if report.ok else 'faulty'}, {len(report.files)} files")
    lines.append("  not looked at: address spaces as parts of types; a compiler does more")
    out = Output("metal.lint", json=json, quiet=quiet)
    out.result(document, "\n".join(lines), [f"{f.code} {f.path} {f.line}" for f in report.findings])
    if not report.ok:
        raise typer.Exit(1)


COMMANDS: tuple[Callable[..., None], ...] = (names, lint)
