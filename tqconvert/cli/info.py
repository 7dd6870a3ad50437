"""`inspect`: what a GGUF is."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import JsonOpt, ModelArg, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table, types_text
from tqconvert.units import format_bytes, format_context, format_count

if TYPE_CHECKING:
    from pathlib import Path

    from tqconvert.gguf.header import Header, Tensor
    from tqconvert.gguf.tags import KvTags
    from tqconvert.gguf.values import Entry, Value
    from tqconvert.models import Model
    from tqconvert.summary import LayerGroup, Summary

SHORT = 60


def inspect(
    model: ModelArg,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List all keys of the header.")] = False,
    get: Annotated[
        str | None, typer.Option("--get", metavar="KEY", help="Print the value of one key.")
    ] = None,
    store: StoreOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what a GGUF is: parameters, layers by kind, heads, context, cache tags.

    Only headers are read, and checked against the files' sizes: milliseconds for any model. Of a
    sharded set any shard may be named; the set is shown as one model.

    \b
    Examples:
      tqconvert inspect qwen3.5:27b-tq
      tqconvert inspect model.gguf --get tokenizer.chat_template

    \b
    Writes: nothing.
    Exit codes: 0 ok; 4 not a usable GGUF; 5 no such model, file or key.
    """
    from tqconvert.models import find_file
    from tqconvert.summary import read_summary

    out = Output("inspect", as_json, quiet)
    found = find_file(model) or _installed(model, store)
    summary = read_summary(found.path)
    if get is not None:
        value = summary.header.read(get)
        entry = summary.header.entries[get]
        out.result(_key_document(entry, value), _lines(value), _lines(value))
    elif keys:
        rows = [(k, e.type_name, _short(e)) for k, e in summary.header.entries.items()]
        document = {
            "keys": {k: _key_document(e, e.value) for k, e in summary.header.entries.items()}
        }
        out.result(document, table(rows), list(summary.header.entries))
    elif tensors:
        out.result(
            {**_document(summary), "tensors": [_tensor_document(t) for t in summary.tensors]},
            _tensor_table(summary.tensors),
            [t.name for t in summary.tensors],
        )
    else:
        out.result(_document(summary), _text(model, summary), summary.header.architecture)


def _installed(name: str, store: "Path | None") -> "Model":
    from tqconvert.models import find_model
    from tqconvert.store.layout import Store

    return find_model(name, Store(settings(store=store).store))


def _text(model: str, s: "Summary") -> str:
    from tqconvert.summary import layer_groups

    h = s.header
    shards = f" in {len(s.headers)} files" if len(s.headers) > 1 else ""
    rows = [
        ("architecture", h.architecture or "(not named)"),
        ("name", h.text("general.name") or ""),
        ("parameters", f"{format_count(s.n_parameters)} ({s.n_parameters})"),
        ("file type", s.file_type),
        ("size", f"{format_bytes(s.size)} ({s.size} bytes{shards})"),
        ("GGUF", f"version {h.version}, {h.byte_order}-endian, {h.n_kv} keys, {len(s.tensors)} tensors"),
        ("tensors", _shares(s.tensor_bytes)),
        ("context", format_context(s.layout.n_ctx_train) if s.layout.n_ctx_train else ""),
        ("layers", s.layout.describe()),
        ("cache tags", _tags_text(s.tags)),
        ("balance", "" if s.tags or s.balance == "none" else s.balance),
    ]  # fmt: skip
    parts = [model, table([r for r in rows if r[1]], indent=2)]
    if s.layout.layers:
        parts.append(_layer_table(layer_groups(s.layout)))
    parts += [f"note: {note}" for note in s.notes]
    return "\n".join(parts)


def _shares(tensor_bytes: dict[str, int]) -> str:
    total = sum(tensor_bytes.values()) or 1
    return ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in tensor_bytes.items())


def _layer_table(groups: "tuple[LayerGroup, ...]") -> str:
    head = ("layers", "kind", "n", "heads", "K/V heads", "head dim K/V", "window")
    rows = []
    for g in groups:
        x = g.layer
        dims = f"{x.head_dim_k}/{x.head_dim_v}" if x.has_cache else "-"
        kind = f"{x.kind} (next-token prediction)" if x.is_nextn else str(x.kind)
        rows.append(
            (
                g.span, kind, str(len(g.indices)), str(x.n_head), str(x.n_head_kv), dims,
                str(x.window or "-"),
            )
        )  # fmt: skip
    return table([head, *rows], right=range(2, 7), indent=2)


def _tags_text(tags: "KvTags | None") -> str:
    if tags is None:
        return "none"
    measured = "measured" if tags.measured else "unmeasured"
    balance = "" if tags.balance == "none" else f", balance {tags.balance}"
    by = f" (by {tags.tool})" if tags.tool else ""
    return f"K {types_text(tags.type_k)}, V {types_text(tags.type_v)}, {measured}{balance}{by}"


def _tensor_table(tensors: "tuple[Tensor, ...]") -> str:
    rows = [
        (t.name, t.type.name, " x ".join(map(str, t.shape)), str(t.n_bytes), str(t.offset))
        for t in tensors
    ]
    return table([("tensor", "type", "shape", "bytes", "offset"), *rows], right=(3, 4))


def _short(entry: "Entry") -> str:
    if entry.value is None or entry.n_elements > 8:
        return "..."
    text = _lines(entry.value, separator=", ").replace("\n", "\\n")
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def _lines(value: "Value", *, separator: str = "\n") -> str:
    """The value as text; elements of arrays one a line."""
    if isinstance(value, tuple):
        return separator.join(_lines(x) for x in value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _json_value(value: "Value | None") -> Any:
    """JSON has no NaN and no bytes: the one as text, the other with its stray bytes escaped."""
    if isinstance(value, tuple):
        return [_json_value(x) for x in value]
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return _lines(value)
    return value


def _key_document(entry: "Entry", value: "Value | None") -> dict[str, Any]:
    return {"key": entry.key, "type": entry.type_name, "value": _json_value(value)}


def _tensor_document(t: "Tensor") -> dict[str, Any]:
    return {
        "name": t.name, "type": t.type.name, "shape": list(t.shape), "bytes": t.n_bytes,
        "offset": t.offset,
    }  # fmt: skip


def _document(s: "Summary") -> dict[str, Any]:
    from tqconvert.summary import layer_groups

    h = s.header
    return {
        "files": [str(p) for p in s.paths],
        "architecture": h.architecture,
        "name": h.text("general.name"),
        "parameters": s.n_parameters,
        "file_type": {"id": h.integer("general.file_type"), "name": s.file_type},
        "bytes": s.size,
        "gguf": _gguf_document(h, s),
        "tensor_bytes": s.tensor_bytes,
        "context": s.layout.n_ctx_train or None,
        "known_architecture": s.layout.known,
        "layers": [_layer_document(g) for g in layer_groups(s.layout)],
        "cache_tags": _tags_document(s.tags),
        "balance": s.balance,
        "notes": list(s.notes),
    }


def _gguf_document(h: "Header", s: "Summary") -> dict[str, Any]:
    return {
        "version": h.version, "byte_order": h.byte_order, "alignment": h.alignment,
        "keys": h.n_kv, "tensors": len(s.tensors), "data_start": h.data_start,
    }  # fmt: skip


def _layer_document(g: "LayerGroup") -> dict[str, Any]:
    x = g.layer
    return {
        "kind": str(x.kind), "indices": list(g.indices), "heads": x.n_head,
        "kv_heads": x.n_head_kv, "head_dim_k": x.head_dim_k, "head_dim_v": x.head_dim_v,
        "window": x.window or None, "next_token_prediction": x.is_nextn,
    }  # fmt: skip


def _tags_document(tags: "KvTags | None") -> dict[str, Any] | None:
    if tags is None:
        return None
    return {
        "type_k": tags.type_k, "type_v": tags.type_v, "balance": tags.balance,
        "measured": tags.measured, "evidence": tags.evidence, "tool": tags.tool,
    }  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add `inspect`."""
    app.command("inspect")(inspect)
