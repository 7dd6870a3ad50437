"""Hashing a file while it is being written: each digest in its own thread, in order, never ahead."""

import hashlib
import threading

from tqconvert import fs
from tqconvert.digest import READ_SIZE, Digest

FLUSH_STEP = 256 << 20
"""Bytes after which a file that arrives is put on the disk."""


class Watermark:
    """How many bytes of a blob have arrived without a gap; threads wait for it to rise."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes = 0
        self._over = False

    @property
    def value(self) -> int:
        """Bytes that have arrived without a gap."""
        return self._bytes

    def rise(self, n: int) -> None:
        """`n` bytes have arrived."""
        with self._changed:
            if n > self._bytes:
                self._bytes = n
                self._changed.notify_all()

    def abort(self) -> None:
        """Nothing more will come; whoever waits stops."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def wait_past(self, n: int) -> int:
        """Bytes there are, once they are more than `n`; 0 if nothing more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._bytes > n)
            return 0 if self._over else self._bytes


class Follower(threading.Thread):
    """The sha256 of `prefix` and then of `size` bytes of the file, computed as they arrive.

    Reads come from the page cache: the bytes were written a moment ago. hashlib releases the
    interpreter's lock, so several followers use several cores.
    """

    def __init__(
        self, fd: int, size: int, watermark: Watermark, *, offset: int = 0, prefix: bytes = b""
    ) -> None:
        super().__init__(daemon=True, name="hash")
        self._fd, self._size, self._offset = fd, size, offset
        self._watermark = watermark
        self._hash = hashlib.sha256(prefix)
        self.hashed = 0
        self.error: OSError | None = None

    def run(self) -> None:
        """Hash until the last byte or the end of waiting."""
        buffer = memoryview(bytearray(READ_SIZE))
        try:
            while self.hashed < self._size:
                have = self._watermark.wait_past(self.hashed)  # so an abort is seen in every round
                if not have:
                    return
                room = buffer[: have - self.hashed]
                n = fs.read_into(self._fd, room, self._offset + self.hashed)
                if not n:
                    raise OSError(5, "the file became shorter")  # noqa: TRY301
                self._hash.update(buffer[:n])
                self.hashed += n
        except OSError as e:
            self.error = e

    def digest(self) -> Digest:
        """The digest, after waiting for the last byte. Raises OSError if the file could not be read."""
        self.join()
        if self.error is not None:
            raise self.error
        if self.hashed != self._size:
            raise OSError(5, "hashing was given up")
        return Digest(self._hash.hexdigest())


class Flusher(threading.Thread):
    """Puts the file on the disk while it arrives, so that the last sync has little left to do.

    Else gigabytes wait in the page cache for the last byte: up to 30 s of the download, or a tenth
    of the memory (proc(5), dirty_expire_centisecs and dirty_background_ratio).
    """

    def __init__(self, fd: int, size: int, watermark: Watermark) -> None:
        super().__init__(daemon=True, name="flush")
        self._fd, self._size, self._watermark = fd, size, watermark
        self._error: OSError | None = None

    def run(self) -> None:
        """Sync after every FLUSH_STEP bytes, to the end of waiting."""
        done = 0
        try:
            while done + FLUSH_STEP <= self._size:
                done = self._watermark.wait_past(done + FLUSH_STEP - 1)
                if not done:
                    return
                fs.sync(self._fd)
        except OSError as e:
            self._error = e

    def finish(self) -> None:
        """Wait for the end. Raises OSError: the kernel tells a failed write once, a later sync succeeds."""
        self.join()
        if self._error is not None:
            raise self._error
