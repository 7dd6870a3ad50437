"""One blob to a registry: not at all if it is there, by a mount, else by chunks that can be resumed.

    HEAD blobs/<digest>                             200: nothing to do
    POST blobs/uploads/?mount=<digest>&from=<repo>  201: the registry takes it from another repository
    PATCH <upload> ..., PUT <upload>?digest=        chunks; GET <upload> tells how much has arrived

The bytes are hashed while they go; the last PUT, which gives the blob its name, is sent only if they are
the right ones. Where a registry takes no chunks, one PUT takes the whole. docker-registry 2.8 gives an
upload up when the connection ends within a chunk, so there a kill costs the blob under way.
"""

import random
import re
import urllib.parse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from tqconvert.errors import DigestMismatchError, NetworkError
from tqconvert.progress import Progress
from tqconvert.registry.http import ProtocolError, TransientError, drop
from tqconvert.registry.oci import OciRegistry, finish
from tqconvert.registry.reading import Reader, Source
from tqconvert.registry.sessions import Notes

if TYPE_CHECKING:
    import urllib3

CHUNK: Final = 256 << 20
"""Bytes of one request. docker-registry puts what it has on the disk after each, which takes its time."""

SMALLEST_CHUNK: Final = 1 << 20
WHOLE: Final = 4 << 20
"""Blobs up to this size go with one PUT."""

MAX_SMALLEST: Final = 1 << 31
"""A registry that wants larger chunks than this at least is not believed."""

COMMIT_TIMEOUT_S: Final = 600.0
"""Seconds that a registry may take to give a blob its name: some copy it then."""

MAX_WAIT_S: Final = 60.0
_REFUSALS: Final = frozenset(range(400, 500)) - {408, 425, 429}
"""Answers to a mount that mean no: the bytes go instead."""

_NO_CHUNKS: Final = frozenset((400, 404, 405, 411, 415, 416, 501))
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


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
        self._place = f"{registry.host}/{registry.reference.repository}"
        self._smallest = SMALLEST_CHUNK
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
        with self._notes.locked(self._place, source.digest, self._progress):
            if self._is_there():
                self._notes.drop_session(self._place, source.digest)
                return Sent.PRESENT
            session = self._resumed()
            if session is None:
                mounted, session = self._mount(mount_from)
                if mounted:
                    return Sent.MOUNTED
            self._upload(session)
            return Sent.UPLOADED

    def _resumed(self) -> "_Session | None":
        """The upload that an earlier process began, if the registry still has it."""
        url = self._notes.session(self._place, self._source.digest)
        if url is None:
            return None
        session = self._status(url)
        if session is not None and session.offset:
            self.stats.resumed_from = session.offset
            self._progress.note(
                f"{self._source.subject}: {session.offset >> 20} MiB arrived before"
            )
        return session

    def _is_there(self) -> bool:
        return self._registry.has_blob(self._source.digest, self._source.subject)

    def _mount(self, candidates: Sequence[str]) -> "tuple[bool, _Session | None]":
        """Ask the registry to take the blob from another repository; whether it did, else an upload."""
        session: _Session | None = None
        for repository in candidates:
            query = urllib.parse.urlencode({"mount": self._source.digest, "from": repository})
            url = self._registry.url(f"blobs/uploads/?{query}")
            response = self._registry.retrying(partial(self._asked, "POST", url, _REFUSALS))
            if response.status == 201:
                drop(response)
                self.stats.mounted_from = repository
                return True, None
            if response.status == 202:
                if session is not None:
                    self._cancel(session)
                session = _Session(self._registry.located(response), 0)
            drop(response)
        return False, session

    def _asked(
        self, method: str, url: str, allowed: Collection[int] = ()
    ) -> "urllib3.BaseHTTPResponse":
        """The answer to a request without a body; errors but `allowed` ones are raised."""
        response = self._registry.ask(method, url, {"Content-Length": "0"})
        if response.status not in allowed:
            self._registry.check(response, self._source.subject, url)
        return response

    def _upload(self, session: "_Session | None") -> None:
        """Send all bytes, going on after failures from where the registry has them."""
        failures, best = 0, 0
        with Reader(self._source) as reader:
            while True:
                try:
                    session = session or self._begin()
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
                        self._chunk = max(self._smallest, self._chunk // 8)
                    self._pause(failures, e)
                    session = self._after_failure(session)
                    if session is None and self._is_there():  # only the answer was lost
                        return
                else:
                    self._notes.drop_session(self._place, self._source.digest)
                    return

    def _after_failure(self, session: "_Session | None") -> "_Session | None":
        """The upload as it is now; None where it must begin anew."""
        if session is None or session.whole or self._source.size <= min(WHOLE, self._chunk):
            return None
        try:
            return self._status(session.url)
        except NetworkError:
            return session  # not even that can be asked now; the next round sees

    def _begin(self) -> "_Session":
        url = self._registry.url("blobs/uploads/")
        response = self._asked("POST", url)
        if response.status != 202:
            raise self._unexpected("POST", response)
        session = _Session(self._registry.located(response), 0)
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isdigit():
            self._smallest = max(SMALLEST_CHUNK, min(int(smallest), MAX_SMALLEST))
            self._chunk = max(self._chunk, self._smallest)
        drop(response)
        return session

    def _status(self, url: str) -> "_Session | None":
        """The upload as the registry has it; None where it has it no more."""
        response = self._registry.retrying(
            lambda: self._asked("GET", url, (400, 403, 404, 405, 410, 416))
        )
        with_location = response.headers.get("Location")
        offset = _arrived(response)
        found = response.status in (200, 202, 204) and offset is not None
        drop(response)
        if not found or offset is None or offset > self._source.size:
            self._notes.drop_session(self._place, self._source.digest)
            return None
        return _Session(self._registry.located(response) if with_location else url, offset)

    def _put_chunks(self, session: "_Session", reader: Reader) -> None:
        size = self._source.size
        self._show(session.offset)
        if session.offset:
            reader.skip_to(session.offset)
        self._notes.keep_session(self._place, self._source.digest, session.url)
        while session.offset < size:
            n = min(self._chunk, size - session.offset)
            response = self._send("PATCH", session.url, reader, session.offset, n)
            if response.status == 413 and self._chunk > self._smallest:
                drop(response)
                self._chunk = max(self._smallest, self._chunk // 8)
                self._show(session.offset)
                continue
            if response.status == 416 and session.offset:  # it counts otherwise than we do
                raise TransientError(
                    f"{self._source.subject}: {self._registry.host} has other bytes"
                )
            if response.status in _NO_CHUNKS and not session.offset:
                drop(response)
                self._cancel(session)
                session = self._begin()
                session.whole = True
                self._put_whole(session, reader)
                return
            if response.status == 404:  # given up by the registry
                raise TransientError(
                    f"{self._source.subject}: {self._registry.host} lost the upload"
                )
            self._registry.check(response, self._source.subject, session.url)
            arrived = _arrived(response)
            arrived = session.offset + n if arrived is None else arrived
            session.url = self._registry.located(response)
            finish(response)
            if not session.offset < arrived <= size:
                raise ProtocolError(
                    f"{self._source.subject}: {self._registry.host} says that it has {arrived} bytes "
                    f"(expected {session.offset + n})"
                )
            session.offset = arrived
            self._notes.keep_session(self._place, self._source.digest, session.url)
        self._refuse_damaged(reader, session)
        response = self._registry.ask(
            "PUT", self._final(session.url), {"Content-Length": "0"}, timeout_s=COMMIT_TIMEOUT_S
        )
        if response.status == 400 and self.stats.resumed_from and not self._anew:
            # What an earlier process sent was something else; the bytes here are right.
            drop(response)
            self._cancel(session)
            self._anew, self.stats.resumed_from = True, 0
            raise TransientError(
                f"{self._source.subject}: what arrived before is damaged; starting anew"
            )
        self._committed(response, session.url)

    def _put_whole(self, session: "_Session", reader: Reader) -> None:
        size = self._source.size
        self._show(0)
        if size <= WHOLE:
            reader.skip_to(size)
            self._refuse_damaged(reader, session)
        response = self._send("PUT", self._final(session.url), reader, 0, size)
        if response.status == 413 and size > SMALLEST_CHUNK and not session.whole:
            drop(response)
            self._chunk = SMALLEST_CHUNK
            self._put_chunks(self._begin(), reader)
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

    def _refuse_damaged(self, reader: Reader, session: "_Session") -> None:
        """Raise DigestMismatchError, and give the upload up, if the bytes here are wrong."""
        found = reader.digest()
        if found == self._source.digest:
            return
        self._cancel(session)
        raise DigestMismatchError(
            f"{self._source.path or self._source.subject}: sha256 is {found} (expected "
            f"{self._source.digest}); it was not pushed",
            hint="the copy here is damaged; tqconvert verify tells more",
        )

    def _cancel(self, session: "_Session") -> None:
        """Tell the registry that nothing more will come; its answer does not matter."""
        self._notes.drop_session(self._place, self._source.digest)
        try:
            drop(self._registry.ask("DELETE", session.url, {"Content-Length": "0"}))
        except NetworkError:
            return

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


@dataclass(slots=True)
class _Session:
    """An upload that the registry has begun."""

    url: str
    offset: int
    whole: bool = False
    """Whether the registry takes no chunks."""


def _arrived(response: "urllib3.BaseHTTPResponse") -> int | None:
    """Bytes that the registry has, by its Range; None where it does not say.

    distribution-spec: `0-<last byte>`. docker-registry gives `0-0` both for none and for one byte;
    no chunk is of one byte, so it is none.
    """
    m = _RANGE.fullmatch(response.headers.get("Range", ""))
    if not m:
        return None
    last = int(m[1])
    return last + 1 if last else 0
