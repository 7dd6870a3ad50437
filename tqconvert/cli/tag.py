"""`tqconvert tag` and `tqconvert untag`."""

import json as jsonlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import (
    DryRunOpt,
    FileArg,
    JsonOpt,
    OutputOpt,
    QuietOpt,
    TypeKOpt,
    TypeVOpt,
    YesOpt,
    settings,
)
from tqconvert.cli.output import Output, types_text
from tqconvert.errors import NotFoundError, TqError, UsageError

if TYPE_CHECKING:
    from tqconvert.gguf.state import Found
    from tqconvert.gguf.tag import TagPlan, TagResult


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("tag")(tag)
    app.command("untag")(untag)


def tag(
    file: FileArg,
    type_k: TypeKOpt = None,
    type_v: TypeVOpt = None,
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON of the measurement that justifies the types."),
    ] = None,
    output: OutputOpt = None,
    yes: YesOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write KV-cache defaults into a GGUF, in milliseconds where the disk allows.

    Without types the policy of `tqconvert plan` chooses them. The file grows by
    one page at its start; its old bytes stay as they are, and `untag` gives them
    back. Of a model in shards any may be named; the first one changes.

    \b
    Examples:
      tqconvert tag model.gguf
      tqconvert tag model.gguf --type-k q8_0 --type-v turbo4 -o tagged.gguf

    \b
    Writes: 4096 bytes into FILE, or OUT; a temporary file beside it where the
    file system takes a copy. An interrupted run is finished by the next one.
    Exit codes: 0 done or unchanged, 1 the policy advises against tags, 2 types
    that the model cannot use, 4 not a GGUF, 5 missing, 6 refused: linked, in a
    store, open elsewhere, read-only, 7 locked, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.gguf.tag import apply_tag, plan_tag
    from tqconvert.gguf.tags import KvTags
    from tqconvert.kv.given import choose_types

    out = Output("tag", json=json, quiet=quiet)
    found, n_shards = _found(file)
    chosen = choose_types(found.header, type_k, type_v)
    tags = KvTags(chosen.type_k, chosen.type_v, evidence=_evidence(evidence))
    plan = plan_tag(found, tags, output=output, replace=yes)
    tags = plan.tags or tags
    result = None if dry_run else apply_tag(plan, progress=out.progress())
    document = {
        **_document(plan, result, n_shards),
        "type_k": tags.type_k,
        "type_v": tags.type_v,
        "balance": tags.balance,
        "measured": tags.measured,
        "evidence": jsonlib.loads(tags.evidence),
        "reasons": chosen.reasons,
    }
    out.result(document, _tag_text(plan, result, n_shards, chosen.reasons), str(plan.target))


def untag(
    file: FileArg,
    output: OutputOpt = None,
    yes: YesOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take the tags out of a GGUF: the original file, byte for byte.

    Also repairs a file whose tagging was interrupted.

    \b
    Examples:
      tqconvert untag model.gguf
      tqconvert untag tagged.gguf -o original.gguf

    \b
    Writes: FILE, which loses its first 4096 bytes, or OUT; a temporary file
    beside it where the file system takes a copy.
    Exit codes: 0 done or nothing to do, 4 not a GGUF, 5 missing, 6 refused:
    linked, in a store, open elsewhere, read-only, 7 locked, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.gguf.tag import apply_untag, plan_untag

    out = Output("untag", json=json, quiet=quiet)
    found, n_shards = _found(file)
    plan = plan_untag(found, output=output, replace=yes)
    result = None if dry_run else apply_untag(plan, progress=out.progress())
    out.result(
        _document(plan, result, n_shards), _untag_text(plan, result, n_shards), str(plan.target)
    )


def _found(file: Path) -> "tuple[Found, int]":
    """The file that takes the tags, and how many shards the model has."""
    from tqconvert.fs import require_readable
    from tqconvert.gguf.tag import look_at

    n_shards = 1
    # A name decides, so that the header of a plain file is read once.
    if "-of-" in file.name:
        from tqconvert.gguf.shards import find_shards

        shards = find_shards(file)
        file, n_shards = shards[0], len(shards)
    try:
        require_readable(file)
    except NotFoundError:
        _refuse_name(str(file))
    return look_at(file), n_shards


def _refuse_name(text: str) -> None:
    """Say so if the text names an installed model instead of a file."""
    from tqconvert.models import find_model
    from tqconvert.store.layout import Store

    try:
        model = find_model(text, Store(settings().store))
    except TqError:
        return
    if model.name is None:
        return
    raise NotFoundError(
        f"{text}: no such file; the model {model} is in the store, whose files stay as they are",
        hint=f"tqconvert tag {shlex.quote(str(model.path))} -o OUT, "
        f"then tqconvert install OUT --as {model.name.untagged().tagged()}",
    )


def _evidence(path: Path | None) -> str:
    """The file's JSON without its white space: the page is small."""
    if path is None:
        return '"unmeasured"'
    try:
        value = jsonlib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: not JSON ({e})") from None
    return jsonlib.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _document(plan: "TagPlan", result: "TagResult | None", n_shards: int) -> dict[str, Any]:
    return {
        "file": str(plan.found.path),
        "output": str(plan.target),
        "dry_run": result is None,
        "method": result.method if result else plan.method,
        "why": plan.why,
        "steps": list(plan.steps),
        "repaired": plan.repairs,
        "bytes_written": result.bytes_written if result else 0,
        "lease": result.lease if result else None,
        "shards": n_shards,
    }


def _tag_text(
    plan: "TagPlan", result: "TagResult | None", n_shards: int, reasons: tuple[str, ...]
) -> str:
    tags = plan.tags
    assert tags is not None
    state = "measured" if tags.measured else "unmeasured"
    lines = [_headline(plan, result, "tagged", n_shards)]
    lines.append(f"  K {types_text(tags.type_k)}, V {types_text(tags.type_v)} ({state})")
    lines += [f"  because: {reason}" for reason in reasons]
    return "\n".join(lines + _details(plan, result))


def _untag_text(plan: "TagPlan", result: "TagResult | None", n_shards: int) -> str:
    if plan.method == "unchanged":
        return f"{plan.target}: nothing to do, {plan.why}"
    lines = [_headline(plan, result, "untagged", n_shards)]
    return "\n".join(lines + _details(plan, result))


def _headline(plan: "TagPlan", result: "TagResult | None", done: str, n_shards: int) -> str:
    shard = f" (the first of {n_shards} shards)" if n_shards > 1 else ""
    if plan.method == "unchanged":
        return f"{plan.target}{shard}: unchanged, {plan.why}"
    if result is None:
        return f"{plan.target}{shard}: would be {done} by {plan.method}: {plan.why}"
    return f"{plan.target}{shard}: {done} by {result.method}"


def _details(plan: "TagPlan", result: "TagResult | None") -> list[str]:
    lines = []
    if plan.repairs:
        lines.append("  an interrupted run had left it unreadable; it is whole again")
    if result is None:
        lines += [f"  step: {step}" for step in plan.steps]
    elif result.lease is False:
        lines.append("  no write lease here: nobody checked that the file is not open elsewhere")
    return lines
