"""The command `modelfile`: make a Modelfile, or check one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, OutputOpt, QuietOpt, StoreOpt, YesOpt, settings
from tqconvert.cli.output import Output
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.modelfile.build import Request

TargetArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE|NAME", help="A GGUF file or a model in the store; a Modelfile with --lint."
    ),
]
LintOpt = Annotated[
    bool, typer.Option("--lint", help="Check the Modelfile FILE; print all findings.")
]
MemoryOpt = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Set num_ctx to what fits, such as 24GiB."),
]
NumCtxOpt = Annotated[
    str | None, typer.Option("--num-ctx", metavar="N", help="Set num_ctx, such as 32768 or 32k.")
]

TemplateOpt = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="FORMAT",
        help="Use this chat format, such as gemma, llama3.1, qwen3: see docs/templates.md.",
    ),
]


def modelfile(
    target: TargetArg,
    output: OutputOpt = None,
    memory: MemoryOpt = None,
    num_ctx: NumCtxOpt = None,
    template: TemplateOpt = None,
    lint: LintOpt = False,
    yes: YesOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    store: StoreOpt = None,
) -> None:
    """Make a Modelfile for stock Ollama, or check one with --lint.

    An installed model keeps its own template, parameters and system text. For a
    bare GGUF only what is certain is written; the rest stands in comments.

    \b
    Examples:
      tqconvert modelfile qwen3.5:27b-tq --memory 24GiB -o Modelfile
      tqconvert modelfile --lint Modelfile

    \b
    Writes: the file of -o, else nothing.
    Exit codes: 0 ok, 1 --lint found something, or --memory is too small,
    2 usage, 4 not a GGUF or damaged, 5 no such file or model, 6 -o exists
    and differs (--yes replaces it).
    The codes of findings: docs/modelfile.md.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.modelfile.build import Request

    out = Output("modelfile", json=as_json, quiet=quiet)
    if lint:
        if output or memory or num_ctx or template:
            raise UsageError(
                "--lint takes a Modelfile and none of -o, --memory, --num-ctx, --template"
            )
        _lint(Path(target), out)
    else:
        _make(Request(target, memory, num_ctx, template), output, out, store=store, yes=yes)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("modelfile")(modelfile)


def _lint(path: Path, out: Output) -> None:
    from tqconvert.modelfile.lint import lint
    from tqconvert.modelfile.parse import read_modelfile

    found = lint(read_modelfile(path), folder=path.absolute().parent)
    document = {
        "file": str(path),
        "ok": not found,
        "findings": [f.as_json() for f in found],
    }
    text = "\n".join(f"{path}: {f}" for f in found) or f"{path}: ok"
    out.result(document, text, [f"{f.code} {f.line}" for f in found])
    if found:
        raise typer.Exit(1)


def _make(
    request: "Request", output: Path | None, out: Output, *, store: Path | None, yes: bool
) -> None:
    from tqconvert.modelfile.build import build, write_modelfile
    from tqconvert.store.layout import Store

    built = build(request, Store(settings(store=store).store), output=output)
    state = write_modelfile(output, built.text, replace=yes) if output else None
    commands = built.modelfile.commands
    document = {
        "model": str(built.model),
        "file": str(output) if output else None,
        "state": state,
        "commands": [{"kind": c.kind, "key": c.key, "value": c.value} for c in commands],
        "notes": list(built.modelfile.trailing),
        "modelfile": built.text,
    }
    shown = built.text.rstrip("\n")
    out.result(document, f"{output}: {state}" if output else shown, str(output or shown))
