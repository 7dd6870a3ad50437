"""One blob to a registry: not at all if it is there, by a mount, else by chunks that can be resumed.

    HEAD blobs/<digest>                             200: nothing to do
    POST blobs/uploads/?mount=<digest>&from=<repo>  201: the registry takes it from another repository
    PATCH <upload> ..., PUT <upload>?digest=        chunks; GET <upload> tells how much has arrived

The bytes are hashed while they go; the last PUT, which gives the blob its name, is sent only if they are
the right ones. Where a registry takes no chunks, one PUT takes the whole. docker-registry 2.8 gives an
upload up when the connection ends within a chunk, so there a kill costs the blob under way.
"""

import random
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tqconvert.errors import DigestMismatchError, NetworkError
from tqconvert.progress import Progress
from tqconvert.registry.http import ProtocolError, TransientError, drop
from tqconvert.registry.oci import OciRegistry, finish
from tqconvert.registry.reading import Reader, Source
from tqconvert.registry.sessions import Notes
from tqconvert.registry.uploads import SMALLEST_CHUNK, Session, Uploads, arrived_bytes

if TYPE_CHECKING:
    import urllib3

CHUNK: Final = 256 << 20
"""Bytes of one request. docker-registry puts what it has on the disk after each, which takes its time."""

WHOLE: Final = 4 << 20
"""Blobs up to this size go with one PUT."""

COMMIT_TIMEOUT_S: Final = 600.0
"""Seconds that a registry may take to give a blob its name: some copy it then."""

MAX_WAIT_S: Final = 60.0
_NO_CHUNKS: Final = frozenset((400, 404, 405, 411, 415, 416, 501))


class Sent(StrEnum):
    """How a blob came to be in the registry."""

    PRESENT = "present"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


@dataclass(slots=True)
class UploadStats:
    """What an upload took."""

    sent: int = 0
    resumed_from: int = 0
    retries: int = 0
    mounted_from: str | None = None

    def add(self, other: "UploadStats") -> None:
        """Count another upload in."""
        self.sent += other.sent
        self.resumed_from += other.resumed_from
        self.retries += other.retries


class Upload:
    """One blob on its way to a repository."""

    def __init__(
        self, registry: OciRegistry, source: Source, notes: Notes, *, progress: Progress,
        retries: int = 6, chunk: int = CHUNK,
    ) -> None:  # fmt: skip
        self._registry, self._source, self._notes = registry, source, notes
        self._progress, self._retries, self._chunk = progress, retries, chunk
        self._uploads = Uploads(registry, source, notes)
        self._anew = False
        self._shown = 0
        self.stats = UploadStats()

    def run(self, mount_from: Sequence[str] = ()) -> Sent:
        """Bring the blob there. `mount_from` are repositories of the registry that may have it.

        Raises DigestMismatchError if the bytes here are not those of the digest, AuthError,
        NetworkError when retries are exhausted, StorageError; what has arrived is kept where the
        registry keeps it.
        """
        source = self._source
        with self._notes.locked(self._uploads.place, source.digest, self._progress):
            if self._is_there():
                self._uploads.forget()
                return Sent.PRESENT
            session = self._uploads.resumed()
            if session is None:
                self.stats.mounted_from, session = self._uploads.mount(mount_from)
                if self.stats.mounted_from is not None:
                    return Sent.MOUNTED
            elif session.offset:
                self.stats.resumed_from = session.offset
                self._progress.note(f"{source.subject}: {session.offset >> 20} MiB arrived before")
            self._upload(session)
            return Sent.UPLOADED

    def _is_there(self) -> bool:
        return self._registry.has_blob(self._source.digest, self._source.subject)

    def _upload(self, session: Session | None) -> None:
        """Send all bytes, going on after failures from where the registry has them."""
        failures, best = 0, 0
        with Reader(self._source) as reader:
            while True:
                try:
                    session = session or self._uploads.begin()
                    if session.whole or self._source.size <= min(WHOLE, self._chunk):
                        self._put_whole(session, reader)
                    else:
                        self._put_chunks(session, reader)
                except TransientError as e:
                    arrived = session.offset if session is not None else 0
                    failures = 1 if arrived > best else failures + 1
                    best = max(best, arrived)
                    if failures > self._retries:
                        raise NetworkError(
                            f"{e.message}; gave up after {self._retries} retries",
                            hint=e.hint
                            or "run the same command again: what arrived is not sent twice",
                        ) from e
                    self.stats.retries += 1
                    if failures > 1:  # perhaps something on the way does not take so much at once
                        self._chunk = max(self._uploads.smallest, self._chunk // 8)
                    self._pause(failures, e)
                    session = self._after_failure(session)
                    if session is None and self._is_there():  # only the answer was lost
                        return
                else:
                    self._uploads.forget()
                    return

    def _after_failure(self, session: Session | None) -> Session | None:
        """The upload as it is now; None where it must begin anew."""
        if session is None or session.whole or self._source.size <= min(WHOLE, self._chunk):
            return None
        try:
            return self._uploads.status(session.url)
        except NetworkError:
            return session  # not even that can be asked now; the next round sees

    def _put_chunks(self, session: Session, reader: Reader) -> None:
        size = self._source.size
        self._show(session.offset)
        if session.offset:
            reader.skip_to(session.offset)
        self._uploads.keep(session)
        while session.offset < size:
            n = min(max(self._chunk, self._uploads.smallest), size - session.offset)
            response = self._send("PATCH", session.url, reader, session.offset, n)
            if response.status == 413 and self._chunk > self._uploads.smallest:
                drop(response)
                self._chunk = max(self._uploads.smallest, self._chunk // 8)
                self._show(session.offset)
                continue
            if response.status == 416 and session.offset:  # it counts otherwise than we do
                raise TransientError(
                    f"{self._source.subject}: {self._registry.host} has other bytes"
                )
            if response.status in _NO_CHUNKS and not session.offset:
                drop(response)
                self._uploads.cancel(session)
                session = self._uploads.begin()
                session.whole = True
                self._put_whole(session, reader)
                return
            if response.status == 404:  # given up by the registry
                raise TransientError(
                    f"{self._source.subject}: {self._registry.host} lost the upload"
                )
            self._registry.check(response, self._source.subject, session.url)
            arrived = arrived_bytes(response)
            arrived = session.offset + n if arrived is None else arrived
            session.url = self._registry.located(response)
            finish(response)
            if not session.offset < arrived <= size:
                raise ProtocolError(
                    f"{self._source.subject}: {self._registry.host} says that it has {arrived} bytes "
                    f"(expected {session.offset + n})"
                )
            session.offset = arrived
            self._uploads.keep(session)
        self._refuse_damaged(reader, session)
        response = self._registry.ask(
            "PUT", self._final(session.url), {"Content-Length": "0"}, timeout_s=COMMIT_TIMEOUT_S
        )
        if response.status == 400 and self.stats.resumed_from and not self._anew:
            # What an earlier process sent was something else; the bytes here are right.
            drop(response)
            self._uploads.cancel(session)
            self._anew, self.stats.resumed_from = True, 0
            raise TransientError(
                f"{self._source.subject}: what arrived before is damaged; starting anew"
            )
        self._committed(response, session.url)

    def _put_whole(self, session: Session, reader: Reader) -> None:
        size = self._source.size
        self._show(0)
        if size <= WHOLE:
            reader.skip_to(size)
            self._refuse_damaged(reader, session)
        response = self._send("PUT", self._final(session.url), reader, 0, size)
        if response.status == 413 and size > SMALLEST_CHUNK and not session.whole:
            drop(response)
            self._chunk = SMALLEST_CHUNK
            self._put_chunks(self._uploads.begin(), reader)
            return
        if response.status >= 400 and reader.hashed == size:
            self._refuse_damaged(reader, session)
        self._committed(response, session.url)

    def _send(
        self, method: str, url: str, reader: Reader, offset: int, n: int
    ) -> "urllib3.BaseHTTPResponse":
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(n)}
        if method == "PATCH":
            headers["Content-Range"] = f"{offset}-{offset + n - 1}"

        def body() -> Iterator[bytes]:
            self._show(offset)
            for piece in reader.pieces(offset, n):
                yield piece
                self.stats.sent += len(piece)
                self._show(self._shown + len(piece))

        return self._registry.ask(
            method, url, headers, body=body, timeout_s=COMMIT_TIMEOUT_S if n > WHOLE else None
        )

    def _final(self, url: str) -> str:
        mark = "&" if urllib.parse.urlsplit(url).query else "?"
        return f"{url}{mark}{urllib.parse.urlencode({'digest': self._source.digest})}"

    def _committed(self, response: "urllib3.BaseHTTPResponse", url: str) -> None:
        if response.status == 404:
            raise TransientError(f"{self._source.subject}: {self._registry.host} lost the upload")
        self._registry.check(response, self._source.subject, url)
        if response.status != 201:
            raise self._unexpected("PUT", response)
        said = response.headers.get("Docker-Content-Digest", str(self._source.digest))
        finish(response)
        if said != str(self._source.digest):
            raise ProtocolError(
                f"{self._source.subject}: {self._registry.host} made {said[:80]} of it "
                f"(expected {self._source.digest})"
            )

    def _refuse_damaged(self, reader: Reader, session: Session) -> None:
        """Raise DigestMismatchError, and give the upload up, if the bytes here are wrong."""
        found = reader.digest()
        if found == self._source.digest:
            return
        self._uploads.cancel(session)
        raise DigestMismatchError(
            f"{self._source.path or self._source.subject}: sha256 is {found} (expected "
            f"{self._source.digest}); it was not pushed",
            hint="the copy here is damaged; tqconvert verify tells more",
        )

    def _pause(self, failures: int, e: TransientError) -> None:
        jitter = 0.7 + 0.6 * random.random()  # noqa: S311 - no secret
        wait_s = 0.5 * 2 ** (failures - 1) * jitter if e.wait_s is None else e.wait_s
        wait_s = min(wait_s, MAX_WAIT_S)
        if failures > 1 or wait_s > 2:
            self._progress.note(f"{e.message}; trying again in {wait_s:.1f} s")
        self._registry.sleep(wait_s)

    def _show(self, at: int) -> None:
        self._progress.advance(at - self._shown)
        self._shown = at

    def _unexpected(self, method: str, response: "urllib3.BaseHTTPResponse") -> ProtocolError:
        drop(response)
        return ProtocolError(
            f"{self._source.subject}: {self._registry.host} answered {response.status} to {method}"
        )
