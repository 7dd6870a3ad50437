"""The shards of a model as one GGUF: its header, and where the data of each shard goes in it.

Keys are the first shard's without `split.*`; the tensor tables follow each other with their offsets
moved, and so do the data. Nothing else changes, so each byte of data is copied as it is: a shard can be
put into its place while it arrives. llama-gguf-split --merge makes the same, but keeps `split.*` with a
count of 0 (tools/gguf-split/gguf-split.cpp, gguf_merge).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tqconvert.errors import InvalidGgufError
from tqconvert.gguf.header import MAGIC, Header
from tqconvert.gguf.shards import check_set

SPLIT_PREFIX = "split."


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's first bytes, its header and perhaps more, and what they say."""

    name: str
    head: bytes
    header: Header


@dataclass(frozen=True, slots=True)
class Piece:
    """Where the data of a shard lie: `length` bytes from `start` of the shard, at `at` of the whole."""

    start: int
    at: int
    length: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A whole of several shards: `header` up to the data, then the pieces, `size` bytes in all."""

    header: bytes
    pieces: tuple[Piece, ...]
    size: int


def join(shards: Sequence[Shard]) -> Joined:
    """The whole that these shards, in order, make. Same shards, same bytes.

    Raises InvalidGgufError for shards that are not one model, or cannot lie behind each other.
    """
    first = shards[0].header
    check_set([shard.name for shard in shards], [shard.header for shard in shards])
    for shard in shards:
        _check_alike(shard, first)
    order = "<" if first.byte_order == "little" else ">"
    lengths = [_padded(s.header.data_end - s.header.data_start, first.alignment) for s in shards]
    table = b"".join(
        _rows(shard, order, sum(lengths[:i])) for i, shard in enumerate(shards)
    )  # fmt: skip
    kept = [e for key, e in first.entries.items() if not key.startswith(SPLIT_PREFIX)]
    counts = struct.pack(
        order + "IQQ", first.version, sum(len(s.header.tensors) for s in shards), len(kept)
    )
    keys = b"".join(shards[0].head[e.start : e.end] for e in kept)
    header = MAGIC + counts + keys + table
    header += bytes(-len(header) % first.alignment)
    pieces, at = [], len(header)
    for shard, length in zip(shards, lengths, strict=True):
        start = min(shard.header.data_start, shard.header.size)
        have = shard.header.size - start
        if have > length:
            raise InvalidGgufError(
                f"{shard.name}: {have - length} bytes behind its last tensor; it cannot be joined",
                hint="llama-gguf-split --merge FIRST-SHARD OUT leaves them out",
            )
        pieces.append(Piece(start, at, have))
        at += length
    return Joined(header, tuple(pieces), at)


def _check_alike(shard: Shard, first: Header) -> None:
    """Offsets of all shards count in one alignment, and numbers in one byte order."""
    own = shard.header
    for what, mine, wanted in (
        ("version", own.version, first.version),
        ("byte order", own.byte_order, first.byte_order),
        ("alignment", own.alignment, first.alignment),
    ):
        if mine != wanted and (own.tensors or what != "alignment"):
            raise InvalidGgufError(
                f"{shard.name}: {what} {mine}, the first shard has {wanted}; they cannot be joined",
                hint="llama-gguf-split --merge FIRST-SHARD OUT can",
            )


def _rows(shard: Shard, order: str, shift: int) -> bytes:
    """The rows of the shard's tensor table, with offsets that count from the whole's data."""
    out, at, data = bytearray(), shard.header.kv_end, shard.head
    for tensor in shard.header.tensors:
        length = struct.unpack_from(order + "Q", data, at)[0]
        n_dims = struct.unpack_from(order + "I", data, at + 8 + length)[0]
        end = at + 8 + length + 4 + 8 * n_dims + 4
        out += data[at:end] + struct.pack(order + "Q", tensor.offset + shift)
        at = end + 8
    return bytes(out)


def _padded(length: int, alignment: int) -> int:
    return length + -length % alignment
