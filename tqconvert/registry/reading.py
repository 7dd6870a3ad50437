"""The bytes of a blob on their way out: hashed in order, each once, whatever is sent again."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tqconvert import fs
from tqconvert.digest import READ_SIZE, Digest
from tqconvert.errors import StorageError

PIECE: Final = 128 << 10
"""Bytes that a socket is given at a time: a stall is told from a slow line by the piece."""


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a blob: a file, or memory."""

    subject: str
    digest: Digest
    size: int
    path: Path | None
    data: bytes = b""


class Reader:
    """The bytes of a blob, hashed in order on the way out, each once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.hashed = 0
        self._hashing: Future[None] | None = None
        self._fd = -1
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")

    def __enter__(self) -> Self:
        if self._source.path is not None:
            try:
                flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
                self._fd = os.open(self._source.path, flags)
            except OSError as e:
                raise fs.storage_error(e, self._source.path) from e
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        if self._fd >= 0:
            os.close(self._fd)

    def pieces(self, offset: int, n: int) -> Iterator[bytes]:
        """`n` bytes from `offset` on. Raises StorageError if the file became shorter."""
        end = offset + n
        while offset < end:
            block = self._read(offset, min(READ_SIZE, end - offset))
            self._hash_in_order(block, offset)
            for at in range(0, len(block), PIECE):
                yield block[at : at + PIECE]
            offset += len(block)

    def skip_to(self, offset: int) -> None:
        """Hash what is not sent: an earlier process did that."""
        while self.hashed < offset:
            at = self.hashed
            self._hash_in_order(self._read(at, min(READ_SIZE, offset - at)), at)

    def digest(self) -> Digest:
        """Digest of all bytes, once they were all read."""
        self.skip_to(self._source.size)
        if self._hashing is not None:
            self._hashing.result()
        return Digest(self._hash.hexdigest())

    def _hash_in_order(self, block: bytes, offset: int) -> None:
        """Have the part of the block hashed that comes next, beside what the caller does.

        It counts from here on: a body that is given up in the middle of a block is asked for again
        before Python has closed it.
        """
        if not offset <= self.hashed < offset + len(block):
            return
        if self._hashing is not None:
            self._hashing.result()  # one at a time: no more than two blocks are in memory
        self._hashing = self._pool.submit(self._hash.update, block[self.hashed - offset :])
        self.hashed = offset + len(block)

    def _read(self, offset: int, n: int) -> bytes:
        if self._source.path is None:
            return self._source.data[offset : offset + n]
        try:
            block = fs.read_at(self._fd, n, offset)
        except OSError as e:
            raise fs.storage_error(e, self._source.path) from e
        if len(block) != n:
            raise StorageError(f"{self._source.path}: became shorter while it was read")
        return block
