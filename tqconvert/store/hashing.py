"""Digests of large files with progress, several of one file in a single pass."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tqconvert.digest import READ_SIZE, Digest
from tqconvert.fs import storage_error


def hash_file(
    path: Path, *, offsets: Sequence[int] = (0,), advance: Callable[[int], None] | None = None
) -> tuple[Digest, ...]:
    """Digest of the file from each of `offsets` to its end; each has its own thread.

    Raises StorageError.
    """
    from concurrent.futures import ThreadPoolExecutor

    hashers = [hashlib.sha256() for _ in offsets]
    buffer = memoryview(bytearray(READ_SIZE))
    at = 0
    try:
        with (
            path.open("rb", buffering=0) as f,
            ThreadPoolExecutor(max(1, len(hashers) - 1)) as pool,
        ):
            while n := f.readinto(buffer):
                rest = [
                    pool.submit(h.update, buffer[max(0, offset - at) : n])
                    for h, offset in zip(hashers[1:], offsets[1:], strict=True)
                    if offset < at + n
                ]
                if offsets[0] < at + n:
                    hashers[0].update(buffer[max(0, offsets[0] - at) : n])
                for future in rest:
                    future.result()
                at += n
                if advance:
                    advance(n)
    except OSError as e:
        raise storage_error(e, path) from e
    return tuple(Digest(h.hexdigest()) for h in hashers)
