"""Metadata values of a GGUF file: where each lies, and its bytes as Python values."""

import struct
from typing import NamedTuple

from tqconvert.gguf.types import SCALAR_CODE, ValueType

Scalar = int | float | bool | str | bytes
Value = Scalar | tuple[Scalar, ...]

SCALAR_SIZE = {kind: struct.calcsize("=" + code) for kind, code in SCALAR_CODE.items()}
"""Bytes of each scalar."""


class Entry(NamedTuple):
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
    n_elements: int = 0

    @property
    def type_name(self) -> str:
        """`uint32`, `string`, `array of 262144 string`."""
        if self.element is None:
            return self.kind.name.lower()
        return f"array of {self.n_elements} {self.element.name.lower()}"


def decode(raw: bytes, entry: Entry, order: str) -> Value:
    """Value of the entry from its bytes; strings that are not UTF-8 stay bytes."""
    if entry.element is None:
        if entry.kind is ValueType.STRING:
            return _text(raw[8:])
        number: Scalar = struct.unpack(order + SCALAR_CODE[entry.kind], raw)[0]
        return number
    if entry.element is not ValueType.STRING:
        return struct.unpack(f"{order}{entry.n_elements}{SCALAR_CODE[entry.element]}", raw)
    strings, at, length_of = [], 0, struct.Struct(order + "Q").unpack_from
    for _ in range(entry.n_elements):
        length = length_of(raw, at)[0]
        strings.append(_text(raw[at + 8 : at + 8 + length]))
        at += 8 + length
    return tuple(strings)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
