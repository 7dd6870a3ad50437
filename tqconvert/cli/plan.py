"""`tqconvert plan`: bytes of the KV cache by context and type, what fits, and which types to use."""

from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, ModelArg, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table
from tqconvert.units import format_bytes, format_context, parse_bytes, parse_context

if TYPE_CHECKING:
    from tqconvert.kv.pairs import Pair
    from tqconvert.kv.plan import Plan, Row


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("plan")(plan)


def plan(
    model: ModelArg,
    ctx: Annotated[
        str | None, typer.Option(metavar="N,N", help="Contexts of one slot, such as 32k,128k.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What weights and cache must fit in: 24GiB.")
    ] = None,
    type_k: Annotated[
        str | None, typer.Option(metavar="TYPE", help="A cache type of K to look at too.")
    ] = None,
    type_v: Annotated[
        str | None, typer.Option(metavar="TYPE", help="A cache type of V to look at too.")
    ] = None,
    parallel: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Slots, each of its own context.")
    ] = 1,
    ubatch: Annotated[
        int, typer.Option(metavar="N", min=1, max=1 << 20, help="The runtime's -ub.")
    ] = 512,
    store: StoreOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what the KV cache of a model takes, what fits, and which types to use.

    Sizes are those that llama.cpp allocates, from the file's own header; nothing
    is loaded. Turbo types need the patched runtime.

    \b
    Examples:
      tqconvert plan model.gguf --ctx 32k,128k
      tqconvert plan qwen3.5:27b-tq --memory 24GiB --json

    \b
    Writes: nothing.
    -q prints the recommended types: K/V, or "none".
    Exit codes: 0 done, 1 nothing fits in --memory, 2 bad type or size, 4 not a
    GGUF, 5 missing, or no language model.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.kv.plan import make_plan, read_model
    from tqconvert.models import find_model
    from tqconvert.store.layout import Store

    contexts = [parse_context(part) for part in ctx.split(",")] if ctx else None
    budget = parse_bytes(memory) if memory else None
    found = find_model(model, Store(settings(store=store).store))
    header, weights_bytes = read_model(found.path)
    made = make_plan(
        header,
        weights_bytes=weights_bytes,
        contexts=contexts,
        memory=budget,
        n_seq=parallel,
        n_ubatch=ubatch,
        type_k=type_k,
        type_v=type_v,
    )
    document = {"model": str(found), "file": str(found.path), **made.to_json()}
    choice = made.choice
    short = f"{choice.type_k}/{choice.type_v}" if choice.type_k else "none"
    Output("plan", json=json, quiet=quiet).result(document, render(str(found), made), short)
    if made.fits is False:
        raise typer.Exit(1)


def render(name: str, made: "Plan") -> str:
    """The plan for people: header line, table, reasons, what fits, recommendation."""
    blocks = [
        _header(name, made),
        _table(made),
        _unusable(made),
        _fits(made),
        _recommendation(made),
    ]
    return "\n\n".join(block for block in blocks if block)


def _header(name: str, made: "Plan") -> str:
    layout = made.layout
    trained = format_context(layout.n_ctx_train) if layout.n_ctx_train else "unknown"
    slots = "1 slot" if made.n_seq == 1 else f"{made.n_seq} slots"
    weights = format_bytes(made.weights_bytes)
    lines = [
        f"{name}: {layout.architecture}, {layout.describe()}",
        f"weights {weights}, trained for {trained} tokens, {slots}, ubatch {made.n_ubatch}",
        *(f"note: {note}" for note in made.notes),
    ]
    if not layout.known:
        lines.append("UPPER BOUND: this model may take less than the sizes below, never more")
    return "\n".join(lines)


def _table(made: "Plan") -> str:
    """KV bytes, one line per pair, one column per context, percent of f16 last."""
    if not made.layout.cached:
        state = made.rows[0].size
        return f"recurrent state {format_bytes(state.total)}" if state and state.total else ""
    head = ["K/V", *(format_context(n) for n in made.contexts), "of f16"]
    lines = [head]
    for pair in made.pairs:
        if pair.runs:
            rows = [made.row(pair, n) for n in made.contexts]
            lines.append([_label(pair), *(_cell(row) for row in rows), _percent(made, rows[-1])])
    text = table(lines, right=range(1, len(head)))
    if any(row.fits is False for row in made.rows):
        text += "\n! does not fit"
    if any(pair.is_turbo for pair in made.pairs if pair.runs):
        text += "\nturbo types need the patched runtime"
    return text


def _label(pair: "Pair") -> str:
    return pair.name if pair.origin == "standard" else f"{pair.name} ({pair.origin})"


def _cell(row: "Row") -> str:
    size = format_bytes(row.size.total) if row.size else ""
    return f"{size} !" if row.fits is False else size


def _percent(made: "Plan", row: "Row") -> str:
    whole = made.row(made.baseline, row.n_ctx).size
    return f"{100 * row.size.total / whole.total:.1f} %" if row.size and whole else ""


def _unusable(made: "Plan") -> str:
    refused = [pair for pair in made.pairs if pair.unusable]
    by_reason: dict[str, list[str]] = {}
    for pair in refused:
        by_reason.setdefault(pair.unusable or "", []).append(_label(pair))
    if not by_reason:
        return ""
    lines = [f"  {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    works = [f"{side.upper()} {', '.join(names)}" for side, names in made.usable.items()]
    return "\n".join(["unusable:", *lines, f"  types that work: {'; '.join(works)}"])


def _fits(made: "Plan") -> str:
    from tqconvert.kv.plan import overhead_text

    if made.memory is None:
        return ""
    lines = [["largest context in", format_bytes(made.memory)]]
    lines += [
        [f"  {_label(x.pair)}", format_context(x.n_ctx) if x.n_ctx else "does not fit"]
        for x in made.largest
    ]
    if made.fits is False:
        lines.append(["nothing fits at the contexts above", ""])
    return table(lines) + f"\nwith {overhead_text(made.n_ubatch)}"


def _recommendation(made: "Plan") -> str:
    choice = made.choice
    types = f"{choice.type_k}/{choice.type_v}" if choice.type_k else "leave the cache at f16"
    measured = "measured" if choice.measured else "unmeasured"
    reasons = (*choice.reasons, *made.budget_reasons)
    lines = [f"recommended: {types} ({measured})", *(f"  - {reason}" for reason in reasons)]
    return "\n".join(lines)
