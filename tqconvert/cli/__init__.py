"""The command line: the commands put together, and errors turned into exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from tqconvert import __version__
from tqconvert.cli import output
from tqconvert.errors import TqError


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tqconvert {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Take a model by name; leave it in Ollama with a KV cache as small as its quality allows."""


def build_app() -> typer.Typer:
    """The Typer app with all commands; each command module registers itself."""
    from tqconvert.cli import cache, config, doctor, info, install, modelfile, plan, pull, tag

    app = typer.Typer(
        name="tqconvert",
        callback=_root,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    for module in (pull, info, plan, tag, modelfile, install, doctor, config, cache):
        module.register(app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`tqconvert.errors.EXIT_CODES`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    output.prepare_streams()
    try:
        result = build_app()(args, prog_name="tqconvert", standalone_mode=True)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1
    except TqError as e:
        output.print_error(e, as_json="--json" in args)
        return e.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence; the traceback is kept
        traceback.print_exc()
        print(
            "error: this is a bug in tqconvert\n"
            "  hint: report it with the text above and the output of `tqconvert doctor --json`",
            file=sys.stderr,
        )
        return 70
    return result if isinstance(result, int) else 0
