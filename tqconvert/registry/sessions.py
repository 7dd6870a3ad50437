"""Notes of uploads: where one goes on after a kill, and which repositories were given a blob before.

    <folder>/<sha256 of the place>.session   the upload's URL
    <folder>/<hex of the blob>.places        a line for each host/repository that has it

Hints alone: a registry is asked whether they still hold, and where they cannot be written a push goes on
without. An upload's URL can be a secret, so the folder is the user's own.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tqconvert import fs
from tqconvert.digest import Digest
from tqconvert.errors import LockedError, StorageError
from tqconvert.progress import Progress

MAX_PLACES: Final = 8
_MAX_URL: Final = 1 << 14


class Notes:
    """The notes in one folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def session(self, place: str, digest: Digest) -> str | None:
        """URL of the upload of the blob to `place` (host/repository) that was begun."""
        try:
            text = self._session(place, digest).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return text if len(text) <= _MAX_URL and text.startswith("http") else None

    def keep_session(self, place: str, digest: Digest, url: str) -> None:
        """Note where the upload goes on."""
        self._write(self._session(place, digest), url)

    def drop_session(self, place: str, digest: Digest) -> None:
        """The upload is over."""
        with suppress(OSError):
            fs.remove(self._session(place, digest))

    def places(self, host: str, digest: Digest) -> tuple[str, ...]:
        """Repositories of the registry that were given the blob, the latest first."""
        lines = reversed(self._lines(digest))
        return tuple(x.partition("/")[2] for x in lines if x.partition("/")[0] == host)

    def add_place(self, place: str, digest: Digest) -> None:
        """Note that `place` (host/repository) has the blob."""
        lines = self._lines(digest)
        if lines[-1:] == [place]:
            return
        kept = [*(x for x in lines if x != place), place][-MAX_PLACES:]
        self._write(self._places(digest), "".join(f"{x}\n" for x in kept))

    @contextmanager
    def locked(self, place: str, digest: Digest, progress: Progress) -> Iterator[None]:
        """Wait for another process that uploads the same blob to the same place."""
        from tqconvert.store.layout import folder_lock

        if not self._made():
            yield
            return
        name = self._session(place, digest).stem
        lock = folder_lock(self._folder, name, timeout_s=0.2)
        try:
            lock.__enter__()
        except LockedError:
            progress.note(f"{place}: another tqconvert uploads {digest.short}; waiting")
            lock = folder_lock(self._folder, name, timeout_s=-1)
            lock.__enter__()
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _session(self, place: str, digest: Digest) -> Path:
        key = hashlib.sha256(f"{place}@{digest}".encode()).hexdigest()
        return self._folder / f"{key}.session"

    def _places(self, digest: Digest) -> Path:
        return self._folder / f"{digest.hex}.places"

    def _lines(self, digest: Digest) -> list[str]:
        try:
            return self._places(digest).read_text("utf-8").split()
        except (OSError, UnicodeDecodeError):
            return []

    def _write(self, path: Path, text: str) -> None:
        if self._made():
            with suppress(StorageError):
                fs.write_atomic(path, text.encode())

    def _made(self) -> bool:
        """Whether the folder is there, made if need be, and can be written."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(self._folder, os.W_OK | os.X_OK)
