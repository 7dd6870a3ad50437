"""`metal check`: every kernel compiled for this CPU, and run where NumPy knows the answer."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.metal.options import given_or_patched
from tqconvert.cli.options import JsonOpt, QuietOpt, settings
from tqconvert.cli.output import Output
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.metal.check.engine import CaseResult, Report


def check(
    tree: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TREE]",
            help="A folder ggml-metal, or a tree that holds one.",
            show_default="the pinned llama.cpp, patched",
        ),
    ] = None,
    kernels: Annotated[
        str,
        typer.Option("--kernels", metavar="REGEX", help="Only kernels whose names it finds."),
    ] = "",
    checked: Annotated[
        bool,
        typer.Option(
            "--checked/--plain", help="Check every memory access, or run plain code and compare."
        ),
    ] = True,
    fast_math: Annotated[
        bool,
        typer.Option("--fast-math", help="Let float arithmetic be reordered, as Metal may."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, help="At once.", show_default="processors"
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Compile a tree's Metal kernels for this CPU, run them, compare with NumPy.

    Every .metal file is compiled as it is, with clang or the package ziglang.
    Kernels that a case is written for run with threads, simdgroups and barriers
    as on a GPU; accesses out of bounds, races, missing barriers, memory that is
    read before it is written and division by zero are told with their line.
    Defects that upstream is known to have are named and do not fail the check;
    kernels without a case are counted: they compile, and more is not known.

    \b
    Examples:
      tqconvert metal check --kernels turbo
      tqconvert metal check ../ollama --kernels flash_attn --json

    \b
    Writes: the user's cache.
    -q prints the kernels that failed, one a line.
    Exit codes: 0 all that ran is right, 1 a kernel is wrong, does not compile,
    or none ran, 2 usage, 5 no Metal folder, 8 no compiler, 11 network.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.metal.build import Workshop
    from tqconvert.metal.check import engine
    from tqconvert.metal.check.tree import open_tree
    from tqconvert.metal.compiler import find_compiler

    try:
        re.compile(kernels)
    except re.error as e:
        raise UsageError(f"--kernels {kernels!r}: {e}") from e
    out = Output("metal.check", json=json, quiet=quiet)
    found = open_tree(given_or_patched(tree, out.note))
    workshop = Workshop(find_compiler(os.environ), settings().cache / "metal", os.environ)
    steps = out.steps("metal check")
    try:
        report = engine.check(
            found, workshop, kernels=kernels, checked=checked, fast_math=fast_math,
            jobs=jobs or os.cpu_count() or 1, steps=steps,
        )  # fmt: skip
    finally:
        steps.finish()
    failed = sorted({k for c in report.cases if c.problem for k in c.kernels})
    head = {
        "tree": str(found.folder),
        "compiler": workshop.compiler.version,
        "checked": checked,
        "fast_math": fast_math,
    }
    text = _text(report)
    if not report.kernels and kernels and not any(u.error for u in report.units):
        text += f"\nno kernel has a name that --kernels {kernels!r} finds"
    out.result({**head, **_document(report)}, text, failed)
    if report.failed:
        raise typer.Exit(1)


def _document(report: "Report") -> dict[str, Any]:
    """The report as JSON."""
    return {
        "ok": not report.failed,
        "counts": {
            "files": len(report.units), "kernels": len(report.kernels), "run": len(report.run),
            "functions": report.families(report.kernels),
            "functions_run": report.families(report.run), "cases": len(report.cases),
            "passed": sum(c.passed for c in report.cases),
            "known": sum(c.known for c in report.cases),
            "failed": sum(bool(c.problem) for c in report.cases),
        },
        "files": [
            {"file": str(u.file), "kernels": len(u.kernels), "error": u.error or None}
            for u in report.units
        ],
        "cases": [c.to_json() for c in report.cases],
        "not_covered": list(report.not_covered),
        "not_run": list(report.not_run),
    }  # fmt: skip


def _text(report: "Report") -> str:
    """The report for people."""
    broken = [u for u in report.units if u.error]
    lines = [line for u in broken for line in u.error.splitlines()]
    lines += [f"{c.title}: {c.problem}" for c in report.cases if c.problem]
    lines += [f"known: {text}" for text in _known(report.cases)]
    compiled = f"{len(report.units) - len(broken)} of {len(report.units)} files compile"
    lines.append(f"{compiled}, {len(report.kernels)} kernels")
    counts = Counter(
        "passed" if c.passed else "known" if c.known else "failed" for c in report.cases
    )
    lines.append(
        f"{len(report.cases)} cases over {len(report.run)} kernels: {counts['passed']} passed, "
        f"{counts['known']} with known defects of upstream, {counts['failed']} failed"
    )
    if report.not_covered:
        lines.append(f"{len(report.not_covered)} kernels have no case: compiled, not run")
    if report.not_run and not report.cases:
        lines += report.not_run
    elif report.not_run:
        lines.append(f"{len(report.not_run)} cases do not fit this tree (--json tells which)")
    return "\n".join(lines)


def _known(cases: "tuple[CaseResult, ...]") -> list[str]:
    """What is known to be wrong, each with its first place and how many cases meet it."""
    from tqconvert.metal.check.known import known

    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    for case in cases:
        for why in {k.why for f in case.findings if (k := known(f))}:
            count[why] += 1
        for f in case.findings:
            if k := known(f):
                first.setdefault(k.why, f"{Path(f.file).name}:{f.line}: {f.kind}")
    return [f"{place}: {why} ({count[why]} cases)" for why, place in first.items()]


COMMANDS: tuple[Callable[..., None], ...] = (check,)
