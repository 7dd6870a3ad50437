"""Bytes of one blob into their place: over the network or from this disk, through the same assembly."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import DigestMismatchError, InvalidGgufError
from tqconvert.gguf.tags import PAGE
from tqconvert.progress import Progress, Silent
from tqconvert.pull.assemble import Assembled, Assembly, ChooseTags
from tqconvert.registry.follow import Watermark
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.partial import Partial, Sink
from tqconvert.registry.transfer import Stats, Transfer

SHOWN_BYTES = 1 << 20
"""Blobs from this size on show their progress."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is wanted: its digest, size and use."""

    subject: str
    digest: Digest
    size: int
    is_model: bool = False
    choose: ChooseTags | None = None
    """Set for the one model layer that is to be tagged."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where blobs are put together, and with what."""

    partials: Path
    http: Http
    progress: Progress
    connections: int = 4
    retries: int = 6
    heads: Mapping[Digest, bytes] = field(default_factory=dict)
    """First bytes of blobs, read when the pull was planned; they are not fetched again."""


def fetch_blob(
    place: Workplace, blob: Blob, source: Endpoint, target: Callable[[Digest], Path]
) -> tuple[Assembled, Stats]:
    """Download the blob, verify it, tag it if that is wanted, and give it its name.

    Bytes that are wrong after a resumed download are fetched once more from the first one: a power
    cut can leave a journal that knows more than the disk. Call under the digest's lock.
    Raises DigestMismatchError, InvalidGgufError, NetworkError, StorageError.
    """
    total = Stats()
    while True:
        partial = partial_for(place, blob).open()
        try:
            done = _transfer(place, blob, source, partial, total)
            publish(partial, blob, done, target(done.digest))
        except (DigestMismatchError, InvalidGgufError):
            partial.discard()
            if not total.resumed_from or total.restarted:
                raise
            total.restarted, total.resumed_from = True, 0
            place.progress.note(
                f"{blob.subject}: what was kept from before is damaged; starting anew"
            )
            continue
        finally:
            partial.close()
            if not partial.done.total():  # reserved gigabytes with nothing in them
                partial.discard()
        return done, total


def _transfer(
    place: Workplace, blob: Blob, source: Endpoint, partial: Partial, total: Stats
) -> Assembled:
    progress = _progress(place, blob)
    before = partial.done.total()
    seed(partial, place.heads.get(blob.digest, b""))
    transfer = Transfer(
        place.http, source, partial, subject=blob.subject, progress=progress,
        connections=place.connections, retries=place.retries,
    )  # fmt: skip
    transfer.stats.received = partial.done.total() - before
    transfer.stats.resumed_from = before
    assembly = Assembly(
        partial, transfer.watermark, subject=blob.subject, expected=blob.digest,
        is_model=blob.is_model, choose=blob.choose,
    )  # fmt: skip
    try:
        progress.start(blob.subject, blob.size, before)
        transfer.run(assembly.on_prefix)
        return assembly.finish()
    finally:
        transfer.watermark.abort()
        assembly.join()
        progress.finish()
        total.add(transfer.stats)


def seed(partial: Sink, head: bytes) -> None:
    """Put the first bytes of a blob, which came beforehand, into its place. Raises StorageError."""
    have = partial.done.prefix()
    if len(head) <= have:
        return
    try:
        partial.write(head[have:], have)
        partial.note(have, len(head))
    except OSError as e:
        raise fs.storage_error(e, partial.path) from e


def copy_blob(
    place: Workplace, blob: Blob, source: Path, target: Callable[[Digest], Path]
) -> Assembled:
    """As `fetch_blob`, from a file on this disk: shared with it where the file system can, else copied."""
    partial = partial_for(place, blob)
    partial.discard()
    partial.open()
    watermark = Watermark()
    try:
        assembly = Assembly(
            partial, watermark, subject=blob.subject, expected=blob.digest,
            is_model=blob.is_model, choose=blob.choose,
        )  # fmt: skip
        progress = _progress(place, blob)
        try:
            progress.start(blob.subject, blob.size)
            _copy(source, partial, watermark, assembly, progress)
            done = assembly.finish()
        finally:
            watermark.abort()
            assembly.join()
            progress.finish()
        publish(partial, blob, done, target(done.digest))
    except OSError as e:
        partial.discard()
        raise fs.storage_error(e, source) from e
    except BaseException:
        partial.discard()
        raise
    return done


def publish(partial: Partial, blob: Blob, done: Assembled, target: Path) -> None:
    """Give the file its name; a note of it stays only where the next run could not guess that name."""
    partial.publish(target, done.digest)
    if done.digest == blob.digest:
        partial.discard()


def _copy(
    source: Path, partial: Partial, watermark: Watermark, assembly: Assembly, progress: Progress
) -> None:
    src = fs.open_fd(source, os.O_RDONLY)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        progress.advance(n)
        watermark.rise(done)
        assembly.on_prefix(done)

    try:
        try:
            fs.clone_range(src, partial.fd, src_offset=0, dst_offset=partial.room)
        except OSError as e:
            if not fs.unsupported(e):
                raise
            fs.copy_range(
                src, partial.fd, src_offset=0, dst_offset=partial.room, length=partial.size,
                advance=advance,
            )  # fmt: skip
        else:
            advance(partial.size)
    finally:
        os.close(src)


def _progress(place: Workplace, blob: Blob) -> Progress:
    """Progress of a blob that takes a while; configs and templates pass unseen."""
    return place.progress if blob.size >= SHOWN_BYTES else Silent()


def partial_for(place: Workplace, blob: Blob) -> Partial:
    """The partial file of the blob; behind free room where it may be tagged."""
    return Partial(place.partials, blob.digest, blob.size, room=PAGE if blob.choose else 0)
