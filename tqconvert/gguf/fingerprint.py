"""A digest of a model's tensors alone, whatever stands around them.

Every tensor is hashed by itself; the fingerprint is the sha256 of a small text that lists them:

    tqconvert.fingerprint/1 little 236
    <sha256 of the data> F32 640 19 output_norm.weight
    <sha256 of the data> Q8_0 640,262144 17 token_embd.weight

A line has the digest, the type, the shape, the length of the name in bytes, the name; lines are sorted
by the name's bytes. Metadata, alignment, padding, the order of tensors and the number of files do not
enter. Ones at the end of a shape are left out, as llama.cpp writes shapes (ggml_n_dims in
ggml/src/gguf.cpp). docs/pipelines.md has a second implementation in twenty lines.
"""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert import fs
from tqconvert.digest import READ_SIZE, Digest, digest_bytes
from tqconvert.errors import InvalidGgufError, TruncatedGgufError
from tqconvert.gguf.header import ByteOrder, Tensor
from tqconvert.gguf.shards import find_shards
from tqconvert.gguf.state import look
from tqconvert.progress import Progress, Reporting, Silent

SCHEME = "tqconvert.fingerprint/1"
MAX_THREADS = 4


class TensorDigest(NamedTuple):
    """One tensor with the sha256 of its data."""

    name: str
    type: str
    shape: tuple[int, ...]
    n_bytes: int
    digest: Digest


class Fingerprint(NamedTuple):
    """All tensors of a model, sorted by name."""

    byte_order: ByteOrder
    tensors: tuple[TensorDigest, ...]

    @property
    def text(self) -> str:
        """The list whose sha256 is the fingerprint."""
        lines = [f"{SCHEME} {self.byte_order} {len(self.tensors)}"]
        for t in self.tensors:
            shape = ",".join(map(str, t.shape))
            lines.append(f"{t.digest.hex} {t.type} {shape} {len(t.name.encode())} {t.name}")
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """The fingerprint."""
        return digest_bytes(self.text.encode())

    @property
    def n_bytes(self) -> int:
        """Bytes of data in all tensors."""
        return sum(t.n_bytes for t in self.tensors)


class Change(NamedTuple):
    """A tensor that both models have and that differs; `what` holds type, shape, data."""

    name: str
    what: tuple[str, ...]
    before: TensorDigest
    after: TensorDigest


class Comparison(NamedTuple):
    """How one model's tensors differ from another's."""

    same: bool
    changed: tuple[Change, ...]
    missing: tuple[str, ...]
    """Only the other model has them."""
    added: tuple[str, ...]
    n_equal: int


def fingerprint_of(
    path: str | os.PathLike[str], *, progress: Progress | None = None
) -> Fingerprint:
    """Fingerprint of the model that this file is, or is a shard of.

    Raises what `find_shards` raises, and StorageError.
    """
    return fingerprint_files(find_shards(path), progress=progress)


def fingerprint_files(paths: Sequence[Path], *, progress: Progress | None = None) -> Fingerprint:
    """Fingerprint of the tensors in all these files.

    Up to four tensors are hashed at a time. Raises InvalidGgufError where two files have a tensor of
    the same name or differ in byte order, what `look` raises, and StorageError.
    """
    found = [look(path) for path in paths]
    orders = {f.header.byte_order for f in found}
    if len(orders) != 1:
        raise InvalidGgufError(f"{paths[0]}: its shards differ in byte order")
    progress = progress or Silent()
    total = sum(t.n_bytes for f in found for t in f.header.tensors)
    tensors: list[TensorDigest] = []
    with Reporting(progress, f"hashing tensors of {paths[0].name}", total):
        for path, f in zip(paths, found, strict=True):
            start = f.start + f.header.data_start
            tensors += _hash_tensors(path, f.header.tensors, start, progress.advance)
    tensors.sort(key=lambda t: t.name.encode())
    for a, b in itertools.pairwise(tensors):
        if a.name == b.name:
            raise InvalidGgufError(f"{paths[0]}: tensor {a.name} is in two of its files")
    return Fingerprint(orders.pop(), tuple(tensors))


def compare(before: Fingerprint, after: Fingerprint) -> Comparison:
    """What became of the tensors of `before` in `after`."""
    old, new = ({t.name: t for t in f.tensors} for f in (before, after))
    changed = [
        Change(name, what, old[name], new[name])
        for name in old
        if name in new and (what := _differences(old[name], new[name]))
    ]
    missing = tuple(name for name in old if name not in new)
    added = tuple(name for name in new if name not in old)
    n_equal = len(old) - len(missing) - len(changed)
    return Comparison(before.digest == after.digest, tuple(changed), missing, added, n_equal)


def _differences(a: TensorDigest, b: TensorDigest) -> tuple[str, ...]:
    pairs = (("type", a.type, b.type), ("shape", a.shape, b.shape), ("data", a.digest, b.digest))
    return tuple(what for what, x, y in pairs if x != y)


def _hash_tensors(
    path: Path, tensors: Iterable[Tensor], start: int, advance: Callable[[int], None]
) -> list[TensorDigest]:
    """The tensors of one file, whose data begin at `start`."""
    from concurrent.futures import ThreadPoolExecutor

    lock, stop, local = threading.Lock(), threading.Event(), threading.local()
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as e:
        raise fs.storage_error(e, path) from e

    def hashed(tensor: Tensor) -> TensorDigest:
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(bytearray(READ_SIZE))
        h, at, end = hashlib.sha256(), start + tensor.offset, start + tensor.offset + tensor.n_bytes
        while at < end and not stop.is_set():
            n = fs.read_into(fd, local.buffer[: min(READ_SIZE, end - at)], at)
            if not n:
                raise TruncatedGgufError(f"{path}: became shorter while it was read")
            h.update(local.buffer[:n])
            at += n
            with lock:
                advance(n)
        shape = _canonical(tensor.shape)
        return TensorDigest(
            tensor.name, tensor.type.name, shape, tensor.n_bytes, Digest(h.hexdigest())
        )

    try:
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
            # In the order of the file: the disk reads on, whoever asks.
            waiting = [pool.submit(hashed, t) for t in sorted(tensors, key=lambda t: t.offset)]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    except OSError as e:
        raise fs.storage_error(e, path) from e
    finally:
        os.close(fd)


def _canonical(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without ones at its end; a single value is [1]."""
    n = len(shape)
    while n > 1 and shape[n - 1] == 1:
        n -= 1
    return shape[:n] or (1,)
