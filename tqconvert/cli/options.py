"""Options that mean the same in every command, declared once, and what they are applied to."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tqconvert.fs import expand_user
from tqconvert.settings import Settings, load_settings

JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print the essential value only.")]
DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print what would be done; change nothing.")
]
YesOpt = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes: replace what is there.")]
OfflineOpt = Annotated[bool, typer.Option("--offline", help="Use no network.")]
InsecureOpt = Annotated[
    bool, typer.Option("--insecure", help="Allow plain http to hosts that are not loopback.")
]


def _folder(text: str) -> Path:
    """The path; `--store "$UNSET"` must not mean the current folder."""
    if not text:
        raise typer.BadParameter("empty (expected a folder)")
    return Path(text)


StoreOpt = Annotated[
    Path | None,
    typer.Option(
        "--store",
        parser=_folder,
        metavar="DIR",
        help="Ollama's model store.",
        show_default="OLLAMA_MODELS or ~/.ollama/models",
    ),
]
RuntimeOpt = Annotated[
    Path | None,
    typer.Option(
        "--runtime",
        parser=_folder,
        metavar="DIR",
        help="Folder with llama.cpp's programs.",
        show_default="the newest build",
    ),
]
TypeKOpt = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="Cache type of K; a comma-separated list has one per layer."),
]
TypeVOpt = Annotated[str | None, typer.Option(metavar="TYPE", help="Cache type of V, likewise.")]
OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="OUT", readable=False, help="Write to this file instead."
    ),
]


LockOpt = Annotated[
    bool, typer.Option("--lock", help="Write the model into the lock file, or renew it there.")
]
LockedOpt = Annotated[bool, typer.Option("--locked", help="Make what the lock file says, or fail.")]
LockFileOpt = Annotated[
    Path,
    typer.Option("--lock-file", metavar="FILE", readable=False, help="The lock file."),
]
AnyToolOpt = Annotated[
    bool,
    typer.Option("--any-tool", help="--locked: hold on to source and tags, not to the version."),
]
AttestOpt = Annotated[
    Path | None,
    typer.Option(
        "--attest", metavar="OUT", readable=False, help="Write an in-toto statement of the pull."
    ),
]
BomOpt = Annotated[
    Path | None,
    typer.Option(
        "--bom", metavar="OUT", readable=False, help="Write a CycloneDX bill of materials."
    ),
]


def complete_model(incomplete: str) -> list[str]:
    """Names in the store and GGUF files that begin with what was typed."""
    from glob import escape, iglob

    from tqconvert.errors import TqError
    from tqconvert.store.layout import Store

    files = [p for p in iglob(escape(incomplete) + "*") if os.path.isdir(p) or p.endswith(".gguf")]
    try:
        names = [n.short for n in Store(settings().store).names()]
    except TqError:
        names = []
    return [n for n in names if n.startswith(incomplete)] + sorted(files)


ModelArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE|NAME",
        help="A GGUF file or a model in the store.",
        autocompletion=complete_model,
    ),
]
# Typer would refuse a file that may not be read as wrong usage; the commands say what it is.
FileArg = Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="A GGUF file.")]


def settings(
    *,
    store: Path | None = None,
    runtime: Path | None = None,
    offline: bool = False,
    insecure: bool = False,
) -> Settings:
    """Settings of this process with the flags applied."""
    loaded = load_settings(os.environ, Path.cwd())
    origins = dict(loaded.origins)
    if store is not None:
        loaded = replace(loaded, store=expand_user(store).absolute())
        origins["store"] = "--store"
    if runtime is not None:
        loaded = replace(loaded, runtime=expand_user(runtime).absolute())
        origins["runtime"] = "--runtime"
    if offline:
        loaded = replace(loaded, offline=True)
        origins["offline"] = "--offline"
    if insecure:
        loaded = replace(loaded, insecure=True)
        origins["insecure"] = "--insecure"
    return replace(loaded, origins=origins)
