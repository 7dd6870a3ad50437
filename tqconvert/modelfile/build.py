"""From what the user names to the text of a Modelfile, and to the file that holds it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import CheckFailedError, RefusedError, UsageError
from tqconvert.fs import storage_error, write_atomic
from tqconvert.gguf.header import Header, read_header
from tqconvert.modelfile.chat import chat_format_named
from tqconvert.modelfile.make import (
    NumCtx,
    from_gguf,
    from_manifest,
    from_path,
    own_num_ctx,
    requested_num_ctx,
    with_origin,
)  # fmt: skip
from tqconvert.modelfile.parse import Modelfile
from tqconvert.modelfile.render import render
from tqconvert.models import Model, find_model
from tqconvert.store.layout import Store
from tqconvert.units import format_bytes, parse_bytes, parse_context

UBATCH = 512
"""The runtime's default; its mask takes part of the memory."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, in the words of the command line."""

    target: str
    memory: str | None = None
    num_ctx: str | None = None
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A Modelfile and its text."""

    model: Model
    modelfile: Modelfile
    text: str


def build(request: Request, store: Store, *, output: Path | None = None) -> Built:
    """Modelfile of the model that the request names, for the place where it will stand.

    Raises UsageError, NotFoundError, InvalidGgufError, CheckFailedError for a memory that is too
    small, ModelfileError for a path that cannot be written.
    """
    if request.memory and request.num_ctx:
        raise UsageError("--memory and --num-ctx both set num_ctx (give one)")
    model = find_model(request.target, store)
    header = read_header(model.path)
    chat = chat_format_named(request.template) if request.template else None
    if model.name is None:
        from_ = from_path(model.path, output)
        made = from_gguf(header, from_=from_, num_ctx=_num_ctx(request, header), chat=chat)
    elif chat is not None:
        raise UsageError(f"{model.name}: an installed model keeps its own template (no --template)")
    else:
        own = not request.memory and own_num_ctx(store, model.name) is not None
        num_ctx = None if own and not request.num_ctx else _num_ctx(request, header)
        made = from_manifest(store, model.name, header, from_=model.name.short, num_ctx=num_ctx)
    made = with_origin(made, header, command_line(request, model))
    return Built(model, made, render(made))


def command_line(request: Request, model: Model) -> str:
    """The command that makes the Modelfile again; a file without its folder."""
    words = ["tqconvert", "modelfile", str(model.name or model.path.name)]
    options = {
        "--memory": request.memory, "--num-ctx": request.num_ctx, "--template": request.template,
    }  # fmt: skip
    return shlex.join([*words, *(w for k, v in options.items() if v for w in (k, v))])


def write_modelfile(path: Path, text: str, *, replace: bool) -> str:
    """Write the file unless it is there already: `written` or `unchanged`.

    Raises UsageError for a place that can hold no file, RefusedError over a file that differs unless
    `replace`, StorageError.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder (expected a file name)", hint=f"-o {path}/Modelfile")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
    data = text.encode()
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        there = None
    except OSError as e:
        raise storage_error(e, path) from e
    if there == data:
        return "unchanged"
    if there is not None and not replace:
        raise RefusedError(
            f"{path}: exists and differs", hint="--yes replaces it, -o names another file"
        )
    write_atomic(path, data)
    return "written"


def _num_ctx(request: Request, header: Header) -> NumCtx:
    from tqconvert.kv.plan import choose_num_ctx, overhead_of, overhead_text

    if request.num_ctx:
        return requested_num_ctx(header, parse_context(request.num_ctx))
    memory = parse_bytes(request.memory) if request.memory else None
    chosen = choose_num_ctx(header, memory)
    if memory is not None and memory < header.size + overhead_of(chosen[0], 1, UBATCH):
        raise CheckFailedError(
            f"{format_bytes(memory)}: the model does not fit at any context (weights "
            f"{format_bytes(header.size)}, {overhead_text(UBATCH)})",
            hint="--num-ctx sets the context whatever the memory",
        )
    return chosen
