"""`tqconvert fingerprint`: a model's weights, whatever stands around them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import JsonOpt, ModelArg, QuietOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table
from tqconvert.errors import IntegrityError, UsageError
from tqconvert.units import format_bytes

if TYPE_CHECKING:
    from tqconvert.gguf.fingerprint import Change, Comparison, Fingerprint, TensorDigest
    from tqconvert.progress import Progress


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("fingerprint")(fingerprint)


def fingerprint(
    model: ModelArg,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="FILE|NAME|DIGEST",
            help="Compare with this model, or with a fingerprint written down before.",
        ),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor with its digest.")
    ] = False,
    store: StoreOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Digest of a model's weights alone: tagging and sharding do not change it.

    Covers name, type, shape and data of every tensor; not metadata, padding, the
    order of tensors or the number of files. With --against it proves that two
    models have the same weights, or tells which tensors differ and in what.

    \b
    Examples:
      tqconvert fingerprint qwen3.5:27b-tq --against ./original.gguf
      tqconvert fingerprint model-00001-of-00003.gguf -q

    \b
    Writes: nothing. -q prints the fingerprint.
    Exit codes: 0 ok, or the same weights; 1 --against: they differ; 2 usage;
    4 not a usable GGUF; 5 no such file or model.
    """
    from tqconvert.gguf.fingerprint import compare

    out = Output("fingerprint", json=as_json, quiet=quiet)
    progress = out.progress()
    known = _digest(against)
    found = _read(model, store, progress)
    other = _read(against, store, progress) if against and known is None else None
    result = compare(other, found) if other else None
    same = result.same if result else known == str(found.digest) if known else None
    document = _document(model, found, tensors=tensors) | {
        "against": against and _against(against, known or str(other and other.digest), result),
        "same": same,
    }
    lines = [_text(model, found)]
    if tensors:
        lines.append(_listing(found.tensors))
    if result and against:
        lines.append(_comparison_text(against, result))
    elif known:
        lines.append("the same weights" if same else f"other weights than {known}")
    out.result(document, "\n".join(lines), str(found.digest))
    if same is False:
        raise typer.Exit(1)


def _digest(text: str | None) -> str | None:
    """The text if it is a digest."""
    from tqconvert.digest import Digest

    if text is None or not re.match(r"sha256[:-]", text):
        return None
    try:
        return str(Digest.parse(text))
    except IntegrityError as e:
        raise UsageError(f"--against: {e.message}") from None


def _read(text: str, store: Path | None, progress: "Progress") -> "Fingerprint":
    from tqconvert.gguf.fingerprint import fingerprint_files
    from tqconvert.models import files_of, find_model
    from tqconvert.store.layout import Store

    at = Store(settings(store=store).store)
    return fingerprint_files(files_of(find_model(text, at), at), progress=progress)


def _document(model: str, found: "Fingerprint", *, tensors: bool) -> dict[str, Any]:
    listed = {"tensors": [_tensor(t) for t in found.tensors]} if tensors else {}
    return {
        "model": model,
        "fingerprint": str(found.digest),
        "byte_order": found.byte_order,
        "tensor_count": len(found.tensors),
        "bytes": found.n_bytes,
        **listed,
    }


def _tensor(t: "TensorDigest") -> dict[str, Any]:
    return {
        "name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.n_bytes,
        "digest": str(t.digest),
    }  # fmt: skip


def _against(text: str, digest: str, result: "Comparison | None") -> dict[str, Any]:
    return {
        "model": text,
        "fingerprint": digest,
        "equal": result.n_equal if result else None,
        "changed": [
            {"name": c.name, "what": list(c.what), "before": _tensor(c.before), "after": _tensor(c.after)}
            for c in result.changed
        ] if result else None,
        "missing": list(result.missing) if result else None,
        "added": list(result.added) if result else None,
    }  # fmt: skip


def _text(model: str, found: "Fingerprint") -> str:
    n = len(found.tensors)
    return f"{model}: {found.digest}, {n} tensors, {format_bytes(found.n_bytes)}"


def _listing(tensors: "tuple[TensorDigest, ...]") -> str:
    rows = [(t.digest.short, t.type, " x ".join(map(str, t.shape)), t.name) for t in tensors]
    return table(rows, indent=2)


def _comparison_text(other: str, result: "Comparison") -> str:
    if result.same:
        return f"the same weights as {other}: {result.n_equal} tensors are equal"
    if not (result.changed or result.missing or result.added):
        return f"the same tensors as {other} in another byte order"
    head = f"other weights than {other}: {result.n_equal} tensors are equal"
    rows = [("changed", name, span, _what(c)) for name, span, c in _grouped(result.changed)]
    rows += [("missing", name, "", "") for name in result.missing]
    rows += [("added", name, "", "") for name in result.added]
    return f"{head}\n" + table(rows, indent=2)


def _what(change: "Change") -> str:
    parts = []
    a, b = change.before, change.after
    if a.type != b.type:
        parts.append(f"{a.type} -> {b.type}")
    if a.shape != b.shape:
        parts.append(" -> ".join(" x ".join(map(str, t.shape)) for t in (a, b)))
    return ", ".join(parts) or "data"


def _grouped(changes: "tuple[Change, ...]") -> "list[tuple[str, str, Change]]":
    """Changes of the same kind in several layers as one row: name with `*`, which layers, the first."""
    from tqconvert.units import format_runs

    groups: dict[tuple[str, str], list[tuple[int, Change]]] = {}
    for change in changes:
        m = re.fullmatch(r"(blk)\.(\d+)\.(.+)", change.name)
        name, number = (f"{m[1]}.*.{m[3]}", int(m[2])) if m else (change.name, -1)
        groups.setdefault((name, _what(change)), []).append((number, change))
    rows = []
    for (name, _), found in groups.items():
        numbers = sorted(number for number, _ in found)
        span = f"layers {format_runs(numbers)}" if numbers[0] >= 0 else ""
        rows.append((name, span, found[0][1]))
    return rows
