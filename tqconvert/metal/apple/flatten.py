"""A kernel file with its quoted includes put in, as the runtime hands it to the GPU's own compiler."""

import re
from collections.abc import Sequence
from pathlib import Path

from tqconvert.errors import NotFoundError

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)
_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[ \t]*$", re.MULTILINE)
_SENTINEL = re.compile(r"^__embed_([\w.-]+)__$", re.MULTILINE)


def flatten(path: Path, folders: Sequence[Path]) -> str:
    """The text of a file with everything that it includes, each file once.

    `__embed_NAME__`, which the single-file layout has where builds put a file in, stands for an include.
    Raises NotFoundError.
    """
    seen: set[Path] = set()

    def find(name: str, beside: Path) -> Path | None:
        return next((f / name for f in (beside, *folders) if (f / name).is_file()), None)

    def read(file: Path) -> str:
        if file in seen:
            return ""
        seen.add(file)
        try:
            text = file.read_text("utf-8")
        except OSError as e:
            raise NotFoundError(f"{file}: {e.strerror}") from None

        def put(match: re.Match[str]) -> str:
            found = find(match[1], file.parent)
            if found is None:
                raise NotFoundError(f"{file}: includes {match[1]}, which is not there")
            return read(found)

        return _INCLUDE.sub(put, _SENTINEL.sub(r'#include "\1"', _ONCE.sub("", text)))

    return read(path)
