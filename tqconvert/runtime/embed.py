"""The manifest inside of a binary: one line of JSON behind a marker, found again without running it.

C reads it from a header that lies beside ggml-turbo.c in the tree that is compiled, Go from a file of
the package `version`. What differs from one build to the next of the same tree (date, seconds, hashes of
programs) is not in it.
"""

import json
import mmap
from pathlib import Path
from typing import Any

from tqconvert.errors import BadManifestError
from tqconvert.fs import storage_error

MARKER = "TQCONVERT-MANIFEST "
C_HEADER = "ggml/src/ggml-turbo-build.h"
"""In llama.cpp's tree; ggml-turbo.c includes it where it is there."""
GO_FILE = "version/tqconvert.go"
"""In Ollama's tree."""
_LIMIT = 1 << 20


def manifest_line(document: dict[str, Any]) -> str:
    """The line that a binary holds."""
    return f"{MARKER}{json.dumps(document, sort_keys=True, separators=(',', ':'))}\n"


def c_header(document: dict[str, Any]) -> bytes:
    """A header that puts the line into an object file, and keeps linkers from dropping it."""
    line = manifest_line(document)
    # Compilers need not take string literals longer than 4095 bytes; parts are joined to one.
    parts = [line[i : i + 2000] for i in range(0, len(line), 2000)]
    text = "\n    ".join(_c_string(part) for part in parts)
    return (
        "// Made by tqconvert for this build; no part of the source.\n"
        "#if defined(__GNUC__)\n__attribute__((used))\n#endif\n"
        f"const char ggml_turbo_build_manifest[] =\n    {text};\n"
    ).encode()


def go_file(document: dict[str, Any]) -> bytes:
    """A Go file of the package `version` that holds the line."""
    line = json.dumps(manifest_line(document))  # Go reads JSON's escapes
    return (
        "// Made by tqconvert for this build; no part of the source.\n\n"
        'package version\n\nimport "runtime"\n\n'
        f"var tqconvertManifest = {line}\n\n"
        "func init() { runtime.KeepAlive(&tqconvertManifest) }\n"
    ).encode()


def find_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest inside of a binary, None if it holds none. Raises BadManifestError, StorageError."""
    try:
        with path.open("rb") as f:
            if not path.stat().st_size:
                return None
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                at = data.find(MARKER.encode() + b"{")
                if at < 0:
                    return None
                start = at + len(MARKER)
                end = data.find(b"\n", start, start + _LIMIT)
                text = data[start : end if end >= 0 else start + _LIMIT]
    except OSError as e:
        raise storage_error(e, path) from e
    try:
        document = json.loads(text)
    except ValueError as e:
        raise BadManifestError(f"{path}: holds a manifest that is no JSON ({e})") from e
    if not isinstance(document, dict):
        raise BadManifestError(f"{path}: holds a manifest that is no JSON object")
    return document


def _c_string(text: str) -> str:
    """A C string literal; json.dumps has left ASCII only."""
    body = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("?", "\\?")
    return f'"{body}"'
