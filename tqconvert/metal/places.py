"""Source lines of addresses in a compiled unit, from its DWARF 4 line table; no debugger is needed."""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_EXTENDED, _COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE = range(5)
_CONST_ADD_PC, _FIXED_ADVANCE_PC = 8, 9
_ONE_ARGUMENT = (5, 12)  # set_column, set_isa


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """The line table of one library; empty where it has none that is understood."""

    def __init__(self, library: Path) -> None:
        rows = sorted(_rows(_debug_line(library.read_bytes())), key=lambda r: r[0])
        self._addresses = [r[0] for r in rows]
        self._rows = rows

    def at(self, address: int) -> Place | None:
        """The line that the instruction at `address` belongs to."""
        i = bisect_right(self._addresses, address) - 1
        # Code that stands for several lines has line 0: the last one before it is near.
        while i > 0 and self._rows[i][1] and not self._rows[i][2]:
            i -= 1
        if i < 0 or not self._rows[i][2]:
            return None
        return Place(self._rows[i][1], self._rows[i][2])

    def of_callers(self, addresses: Iterable[int]) -> Place | None:
        """The first line of kernel source among return addresses, the innermost first."""
        for address in addresses:
            # The call is the instruction before the one it returns to.
            place = self.at(address - 1)
            if place and not Path(place.file).name.startswith("msl_"):
                return place
        return None


def _debug_line(image: bytes) -> bytes:
    """The section .debug_line of a 64-bit ELF file, empty if it has none."""
    if image[:6] != b"\x7fELF\x02\x01":
        return b""
    (offset,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, offset + i * size) for i in range(count)]
    strings = headers[names][4]
    for name, _, _, _, start, length in headers:
        at = strings + name
        if image[at : image.index(b"\0", at)] == b".debug_line":
            return image[start : start + length]
    return b""


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def u8(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return int(value)

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        value = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return value


def _rows(data: bytes) -> Iterator[tuple[int, str, int]]:
    """(address, file, line) of all rows; no file ends a sequence."""
    at = 0
    while at + 10 < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        end = at + 4 + length
        if struct.unpack_from("<H", data, at + 4)[0] == 4:
            yield from _unit(data, at + 6, end)
        at = end


def _unit(data: bytes, at: int, end: int) -> Iterator[tuple[int, str, int]]:
    r = _Reader(data, at)
    length = r.number("I")
    program = r.at + length
    step = r.u8()
    r.at += 2  # operations of one instruction, default of is_stmt
    base, span, opcodes = r.number("b"), r.u8(), r.u8()
    r.at += opcodes - 1
    # Units are compiled in the root folder: what is relative is relative to that.
    folders = ["/"]
    while folder := r.text():
        folders.append(os.path.join("/", folder))
    files = [""]
    while name := r.text():
        files.append(os.path.join(folders[r.uleb()], name))
        r.uleb()
        r.uleb()
    r.at = program
    address, file, line = 0, 1, 1
    while r.at < end:
        op = r.u8()
        if op >= opcodes:
            address += (op - opcodes) // span * step
            line += base + (op - opcodes) % span
            yield address, files[file], line
        elif op == _EXTENDED:
            size = r.uleb()
            after = r.at + size
            match r.u8():
                case 1:
                    yield address, "", 0
                    address, file, line = 0, 1, 1
                case 2:
                    address = r.number("Q")
                case _:
                    pass
            r.at = after
        elif op == _COPY:
            yield address, files[file], line
        elif op == _ADVANCE_PC:
            address += r.uleb() * step
        elif op == _ADVANCE_LINE:
            line += r.sleb()
        elif op == _SET_FILE:
            file = r.uleb()
        elif op == _CONST_ADD_PC:
            address += (255 - opcodes) // span * step
        elif op == _FIXED_ADVANCE_PC:
            address += r.number("H")
        elif op in _ONE_ARGUMENT:
            r.uleb()
