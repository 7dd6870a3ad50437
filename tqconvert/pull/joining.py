"""A model of several shards, joined into one GGUF while they arrive.

The whole's header is known before the first byte of data (`gguf/join.py`), so each shard is fetched straight
into its place in the whole's partial file. Three digests are computed on the way: the shard's own, which is
compared with the listed one; the whole's; and the tagged whole's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import DigestMismatchError
from tqconvert.gguf.join import Joined, Piece
from tqconvert.pull.assemble import Assembled, Assembly
from tqconvert.pull.receive import Blob, Workplace, partial_for, publish, seed
from tqconvert.registry.follow import Follower, Watermark
from tqconvert.registry.http import Endpoint
from tqconvert.registry.partial import Partial, Window
from tqconvert.registry.transfer import Stats, Transfer


@dataclass(frozen=True, slots=True)
class ShardSource:
    """A shard that is to be had: its first bytes, which came when the pull was planned, and the rest."""

    name: str
    digest: Digest
    size: int
    head: bytes
    source: Endpoint


@dataclass(frozen=True, slots=True)
class Shards:
    """All shards of a model, and the whole that they make."""

    joined: Joined
    sources: tuple[ShardSource, ...]


class _WrongShardError(DigestMismatchError):
    """A shard is not the one listed; `kept` bytes of it were from an earlier run."""

    def __init__(self, message: str, *, hint: str, kept: int) -> None:
        super().__init__(message, hint=hint)
        self.kept = kept


def fetch_joined(
    place: Workplace, blob: Blob, shards: Shards, target: Callable[[Digest], Path]
) -> tuple[Assembled, Stats]:
    """Download all shards into one file, verify each, tag the whole if that is wanted, give it its name.

    A shard that is wrong is forgotten, the others are kept; where it was resumed it is fetched once more.
    Call under the lock of the blob's digest, which stands for the shards.
    Raises DigestMismatchError, NetworkError, StorageError.
    """
    planned = sum(len(s.head) for s in shards.sources)
    total = Stats(received=planned)
    while True:
        partial = partial_for(place, blob).open()
        try:
            done = _assembled(place, blob, shards, partial, total)
            publish(partial, blob, done, target(done.digest))
        except _WrongShardError as e:
            if not e.kept or total.restarted:
                raise
            total.restarted = True
            place.progress.note(f"{e.message}; it was resumed, fetching it anew")
            continue
        finally:
            partial.close()
            if total.received == planned and not total.resumed_from:
                partial.discard()  # reserved gigabytes with nothing in them
        return done, total


def _assembled(
    place: Workplace, blob: Blob, shards: Shards, partial: Partial, total: Stats
) -> Assembled:
    """All pieces in their places, hashed and tagged; synced, under the partial's name."""
    total.resumed_from = partial.done.total()
    kept = [_window(partial, shards, i).done.total() for i in range(len(shards.sources))]
    _lay_out(partial, shards)
    watermark = Watermark()
    assembly = Assembly(
        partial, watermark, subject=blob.subject, expected=None, is_model=True, choose=blob.choose
    )
    try:
        place.progress.start(blob.subject, partial.size, total.resumed_from)
        place.progress.advance(partial.done.total() - total.resumed_from)
        for i, (shard, piece) in enumerate(zip(shards.sources, shards.joined.pieces, strict=True)):

            def on_prefix(_: int) -> None:
                have = partial.done.prefix()
                watermark.rise(have)
                assembly.on_prefix(have)

            window = _window(partial, shards, i)
            found = _fetch_shard(place, shard, piece, window, partial, on_prefix, total)
            if found != shard.digest:
                partial.forget(piece.at, piece.at + piece.length)
                raise _WrongShardError(
                    f"{shard.name}: sha256 of what arrived is {found} (expected {shard.digest})",
                    hint="the server or something on the way changed the bytes; the other shards are "
                    "kept: run the same command again",
                    kept=kept[i] - piece.start,
                )
        watermark.rise(partial.done.prefix())
        return assembly.finish()
    finally:
        watermark.abort()
        assembly.join()
        place.progress.finish()


def _window(partial: Partial, shards: Shards, i: int) -> Window:
    """The shard's place in the partial of the whole."""
    piece = shards.joined.pieces[i]
    return Window(partial, size=shards.sources[i].size, start=piece.start, at=piece.at)


def _lay_out(partial: Partial, shards: Shards) -> None:
    """Put in place all that is known beforehand: header, padding, first data. Raises StorageError."""
    joined = shards.joined
    try:
        partial.write(joined.header, 0)
        partial.note(0, len(joined.header))
        ends = [piece.at for piece in joined.pieces[1:]] + [joined.size]
        for piece, end in zip(joined.pieces, ends, strict=True):
            partial.write(bytes(end - piece.at - piece.length), piece.at + piece.length)
            partial.note(piece.at + piece.length, end)
    except OSError as e:
        raise fs.storage_error(e, partial.path) from e
    for i, shard in enumerate(shards.sources):
        seed(_window(partial, shards, i), shard.head)


def _fetch_shard(
    place: Workplace, shard: ShardSource, piece: Piece, window: Window, partial: Partial,
    on_prefix: Callable[[int], None], total: Stats,
) -> Digest:  # fmt: skip
    """Fetch what is missing of one shard; the sha256 of all of it."""
    transfer = Transfer(
        place.http, shard.source, window, subject=shard.name, progress=place.progress,
        connections=place.connections, retries=place.retries,
    )  # fmt: skip
    transfer.stats.resumed_from = 0
    arrived = Watermark()
    follower = Follower(
        partial.fd, piece.length, arrived, offset=partial.room + piece.at,
        prefix=shard.head[: piece.start],
    )  # fmt: skip
    follower.start()

    def advance(have: int) -> None:
        arrived.rise(have - piece.start)
        on_prefix(have)

    try:
        transfer.run(advance)
        return follower.digest()
    except OSError as e:
        raise fs.storage_error(e, partial.path) from e
    finally:
        arrived.abort()
        follower.join()
        total.add(transfer.stats)
