"""`tqconvert verify`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from tqconvert.cli.options import JsonOpt, ModelArg, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table, types_text
from tqconvert.units import format_bytes

if TYPE_CHECKING:
    from tqconvert.store.verify import Report


def verify(
    model: ModelArg,
    store: StoreOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Hash every blob of a model again and check every GGUF; or check one GGUF file.

    Looks at sizes, digests, media types, JSON and text layers, GGUF bounds and the tag page. Of a
    tagged model it proves that nothing but the tag page differs from the model that was pulled. All
    problems are reported at once.

    \b
    Examples:
      tqconvert verify qwen3.5:27b-tq
      tqconvert verify ./model.gguf --json

    Writes: nothing.

    Exit codes: 0 sound, 4 a problem was found, 5 no such file or model.
    """
    from tqconvert.models import find_file, find_name
    from tqconvert.store.layout import Store
    from tqconvert.store.verify import verify_file, verify_model

    out = Output("verify", json=as_json, quiet=quiet)
    progress = out.progress()
    if file := find_file(model):
        report = verify_file(file.path, progress)
    else:
        at = Store(settings(store=store).store)
        report = verify_model(at, find_name(model, at), progress)
    out.result(_verify_document(report), _verify_text(report), str(report.digest))
    if report.problems:
        raise typer.Exit(4)


def _verify_document(report: "Report") -> Mapping[str, Any]:
    tags = report.tags
    return {
        "subject": report.subject,
        "ok": not report.problems,
        "digest": str(report.digest),
        "bytes": report.size,
        "source": str(report.source) if report.source else None,
        "tags": None if tags is None else {
            "type_k": tags.type_k, "type_v": tags.type_v, "balance": tags.balance,
            "measured": tags.measured, "tool": tags.tool,
        },
        "checks": [
            {"subject": c.subject, "check": c.check, "ok": c.ok, "detail": c.detail}
            for c in report.checks
        ],
    }  # fmt: skip


def _verify_text(report: "Report") -> str:
    rows = []
    for subject in dict.fromkeys(c.subject for c in report.checks):
        checks = [c for c in report.checks if c.subject == subject]
        good = ", ".join(c.check for c in checks if c.ok)
        if all(c.ok for c in checks):
            rows.append(("ok", subject, good))
        rows += [("BAD", subject, f"{c.check}: {c.detail}") for c in checks if not c.ok]
    lines = [table(rows, indent=2)] if rows else []
    facts = [c.detail for c in report.checks if c.ok and c.check in ("gguf", "source")]
    lines += [f"  {fact}" for fact in facts]
    if report.tags is not None:
        k, v = types_text(report.tags.type_k), types_text(report.tags.type_v)
        state = "measured" if report.tags.measured else "unmeasured"
        lines.append(f"  tags: K {k}, V {v}, {state}")
    if report.source is not None:
        lines.append(f"  before tagging: {report.source}")
    n = len(report.problems)
    verdict = f"{n} problem{'s' if n > 1 else ''}" if n else "sound"
    return "\n".join(
        [f"{report.subject}: {verdict} ({report.digest}), {format_bytes(report.size)}", *lines]
    )
