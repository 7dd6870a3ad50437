"""`config show`: the settings in force, and where each came from."""

from typing import Annotated

import typer

from tqconvert.cli.options import JsonOpt, QuietOpt, settings
from tqconvert.cli.output import Output, table


def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value came from.")
    ] = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the settings in force: flags > environment > tqconvert.toml > the user's file.

    \b
    Examples:
      tqconvert config show --origin
      OLLAMA_MODELS=/models tqconvert config show

    \b
    Writes: nothing.
    Exit codes: 0 ok; 13 a file or variable holds what cannot be used.
    """
    from tqconvert.settings import describe

    rows = describe(settings())
    document = {
        "settings": {r.name: {"value": r.value, "origin": r.origin} for r in rows},
    }
    lines = [f"{r.name} = {r.text}" for r in rows]
    text = table([(line, f"# {r.origin}") for line, r in zip(lines, rows, strict=True)])
    Output("config.show", as_json, quiet).result(
        document, text if origin else "\n".join(lines), [r.text for r in rows]
    )


def register(app: typer.Typer) -> None:
    """Add `config`."""
    group = typer.Typer(
        help="Show the settings in force.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("show", short_help=(show.__doc__ or "").partition("\n")[0])(show)
    # A callback keeps `show` a command of its own while it is the only one.
    group.callback()(_group)
    app.add_typer(group, name="config")


def _group() -> None:
    """Show the settings in force."""
