"""sha256 digests: how they are written, parsed and computed."""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from tqconvert.errors import IntegrityError

_FORM = re.compile(r"sha256[:-]([0-9a-f]{64})")
READ_SIZE = 1 << 20  # hashlib is fastest with buffers of 128 KiB to 1 MiB


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256 digest, by its 64 lower-case hexadecimal digits."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Digest of "sha256:..." or of a blob's file name "sha256-...".

        Raises IntegrityError for another algorithm or form: such text would become a path.
        """
        m = _FORM.fullmatch(text)
        if not m:
            raise IntegrityError(
                f"{text[:80]!r}: not a digest (expected sha256: and 64 hex digits)"
            )
        return cls(m[1])

    @property
    def blob_name(self) -> str:
        """File name of the blob in an Ollama store."""
        return f"sha256-{self.hex}"

    @property
    def short(self) -> str:
        """First twelve digits, as `ollama list` shows them."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def digest_bytes(data: bytes) -> Digest:
    """Digest of bytes in memory."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_file(f: BinaryIO, *, offset: int = 0) -> Digest:
    """Digest of the open file from `offset` to its end."""
    h = hashlib.sha256()
    buffer = memoryview(bytearray(READ_SIZE))
    f.seek(offset)
    while n := f.readinto(buffer):  # type: ignore[attr-defined]
        h.update(buffer[:n])
    return Digest(h.hexdigest())


def digest_path(path: str | os.PathLike[str], *, offset: int = 0) -> Digest:
    """Digest of the file at `path` from `offset` to its end."""
    with open(path, "rb", buffering=0) as f:
        return digest_file(f, offset=offset)
