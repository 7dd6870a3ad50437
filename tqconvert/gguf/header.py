"""The header of a GGUF file: metadata and tensor table, read through mmap.

Arrays are stepped over until somebody asks for one, tensor data is never touched: a header with a
vocabulary of 262,144 tokens takes about 30 ms. Every length, offset, count and type is compared with
the file's size before it is used.
Source of the format: docs/gguf.md of the ggml repository; limits follow ggml/src/gguf.cpp.
"""

import math
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tqconvert.errors import (
    IncompleteHeaderError,
    InvalidGgufError,
    NotFoundError,
    TruncatedGgufError,
)
from tqconvert.fs import storage_error
from tqconvert.gguf.types import TENSOR_TYPES, TensorType, ValueType
from tqconvert.gguf.values import Entry, Scalar, Value, decode
from tqconvert.gguf.walk import FIXED_SIZE, MAX_KEYS, Row, Walk

__all__ = [
    "DEFAULT_ALIGNMENT", "FIXED_SIZE", "MAGIC", "MAX_ALIGNMENT", "MAX_KEYS", "ByteOrder", "Entry",
    "Header", "Scalar", "Tensor", "Value", "parse_header", "read_header",
]  # fmt: skip

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_VALUES = (1 << 63) - 1
"""Values of one tensor: runtimes count them in an int64."""

ByteOrder = Literal["little", "big"]


class Tensor(NamedTuple):
    """A row of the tensor table; `offset` counts from the header's `data_start`."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of data."""
        return self.n_values // self.type.values * self.type.bytes


class Header(NamedTuple):
    """What stands before the tensor data. Holds no file open; `path` is None for bytes in flight."""

    path: Path | None
    size: int
    version: int
    byte_order: ByteOrder
    entries: dict[str, Entry]
    kv_end: int
    tensors: tuple[Tensor, ...]
    infos_end: int
    data_start: int
    alignment: int
    data_end: int = 0
    """Where the last tensor ends."""

    @property
    def n_kv(self) -> int:
        """Number of keys."""
        return len(self.entries)

    def get(self, key: str) -> Value | None:
        """Value of `key`, or None where it is absent or was stepped over (see `read`)."""
        entry = self.entries.get(key)
        return None if entry is None else entry.value

    def text(self, key: str) -> str | None:
        """Value of a string key; None where it is absent or no string."""
        value = self.get(key)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """Value of an integer key; None where it is absent or no integer."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str:
        """`general.architecture`, or "" where it is missing."""
        return self.text("general.architecture") or ""

    def arch(self, name: str) -> Value | None:
        """Value of the architecture's own key, such as `gemma3.block_count` for `block_count`."""
        return self.get(f"{self.architecture}.{name}")

    def read(self, key: str) -> Value:
        """Value of `key`, from the file if it was stepped over. Raises NotFoundError."""
        entry = self.entries.get(key)
        if entry is None:
            near = _nearest(key, list(self.entries))
            raise NotFoundError(
                f"{self.path}: no key {key}", hint=f"did you mean {near}?" if near else None
            )
        if entry.value is not None:
            return entry.value
        if self.path is None:
            raise NotFoundError(f"{key}: its value is not at hand, the file is still arriving")
        with self.path.open("rb") as f:
            f.seek(entry.value_at)
            raw = f.read(entry.end - entry.value_at)
        if len(raw) != entry.end - entry.value_at:
            raise TruncatedGgufError(f"{self.path}: changed while it was read")
        return decode(raw, entry, "<" if self.byte_order == "little" else ">")


def read_header(path: str | os.PathLike[str]) -> Header:
    """Header of the file at `path`, tensor table checked against the file's size.

    Raises NotFoundError, StorageError, InvalidGgufError, TruncatedGgufError.
    """
    path = Path(path)
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotFoundError(f"{path}: {_what_else(path)} (expected a GGUF file)")
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size < FIXED_SIZE:
                raise _not_gguf(path, f.read(FIXED_SIZE))
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
                return parse_header(m, size, path=path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as e:
        raise storage_error(e, path) from e


def _what_else(path: Path) -> str:
    return "is a folder" if path.is_dir() else "is no regular file"


def parse_header(
    data: bytes | bytearray | memoryview | mmap.mmap,
    size: int,
    *,
    path: Path | None = None,
    subject: str | None = None,
) -> Header:
    """Header in `data`, the first bytes of a file of `size` bytes.

    `subject` names bytes in flight in messages. Raises IncompleteHeaderError if `data` ends before
    the header does, TruncatedGgufError if the file does, InvalidGgufError for the rest.
    """
    subject = str(path) if path else subject or "GGUF"
    if len(data) < min(FIXED_SIZE, size) and MAGIC.startswith(data[:4]):
        raise IncompleteHeaderError(f"{subject}: {len(data)} of its first {FIXED_SIZE} bytes")
    if data[:4] != MAGIC:
        raise _not_gguf(path, bytes(data[:64]))
    if len(data) < FIXED_SIZE:
        raise TruncatedGgufError(f"{subject}: truncated in its first {FIXED_SIZE} bytes")
    walk = Walk(data, size, subject)
    entries, kv_end = walk.entries()
    alignment = _alignment(entries, subject)
    rows, infos_end = walk.tensor_rows()
    data_start = infos_end + -infos_end % alignment
    if rows and data_start > size:
        raise TruncatedGgufError(
            f"{subject}: truncated: data starts at {data_start}, file is {size}"
        )
    tensors, data_end = _check_tensors(rows, alignment, data_start, size, subject)
    order: ByteOrder = "little" if walk.order == "<" else "big"
    return Header(
        path, size, walk.version, order, entries, kv_end, tensors, infos_end, data_start,
        alignment, data_end,
    )  # fmt: skip


def _alignment(entries: dict[str, Entry], subject: str) -> int:
    entry = entries.get("general.alignment")
    if entry is None:
        return DEFAULT_ALIGNMENT
    value = entry.value
    if entry.kind is not ValueType.UINT32 or not isinstance(value, int):
        raise InvalidGgufError(
            f"{subject}: general.alignment is of type {entry.type_name} (expected uint32)"
        )
    if not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise InvalidGgufError(
            f"{subject}: general.alignment is {value} (expected a power of two up to {MAX_ALIGNMENT})"
        )
    return value


def _check_tensors(
    rows: Sequence[Row], alignment: int, data_start: int, size: int, subject: str
) -> tuple[tuple[Tensor, ...], int]:
    """The rows as tensors, and where the last one ends; each must lie inside the file, by itself.

    A tensor past the end of the file made servers send out their own memory (CVE-2026-7482).
    """
    tensors, seen = [], set()
    for row in rows:
        tensor = _tensor(row, alignment, subject)
        if tensor.name in seen:
            raise InvalidGgufError(f"{subject}: duplicate tensor {tensor.name}")
        seen.add(tensor.name)
        tensors.append(tensor)
    reached, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.n_bytes)):
        if tensor.n_bytes and tensor.offset < reached:
            raise InvalidGgufError(f"{subject}: tensor {tensor.name} overlaps {before}")
        reached, before = max(reached, tensor.offset + tensor.n_bytes), tensor.name
        if data_start + reached > size:
            raise TruncatedGgufError(
                f"{subject}: truncated: tensor {tensor.name} ends at {data_start + reached}, "
                f"file is {size}"
            )
    return tuple(tensors), data_start + reached


def _tensor(row: Row, alignment: int, subject: str) -> Tensor:
    name, shape, number, offset = row
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise InvalidGgufError(f"{subject}: tensor {name}: unknown type {number}")
    if offset % alignment:
        raise InvalidGgufError(
            f"{subject}: tensor {name}: offset {offset} is not a multiple of {alignment}"
        )
    values = math.prod(max(d, 1) for d in shape)
    if values > MAX_VALUES:
        raise InvalidGgufError(f"{subject}: tensor {name}: absurd shape {list(shape)}")
    row_length = shape[0] if shape else 1
    if row_length % kind.values:
        raise InvalidGgufError(
            f"{subject}: tensor {name}: {kind.name} rows of {row_length} "
            f"(expected multiples of {kind.values})"
        )
    return Tensor(name, shape, kind, offset)


def _not_gguf(path: Path | None, first: bytes) -> InvalidGgufError:
    """The error that names what the file seems to be instead."""
    subject = str(path) if path else "GGUF"
    if not first:
        return TruncatedGgufError(f"{subject}: empty file (expected a GGUF)")
    if first.startswith(MAGIC) or MAGIC.startswith(first):
        return TruncatedGgufError(
            f"{subject}: truncated: {len(first)} bytes, a header has {FIXED_SIZE}"
        )
    if first.startswith(b"version https://git-lfs"):
        return InvalidGgufError(
            f"{subject}: a Git LFS pointer, not the model",
            hint="fetch the file itself: git lfs pull",
        )
    if first.lstrip()[:1] == b"<":
        return InvalidGgufError(
            f"{subject}: an HTML page, not a GGUF",
            hint="the download got an error page; pull it again",
        )
    if not any(first):
        return InvalidGgufError(
            f"{subject}: begins with zero bytes (expected GGUF)",
            hint="an interrupted tag or download: `tqconvert untag` repairs an interrupted tag",
        )
    return InvalidGgufError(f"{subject}: not a GGUF (begins with {first[:8]!r})")


def _nearest(word: str, words: list[str]) -> str | None:
    import difflib

    found = difflib.get_close_matches(word, words, n=1)
    return found[0] if found else None
