"""The walk over a GGUF header's bytes: keys, then tensor rows, every length checked before its use."""

import mmap
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import repeat

from tqconvert.errors import IncompleteHeaderError, InvalidGgufError, TruncatedGgufError
from tqconvert.gguf.types import ValueType
from tqconvert.gguf.values import SCALAR_SIZE, Entry, decode

FIXED_SIZE = 24
"""Bytes of magic, version and the two counts."""

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 4096
MAX_DIMS = 4
MAX_STRINGS = 1 << 24
"""Strings of one array: a sparse file could hold billions of empty ones, and each takes a step."""

KEEP_STRING = 1 << 20
"""Longer strings are read from the file when asked for."""

KEEP_ARRAY = 1024
"""Arrays up to this many elements are kept: per-layer values, not vocabularies."""

KEEP_SMALL = 256
KEEP_TOTAL = 8 << 20
"""Bytes of values kept; after that only those of up to KEEP_SMALL bytes."""

Row = tuple[str, tuple[int, ...], int, int]
"""Name, shape, type number and offset of a tensor, as they stand in the file."""


@cache
def _readers_of_two(order: str) -> list[Callable[..., tuple[int, int]]]:
    """For each n below 256: what reads two lengths with n bytes between them."""
    return [struct.Struct(f"{order}Q{n}xQ").unpack_from for n in range(256)]


class Walk:
    """A position in the header's bytes; refuses to step outside them."""

    def __init__(
        self, data: bytes | bytearray | memoryview | mmap.mmap, size: int, subject: str
    ) -> None:
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
        self.kept = 0

    def _bad(self, problem: str) -> InvalidGgufError:
        return InvalidGgufError(f"{self.subject}: {problem}")

    def _need(self, length: int, what: str) -> None:
        """`length` more bytes must lie in the file, and be at hand."""
        if self.at + length > self.have:
            raise self._short(f"{what} ends at {self.at + length}")

    def _short(self, where: str) -> TruncatedGgufError:
        """The error for a header that goes on behind the bytes at hand."""
        kind = IncompleteHeaderError if self.have < self.size else TruncatedGgufError
        return kind(f"{self.subject}: truncated: {where}, have {self.have} of {self.size} bytes")

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
            if not key:
                raise self._bad(f"empty key at {start}")
            if key in found:
                raise self._bad(f"duplicate key {key}")
            found[key] = self._entry(key, start)
        return found, self.at

    def _entry(self, key: str, start: int) -> Entry:
        kind = self._value_type(key)
        element, count = None, 0
        if kind is ValueType.ARRAY:
            element = self._value_type(key)
            if element is ValueType.ARRAY:
                raise self._bad(f"{key}: array of arrays")
            count = self._number64(key)
        value_at = self.at
        if element is not None:
            self._skip_array(key, element, count)
        elif kind is ValueType.STRING:
            self._skip_string(key)
        else:
            self._need(SCALAR_SIZE[kind], key)
            self.at += SCALAR_SIZE[kind]
        entry = Entry(key, kind, start, value_at, self.at, None, element, count)
        length = self.at - value_at
        limit = KEEP_STRING if self.kept + length <= KEEP_TOTAL else KEEP_SMALL
        if length > limit or count > KEEP_ARRAY:
            return entry
        self.kept += length
        return entry._replace(value=decode(bytes(self.data[value_at : self.at]), entry, self.order))

    def _skip_string(self, key: str) -> None:
        length = self._number64(key)
        if length > self.size - self.at:
            raise self._bad(f"{key}: string of {length} bytes in a file of {self.size}")
        self._need(length, key)
        self.at += length

    def _value_type(self, key: str) -> ValueType:
        number = self._number32(key)
        try:
            return ValueType(number)
        except ValueError:
            raise self._bad(f"{key}: unknown value type {number}") from None

    def _skip_array(self, key: str, element: ValueType, count: int) -> None:
        if count * SCALAR_SIZE.get(element, 8) > self.size - self.at:
            raise self._bad(f"{key}: array of {count} elements in a file of {self.size} bytes")
        if element is not ValueType.STRING:
            self._need(count * SCALAR_SIZE[element], key)
            self.at += count * SCALAR_SIZE[element]
            return
        if count > MAX_STRINGS:
            raise self._bad(f"{key}: array of {count} strings (limit {MAX_STRINGS})")
        self._skip_strings(key, count)

    def _skip_strings(self, key: str, count: int) -> None:
        """Step over `count` strings: the hot loop, for a vocabulary has a quarter of a million.

        Calls are what costs here, so one call of `struct` reads two lengths: the lowest byte of the
        first picks a format that skips so many bytes. `struct` itself refuses to read outside the
        bytes at hand, and a length that leads outside makes the next read fail.
        """
        at, data, length_of = self.at, self.data, self._u64
        low = 0 if self.order == "<" else 7
        lengths_of = _readers_of_two(self.order)
        try:
            for _ in repeat(None, count >> 1):
                n = data[at + low]
                first, second = lengths_of[n](data, at)
                if first != n:  # 256 bytes or more: the second length was read in a wrong place
                    second = length_of(data, at + 8 + first)[0]
                at += 16 + first + second
            if count & 1:
                at += length_of(data, at)[0] + 8
        except (struct.error, IndexError, OverflowError):
            # One of the two failed; the first may stand and lead to the place that the error names.
            with suppress(struct.error, OverflowError):
                at += length_of(data, at)[0] + 8
        else:
            if at <= self.have:
                self.at = at
                return
        if at > self.size:
            raise self._bad(f"{key}: a string reaches {at} in a file of {self.size} bytes")
        raise self._short(f"{key} goes on")

    def tensor_rows(self) -> tuple[list[Row], int]:
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
