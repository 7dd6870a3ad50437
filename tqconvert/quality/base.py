"""The base of a KL divergence: the reference's probabilities of every scored token, in a file.

The file is large (0.5 GiB for 1023 scored tokens of a vocabulary of 262,144), so it is deleted after use
unless the user names it. A file that is kept has a `FILE.json` beside it that says what it is the base of.
Layout by tools/perplexity/perplexity.cpp:467, 522-526 and 60-102 of llama.cpp 0c1e57098: "_logits_", n_ctx, n_vocab,
n_chunk, the tokens, then per scored token two floats and a uint16 for each word of the vocabulary.
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqconvert.errors import RefusedError, StorageError, UsageError
from tqconvert.fs import free_bytes, replace, storage_error, write_atomic
from tqconvert.units import format_bytes

SCHEMA = "tqconvert.quality-base/1"
MAGIC = b"_logits_"
SPARE = 256 << 20
"""Bytes that are left free for others."""
_FOLDER = ".tqconvert-base-"


@dataclass(frozen=True, slots=True)
class Key:
    """What a base depends on; not on threads: 1 and 2 gave the same bits (llama.cpp 0c1e57098, CPU)."""

    model_sha256: tuple[str, ...]
    text_sha256: str
    n_ctx: int
    n_chunks: int
    runtime: str


@dataclass(frozen=True, slots=True)
class BasePlan:
    """Where the base will be, and what it takes."""

    path: Path
    folder: Path
    need: int
    """Bytes at most; 0 if a file is reused."""
    kept: bool
    reused: bool


def base_bytes(n_vocab: int, n_ctx: int, n_chunks: int) -> int:
    """Size of the file."""
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    return 20 + n_chunks * (n_ctx * 4 + n_scored(n_ctx) * row)


def n_scored(n_ctx: int) -> int:
    """Scored tokens of one chunk: those of its second half, which have context before them."""
    return n_ctx - 1 - n_ctx // 2


def plan_base(path: Path | None, cache: Path, key: Key | None, need: int) -> BasePlan:
    """Decide between the user's file, which may be there already, and a temporary one in `cache`.

    `key` is that of the file to keep. Raises RefusedError for a file of something else, StorageError
    if the disk is too small.
    """
    if path is not None and path.exists():
        assert key is not None
        _require_same(path, key)
        return BasePlan(path, path.parent, 0, kept=True, reused=True)
    folder = cache if path is None else path.absolute().parent
    if path is not None and not folder.is_dir():
        raise StorageError(f"{folder}: no such folder (expected for the base {path.name})")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        free = free_bytes(folder)
    except OSError as e:
        raise storage_error(e, folder) from e
    if free < need + SPARE:
        raise StorageError(
            f"{folder}: the base takes {format_bytes(need)}, {format_bytes(free)} are free",
            hint="fewer --chunks, or --base FILE on another disk",
        )
    return BasePlan(path or folder / "base", folder, need, kept=path is not None, reused=False)


@contextmanager
def place_for(plan: BasePlan) -> Iterator[Path]:
    """A path to write the base to; whatever is there when this ends is removed."""
    try:
        own = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=plan.folder)
    except OSError as e:
        raise storage_error(e, plan.folder) from e
    try:
        yield Path(own) / "logits"
    finally:
        shutil.rmtree(own, ignore_errors=True)


def check_base(path: Path) -> int:
    """Chunks of a base that was written whole: the program does not look whether its writes succeed.

    Raises StorageError.
    """
    try:
        with path.open("rb") as f:
            head = f.read(20)
        size = path.stat().st_size
    except OSError as e:
        raise storage_error(e, path) from e
    if len(head) < 20 or head[:8] != MAGIC:
        raise StorageError(f"{path}: not a base of llama-perplexity ({size} bytes); disk full?")
    n_ctx, n_vocab, n_chunks = struct.unpack("<III", head[8:])
    expected = base_bytes(n_vocab, n_ctx, n_chunks)
    if size != expected:
        raise StorageError(
            f"{path}: the base has {size} bytes (expected {expected}): disk full?",
            hint="fewer --chunks, or --base FILE on another disk",
        )
    return int(n_chunks)


def keep_base(written: Path, plan: BasePlan, key: Key) -> None:
    """Move a base to where the user wants it, with what it is the base of beside it."""
    document = {"schema": SCHEMA, **asdict(key), "bytes": written.stat().st_size}
    write_atomic(_note(plan.path), (json.dumps(document, indent=2) + "\n").encode())
    try:
        replace(written, plan.path)
    except OSError as e:
        raise storage_error(e, plan.path) from e


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _require_same(path: Path, key: Key) -> None:
    """The file must be the base of just this."""
    try:
        document = json.loads(_note(path).read_text("utf-8"))
        known = document["schema"] == SCHEMA
    except FileNotFoundError:
        raise RefusedError(
            f"{path}: is there, and no {_note(path).name} says what it is the base of",
            hint="name a new file",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RefusedError(f"{_note(path)}: not readable ({e})", hint="name a new file") from None
    wanted = json.loads(json.dumps(asdict(key)))
    differ = [name for name, value in wanted.items() if not known or document.get(name) != value]
    if differ or document.get("bytes") != path.stat().st_size:
        what = ", ".join(differ) or "size"
        raise RefusedError(
            f"{path}: the base of another measurement (differs in {what})",
            hint=f"name a new file, or remove it: rm {path} {_note(path)}",
        )
    check_base(path)


def _sweep(where: Path) -> None:
    """Remove what killed processes left."""
    import psutil

    for folder in where.glob(f"{_FOLDER}*-*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def require_context(n_ctx: int, trained: int | None) -> None:
    """Refuse contexts that cannot be scored."""
    if n_ctx < 256:
        raise UsageError(f"--ctx {n_ctx}: too short to score (expected at least 256)")
    if trained and n_ctx > trained:
        raise UsageError(f"--ctx {n_ctx}: the model was trained for {trained} tokens")
