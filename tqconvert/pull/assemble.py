"""One pass over a model's bytes: the source's digest, the bounds check, the tag page, the new digest.

The blob arrives in a partial file behind 4096 bytes left free. As soon as the header is complete (a
few MiB) it is checked, the tags are chosen and the page is known; from then on the digest of the
tagged file is computed beside the source's. The page itself is written last.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import DigestMismatchError, IncompleteHeaderError, InvalidGgufError
from tqconvert.gguf.header import Header, parse_header
from tqconvert.gguf.tags import PAGE, KvTags, render_page
from tqconvert.registry.follow import Flusher, Follower, Watermark
from tqconvert.registry.partial import Partial

FIRST_TRY = 1 << 20
"""Bytes of a file after which its header is looked for the first time; doubled until it is whole."""

MAX_HEADER = 256 << 20
"""Bytes of a header that are read into memory; a vocabulary of 262,144 tokens takes 7 MiB."""

ChooseTags = Callable[[Header], KvTags | None]
"""What to tag a model with, by its header; None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A finished file, synced, still under its partial's name."""

    digest: Digest
    size: int
    source_digest: Digest
    header: Header | None
    tags: KvTags | None


class Assembly:
    """A file being put together in `partial` while `watermark` rises.

    `expected` is None where nobody knows the digest of the whole, as of several shards.
    """

    def __init__(
        self, partial: Partial, watermark: Watermark, *, subject: str, expected: Digest | None,
        is_model: bool, choose: ChooseTags | None = None,
    ) -> None:  # fmt: skip
        self._partial, self._watermark = partial, watermark
        self._subject, self._expected = subject, expected
        self._wants_header, self._choose = is_model, choose
        self._next_try = FIRST_TRY
        self._header: Header | None = None
        self._tags: KvTags | None = None
        self._page: bytes | None = None
        self._tagged: Follower | None = None
        self._source = Follower(partial.fd, partial.size, watermark, offset=partial.room)
        self._source.start()
        self._flusher = Flusher(partial.fd, partial.size, watermark)
        self._flusher.start()

    def on_prefix(self, have: int) -> None:
        """`have` bytes are there: look for the header if it may be whole by now.

        Raises InvalidGgufError: a bad file is given up after its first megabytes.
        """
        size = self._partial.size
        while self._wants_header and self._header is None and have >= min(self._next_try, size):
            if self._next_try > MAX_HEADER:
                raise InvalidGgufError(
                    f"{self._subject}: header of more than {MAX_HEADER >> 20} MiB",
                    hint="no model has one; the file is broken or hostile",
                )
            # Never more than twice the header is read, also where gigabytes were kept from before.
            data = fs.read_at(self._partial.fd, min(self._next_try, size), self._partial.room)
            self._next_try *= 2
            try:
                self._use(parse_header(data, size, subject=self._subject))
            except IncompleteHeaderError:
                continue

    def _use(self, header: Header) -> None:
        """The header is whole: choose the tags, and hash the file that they make as well."""
        self._header = header
        self._tags = self._choose(header) if self._choose and self._partial.room else None
        if self._tags is None:
            return
        self._page = render_page(header, self._tags)
        self._tagged = Follower(
            self._partial.fd, self._partial.size, self._watermark, offset=self._partial.room,
            prefix=self._page,
        )  # fmt: skip
        self._tagged.start()

    def join(self) -> None:
        """Wait until nobody reads the file any more; the watermark has been aborted or is full."""
        self._source.join()
        self._flusher.join()
        if self._tagged is not None:
            self._tagged.join()

    def finish(self) -> Assembled:
        """Compare the digest, write the page, sync. Raises DigestMismatchError, StorageError."""
        partial = self._partial
        try:
            self.on_prefix(partial.size)
            source_digest = self._source.digest()
            if self._expected is not None and source_digest != self._expected:
                raise DigestMismatchError(
                    f"{self._subject}: sha256 of what arrived is {source_digest} (expected {self._expected})",
                    hint="the server or something on the way changed the bytes; nothing was installed",
                )
            digest, size = source_digest, partial.size
            tagged = self._tagged.digest() if self._tagged is not None else None
            self._watermark.abort()  # all is hashed
            self._flusher.finish()
            if self._page is not None and tagged is not None:
                digest, size = tagged, size + PAGE
                fs.write_at(partial.fd, self._page, 0)
            elif partial.room:
                fs.sync(partial.fd)  # takes long, and a kill in it costs nothing; one after it does
                self._take_room_out()
            fs.sync(partial.fd)
        except OSError as e:
            raise fs.storage_error(e, partial.path) from e
        return Assembled(digest, size, source_digest, self._header, self._tags)

    def _take_room_out(self) -> None:
        """The model gets no tags: its bytes move to the front, by the file system or by copying."""
        partial = self._partial
        try:
            fs.collapse_range(partial.fd, 0, partial.room)
        except OSError as e:
            if not fs.unsupported(e):
                raise
            fs.shift_down(partial.fd, partial.room, partial.size)
