"""The file that becomes a model: whether Ollama can hold it, and whether it is still the same."""

import os
from dataclasses import dataclass
from pathlib import Path

from tqconvert import filelocks, fs
from tqconvert.errors import InvalidGgufError, NotFoundError, RefusedError
from tqconvert.gguf.header import Header, read_header


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file is still the one that was hashed. Linking changes none of it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """State of the file now."""
        s = path.stat()
        return cls(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns)


def check_source(source: Path) -> Header:
    """Header of a file that Ollama can hold as a model.

    Raises NotFoundError, StorageError, InvalidGgufError, RefusedError.
    """
    fs.require_readable(source)
    if not source.is_file():
        raise NotFoundError(f"{source}: no regular file (expected a GGUF file)")
    header = read_header(source)
    refuse_unfit(header, str(source))
    return header


def refuse_unfit(header: Header, source: str) -> None:
    """Raise RefusedError, InvalidGgufError for a GGUF that Ollama cannot hold as a model."""
    shards = header.integer("split.count") or 0
    if shards > 1:
        raise RefusedError(
            f"{source}: one of {shards} shards, and a model in Ollama's store is one GGUF",
            hint="join them first: llama-gguf-split --merge FIRST-SHARD OUT",
        )
    kind = header.text("general.type")
    if kind in ("adapter", "projector", "mmproj") or (
        not header.arch("block_count") and header.arch("vision.block_count")
    ):
        raise RefusedError(
            f"{source}: {kind or 'a projector'}, no model that can be installed by itself",
            hint="ollama create NAME -f MODELFILE, with the model in a FROM line of its own",
        )
    if not header.tensors:
        raise InvalidGgufError(f"{source}: no tensors (expected a model)")


def refuse_writers(source: Path) -> None:
    """Raise RefusedError if another program may be writing the file."""
    fd = fs.open_fd(source, os.O_RDONLY)
    try:
        if filelocks.written_elsewhere(fd):
            raise RefusedError(
                f"{source}: another program has it open for writing",
                hint="wait until it is finished, then run again",
            )
    finally:
        os.close(fd)


def refuse_changed(source: Path, before: FileState) -> None:
    """Raise RefusedError if the file is not the one that was hashed."""
    try:
        same = FileState.of(source) == before
    except OSError:
        same = False
    if not same:
        raise RefusedError(f"{source}: changed while it was installed", hint="run again")
