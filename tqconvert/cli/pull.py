"""`tqconvert pull`: the main job."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import (
    AnyToolOpt,
    AttestOpt,
    BomOpt,
    DryRunOpt,
    InsecureOpt,
    JsonOpt,
    LockedOpt,
    LockFileOpt,
    LockOpt,
    OfflineOpt,
    QuietOpt,
    StoreOpt,
    TypeKOpt,
    TypeVOpt,
    YesOpt,
    settings,
)
from tqconvert.cli.output import Output, table, types_text
from tqconvert.errors import StoppedError, UsageError
from tqconvert.units import format_bytes, format_context, parse_bytes

if TYPE_CHECKING:
    from tqconvert.pull.peek import Peek
    from tqconvert.pull.plan import PullPlan
    from tqconvert.pull.run import PullResult
    from tqconvert.pull.sources import Job


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("pull")(pull)


def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A model such as qwen3.5:27b, host:5000/ns/model:tag or "
            "hf.co/org/repo:Q4_K_M or oci://host/repo:tag, or a GGUF.",
            show_default=False,
        ),
    ] = None,
    as_name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Install under this name, not NAME-tq."),
    ] = None,
    no_tag: Annotated[bool, typer.Option("--no-tag", help="Leave the model as it is.")] = False,
    type_k: TypeKOpt = None,
    type_v: TypeVOpt = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="DIR", help="Write the GGUF and its Modelfile there; do not install."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory that num_ctx in the Modelfile must fit, such as 24GiB."
        ),
    ] = None,
    connections: Annotated[
        int | None, typer.Option(min=1, max=32, help="Parallel ranges of the download.")
    ] = None,
    lock: LockOpt = False,
    locked: LockedOpt = False,
    lock_file: LockFileOpt = Path("tqconvert.lock"),
    any_tool: AnyToolOpt = False,
    attest: AttestOpt = None,
    bom: BomOpt = None,
    store: StoreOpt = None,
    offline: OfflineOpt = False,
    insecure: InsecureOpt = False,
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Take a model by name: verify it, tag it, write its Modelfile, install it.

    Installs as NAME-tq (qwen3.5:27b becomes qwen3.5:27b-tq). One pass over the
    bytes verifies the source, tags the file and computes its new digest. An
    interrupted pull goes on where it ended; a second one finds nothing to do.

    Of a Hugging Face repository, hf.co/ORG/REPO means its usual quantization;
    :QUANT or :FILE.gguf another one, @REVISION a branch, tag or commit. Shards
    are joined into one GGUF on the way.

    --lock writes down what came and what was made; --locked makes exactly that
    or fails, for NAME or for all that the file has (docs/pipelines.md).

    \b
    Examples:
      tqconvert pull qwen3.5:27b
      tqconvert pull hf.co/unsloth/Qwen3.5-27B-GGUF:Q4_K_M
      tqconvert pull 127.0.0.1:5000/library/gemma3:270m --as gemma3:mine
      tqconvert pull oci://127.0.0.1:5000/ai/gemma3:270m
      tqconvert pull ./model.gguf --to ./out --type-k q8_0 --type-v turbo4
      tqconvert pull qwen3.5:27b --lock && tqconvert pull --locked

    \b
    Writes: blobs and a manifest in the store, the Modelfile in .tqconvert/ of
    the store (or both in DIR); partial downloads in .tqconvert/partial; the lock
    file of --lock, the documents of --attest and --bom.
    Exit codes: 0 done or nothing to do, 4 wrong bytes or not what is locked, 5
    not known, 6 the name is taken, 9 disk, 11 network, 12 refused by the server,
    130 interrupted.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.provenance.locked import prepare_all, require_lockable
    from tqconvert.provenance.records import Records
    from tqconvert.pull.job import prepare
    from tqconvert.pull.request import PullRequest, Wish

    out = Output("pull", json=json, quiet=quiet)
    if name == "" or (name is None and not locked):  # `pull "$UNSET" --locked` does not mean all
        raise UsageError(
            "pull needs a name (or --locked for all that is locked)", hint="tqconvert pull --help"
        )
    if locked and (lock or no_tag or type_k or type_v):
        raise UsageError(
            "--locked takes types from the lock file: no --lock, --no-tag, --type-k/-v"
        )
    if any_tool and not locked:
        raise UsageError("--any-tool goes with --locked")
    records = Records(lock_file if lock else None, attest, bom, os.environ, replace=yes)
    records.check()
    request = PullRequest(
        source=name or "",
        as_name=as_name,
        to=to,
        wish=Wish(not no_tag, type_k, type_v),
        memory=parse_bytes(memory) if memory else None,
        connections=connections,
    )
    at, progress = settings(store=store, offline=offline, insecure=insecure), out.progress()
    if locked:
        jobs = prepare_all(
            lock_file, request, at, progress, any_tool=any_tool, ask=bool(attest or bom)
        )
    else:
        jobs = [prepare(request, at, progress)]
        if lock:
            require_lockable(jobs[0], lock_file)
    why = (f"locked in {lock_file}",) if locked else None
    if dry_run:
        _show(out, [_dry_run(job, why) for job in jobs], {}, many=name is None)
        return
    results = [_carry_out(job, out, yes=yes) for job in jobs]
    written = records.write(list(zip(jobs, results, strict=True)), progress)
    _show(out, [_shown(result, why) for result in results], written.to_json(), many=name is None)
    for line in written.lines():
        out.note(line)


Shown = tuple[dict[str, Any], str, str]
"""One model as JSON, as text, and the essential value."""


def _show(out: Output, models: list[Shown], more: dict[str, Any], *, many: bool) -> None:
    """Print one model as it is, or all that are locked as a list."""
    text = "\n".join(text for _, text, _ in models)
    essential = [essential for _, _, essential in models]
    document = {"models": [document for document, _, _ in models]} if many else models[0][0]
    out.result({**document, **more}, text, essential)


def _dry_run(job: "Job", why: tuple[str, ...] | None) -> Shown:
    """The plan; `why` stands for the reasons of the tags where they are not chosen here."""
    from tqconvert.pull.peek import peek

    found = peek(job.plan, job.source_of, job.place.http)
    if found and why:
        found = replace(found, choice=replace(found.choice, reasons=why))
    document = {"dry_run": True, **job.plan.to_json(), "would_tag": _peek_json(found)}
    return document, _plan_text(job.plan) + _peek_text(found), str(job.plan.target)


def _shown(result: "PullResult", why: tuple[str, ...] | None) -> Shown:
    if result.choice and why:
        result = replace(result, choice=replace(result.choice, reasons=why))
    essential = str(result.plan.destination.file or result.plan.target)
    return _result_json(result), _result_text(result), essential


def _carry_out(job: "Job", out: Output, *, yes: bool) -> "PullResult":
    from tqconvert.pull.job import carry_out
    from tqconvert.pull.plan import State

    if job.plan.state is not State.UNCHANGED:
        out.note(_plan_text(job.plan))
    try:
        return carry_out(job, yes=yes)
    except KeyboardInterrupt:
        kept = job.plan.kept_files()
        hint = f"{_home(kept[0])} is kept: run the same command again" if kept else None
        raise StoppedError("interrupted", hint=hint) from None


def _peek_text(found: "Peek | None") -> str:
    if found is None:
        return ""
    tags = found.choice.tags
    if tags is None:
        return f"\n  would not be tagged: {'; '.join(found.choice.reasons)}"
    lines = [
        (
            f"  would be tagged K {types_text(tags.type_k)}, V {types_text(tags.type_v)}: a cache of "
            f"{format_bytes(found.tagged_bytes)} at {format_context(found.n_ctx)}, not "
            f"{format_bytes(found.f16_bytes)}"
        )
    ]
    lines += [f"  because: {reason}" for reason in found.choice.reasons]
    return "\n" + "\n".join(lines)


def _peek_json(found: "Peek | None") -> dict[str, Any] | None:
    if found is None:
        return None
    tags = found.choice.tags
    return {
        "type_k": tags.type_k if tags else None,
        "type_v": tags.type_v if tags else None,
        "reasons": list(found.choice.reasons),
        "n_ctx": found.n_ctx,
        "f16_bytes": found.f16_bytes,
        "tagged_bytes": found.tagged_bytes,
    }


def _plan_text(plan: "PullPlan") -> str:
    from tqconvert.pull.plan import State

    where = plan.destination.file or f"{plan.target} in {_home(plan.destination.store.root)}"
    lines = [f"{plan.name} -> {where}"]
    if plan.state is State.UNCHANGED:
        return f"{lines[0]}\n  nothing to do"
    if plan.origin and plan.origin.files:
        files = plan.origin.files
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        lines.append(
            f"  {files[0][0]}{more} of {plan.origin.repository} at {plan.origin.revision[:12]}"
        )
    names = {x.digest: x.digest.short for x in plan.manifest.blobs}
    if plan.shards and plan.main:
        names[plan.main.digest] = f"{len(plan.shards)} shards"
    rows = [(x.label, names[x.digest], format_bytes(x.size), "fetch") for x in plan.fetch]
    rows += [
        (layer.label, layer.digest.short, format_bytes(layer.size), "here") for layer in plan.reuse
    ]
    if plan.local and plan.main:
        rows.append(
            ("model", plan.main.digest.short, format_bytes(plan.main.size), "copy, here untagged")
        )
    lines.append(table(rows, right=(2,), indent=2))
    kept = f", {format_bytes(plan.kept_bytes)} kept from before" if plan.kept_bytes else ""
    there = {
        State.REPLACE: ", replaces what is there",
        State.REPAIR: ", replaces the one there, whose blobs are missing",
    }.get(plan.state, "")
    lines.append(f"  {format_bytes(plan.fetch_bytes)} to fetch{kept}{there}")
    return "\n".join(lines)


def _result_text(result: "PullResult") -> str:
    from tqconvert.pull.plan import State

    plan = result.plan
    shown = str(plan.destination.file or plan.target)
    lines = [f"{shown}: unchanged" if result.state is State.UNCHANGED else shown]
    rows = []
    if result.model:
        rows.append(("model", f"{_home(result.model)}"))
    if result.tags:
        measured = "" if result.tags.measured else " (unmeasured)"
        rows.append(
            (
                "cache",
                f"K {types_text(result.tags.type_k)}, V {types_text(result.tags.type_v)}{measured}",
            )
        )
    rows.append(("modelfile", _home(plan.destination.modelfile)))
    rows.append(("manifest", result.manifest.digest.short))
    if result.state is not State.UNCHANGED and not result.stats.received:
        rows.append(("took", f"{result.seconds:.1f} s, nothing fetched"))
    elif result.state is not State.UNCHANGED:
        rate = result.stats.received / max(result.seconds, 1e-6)
        took = f"{format_bytes(result.stats.received)} in {result.seconds:.1f} s, {format_bytes(int(rate))}/s"
        if result.stats.retries:
            took += f", {result.stats.retries} retries"
        rows.append(("fetched", took))
    lines.append(table(rows, indent=2))
    if result.choice and result.choice.tags:
        lines += [f"  because: {reason}" for reason in result.choice.reasons]
    if result.tags:
        lines.append(
            "  a patched runtime obeys the tags; stock Ollama runs the model and ignores them"
        )
    if plan.destination.file is None:
        lines.append(f"run it: ollama run {plan.target}")
    else:
        lines.append(f"next: tqconvert install {plan.destination.file} --as {plan.target}")
    return "\n".join(lines)


def _result_json(result: "PullResult") -> dict[str, Any]:
    from tqconvert.store.manifest import SOURCE_KEY, SOURCE_MANIFEST_KEY

    plan, tags = result.plan, result.tags
    models = result.manifest.layers_of("model")
    source = models[0].annotations.get(SOURCE_KEY) if models else None
    source_manifest = models[0].annotations.get(SOURCE_MANIFEST_KEY) if models else None
    return {
        "name": str(plan.name),
        "target": str(plan.target),
        "state": result.state.value,
        "bytes": result.stats.received,
        "seconds": round(result.seconds, 3),
        "resumed_from": result.stats.resumed_from,
        "retries": result.stats.retries,
        "digests": {
            "source_manifest": source_manifest or str(plan.manifest.digest),
            "source_model": source or (str(models[0].digest) if models else None),
            "model": str(models[0].digest) if models else None,
            "manifest": str(result.manifest.digest),
        },
        "tags": {
            "type_k": tags.type_k, "type_v": tags.type_v, "measured": tags.measured,
        } if tags else None,
        "reasons": list(result.choice.reasons) if result.choice else [],
        "model": str(result.model) if result.model else None,
        "modelfile": str(plan.destination.modelfile),
        "origin": plan.origin.to_json() if plan.origin else None,
    }  # fmt: skip


def _home(path: Path) -> str:
    home = os.path.expanduser("~")
    text = str(path)
    return f"~{text[len(home) :]}" if text.startswith(home + os.sep) else text
