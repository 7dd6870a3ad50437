"""`tqconvert push`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import (
    DryRunOpt,
    InsecureOpt,
    JsonOpt,
    ModelArg,
    OfflineOpt,
    QuietOpt,
    StoreOpt,
    settings,
)
from tqconvert.cli.output import Output, table
from tqconvert.errors import StoppedError, UsageError
from tqconvert.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from tqconvert.push.plan import PushPlan
    from tqconvert.push.run import PushResult


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("push")(push)


def push(
    model: ModelArg,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="HOST[:PORT]/REPOSITORY[:TAG] in a registry.")
    ],
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            metavar="FORM",
            help="ollama, oci, modelpack, docker or all; may be given again.",
            show_default="ollama",
        ),
    ] = None,
    chunk: Annotated[
        str, typer.Option(metavar="SIZE", help="Bytes of one request; 1MiB at least.")
    ] = "256MiB",
    store: StoreOpt = None,
    offline: OfflineOpt = False,
    insecure: InsecureOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Put a model into an OCI registry, in one form or several.

    The forms are manifests over the same blobs: the weights go once, and not at
    all if the registry has them; from another of its repositories it takes them
    itself. Several forms at once: the first has TAG, the others TAG-oci,
    TAG-modelpack, TAG-docker. No tag appears before all its blobs are there.
    User and password are those of `docker login`.

    \b
    Examples:
      tqconvert push gemma3:270m-tq 127.0.0.1:5000/me/gemma3:270m-tq
      tqconvert push ./model.gguf registry.example/ai/model:1 --form all -n

    \b
    Writes: blobs and manifests in the registry; notes for resuming in push/ of
    the cache. A tag that is there already is moved, as docker push moves it.
    Exit codes: 0 done or nothing to do, 2 no registry in DEST, 4 a blob here is
    damaged, 5 not known, 6 not in this form, 9 disk, 11 network, 12 refused by
    the registry, 130 interrupted.
    """
    from tqconvert.push.job import PushRequest, carry_out, prepare
    from tqconvert.registry.uploads import SMALLEST_CHUNK

    out = Output("push", json=json, quiet=quiet)
    size = parse_bytes(chunk)
    if size < SMALLEST_CHUNK:
        raise UsageError(f"--chunk {chunk}: too small (expected 1MiB or more)")
    job = prepare(
        PushRequest(model, dest, tuple(form or ()), size),
        settings(store=store, offline=offline, insecure=insecure),
        out.progress(),
    )
    references = [f"{m.reference}@{m.formed.digest}" for m in job.plan.manifests]
    if dry_run:
        out.result({"dry_run": True, **job.plan.to_json()}, _plan_text(job.plan), references)
        return
    if not job.plan.unchanged:
        out.note(_plan_text(job.plan))
    try:
        result = carry_out(job)
    except KeyboardInterrupt:
        raise StoppedError(
            "interrupted",
            hint="no tag was set unless all was there; run the same command again to go on",
        ) from None
    out.result(_result_json(result), _result_text(result), references)


def _plan_text(plan: "PushPlan") -> str:
    lines = [f"{plan.subject.label} -> {plan.registry.reference}"]
    rows = []
    for blob in plan.blobs:
        what = "there" if blob.there else "send"
        if blob.mount_from:
            what = f"mount from {blob.mount_from[0]}"
        size = format_bytes(blob.source.size)
        rows.append((blob.kind, blob.source.digest.short, size, what))
    lines.append(table(rows, right=(2,), indent=2))
    lines.append(_manifest_table(plan))
    if plan.unchanged:
        lines.append("  nothing to do")
    else:
        mounts = plan.missing_bytes - plan.send_bytes
        more = f", {format_bytes(mounts)} to mount" if mounts else ""
        lines.append(f"  {format_bytes(plan.send_bytes)} to send{more}")
    return "\n".join(lines)


def _manifest_table(plan: "PushPlan") -> str:
    rows = []
    for m in plan.manifests:
        note = f"replaces {m.previous.short}" if m.status == "replace" and m.previous else m.status
        rows.append((f"{m.formed.form}", m.formed.digest.short, str(m.reference), note))
    return table(rows, indent=2)


def _result_text(result: "PushResult") -> str:
    from tqconvert.registry.upload import Sent

    plan = result.plan
    first = plan.manifests[0]
    if plan.unchanged:
        return f"{first.reference}: unchanged"
    lines = [f"{first.reference}@{first.formed.digest}", _manifest_table(plan)]
    parts = [f"{format_bytes(result.bytes_of(Sent.UPLOADED))} sent in {result.seconds:.1f} s"]
    for how, words in ((Sent.MOUNTED, "mounted"), (Sent.PRESENT, "there before")):
        if n := result.bytes_of(how):
            parts.append(f"{format_bytes(n)} {words}")
    if result.stats.retries:
        parts.append(f"{result.stats.retries} retries")
    lines.append("  " + ", ".join(parts))
    lines.append(f"pull it: tqconvert pull {first.reference}")
    return "\n".join(lines)


def _result_json(result: "PushResult") -> dict[str, Any]:
    from tqconvert.registry.upload import Sent

    plan = result.plan.to_json()
    return {
        "name": plan["name"],
        "destination": plan["destination"],
        "state": "unchanged" if result.plan.unchanged else "pushed",
        "manifests": plan["manifests"],
        "blobs": [
            {
                "kind": x.blob.kind, "digest": str(x.blob.source.digest),
                "bytes": x.blob.source.size, "how": x.how.value, "mounted_from": x.mounted_from,
            }
            for x in result.blobs
        ],
        "bytes": result.bytes_of(Sent.UPLOADED),
        "bytes_mounted": result.bytes_of(Sent.MOUNTED),
        "bytes_there": result.bytes_of(Sent.PRESENT),
        "sent_bytes": result.stats.sent,
        "resumed_from": result.stats.resumed_from,
        "retries": result.stats.retries,
        "seconds": round(result.seconds, 3),
    }  # fmt: skip
