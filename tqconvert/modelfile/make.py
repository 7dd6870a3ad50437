"""Modelfiles for stock Ollama: from an installed model its own layers, from a bare GGUF what is certain.

Nothing is guessed: what the model does not say stands in comments, marked "not certain". No PARAMETER sets
the KV cache types, since stock Ollama refuses such a line; tags in the GGUF do.
"""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqconvert.errors import UsageError
from tqconvert.gguf.header import Header
from tqconvert.modelfile import names
from tqconvert.modelfile.chat import ChatFormat
from tqconvert.modelfile.chatlines import add_template
from tqconvert.modelfile.draft import Draft, one_line
from tqconvert.modelfile.families import Family, family_of
from tqconvert.modelfile.own import OwnLayers, blob_reader, read_own
from tqconvert.modelfile.parse import Modelfile
from tqconvert.models import looks_like_path
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store

NumCtx = tuple[int, str]
"""Tokens, and the reason for them."""

SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "penalty_last_n": "repeat_last_n", "penalty_repeat": "repeat_penalty",
}  # fmt: skip
"""`general.sampling.*` key of a GGUF -> Ollama's parameter. Source: llama.cpp gguf-py constants.py."""

_SAMPLING_PREFIX = "general.sampling."


def from_manifest(
    store: Store, name: ModelName, header: Header, *, from_: str, num_ctx: NumCtx | None
) -> Modelfile:
    """Modelfile of an installed model: its own layers, and `num_ctx` where it is given.

    `from_` is a model's name, with which adapter, projector and licenses come along, or the path of its
    GGUF. Raises NotFoundError, BadManifestError, DigestMismatchError.
    """
    manifest = store.require_manifest(name)
    own = read_own(manifest, blob_reader(store))
    paths = {layer.digest.hex: str(store.blob(layer.digest)) for layer in own.files}
    return from_own(own, header, from_=from_, num_ctx=num_ctx, paths=paths)


def from_own(
    own: OwnLayers,
    header: Header,
    *,
    from_: str,
    num_ctx: NumCtx | None,
    paths: Mapping[str, str],
) -> Modelfile:
    """Modelfile of a model by its own layers; `paths`: digest -> file of projectors and adapters."""
    draft = Draft(from_)
    by_path = looks_like_path(from_)
    _add_files(draft, own, paths, by_path=by_path)
    for kind in ("template", "system"):
        if kind in own.texts:
            draft.add(kind, own.texts[kind], f"{kind.upper()}: the model's own")
    for kind in ("renderer", "parser", "requires"):
        value = own.config.get(kind)
        if isinstance(value, str) and value:
            draft.add(kind, value, f"{kind.upper()}: the model's own config")
    family = family_of(header.architecture)
    if family and not own.config.get("renderer"):
        draft.note(f"not certain: models of {header.architecture} have RENDERER {family.renderer} and "
                   f"PARSER {family.parser}; this one names none")  # fmt: skip
    _add_params(draft, own.params, num_ctx)
    for role, content in own.messages:
        draft.add("message", content, "MESSAGE: the model's own", key=role)
    if by_path:
        for text in own.licenses:
            draft.add("license", text, "LICENSE: the model's own")
    elif own.licenses:
        draft.note(
            f"LICENSE: {len(own.licenses)} come with FROM; written again they would be there twice"
        )
    return draft.finish()


def from_gguf(
    header: Header, *, from_: str, num_ctx: NumCtx | None, chat: ChatFormat | None = None
) -> Modelfile:
    """Modelfile of a bare GGUF: what its header says for certain, the rest as comments.

    `chat` is the chat format that the user asks for; None: the one that the file is known by.
    Raises UsageError for a chat format beside a renderer.
    """
    draft = Draft(from_)
    family = family_of(header.architecture)
    if family is not None and chat is not None:
        raise UsageError(
            f"{header.architecture}: has RENDERER {family.renderer}, which makes any TEMPLATE idle"
        )
    if family is not None:
        _add_family(draft, header, family)
    else:
        add_template(draft, header, chat)
    _add_sampling(draft, header)
    if num_ctx is not None:
        draft.add("parameter", str(num_ctx[0]), f"num_ctx: {num_ctx[1]}", key="num_ctx")
    else:
        draft.note("num_ctx: not set, the server's default counts (OLLAMA_CONTEXT_LENGTH)")
    named = header.text("general.license.name") or header.text("general.license")
    if named:
        draft.note(f"LICENSE: {one_line(named)} (general.license); its text is not in the file")
    else:
        draft.note("LICENSE: not certain: the file names none")
    return draft.finish()


def own_num_ctx(store: Store, name: ModelName) -> int | None:
    """`num_ctx` in the installed model's own parameters, None where they set none."""
    own = read_own(store.require_manifest(name), blob_reader(store))
    value = own.params.get("num_ctx")
    return value if isinstance(value, int) else None


def requested_num_ctx(header: Header, n_ctx: int) -> NumCtx:
    """The context that the user asked for; the reason says if the model was made for less."""
    limit = header.arch("context_length")
    if isinstance(limit, int) and n_ctx > limit:
        return n_ctx, f"asked for by --num-ctx; the model was made for {limit}"
    return n_ctx, "asked for by --num-ctx"


def with_origin(modelfile: Modelfile, header: Header, command: str) -> Modelfile:
    """The Modelfile with comments at its top: which model, and the command that made it."""
    title = header.text("general.name") or header.architecture
    lines = (
        f"Modelfile of {title}, for stock Ollama",
        f"made by: {command}",
        f"KV cache types: {_cache_types(header)}; no PARAMETER sets them",
    )
    return replace(modelfile, header=tuple(one_line(line) for line in lines))


def _cache_types(header: Header) -> str:
    """Where the KV cache types of this model come from."""
    sides = [header.get(f"general.kv_cache.type_{side}") for side in "kv"]
    if sides == [None, None]:
        return "OLLAMA_KV_CACHE_TYPE of the server, or tags in the GGUF (tqconvert tag)"
    named = [s if isinstance(s, str) else "f16" if s is None else "by layer" for s in sides]
    return f"tagged {named[0]}/{named[1]} in the GGUF, which a patched runtime obeys"


def from_path(path: Path, output: Path | None) -> str:
    """How FROM names the file: Ollama counts relative paths from the Modelfile's own folder."""
    folder = output.parent.absolute() if output else Path.cwd()
    full = path.absolute()
    return (
        f"./{full.relative_to(folder).as_posix()}"
        if full.is_relative_to(folder)
        else os.fspath(full)
    )


def _add_files(draft: Draft, own: OwnLayers, paths: Mapping[str, str], *, by_path: bool) -> None:
    for layer in own.files:
        path = paths.get(layer.digest.hex)
        if not by_path:
            draft.note(f"{layer.kind}: comes with FROM")
        elif path is None or layer.kind == "draft":
            draft.note(f"left out: the model's {layer.kind} {layer.digest.short}")
        else:
            kind = "adapter" if layer.kind == "adapter" else "from"
            draft.add(kind, path, f"{layer.kind}: the model's own")


def _add_params(draft: Draft, params: Mapping[str, Any], num_ctx: NumCtx | None) -> None:
    """PARAMETER lines of the params layer; a `num_ctx` that is given replaces the model's own."""
    for key, value in params.items():
        if key == "num_ctx" and num_ctx is not None:
            continue
        texts = [_number_text(v) for v in (value if isinstance(value, list) else [value])]
        kind = names.PARAMETERS.get(key)
        if kind is None or not all(t is not None and names.accepts(kind, t) for t in texts):
            draft.note(f"left out: parameter {key} = {value!r}, which stock Ollama does not take")
            continue
        for text in texts:
            draft.add("parameter", text or "", "parameters: the model's own", key=key)
    if num_ctx is not None:
        before = f" (the model's own: {params['num_ctx']})" if "num_ctx" in params else ""
        draft.add("parameter", str(num_ctx[0]), f"num_ctx: {num_ctx[1]}{before}", key="num_ctx")


def _add_family(draft: Draft, header: Header, family: Family) -> None:
    """RENDERER and PARSER of the family, if the file is certainly one of it."""
    named = "".join(header.text(f"general.{k}") or "" for k in ("name", "basename", "finetune"))
    pair = f"RENDERER {family.renderer} and PARSER {family.parser}"
    if family.named not in named.lower().replace("-", "").replace(" ", ""):
        draft.note(
            f"not certain: {pair}: architecture {header.architecture}, "
            f"but the file's name does not say {family.named}"
        )
        return
    comment = f"RENDERER, PARSER: {header.architecture}: {family.source}"
    draft.add("renderer", family.renderer, comment)
    draft.add("parser", family.parser, comment)
    if family.reported and not any(k.startswith(_SAMPLING_PREFIX) for k in header.entries):
        draft.note(f"not certain: reported, unverified: {family.reporter}:")
        for key, value in family.reported:
            draft.note(f"PARAMETER {key} {value}")


def _add_sampling(draft: Draft, header: Header) -> None:
    for key in header.entries:
        if not key.startswith(_SAMPLING_PREFIX):
            continue
        value = header.get(key)
        name = SAMPLING.get(key.removeprefix(_SAMPLING_PREFIX))
        text = _number_text(value, float32=True)
        if name and text is not None and names.accepts(names.PARAMETERS[name], text):
            draft.add("parameter", text, f"{name}: {key} of the file", key=name)
        else:
            draft.note(f"left out: {key} = {value!r}: no PARAMETER of Ollama for it")


def _number_text(value: object, *, float32: bool = False) -> str | None:
    """The value as a PARAMETER has it; a float32 with the fewest digits that give it back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and float32 and math.isfinite(value):
        texts = (f"{value:.{digits}g}" for digits in range(1, 18))
        # A file may say it as a float64, which no float32 need be equal to.
        return next((t for t in texts if _as_float32(t) == value), str(value))
    if isinstance(value, int | float | str):
        return str(value)
    return None


def _as_float32(text: str) -> float | None:
    try:
        number: float = struct.unpack("<f", struct.pack("<f", float(text)))[0]
    except OverflowError:
        return None
    return number
