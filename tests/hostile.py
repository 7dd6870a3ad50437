"""Odd and hostile GGUF files, and what a reader must make of each.

    python tests/hostile.py FOLDER    read every file of FOLDER with our reader, in a process whose
                                      memory is capped; print one JSON line each

The first 23 are the classes of file that made gguf-py hang, accept nonsense or end in a traceback;
the rest came from reading llama.cpp's ggml/src/gguf.cpp check by check.
"""

import json
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

INVALID, TRUNCATED = "invalid_gguf", "truncated_gguf"
U32, STRING, ARRAY = 4, 8, 9
MEMORY_BYTES = 100 << 20


@dataclass(frozen=True)
class Case:
    """A file's first bytes, its length if more zeros follow, and the error kind (None: accept)."""

    data: bytes
    kind: str | None
    length: int = 0


def text(raw: bytes) -> bytes:
    """A length and that many bytes."""
    return struct.pack("<Q", len(raw)) + raw


def fixed(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    """The first 24 bytes."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: bytes, kind: int, body: bytes) -> bytes:
    """A key with its value's bytes."""
    return text(name) + struct.pack("<I", kind) + body


def array(name: bytes, element: int, count: int, body: bytes = b"") -> bytes:
    """A key with an array that claims `count` elements."""
    return key(name, ARRAY, struct.pack("<IQ", element, count) + body)


def tensor(*shape: int, name: bytes = b"t", kind: int = 0, offset: int = 0) -> bytes:
    """A row of the tensor table."""
    return (
        text(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


ARCH = key(b"general.architecture", STRING, text(b"llama"))
ONE = fixed(tensors=1, keys=1) + ARCH
ROOM = bytes(512)


def alignment(value: int, kind: int = U32) -> bytes:
    """A header with two keys, the second the alignment."""
    body = struct.pack("<I" if kind == U32 else "<Q", value)
    return fixed(keys=2) + ARCH + key(b"general.alignment", kind, body)


def nested(depth: int) -> bytes:
    """An array in an array in an array."""
    body = struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQI", U32, 1, 7)
    return fixed(keys=1) + key(b"n", ARRAY, body) + bytes(64)


CASES = {
    "array length 2^63": Case(fixed(keys=1) + array(b"a", U32, 1 << 63), INVALID),
    "string length 2^62": Case(
        fixed(keys=1) + key(b"a", STRING, struct.pack("<Q", 1 << 62) + b"abc"), INVALID
    ),
    "2^63 keys": Case(fixed(keys=1 << 63) + ARCH, INVALID),
    "2^40 tensors": Case(fixed(tensors=1 << 40, keys=1) + ARCH, INVALID),
    "fewer keys than announced": Case(fixed(keys=3) + ARCH, TRUNCATED),
    "a key twice": Case(fixed(keys=2) + ARCH + ARCH, INVALID),
    "alignment 0": Case(alignment(0), INVALID),
    "alignment 2^31": Case(alignment(1 << 31), INVALID),
    "2^31 dimensions": Case(ONE + text(b"t") + struct.pack("<I", 1 << 31) + ROOM, INVALID),
    "shape overflows 64 bits": Case(ONE + tensor(1 << 33, 1 << 33) + ROOM, INVALID),
    "offset past the end": Case(ONE + tensor(32, offset=1 << 40) + ROOM, TRUNCATED),
    "data past the end": Case(ONE + tensor(1 << 20) + ROOM, TRUNCATED),
    "unknown tensor type": Case(ONE + tensor(32, kind=99) + ROOM, INVALID),
    "nested array": Case(nested(1), INVALID),
    "deeply nested array": Case(nested(5000), INVALID),
    "empty array": Case(
        fixed(tensors=1, keys=2) + ARCH + array(b"general.tags", STRING, 0) + tensor(8) + ROOM, None
    ),
    "value that is not UTF-8": Case(
        fixed(tensors=1, keys=2) + ARCH + key(b"general.name", STRING, text(b"\xff\xfe"))
        + tensor(8) + ROOM, None,
    ),
    "version 1": Case(b"GGUF" + struct.pack("<III", 1, 0, 0) + ROOM, INVALID),
    "version 4": Case(fixed(version=4), INVALID),
    "empty file": Case(b"", TRUNCATED),
    "eight bytes": Case(b"GGUF\3\0\0\0", TRUNCATED),
    "an HTML page": Case(b"<!DOCTYPE html><html>404 not found", INVALID),
    "a Git LFS pointer": Case(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n", INVALID
    ),
    # Beyond those of the first survey.
    "version 0": Case(fixed(version=0), INVALID),
    "version 3 with noise above it": Case(fixed(version=0x0301_0003), INVALID),
    "string length 2^64-1": Case(
        fixed(keys=1) + key(b"a", STRING, struct.pack("<Q", (1 << 64) - 1)) + ROOM, INVALID
    ),
    "vocabulary string of 2^64-1 bytes": Case(
        fixed(keys=1) + array(b"v", STRING, 3, text(b"a") + b"\xff" * 8) + ROOM, INVALID
    ),
    "vocabulary string of 2^63 bytes": Case(
        fixed(keys=1) + array(b"v", STRING, 2, struct.pack("<Q", 1 << 63)) + ROOM, INVALID
    ),
    "vocabulary ends with the file": Case(
        fixed(keys=1) + array(b"v", STRING, 2, text(b"abcdefgh") + b"\1\0\0"), TRUNCATED
    ),
    "last vocabulary string one byte short": Case(
        fixed(keys=1) + array(b"v", STRING, 1, struct.pack("<Q", 9) + b"12345678"), INVALID
    ),
    "billions of empty strings": Case(
        fixed(keys=1) + array(b"v", STRING, 1 << 33), INVALID, length=1 << 37
    ),
    "array of 2^61 float64": Case(fixed(keys=1) + array(b"a", 12, 1 << 61) + ROOM, INVALID),
    "array of an unknown type": Case(fixed(keys=1) + array(b"a", 13, 1) + ROOM, INVALID),
    "value of an unknown type": Case(fixed(keys=1) + key(b"a", 13, ROOM), INVALID),
    "key of 2^40 bytes": Case(fixed(keys=1) + struct.pack("<Q", 1 << 40) + ROOM, INVALID),
    "key of 70000 bytes": Case(fixed(keys=1) + key(b"k" * 70_000, U32, bytes(4)), INVALID),
    "key that is not UTF-8": Case(fixed(keys=1) + key(b"\xff\xfe", U32, bytes(4)), INVALID),
    "empty key": Case(fixed(keys=1) + key(b"", U32, bytes(4)), INVALID),
    "alignment 48": Case(alignment(48), INVALID),
    "alignment of type uint64": Case(alignment(32, kind=10), INVALID),
    "alignment that is a text": Case(
        fixed(keys=1) + key(b"general.alignment", STRING, text(b"32")), INVALID
    ),
    "a tensor twice": Case(
        fixed(tensors=2, keys=1) + ARCH + tensor(8) + tensor(8, offset=32) + ROOM, INVALID
    ),
    "tensors that overlap": Case(
        fixed(tensors=2, keys=1) + ARCH + tensor(32, name=b"a")
        + tensor(32, name=b"b", offset=64) + ROOM, INVALID,
    ),
    "offset off the alignment": Case(ONE + tensor(8, offset=8) + ROOM, INVALID),
    "offset 2^64-32": Case(ONE + tensor(8, offset=(1 << 64) - 32) + ROOM, TRUNCATED),
    "shape negative in int64": Case(ONE + tensor(1 << 63) + ROOM, INVALID),
    "a zero hides an overflow": Case(ONE + tensor(1 << 40, 1 << 40, 0) + ROOM, INVALID),
    "rows that no block divides": Case(ONE + tensor(33, kind=8) + ROOM, INVALID),
    "block type without dimensions": Case(ONE + tensor(kind=8) + ROOM, INVALID),
    "five dimensions": Case(ONE + tensor(1, 1, 1, 1, 1) + ROOM, INVALID),
    "tensor name of 5000 bytes": Case(ONE + tensor(8, name=b"x" * 5000) + ROOM, INVALID),
    "tensor table missing": Case(ONE, TRUNCATED),
    "data section missing": Case(ONE + tensor(8), TRUNCATED),
    "tensor without values": Case(ONE + tensor(0, 8) + ROOM, None),
    "tensor name that is not UTF-8": Case(ONE + tensor(8, name=b"\xff") + ROOM, None),
    "a page of zeros": Case(bytes(4096), INVALID),
    "another archive": Case(b"PK\3\4" + ROOM, INVALID),
    "2000 keys of a large array": Case(
        fixed(keys=2000) + b"".join(
            array(b"k%d" % i, 0, 1024, bytes(1024)) for i in range(2000)
        ), None,
    ),
    "a text of a gibibyte": Case(
        fixed(keys=1) + key(b"a", STRING, struct.pack("<Q", 1 << 30)), None, length=(1 << 30) + 64
    ),
    "bytes after the last tensor": Case(ONE + tensor(8) + bytes(8192), None),
}  # fmt: skip


def write(folder: Path) -> dict[str, Path]:
    """Write every case into the folder: name -> path."""
    paths = {}
    for i, (name, case) in enumerate(CASES.items()):
        paths[name] = folder / f"{i:02}.gguf"
        with paths[name].open("wb") as f:
            f.write(case.data)
            f.truncate(max(case.length, len(case.data)))
    return paths


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Not ru_maxrss on Linux: across fork and exec it keeps the peak of the parent, here of pytest.
    """
    import resource

    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (x for x in status.splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(folder: Path) -> None:
    """Read every file with our reader: JSON lines of file, error kind, seconds, peak memory."""
    import resource

    from tqconvert.errors import TqError
    from tqconvert.gguf.header import read_header

    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES))
    for path in sorted(folder.glob("*.gguf")):
        began = time.perf_counter()
        kind, message = None, ""
        try:
            read_header(path)
        except TqError as e:
            kind, message = e.kind, e.message
        seconds = time.perf_counter() - began
        row = {
            "file": path.name, "kind": kind, "message": message, "seconds": seconds,
            "rss": peak_bytes(),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
