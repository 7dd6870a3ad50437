"""The header of a patch of ours: `Key: value` lines above the diff, folded by a blank in front.

    Subject: Give the turbo types their ids
    TQ-Id: tq-all-type-ids
    Origin: tqconvert
    Forwarded: no
    Why-Kept: feature
    Why: one or two lines
    Drop-When: what makes it superfluous
    Applies-To: v0.30+
    SPDX-License-Identifier: MIT

A blank line or `---` ends it.
"""

import re
from typing import NamedTuple

from tqconvert.patches.diff import split_header

SUBJECT_MOST = 65

FIELDS: dict[str, str] = {
    "Subject": r".+",
    "TQ-Id": r"tq-(all|legacy|modern)-[a-z0-9]+(-[a-z0-9]+)*",
    "Origin": r"tqconvert|(upstream|vendor|other), .+",
    "Forwarded": r"no|not-needed|https://\S+",
    "Why-Kept": r"temporary|build|feature",
    "Why": r".+",
    "Drop-When": r".+",
    "Applies-To": r"(llama\.cpp b\d+|v\d+(\.\d+)*)(\+|\.\.[bv]\d+(\.\d+)*)?|llama\.cpp",
    "SPDX-License-Identifier": r"[A-Za-z0-9.+-]+",
}
"""Every field of a header, each of them needed, and what it may say."""

EXPECTED = {
    "TQ-Id": "tq-all-NAME, tq-legacy-NAME or tq-modern-NAME",
    "Origin": "tqconvert, or `upstream, URL`",
    "Forwarded": "no, not-needed or a URL",
    "Why-Kept": "temporary, build or feature",
    "Applies-To": "v0.30+, v0.17.1..v0.24.0, llama.cpp b7437+",
    "SPDX-License-Identifier": "a licence's short name",
}


class Line(NamedTuple):
    """A field."""

    key: str
    value: str
    """Folded lines joined by one blank."""
    number: int
    """Of its first line, from 1."""


class Header(NamedTuple):
    """What stands above the diff."""

    lines: tuple[Line, ...]
    strange: tuple[int, ...]
    """Numbers of lines that are no field."""

    def get(self, key: str) -> str | None:
        """The first value of a field."""
        return next((line.value for line in self.lines if line.key == key), None)


_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*)")


def parse_header(data: bytes) -> Header:
    """The header of a patch file. Whatever stands in it, it parses."""
    head, _ = split_header(data)
    lines: list[Line] = []
    strange = []
    for number, text in enumerate(head.decode("utf-8", "replace").split("\n"), start=1):
        if not text.strip() or text == "---":
            continue
        if text[0] in " \t" and lines:
            last = lines[-1]
            lines[-1] = last._replace(value=f"{last.value} {text.strip()}".strip())
        elif found := _FIELD.fullmatch(text.rstrip("\r")):
            lines.append(Line(found[1], found[2].strip(), number))
        else:
            strange.append(number)
    return Header(tuple(lines), tuple(strange))
