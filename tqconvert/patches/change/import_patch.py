"""A patch from elsewhere taken into our series: under our header, in git's full form, without fuzz."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import BadPatchError, NotFoundError, RefusedError, UsageError
from tqconvert.patches.change.move import at_work, carry_out, contents_of, operation, recover
from tqconvert.patches.change.operation import State
from tqconvert.patches.change.repository import Blobs, Repository
from tqconvert.patches.change.stack import Conflict, look, stack
from tqconvert.patches.checkout import Generation
from tqconvert.patches.diff import FileDiff, parse_diffs
from tqconvert.patches.files import Files
from tqconvert.patches.mail import fields_of, read_mail
from tqconvert.patches.place import place
from tqconvert.patches.queue import Layer, Queue, Step
from tqconvert.patches.render import Change, Side, render_patch
from tqconvert.patches.series import GGML_FOLDERS, Patch, parse_series

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KINDS = ("temporary", "build", "feature")


class Wish(NamedTuple):
    """What the user says of a patch."""

    name: str | None
    """None: from its subject."""
    why: str | None
    kind: str
    after: str | None
    """The patch that it follows; None: the last one of its series."""


class Imported(NamedTuple):
    """What importing did."""

    path: Path
    sha256: str
    series: Path
    offsets: int
    """Hunks that stood at other lines in the source."""
    conflicts: tuple[Conflict, ...]
    """The patch itself or later ones that do not go on; then nothing was written."""


def read_source(repo: Repository, source: str) -> tuple[bytes, str]:
    """The patch that a file or a commit is, and where it comes from. Raises NotFoundError."""
    path = Path(source).expanduser()
    if path.is_file():
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        author = read_mail(data, "").author.decode("utf-8", "replace")
        who = f"{author}, " if data.startswith(b"From ") else ""
        return data, f"vendor, {who}{path.name} sha256:{digest}"
    commit = repo.branch_at(source)
    if commit is None:
        raise NotFoundError(f"{source}: no such file, and no such commit in {repo.root}")
    data = repo.git.bytes_of(
        "format-patch", "--stdout", "-1", "--zero-commit", "--no-signature", "--no-numbered",
        "--full-index", "--no-renames", "--no-stat", "--no-attach", commit,
    )  # fmt: skip
    return data, f"commit {commit}"


def import_patch(repo: Repository, queue: Queue, folder: Path, source: str, wish: Wish) -> Imported:
    """Add a patch to the series that its files belong to. The tree is not changed: `apply` does that.

    Raises BadPatchError, UsageError, RefusedError, NotFoundError, LockedError, StorageError.
    """
    state = State(repo)
    with at_work(repo, state), Blobs(repo.git) as blobs:
        recover(repo, state)
        data, origin = read_source(repo, source)
        diffs = parse_diffs(data, source)
        if not diffs:
            raise BadPatchError(f"{source}: holds no diff (expected one as git writes it)")
        layer, diffs = _in_layer(queue, diffs)
        name = _name(data, source, wish, folder)
        now = look(repo, blobs)
        at = _position(queue, folder, layer, diffs, wish.after)
        files = now.files.copy()
        below = stack(files, queue._replace(steps=queue.steps[:at]))
        step = Step((Patch(f"{name}.patch", data),), queue.ours[-1].origin, layer)
        changes, offsets, failed = _place_all(queue, step, files, diffs)
        where = _folder(queue, folder, layer, diffs)
        path, series = where / f"{name}.patch", where / "series"
        if below.conflicts or failed:
            return Imported(path, "", series, 0, (*below.conflicts, *failed))
        text = render_patch(repo, _header(data, name, origin, wish, queue, layer), changes)
        new = Step((Patch(f"{name}.patch", text),), step.origin, layer)
        steps = (*queue.steps[:at], new, *queue.steps[at:])
        done = stack(now.files.copy(), queue._replace(steps=steps))
        if done.conflicts:
            return Imported(path, "", series, offsets, done.conflicts)
        written = {path: text, series: _series_with(series, name, diffs, where.name, wish.after)}
        head = now.work.head
        op = operation("import", head, head, {}, {}, written)
        op = op._replace(refs={})
        sha256 = new.alternatives[0].sha256
        carry_out(repo, state, op, {}, contents_of(blobs), written, patch=name, sha256=sha256)
        return Imported(path, sha256, series, offsets, ())


def _in_layer(queue: Queue, diffs: tuple[FileDiff, ...]) -> tuple[Layer, tuple[FileDiff, ...]]:
    """The repository that the files belong to, and the diffs with paths as there."""
    checkout = queue.checkout
    if checkout.generation is not Generation.LEGACY:
        ollama = checkout.generation is Generation.MODERN
        return (Layer.OLLAMA if ollama else Layer.LLAMA_CPP), diffs
    layout = checkout.layout
    named = [
        (layout.source(d.old) if d.old else None, layout.source(d.new) if d.new else None)
        for d in diffs
    ]
    vendored = [bool(old or new) for old, new in named]
    if all(vendored):
        moved = tuple(d.moved(o, n) for d, (o, n) in zip(diffs, named, strict=True))
        return Layer.LLAMA_CPP, moved
    if any(vendored):
        raise RefusedError(
            "the patch changes llama.cpp and Ollama's own files", hint="import it in two parts"
        )
    there = [(checkout.root / d.path).exists() for d in diffs if d.old]
    inside = [(checkout.root / p).exists() for d in diffs if d.old and (p := layout.locate(d.path))]
    return (Layer.LLAMA_CPP if inside and not any(there) else Layer.OLLAMA), diffs


def _name(data: bytes, source: str, wish: Wish, folder: Path) -> str:
    subject = read_mail(data, Path(source).stem).subject.decode("utf-8", "replace")
    name = (wish.name or "").removesuffix(".patch")
    name = name or re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")[:40].strip("-")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r}: not a name for a patch", hint="give one: --as NAME")
    if wish.kind not in KINDS:
        raise UsageError(f"{wish.kind}: not known (expected {', '.join(KINDS)})")
    if any(folder.rglob(f"{name}.patch")):
        raise RefusedError(f"{name}.patch: there already", hint="give another name: --as NAME")
    return name


def _position(
    queue: Queue, folder: Path, layer: Layer, diffs: tuple[FileDiff, ...], after: str | None
) -> int:
    """How many steps of the queue come before the new one."""
    where = _folder(queue, folder, layer, diffs)
    last = 0
    for number, step in enumerate(queue.steps, start=1):
        names = {p.name.removesuffix(".patch") for p in step.alternatives}
        if step.layer is not layer:
            continue
        own = (where / step.alternatives[0].name).is_file()
        if after and after.removesuffix(".patch") in names and own:
            return number
        if own or not after:
            last = number
    if after:
        raise NotFoundError(f"--after {after}: not in {where / 'series'}")
    return last or len(queue.steps)


def _folder(queue: Queue, folder: Path, layer: Layer, diffs: tuple[FileDiff, ...]) -> Path:
    generation = queue.checkout.generation
    if layer is Layer.OLLAMA:
        return folder / generation / "ollama-go"
    if generation is Generation.LEGACY and not _is_ggml(diffs):
        return folder / "legacy" / "llama.cpp"
    return folder / "llama.cpp"


def _is_ggml(diffs: tuple[FileDiff, ...]) -> bool:
    return all(d.path.split("/")[0] in GGML_FOLDERS for d in diffs)


def _place_all(
    queue: Queue, step: Step, files: Files, diffs: tuple[FileDiff, ...]
) -> tuple[dict[str, Change], int, tuple[Conflict, ...]]:
    """What the diffs make of the files, by path in their layer."""
    layout = queue.checkout.layout
    changes: dict[str, Change] = {}
    bad, moved = [], 0
    for diff in diffs:
        if diff.old and diff.new and diff.old != diff.new:
            raise BadPatchError(
                f"{diff.path}: renames are refused (expected a new and a removed file)"
            )
        located = layout.locate(diff.path) if step.layer is Layer.LLAMA_CPP else diff.path
        if located is None:
            raise RefusedError(f"{diff.path}: not in this tree, so it cannot be checked")
        data = files.get(located)
        done = place(data, diff)
        moved += sum(bool(n) for n in done.offsets)
        if not done.ok:
            bad.append((located, tuple(n + 1 for n in done.failed), done.reason))
            continue
        old_mode = diff.old_mode or "100644"
        before = None if data is None else Side(data, old_mode)
        after = None if done.data is None else Side(done.data, diff.new_mode or old_mode)
        changes[diff.path] = Change(before, after)
    return changes, moved, (Conflict(step, tuple(bad), ()),) if bad else ()


def _header(data: bytes, name: str, origin: str, wish: Wish, queue: Queue, layer: Layer) -> bytes:
    """Our header, with what the source says; a patch that has it keeps it."""
    known = fields_of(data)
    mail = read_mail(data, name)
    why = wish.why or known.get("Why") or mail.body.decode("utf-8", "replace").partition("\n\n")[0]
    if not why:
        raise UsageError(
            f"{name}: nothing says what the patch is for", hint="tell it: --why 'one or two lines'"
        )
    generation = queue.checkout.generation
    scope = generation.value if layer is Layer.OLLAMA else "all"
    applies = {Generation.LEGACY: "v0.17.1..v0.24.0", Generation.MODERN: "v0.30+"}
    fields = {
        "Subject": mail.subject.decode("utf-8", "replace")[:65],
        "TQ-Id": f"tq-{scope}-{name}",
        "Origin": known.get("Origin", origin),
        "Forwarded": known.get("Forwarded", "no"),
        "Why-Kept": known.get("Why-Kept", wish.kind),
        "Why": " ".join(why.split()),
        "Drop-When": known.get("Drop-When", "its source has it in a release that we build on."),
        "Applies-To": known.get("Applies-To")
        or (applies.get(generation, "llama.cpp") if layer is Layer.OLLAMA else "llama.cpp"),
        "SPDX-License-Identifier": known.get("SPDX-License-Identifier", "MIT"),
    }
    return "".join(f"{k}: {v}\n" for k, v in fields.items()).encode() + b"---\n"


def _series_with(
    series: Path, name: str, diffs: tuple[FileDiff, ...], folder: str, after: str | None
) -> bytes:
    """The series with the new line."""
    old = series.read_text("utf-8") if series.is_file() else ""
    tag = (" [ggml]" if _is_ggml(diffs) else " [llama]") if folder == "llama.cpp" else ""
    rows = old.splitlines()
    at = len(rows)
    if after:
        wanted = f"{after.removesuffix('.patch')}.patch"
        at = next(n for n, row in enumerate(rows, 1) if _names(row, wanted))
    rows.insert(at, f"{name}.patch{tag}")
    return ("\n".join(rows) + "\n").encode()


def _names(row: str, patch: str) -> bool:
    return any(patch in entry.alternatives for entry in parse_series(row))
