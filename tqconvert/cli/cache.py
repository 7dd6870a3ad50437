"""`cache prune`: remove what interrupted commands left in the store."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import DryRunOpt, JsonOpt, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table
from tqconvert.units import format_bytes

if TYPE_CHECKING:
    from tqconvert.store.prune import Leftover


def prune(
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Keep what is younger.")
    ] = 0,
    store: StoreOpt = None,
    dry_run: DryRunOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Remove partial downloads and temporary files that interrupted commands left.

    A partial download would be resumed by the next pull of its model; prune it to get the space
    back. What a running command works on stays. Models are never touched.

    \b
    Examples:
      tqconvert cache prune --dry-run
      tqconvert cache prune --older-than 7

    \b
    Writes: removes files in the .tqconvert folder of the store.
    Exit codes: 0 ok, or nothing to do; 9 a file cannot be removed.
    """
    from tqconvert.store.layout import Store
    from tqconvert.store.prune import DAY_S, Pruned, apply_prune, plan_prune

    out = Output("cache.prune", as_json, quiet)
    where = Store(settings(store=store).store)
    plan = plan_prune(where, older_than_s=older_than * DAY_S, now=time.time())
    if dry_run:
        free, busy = [x for x in plan if not x.in_use], [x for x in plan if x.in_use]
        done = Pruned(tuple(free), tuple(busy))
    else:
        done = apply_prune(where, plan)
    document = {
        "dry_run": dry_run,
        "bytes": done.n_bytes,
        "removed": [_document(x) for x in done.removed],
        "in_use": [_document(x) for x in done.in_use],
    }
    out.result(document, _text(done.removed, done.in_use, done.n_bytes, dry_run), str(done.n_bytes))


def _text(
    removed: "tuple[Leftover, ...]", in_use: "tuple[Leftover, ...]", n_bytes: int, dry_run: bool
) -> str:
    verb = "would remove" if dry_run else "removed"
    rows = [(verb, *_cells(x)) for x in removed] + [("in use, kept", *_cells(x)) for x in in_use]
    if not removed:
        return "\n".join(part for part in (table(rows), "nothing to remove") if part)
    freed = f"{verb} {len(removed)}, {format_bytes(n_bytes)} {'to free' if dry_run else 'freed'}"
    return f"{table(rows, right=(2, 3))}\n{freed}"


def _cells(x: "Leftover") -> tuple[str, str, str]:
    return str(x.paths[0]), format_bytes(x.n_bytes), f"{x.age_s / 86_400:.1f} days old"


def _document(x: "Leftover") -> dict[str, Any]:
    return {"paths": [str(p) for p in x.paths], "bytes": x.n_bytes, "age_seconds": int(x.age_s)}


def register(app: typer.Typer) -> None:
    """Add `cache`."""
    group = typer.Typer(
        help="Remove what interrupted commands left in the store.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("prune", short_help=(prune.__doc__ or "").partition("\n")[0])(prune)
    # A callback keeps `prune` a command of its own while it is the only one.
    group.callback()(_group)
    app.add_typer(group, name="cache")


def _group() -> None:
    """Remove what interrupted commands left in the store."""
