"""The command line: the commands put together, and errors turned into exit codes."""

import errno
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from tqconvert import __version__
from tqconvert.cli import output
from tqconvert.errors import StoppedError, StorageError, TqError, UsageError

BUG_CODE = 70
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _BugError(TqError):
    exit_code = BUG_CODE
    kind = "bug"


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="With --version: also what it is built on."
    ),
) -> None:
    """Take a model by name; leave it in Ollama with a KV cache as small as its quality allows."""
    if version:
        print(_versions() if verbose else f"tqconvert {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(UsageError.exit_code)


def _versions() -> str:
    """The line that a bug report needs."""
    import platform
    from importlib.metadata import version

    from tqconvert.gguf.tags import SCHEMA

    return (
        f"tqconvert {__version__} (Python {platform.python_version()}, gguf {version('gguf')}, "
        f"tag schema {SCHEMA})"
    )


def build_app() -> typer.Typer:
    """The Typer app with all commands; each module registers its own, in the order of the work."""
    from tqconvert.cli import (
        balance,
        cache,
        config,
        doctor,
        fingerprint,
        info,
        install,
        metal,
        modelfile,
        ollama_build,
        plan,
        pull,
        push,
        quality,
        serve,
        tag,
    )

    # rich's panels draw boxes into pipes and under NO_COLOR, and cannot be searched with grep; its
    # import alone would double the time of --help. Hence plain help everywhere.
    app = typer.Typer(
        name="tqconvert",
        callback=_root,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for module in (
        pull,
        info,
        plan,
        tag,
        balance,
        modelfile,
        install,
        push,
        fingerprint,
        serve,
        quality,
        ollama_build,
        metal,
        doctor,
        config,
        cache,
    ):
        module.register(app)
    for command in app.registered_commands:
        # Typer cuts a summary that it takes from the docstring off at the line's end.
        command.short_help = (command.callback.__doc__ or "").partition("\n")[0]
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`tqconvert.errors.EXIT_CODES`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    output.prepare_streams()
    try:
        with _terminated_like_interrupted():
            code = _run(args)
            sys.stdout.flush()
    except TqError as e:
        return _fail(e, args)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(StoppedError("interrupted"), args)
    except BrokenPipeError:
        output.drop_stdout()
        return 0
    except Exception as e:  # noqa: BLE001 - the last line of defence; the traceback is kept
        if isinstance(e, OSError) and (e.errno in _FULL or not output.stdout_works()):
            subject = e.filename or "standard output"
            return _fail(StorageError(f"{subject}: {e.strerror}"), args)
        import traceback

        traceback.print_exc()
        hint = "report it with the text above and the output of `tqconvert doctor --json`"
        return _fail(_BugError("this is a bug in tqconvert", hint=hint), args)
    return code


def _run(args: list[str]) -> int:
    """Run the app; Typer's own errors become ours, so that --json and the hints hold for them."""
    try:
        result = build_app()(args, prog_name="tqconvert", standalone_mode=False)
    except typer.TyperException as e:
        message = getattr(e, "format_message", e.__str__)()
        if message.startswith("Usage:"):  # a group without its command: the text is its help
            print(message, file=sys.stderr)
            return UsageError.exit_code
        context: typer.Context | None = getattr(e, "ctx", None)
        path = context.command_path if context else "tqconvert"
        message = message.replace(": Value error, ", ": ").rstrip(".")  # pydantic's words
        raise UsageError(message, hint=f"{path} --help") from None
    except SystemExit as e:
        # Typer has met a closed pipe and said nothing (its core.py, EPIPE), or printed completion.
        if not output.stdout_works():
            output.drop_stdout()
        return 0 if e.code in (None, 0, 1) else int(e.code)
    code = result if isinstance(result, int) else 0
    if code == StoppedError.exit_code:  # what Typer makes of KeyboardInterrupt
        raise StoppedError("interrupted")
    return code


def _fail(e: TqError, args: Sequence[str]) -> int:
    """Print the error and return its code; what stdout cannot take goes to stderr as text."""
    as_json = "--json" in args
    try:
        sys.stdout.flush()
        output.print_error(e, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        output.drop_stdout()
    except OSError:
        output.drop_stdout()
        output.print_error(e, as_json=False)
    return e.exit_code


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: files are closed, a download's partial is named.

    So does a terminal that is closed, unless it is to be ignored (nohup): programs that a command has
    started are in sessions of their own, and would go on without it.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    try:
        before = [(number, signal.signal(number, interrupt)) for number in numbers]
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
