"""Uploads of one blob, as a registry keeps them: begun, mounted, found again, given up.

Source: OCI distribution-spec v1.1, "Pushing blobs" and "Mounting a blob from another repository".
"""

import re
import urllib.parse
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tqconvert.errors import AuthError, NetworkError
from tqconvert.registry.http import ProtocolError, drop
from tqconvert.registry.oci import OciRegistry
from tqconvert.registry.reading import Source
from tqconvert.registry.sessions import Notes

if TYPE_CHECKING:
    import urllib3

SMALLEST_CHUNK: Final = 1 << 20
MAX_SMALLEST: Final = 1 << 31
"""A registry that wants larger chunks than this at least is not believed."""

_REFUSALS: Final = frozenset(range(400, 500)) - {408, 425, 429}
"""Answers to a mount that mean no: the bytes go instead."""

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(slots=True)
class Session:
    """An upload that the registry has begun."""

    url: str
    offset: int
    whole: bool = False
    """Whether the registry takes no chunks."""


class Uploads:
    """What is asked of a registry about uploads of one blob, and the note of the one under way."""

    def __init__(self, registry: OciRegistry, source: Source, notes: Notes) -> None:
        self._registry, self._source, self._notes = registry, source, notes
        self.place = f"{registry.host}/{registry.reference.repository}"
        self.smallest = SMALLEST_CHUNK
        """Bytes that a chunk must have, by what the registry says."""

    def keep(self, session: Session) -> None:
        """Note where the upload goes on, for a process after this one."""
        self._notes.keep_session(self.place, self._source.digest, session.url)

    def forget(self) -> None:
        """The upload is over."""
        self._notes.drop_session(self.place, self._source.digest)

    def begin(self) -> Session:
        """A new upload."""
        url = self._registry.url("blobs/uploads/")
        response = self._asked("POST", url)
        if response.status != 202:
            drop(response)
            raise ProtocolError(
                f"{self._source.subject}: {self._registry.host} answered {response.status} to POST"
            )
        session = Session(self._registry.located(response), 0)
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isdigit():
            self.smallest = max(SMALLEST_CHUNK, min(int(smallest), MAX_SMALLEST))
        drop(response)
        return session

    def status(self, url: str) -> Session | None:
        """The upload as the registry has it; None where it has it no more."""
        response = self._registry.retrying(
            lambda: self._asked("GET", url, (400, 403, 404, 405, 410, 416))
        )
        with_location = response.headers.get("Location")
        offset = arrived_bytes(response)
        found = response.status in (200, 202, 204) and offset is not None
        drop(response)
        if not found or offset is None or offset > self._source.size:
            self.forget()
            return None
        return Session(self._registry.located(response) if with_location else url, offset)

    def resumed(self) -> Session | None:
        """The upload that an earlier process began, if the registry still has it."""
        url = self._notes.session(self.place, self._source.digest)
        if url is None:
            return None
        try:
            return self.status(url)
        except (NetworkError, AuthError):
            return None  # a note is a hint: whether the registry can be reached, a new upload tells

    def mount(self, candidates: Sequence[str]) -> tuple[str | None, Session | None]:
        """The repository that the registry took the blob from, else the upload that it began instead."""
        session: Session | None = None
        for repository in candidates:
            query = urllib.parse.urlencode({"mount": self._source.digest, "from": repository})
            url = self._registry.url(f"blobs/uploads/?{query}")
            response = self._registry.retrying(partial(self._asked, "POST", url, _REFUSALS))
            if response.status == 201:
                drop(response)
                return repository, None
            if response.status == 202:
                if session is not None:
                    self.cancel(session)
                session = Session(self._registry.located(response), 0)
            drop(response)
        return None, session

    def cancel(self, session: Session) -> None:
        """Tell the registry that nothing more will come; its answer does not matter."""
        self.forget()
        try:
            drop(self._registry.ask("DELETE", session.url, {"Content-Length": "0"}))
        except NetworkError:
            return

    def _asked(
        self, method: str, url: str, allowed: Collection[int] = ()
    ) -> "urllib3.BaseHTTPResponse":
        """The answer to a request without a body; errors but `allowed` ones are raised."""
        response = self._registry.ask(method, url, {"Content-Length": "0"})
        if response.status not in allowed:
            self._registry.check(response, self._source.subject, url)
        return response


def arrived_bytes(response: "urllib3.BaseHTTPResponse") -> int | None:
    """Bytes that the registry has, by its Range; None where it does not say.

    distribution-spec: `0-<last byte>`. docker-registry gives `0-0` both for none and for one byte;
    no chunk is of one byte, so it is none.
    """
    m = _RANGE.fullmatch(response.headers.get("Range", ""))
    if not m:
        return None
    last = int(m[1])
    return last + 1 if last else 0
