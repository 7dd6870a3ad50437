"""Files of `ollama_patches` changed as part of an operation: all, or as they were."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tqconvert import fs
from tqconvert.patches.change.operation import Operation, State


def digests(files: Mapping[Path, bytes | None]) -> dict[str, str]:
    """What an operation records of the files: path -> sha256, empty for one that goes."""
    return {
        str(p): hashlib.sha256(d).hexdigest() if d is not None else "" for p, d in files.items()
    }


def write_files(state: State, files: Mapping[Path, bytes | None]) -> None:
    """Write the files, or remove those that are None; the old ones are kept in `stage/`."""
    fs.make_folders(state.stage)
    for number, path in enumerate(files):
        with suppress(FileNotFoundError):
            fs.write_new(state.stage / f"patch.{number}.part", path.read_bytes(), 0o644)
            fs.rename(state.stage / f"patch.{number}.part", state.stage / f"patch.{number}")
    for path, data in files.items():
        if data is None:
            fs.remove(path)
        else:
            fs.make_folders(path.parent)
            fs.write_atomic(path, data)


def restore_files(state: State, op: Operation) -> None:
    """Put the old files back where the operation's stand; what somebody else wrote since stays."""
    drop_scratch(op)
    for number, (name, digest) in enumerate(op.exports.items()):
        path, kept = Path(name), state.stage / f"patch.{number}"
        now = path.read_bytes() if path.is_file() else None
        if (hashlib.sha256(now).hexdigest() if now is not None else "") != digest:
            continue
        if kept.exists():
            fs.write_atomic(path, kept.read_bytes())
        elif now is not None:
            fs.remove(path)


def drop_scratch(op: Operation) -> None:
    """Remove what a killed process left of a file that it was writing."""
    for folder in {Path(name).parent for name in op.exports}:
        for path in folder.glob(".tqconvert-*.tmp"):
            path.unlink(missing_ok=True)
