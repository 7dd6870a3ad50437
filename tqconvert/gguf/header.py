"""The header of a GGUF file: metadata and tensor table, read through mmap.

Arrays are stepped over until somebody asks for one, tensor data is never touched: a header with a
vocabulary of 262,144 tokens takes about 20 ms. Every length, offset, count and type is compared with
the file's size before it is used.
Source of the format: docs/gguf.md of the ggml repository; limits follow ggml/src/gguf.cpp.
"""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqconvert.errors import InvalidGgufError, NotFoundError, TruncatedGgufError
from tqconvert.fs import storage_error
from tqconvert.gguf.types import SCALAR_CODE, TENSOR_TYPES, TensorType, ValueType

MAGIC = b"GGUF"
FIXED_SIZE = 24
"""Bytes of magic, version and the two counts."""

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 4096
MAX_DIMS = 4
KEEP_STRING = 1 << 20
"""Longer strings are read from the file when asked for."""

KEEP_ARRAY = 1024
"""Arrays of numbers up to this many elements are kept: per-layer values, not vocabularies."""

_SIZE = {kind: struct.calcsize(code) for kind, code in SCALAR_CODE.items()}

Scalar = int | float | bool | str | bytes
Value = Scalar | tuple[Scalar, ...]
ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value: bytes [start, end) of the file, the value itself from `value_at` on.

    `value` is None where it was stepped over: vocabularies, very long strings.
    """

    key: str
    kind: ValueType
    start: int
    value_at: int
    end: int
    value: Value | None
    element: ValueType | None = None
    count: int = 0

    @property
    def type_name(self) -> str:
        """`uint32`, `string`, `array of 262144 string`."""
        if self.element is None:
            return self.kind.name.lower()
        return f"array of {self.count} {self.element.name.lower()}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A row of the tensor table; `offset` counts from the header's `data_start`."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def n_values(self) -> int:
        """Number of values."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def n_bytes(self) -> int:
        """Bytes of data."""
        return self.n_values // self.type.values * self.type.bytes


@dataclass(frozen=True, slots=True)
class Header:
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
    data_end: int = field(default=0)
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
        return _decode(raw, entry, "<" if self.byte_order == "little" else ">")


def read_header(path: str | os.PathLike[str]) -> Header:
    """Header of the file at `path`, tensor table checked against the file's size.

    Raises NotFoundError, StorageError, InvalidGgufError, TruncatedGgufError.
    """
    path = Path(path)
    try:
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size < FIXED_SIZE:
                raise _not_gguf(path, f.read())
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
                return parse_header(m, size, path=path)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise NotFoundError(f"{path}: is a folder (expected a GGUF file)") from None
    except OSError as e:
        raise storage_error(e, path) from e


def parse_header(
    data: bytes | bytearray | mmap.mmap, size: int, *, path: Path | None = None
) -> Header:
    """Header in `data`, the first bytes of a file of `size` bytes.

    Raises TruncatedGgufError if `data` ends before the header does, InvalidGgufError for the rest.
    """
    subject = str(path) if path else "GGUF"
    if data[:4] != MAGIC:
        raise _not_gguf(path, bytes(data[:64]))
    if len(data) < FIXED_SIZE:
        raise TruncatedGgufError(f"{subject}: truncated in its first {FIXED_SIZE} bytes")
    walk = _Walk(data, size, subject)
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


class _Walk:
    """A position in the header's bytes; refuses to step outside them."""

    def __init__(self, data: bytes | bytearray | mmap.mmap, size: int, subject: str) -> None:
        self.data, self.size, self.subject = data, size, subject
        self.have = min(len(data), size)
        self.order = "<"
        self.version: int = struct.unpack_from("<I", data, 4)[0]
        if self.version & 0xFFFF == 0:
            self.order = ">"
            self.version = struct.unpack_from(">I", data, 4)[0]
        if self.version not in (2, 3):
            raise InvalidGgufError(
                f"{subject}: GGUF version {self.version} (expected 2 or 3)",
                hint="convert the model anew with a current llama.cpp"
                if self.version == 1
                else None,
            )
        self.n_tensors, self.n_kv = struct.unpack_from(self.order + "QQ", data, 8)
        if self.n_tensors > MAX_TENSORS or self.n_kv > MAX_KEYS:
            raise InvalidGgufError(
                f"{subject}: absurd counts: {self.n_tensors} tensors, {self.n_kv} keys"
            )
        self._u32 = struct.Struct(self.order + "I").unpack_from
        self._u64 = struct.Struct(self.order + "Q").unpack_from
        self.at = FIXED_SIZE

    def _bad(self, problem: str) -> InvalidGgufError:
        return InvalidGgufError(f"{self.subject}: {problem}")

    def _need(self, length: int, what: str) -> None:
        """`length` more bytes must lie in the file, and be at hand."""
        if self.at + length > self.have:
            raise TruncatedGgufError(
                f"{self.subject}: truncated: {what} ends at {self.at + length}, have {self.have} bytes"
            )

    def _number32(self, what: str) -> int:
        self._need(4, what)
        value: int = self._u32(self.data, self.at)[0]
        self.at += 4
        return value

    def _number64(self, what: str) -> int:
        self._need(8, what)
        value: int = self._u64(self.data, self.at)[0]
        self.at += 8
        return value

    def _bytes(self, limit: int, what: str) -> bytes:
        length = self._number64(what)
        if length > limit:
            raise self._bad(f"{what} of {length} bytes at {self.at} (limit {limit})")
        self._need(length, what)
        self.at += length
        return bytes(self.data[self.at - length : self.at])

    def entries(self) -> tuple[dict[str, Entry], int]:
        """All keys by name, and where they end."""
        found: dict[str, Entry] = {}
        for _ in range(self.n_kv):
            start = self.at
            raw = self._bytes(MAX_KEY_BYTES, "key")
            try:
                key = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise self._bad(f"key at {start} is not UTF-8") from None
            if key in found:
                raise self._bad(f"duplicate key {key}")
            found[key] = self._entry(key, start)
        return found, self.at

    def _entry(self, key: str, start: int) -> Entry:
        kind = self._value_type(key)
        if kind is ValueType.ARRAY:
            element = self._value_type(key)
            if element is ValueType.ARRAY:
                raise self._bad(f"{key}: array of arrays")
            count = self._number64(key)
            value_at = self.at
            if count * _SIZE.get(element, 8) > self.size - self.at:
                raise self._bad(f"{key}: array of {count} elements in a file of {self.size} bytes")
            self._skip_array(key, element, count)
            entry = Entry(key, kind, start, value_at, self.at, None, element, count)
            keep = count <= KEEP_ARRAY and self.at - value_at <= KEEP_STRING
        else:
            value_at = self.at
            if kind is ValueType.STRING:
                length = self._number64(key)
                if length > self.size - self.at:
                    raise self._bad(f"{key}: string of {length} bytes in a file of {self.size}")
                self._need(length, key)
                self.at += length
            else:
                self._need(_SIZE[kind], key)
                self.at += _SIZE[kind]
            entry = Entry(key, kind, start, value_at, self.at, None)
            keep = self.at - value_at <= KEEP_STRING
        if not keep:
            return entry
        value = _decode(bytes(self.data[value_at : self.at]), entry, self.order)
        return Entry(key, kind, start, value_at, self.at, value, entry.element, entry.count)

    def _value_type(self, key: str) -> ValueType:
        number = self._number32(key)
        try:
            return ValueType(number)
        except ValueError:
            raise self._bad(f"{key}: unknown value type {number}") from None

    def _skip_array(self, key: str, element: ValueType, count: int) -> None:
        if element is not ValueType.STRING:
            self._need(count * _SIZE[element], key)
            self.at += count * _SIZE[element]
            return
        # The hot loop of a vocabulary: a quarter of a million strings, so no method calls in it.
        at, data, length_of, have = self.at, self.data, self._u64, self.have
        last = have - 8
        for _ in range(count):
            if at > last:
                break
            at += 8 + length_of(data, at)[0]
        else:
            if at <= have:
                self.at = at
                return
        if at > self.size:
            raise self._bad(f"{key}: a string reaches {at} in a file of {self.size} bytes")
        raise TruncatedGgufError(f"{self.subject}: truncated: {key} ends after {have} bytes")

    def tensor_rows(self) -> tuple[list[tuple[str, tuple[int, ...], int, int]], int]:
        """(name, shape, type number, offset) of each tensor, and where the table ends."""
        rows = []
        for _ in range(self.n_tensors):
            name = self._bytes(MAX_NAME_BYTES, "tensor name").decode("utf-8", "backslashreplace")
            n_dims = self._number32(name)
            if n_dims > MAX_DIMS:
                raise self._bad(f"tensor {name}: {n_dims} dimensions (expected at most {MAX_DIMS})")
            self._need(8 * n_dims + 12, f"tensor {name}")
            shape = struct.unpack_from(f"{self.order}{n_dims}Q", self.data, self.at)
            self.at += 8 * n_dims
            rows.append((name, shape, self._number32(name), self._number64(name)))
        return rows, self.at


def _decode(raw: bytes, entry: Entry, order: str) -> Value:
    """Value of the entry from its bytes; strings that are not UTF-8 stay bytes."""
    if entry.element is None:
        if entry.kind is ValueType.STRING:
            return _text(raw[8:])
        number: Scalar = struct.unpack(order + SCALAR_CODE[entry.kind], raw)[0]
        return number
    if entry.element is not ValueType.STRING:
        return struct.unpack(f"{order}{entry.count}{SCALAR_CODE[entry.element]}", raw)
    strings, at, length_of = [], 0, struct.Struct(order + "Q").unpack_from
    for _ in range(entry.count):
        length = length_of(raw, at)[0]
        strings.append(_text(raw[at + 8 : at + 8 + length]))
        at += 8 + length
    return tuple(strings)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


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
    rows: list[tuple[str, tuple[int, ...], int, int]], alignment: int, data_start: int, size: int,
    subject: str,
) -> tuple[tuple[Tensor, ...], int]:  # fmt: skip
    """The rows as tensors, and where the last one ends; each must lie inside the file.

    A tensor past the end of the file made servers send out their own memory (CVE-2026-7482).
    """

    def bad(
        problem: str, make: Callable[[str], InvalidGgufError] = InvalidGgufError
    ) -> InvalidGgufError:
        return make(f"{subject}: {problem}")

    tensors, seen, data_end = [], set(), data_start
    for name, shape, number, offset in rows:
        if name in seen:
            raise bad(f"duplicate tensor {name}")
        seen.add(name)
        if offset % alignment:
            raise bad(f"tensor {name}: offset {offset} is not a multiple of {alignment}")
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            raise bad(f"tensor {name}: unknown type {number}")
        if shape and shape[0] % kind.values:
            raise bad(
                f"tensor {name}: {kind.name} rows of {shape[0]} (expected multiples of {kind.values})"
            )
        tensor = Tensor(name, shape, kind, offset)
        end = data_start + offset + tensor.n_bytes
        if end > size:
            raise bad(f"truncated: tensor {name} ends at {end}, file is {size}", TruncatedGgufError)
        tensors.append(tensor)
        data_end = max(data_end, end)
    return tuple(tensors), data_end


def _not_gguf(path: Path | None, first: bytes) -> InvalidGgufError:
    """The error that names what the file seems to be instead."""
    subject = str(path) if path else "GGUF"
    if not first:
        return TruncatedGgufError(f"{subject}: empty file (expected a GGUF)")
    if first.startswith(MAGIC):
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
