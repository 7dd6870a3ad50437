"""`tqconvert metal`: Metal kernels checked on any machine, and measured on a Mac."""

import typer

from tqconvert.cli.metal import check, mac, names


def register(app: typer.Typer) -> None:
    """Add `metal` with its commands, in the order of the work."""
    group = typer.Typer(
        help="Check Metal kernels on any machine; run them on a Mac.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    commands = [c for module in (names, check, mac) for c in module.COMMANDS]
    for command in commands:
        short = (command.__doc__ or "").partition("\n")[0]
        group.command(command.__name__, short_help=short)(command)
    if commands:
        app.add_typer(group, name="metal")
