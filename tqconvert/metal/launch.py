"""Launches of kernels as data: written once, run on a CPU here and on the GPU of a Mac."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqconvert.errors import KernelSourceError

Size = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """What a buffer index is bound to: an array by name, from a byte on."""

    array: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """One dispatch of one kernel. Arrays are named; their bytes are no part of the record."""

    kernel: str
    """Host name."""
    buffers: tuple[Slot | None, ...]
    """By index."""
    grid: Size
    """Threadgroups."""
    threads: Size
    """Threads of one threadgroup."""
    constants: Mapping[int, int] = field(default_factory=dict)
    """Function constants by index; bool and integers only."""
    threadgroup: tuple[int, ...] = ()
    """Bytes of threadgroup memory by index."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON; `from_json` is its inverse."""
        return {
            "kernel": self.kernel,
            "buffers": [None if b is None else [b.array, b.offset] for b in self.buffers],
            "grid": list(self.grid),
            "threads": list(self.threads),
            "constants": {str(k): int(v) for k, v in self.constants.items()},
            "threadgroup": list(self.threadgroup),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Launch":
        """The record that `to_json` wrote. Raises KernelSourceError."""
        try:
            return Launch(
                str(document["kernel"]),
                tuple(
                    None if b is None else Slot(str(b[0]), int(b[1])) for b in document["buffers"]
                ),
                _size(document["grid"]),
                _size(document["threads"]),
                {int(k): int(v) for k, v in document["constants"].items()},
                tuple(int(n) for n in document["threadgroup"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as e:
            raise KernelSourceError(f"not a launch record: {type(e).__name__} {e}") from e


def slots(*names: str | Slot | None) -> tuple[Slot | None, ...]:
    """Buffers by index from names of arrays."""
    return tuple(Slot(n) if isinstance(n, str) else n for n in names)


def _size(values: Sequence[Any]) -> Size:
    x, y, z = values
    return int(x), int(y), int(z)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a kernel must not do, at the line that does it."""

    kind: str
    """A name of `MSL_KINDS` in cpu/msl_abi.h, or timeout."""
    kernel: str
    file: str
    """Path as the compiler saw it; empty where no line is known."""
    line: int
    count: int
    detail: str = ""
    group: Size = (0, 0, 0)
    """Threadgroup of the first time."""
    thread: int = -1

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else ""
        more = f" ({self.detail})" if self.detail else ""
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{where}{self.kind} in {self.kernel}{more}{times}"

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "kind": self.kind, "kernel": self.kernel, "file": self.file, "line": self.line,
            "count": self.count, "detail": self.detail, "group": list(self.group),
            "thread": self.thread,
        }  # fmt: skip
