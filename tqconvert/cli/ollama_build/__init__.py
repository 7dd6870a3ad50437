"""`tqconvert ollama-build`: the patch queue of a source tree, and patched runtimes built from it."""

import typer

from tqconvert.cli.ollama_build import build, change, check, edit, rebase, show


def register(app: typer.Typer) -> None:
    """Add `ollama-build` with its commands, in the order of the work."""
    group = typer.Typer(
        help="Patch Ollama's and llama.cpp's source, and build it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for module in (show, change, edit, rebase, check, build):
        for command in module.COMMANDS:
            short = (command.__doc__ or "").partition("\n")[0]
            name = command.__name__.removesuffix("_").replace("_", "-")
            group.command(name, short_help=short)(command)
    app.add_typer(group, name="ollama-build")
