"""`tqconvert serve`."""

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import (
    DryRunOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    RuntimeOpt,
    StoreOpt,
    settings,
)
from tqconvert.cli.output import Output, table, types_text
from tqconvert.units import format_bytes, format_context, parse_context

if TYPE_CHECKING:
    from tqconvert.kv.pairs import Names
    from tqconvert.models import Model
    from tqconvert.runtime.serve import ServePlan


def serve(
    model: ModelArg,
    extra: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT...]", help="Passed on to llama-server."),
    ] = None,
    ctx: Annotated[
        str | None, typer.Option(metavar="N", help="Context of one slot, such as 32k.")
    ] = None,
    parallel: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Slots, each of its own context.")
    ] = 1,
    type_k: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Cache type of K instead of the tag's.")
    ] = None,
    type_v: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Cache type of V instead of the tag's.")
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDR", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port.")] = 8080,
    runtime: RuntimeOpt = None,
    store: StoreOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Start the built llama-server on a model, with the cache types of its tags.

    Says beforehand which types it will use and what they take. Ctrl-C ends it. There
    is no password: on an address other than 127.0.0.1 everybody who reaches it can
    use it.

    \b
    Examples:
      tqconvert serve model.gguf --ctx 32k
      tqconvert serve qwen3.5:27b-tq --port 8081 -- --threads 8

    \b
    Writes: nothing. The server's own log goes to stderr.
    -q prints the address.
    Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 the server failed, 2 types that
    the model cannot use, 4 not a GGUF, 5 no such model, or no runtime built.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.models import find_model
    from tqconvert.runtime.locate import find_runtime
    from tqconvert.runtime.serve import available_memory, plan_serve, run_serve
    from tqconvert.store.layout import Store

    out = Output("serve", json=json, quiet=quiet)
    n_ctx = parse_context(ctx) if ctx else None
    loaded = settings(store=store, runtime=runtime)
    found = find_model(model, Store(loaded.store))
    plan = plan_serve(
        find_runtime(loaded.cache, loaded.runtime), found.path, n_ctx=n_ctx, n_seq=parallel,
        type_k=type_k, type_v=type_v, host=host, port=port,
        name=str(found.name) if found.name else None, available=available_memory(), extra=tuple(extra or ()),
    )  # fmt: skip
    if host not in ("127.0.0.1", "::1", "localhost"):
        out.warn(f"whoever reaches {plan.url} can use the model; there is no password")
    out.result(_document(found, plan, dry_run=dry_run), _text(found, plan), plan.url)
    sys.stdout.flush()
    if not dry_run and run_serve(plan, os.environ):
        out.note("ended")


def _names(names: "Names") -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _document(found: "Model", plan: "ServePlan", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "model": str(found),
        "file": str(found.path),
        "url": plan.url,
        "command": list(plan.command),
        "context": plan.n_ctx,
        "parallel": plan.n_seq,
        "types_from": {"requested": "flag", "tagged": "tag"}.get(plan.pair.origin, "default"),
        "type_k": _names(plan.pair.effective_k),
        "type_v": _names(plan.pair.effective_v),
        "kv_bytes": plan.size.total,
        "weights_bytes": plan.weights_bytes,
        "total_bytes": plan.total_bytes,
        "notes": list(plan.notes),
    }


def _text(found: "Model", plan: "ServePlan") -> str:
    pair = plan.pair
    origin = {"requested": "by flag", "tagged": "by the file's tags"}.get(pair.origin, "no tags")
    slots = "1 slot" if plan.n_seq == 1 else f"{plan.n_seq} slots"
    k, v = types_text(_shown(pair.effective_k)), types_text(_shown(pair.effective_v))
    cache, total = format_bytes(plan.size.total), format_bytes(plan.total_bytes)
    context = f"{format_context(plan.n_ctx)} x {slots}"
    rows = [
        ("address", plan.url),
        ("cache", f"K {k}, V {v} ({origin}), {cache} for {context}"),
        ("memory", f"{total} with weights and overhead"),
        ("command", shlex.join(plan.command)),
        *(("note", note) for note in plan.notes),
    ]
    return f"serving {found}\n{table(rows, indent=2)}"


def _shown(names: "Names") -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names


def register(app: typer.Typer) -> None:
    """Add `serve`."""
    app.command("serve")(serve)
