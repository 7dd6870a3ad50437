"""`tqconvert install`; registers verify and share beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tqconvert.cli import share, verify
from tqconvert.cli.options import (
    DryRunOpt,
    JsonOpt,
    QuietOpt,
    StoreOpt,
    YesOpt,
    settings,
)
from tqconvert.cli.output import Output, table
from tqconvert.errors import RefusedError, UsageError
from tqconvert.units import format_bytes

if TYPE_CHECKING:
    from tqconvert.reference import ModelName
    from tqconvert.store.install import InstallPlan, InstallResult
    from tqconvert.store.layout import Store
    from tqconvert.store.publish import RemovePlan


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("install")(install)
    app.command("verify")(verify.verify)
    app.command("share")(share.share)


def install(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", readable=False, help="A GGUF file.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name of the model in Ollama.")
    ] = None,
    modelfile: Annotated[
        Path | None,
        typer.Option(
            "--modelfile",
            "-f",
            metavar="MODELFILE",
            readable=False,
            help="Take template, parameters, system text and license from it.",
        ),
    ] = None,
    link: Annotated[
        Literal["reflink", "hardlink", "symlink", "copy"] | None,
        typer.Option(
            "--link",
            metavar="METHOD",
            help="Use this one: reflink, hardlink, symlink or copy.",
            show_default="the first of reflink, hardlink, copy that works",
        ),
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", metavar="NAME", help="Undo: remove this model.")
    ] = None,
    yes: YesOpt = False,
    dry_run: DryRunOpt = False,
    store: StoreOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Install a GGUF into the Ollama store, without a server and without a copy.

    The blob is a reflink, a hard link or a copy of FILE, whichever the file system can do first; the
    output says which, and what it means for FILE. Without a Modelfile nothing is invented.

    --remove takes a model out: its manifest, then the blobs that no other model needs. A model that
    Ollama itself pulled or created is removed with --yes only.

    \b
    Examples:
      tqconvert install model.gguf --as gemma3:270m --modelfile Modelfile
      tqconvert install --remove gemma3:270m --dry-run

    Writes: blobs and one manifest in the store; with --yes over another model of that name.

    \b
    Exit codes: 0 installed or unchanged, 2 usage, 4 not a sound GGUF,
    5 no such file or model, 6 refused (name taken, a shard, file in use),
    7 locked, 9 disk full or read-only.
    """
    from tqconvert.reference import ModelName
    from tqconvert.store.install import apply_install, plan_install
    from tqconvert.store.layout import Store
    from tqconvert.store.link import DEFAULT_METHODS, LinkMethod
    from tqconvert.store.recipe import Recipe, read_recipe

    at = Store(settings(store=store).store)
    out = Output("install", json=as_json, quiet=quiet)
    if remove is not None:
        if file is not None or name is not None:
            raise UsageError("--remove takes a name and no file (expected one or the other)")
        _remove(at, ModelName.parse(remove), out, yes=yes, dry_run=dry_run)
        return
    if file is None or name is None:
        raise UsageError("install needs a file and a name", hint="tqconvert install FILE --as NAME")
    target = ModelName.parse(name)
    if target.digest is not None:
        raise UsageError(f"{name}: a name to install as has no digest")
    progress = out.progress()
    plan = plan_install(
        file, target, at, progress=progress, replace=yes,
        recipe=read_recipe(modelfile, file) if modelfile else Recipe(),
        methods=DEFAULT_METHODS if link is None else (LinkMethod(link),),
    )  # fmt: skip
    if dry_run:
        out.result(_plan_document(plan), _plan_text(plan), str(plan.manifest.digest))
        return
    if plan.steps:
        out.note(_plan_text(plan))
    result = apply_install(plan, progress)
    out.result(_result_document(plan, result), _result_text(plan, result), str(result.manifest))


def _plan_document(plan: "InstallPlan") -> Mapping[str, Any]:
    return {
        "name": str(plan.name),
        "store": str(plan.store.root),
        "status": plan.status,
        "dry_run": True,
        "needs_yes": plan.status == "replace" and not plan.replace,
        "manifest": str(plan.manifest.digest),
        "previous": str(plan.previous) if plan.previous else None,
        "model": {"digest": str(plan.model.digest), "bytes": plan.model.size},
        "steps": [
            {"action": s.action, "kind": s.kind, "digest": str(s.digest), "bytes": s.size}
            for s in plan.steps
        ],
    }


def _plan_text(plan: "InstallPlan") -> str:
    if not plan.steps:
        return f"{plan.name}: unchanged"
    rows = [(s.action, s.kind, s.digest.short, format_bytes(s.size)) for s in plan.steps]
    verb = {"replace": "replace", "repair": "repair"}.get(plan.status, "install")
    needs = " (needs --yes)" if plan.status == "replace" and not plan.replace else ""
    return f"{verb} {plan.name} in {plan.store.root}{needs}\n" + table(rows, right=[3], indent=2)


def _result_document(plan: "InstallPlan", result: "InstallResult") -> Mapping[str, Any]:
    return {
        "name": str(result.name),
        "store": str(plan.store.root),
        "status": result.status,
        "dry_run": False,
        "manifest": str(result.manifest),
        "previous": str(plan.previous) if plan.previous else None,
        "model": {"digest": str(result.model), "bytes": result.size},
        "method": result.method,
        "bytes_written": result.bytes_written,
        "removed": [str(b.digest) for b in result.removed],
    }


def _result_text(plan: "InstallPlan", result: "InstallResult") -> str:
    if result.status == "unchanged":
        return f"{result.name}: unchanged ({result.manifest.short})"
    done = {"replace": "replaced", "repair": "repaired"}.get(result.status, "installed")
    lines = [f"{result.name}: {done} ({result.manifest.short}), {format_bytes(result.size)}"]
    if result.method is not None:
        lines.append(f"  model: {result.method}: {result.method.meaning}")
    else:
        lines.append("  model: its blob was in the store already")
    if result.removed:
        freed = format_bytes(sum(b.size for b in result.removed))
        n = len(result.removed)
        lines.append(f"  removed: {n} blob{'s' if n > 1 else ''} of the model before, {freed}")
    if not plan.has_template:
        lines.append(
            "  no TEMPLATE or RENDERER: Ollama before 0.30 sends prompts as they are; "
            "see tqconvert modelfile, then install with --modelfile"
        )
    return "\n".join(lines)


def _remove(store: "Store", name: "ModelName", out: Output, *, yes: bool, dry_run: bool) -> None:
    from tqconvert.store.publish import apply_remove, plan_remove

    plan = plan_remove(store, name)
    if not dry_run:
        if not plan.own and not yes:
            out.note(_remove_text(plan))
            raise RefusedError(
                f"{name}: was not installed by tqconvert", hint="--yes removes it all the same"
            )
        plan = apply_remove(store, plan)
    document = {
        "name": str(plan.name),
        "store": str(store.root),
        "status": "planned" if dry_run else "removed",
        "dry_run": dry_run,
        "needs_yes": not plan.own,
        "manifest": str(plan.manifest),
        "removed": [{"digest": str(b.digest), "bytes": b.size} for b in plan.unused],
        "kept": [{"digest": str(b.digest), "bytes": b.size} for b in plan.kept],
        "bytes_freed": plan.freed,
        "unreadable": list(plan.unreadable),
    }
    out.result(document, _remove_text(plan, done=not dry_run), str(plan.manifest))


def _remove_text(plan: "RemovePlan", *, done: bool = False) -> str:
    head = f"{plan.name}: {'removed' if done else 'would be removed'} ({plan.manifest.short})"
    rows = [("remove", b.kind, b.digest.short, format_bytes(b.size)) for b in plan.unused]
    rows += [("keep", b.kind, b.digest.short, format_bytes(b.size)) for b in plan.kept]
    text = f"{head}, {format_bytes(plan.freed)} {'freed' if done else 'to be freed'}"
    if rows:
        text += "\n" + table(rows, right=[3], indent=2)
    if plan.unreadable:
        text += f"\n  all blobs stay: the manifest of {plan.unreadable[0]} cannot be read"
    return text
