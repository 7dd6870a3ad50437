"""The command `modelfile`: make a Modelfile, or check one."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, OutputOpt, QuietOpt, StoreOpt, YesOpt, settings
from tqconvert.cli.output import Output
from tqconvert.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from tqconvert.gguf.header import Header
    from tqconvert.modelfile.parse import Modelfile
    from tqconvert.models import Model

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


def modelfile(
    target: TargetArg,
    output: OutputOpt = None,
    memory: MemoryOpt = None,
    num_ctx: NumCtxOpt = None,
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
      tqconvert modelfile qwen3.5:27b --memory 24GiB -o Modelfile
      tqconvert modelfile --lint Modelfile

    \b
    Writes: the file of -o, else nothing.
    Exit codes: 0 ok, 1 --lint found something, 2 usage, 4 not a GGUF or damaged,
    5 no such file or model, 6 -o exists and differs (--yes replaces it).
    The codes of findings: docs/modelfile.md.
    """  # noqa: D301 - \b keeps Typer from joining lines
    out = Output("modelfile", json=as_json, quiet=quiet)
    if lint:
        if output or memory or num_ctx:
            raise UsageError("--lint takes a Modelfile and no -o, --memory or --num-ctx")
        _lint(Path(target), out)
    else:
        _make(target, output, memory, num_ctx, out, store=store, yes=yes)


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
        "findings": [
            {
                "line": f.line,
                "code": f.code,
                "severity": f.severity,
                "message": f.message,
                "hint": f.hint,
            }
            for f in found
        ],
    }
    text = "\n".join(f"{path}: {f}" for f in found) or f"{path}: ok"
    out.result(document, text, [f"{f.code} {f.line}" for f in found])
    if found:
        raise typer.Exit(1)


def _make(
    target: str,
    output: Path | None,
    memory: str | None,
    num_ctx: str | None,
    out: Output,
    *,
    store: Path | None,
    yes: bool,
) -> None:
    from tqconvert.gguf.header import read_header
    from tqconvert.modelfile.make import (
        from_gguf,
        from_manifest,
        from_path,
        own_num_ctx,
        with_origin,
    )
    from tqconvert.modelfile.render import render
    from tqconvert.models import find_model
    from tqconvert.store.layout import Store

    at = Store(settings(store=store).store)
    model = find_model(target, at)
    header = read_header(model.path)
    kept = model.name is not None and own_num_ctx(at, model.name) is not None
    tokens = _num_ctx(header, memory, num_ctx, kept=kept)
    if model.name is None:
        made = from_gguf(header, from_=from_path(model.path, output), num_ctx=tokens)
    else:
        made = from_manifest(at, model.name, header, from_=model.name.short, num_ctx=tokens)
    made = with_origin(made, header, _command(model, memory, num_ctx))
    text = render(made)
    state = _write(output, text, yes=yes) if output else None
    document = {
        "model": str(model),
        "file": str(output) if output else None,
        "state": state,
        "commands": _commands(made),
        "notes": list(made.trailing),
        "modelfile": text,
    }
    shown = text.rstrip("\n")
    out.result(
        document, f"{output}: {state}" if output else shown, str(output) if output else shown
    )


def _commands(made: "Modelfile") -> list[dict[str, str]]:
    return [{"kind": c.kind, "key": c.key, "value": c.value} for c in made.commands]


def _num_ctx(
    header: "Header", memory: str | None, num_ctx: str | None, *, kept: bool
) -> tuple[int, str] | None:
    """Tokens and reason by the options, else by the plan; None: the model's own stays."""
    from tqconvert.modelfile.make import requested_num_ctx
    from tqconvert.units import parse_bytes, parse_context

    if memory and num_ctx:
        raise UsageError("--memory and --num-ctx both set num_ctx (give one)")
    if num_ctx:
        return requested_num_ctx(header, parse_context(num_ctx))
    if memory is None and kept:
        return None
    from tqconvert.kv.plan import choose_num_ctx

    return choose_num_ctx(header, parse_bytes(memory) if memory else None)


def _command(model: "Model", memory: str | None, num_ctx: str | None) -> str:
    options = [
        *(("--memory", memory) if memory else ()),
        *(("--num-ctx", num_ctx) if num_ctx else ()),
    ]
    return shlex.join(["tqconvert", "modelfile", str(model.name or model.path.name), *options])


def _write(path: Path, text: str, *, yes: bool) -> str:
    """Write the file unless it is there already; `written` or `unchanged`."""
    from tqconvert.fs import storage_error, write_atomic

    data = text.encode()
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        there = None
    except OSError as e:
        raise storage_error(e, path) from e
    if there == data:
        return "unchanged"
    if there is not None and not yes:
        raise RefusedError(
            f"{path}: exists and differs", hint="--yes replaces it, -o names another file"
        )
    write_atomic(path, data)
    return "written"
