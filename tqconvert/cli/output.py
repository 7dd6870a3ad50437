"""What commands print: the result on stdout, everything else on stderr.

Three modes: text for people, `--json` for programs (one document and nothing else), `--quiet` for
`$(...)` (the essential value, one a line).
"""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tqconvert.errors import TqError
from tqconvert.progress import Progress, Steps, progress_for, steps_for

_ERRORS = "tqconvert.replace"


def prepare_streams() -> None:
    """Make sure that printing cannot fail by a stream that is closed or by a character it lacks.

    Characters that the encoding lacks (cp1252 pipes) are replaced; bytes of file names that are no
    text in it come out as they are.
    """
    for number, name in enumerate(("stdout", "stderr"), start=1):
        if getattr(sys, name) is None:  # `>&-`; the next file opened would take the number
            fd = os.open(os.devnull, os.O_WRONLY)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, open(number, "w", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(_ERRORS, _replace_character)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def _replace_character(e: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(e, UnicodeEncodeError):
        raise e
    code = ord(e.object[e.start])
    # How Python reads bytes that are no text (PEP 383), in file names for one.
    is_byte = 0xDC80 <= code <= 0xDCFF
    return (bytes([code - 0xDC00]) if is_byte else "?"), e.start + 1


def stdout_works() -> bool:
    """Whether what was printed so far could be written."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def drop_stdout() -> None:
    """Send to nowhere what could not be written: its reader went away, or the disk is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _to_json(document: Mapping[str, Any]) -> str:
    """The document, with escapes where the encoding of stdout cannot hold its characters."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=2)
    return text


def visible(text: str) -> str:
    """The text with ? for what a terminal would obey: names in strangers' files may hold anything.

    Line breaks, tabs and the bytes of file names that are no text stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" or "\udc80" <= c <= "\udcff" else "?" for c in text
    )


def print_error(e: TqError, *, as_json: bool) -> None:
    """Print the error and its hint in the mode of the command."""
    if as_json:
        error = {"kind": e.kind, "message": e.message, "hint": e.hint}
        print(_to_json({"schema": "tqconvert.error/1", "error": error}))
        return
    print(f"error: {visible(e.message)}", file=sys.stderr)
    if e.hint:
        print(f"  hint: {visible(e.hint)}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Output:
    """Where one command's result goes, by its --json and --quiet."""

    command: str
    json: bool = False
    quiet: bool = False

    def result(
        self, document: Mapping[str, Any], text: str, quiet: str | Iterable[str] = ()
    ) -> None:
        """Print `document` as JSON, `text` for people, or the essential `quiet` value."""
        if self.json:
            schema = {"schema": f"tqconvert.{self.command}/1"}
            print(_to_json({**schema, **document}))
        elif self.quiet:
            for line in (quiet,) if isinstance(quiet, str) else quiet:
                print(visible(line) if sys.stdout.isatty() else line)
        elif text:
            print(visible(text) if sys.stdout.isatty() else text)

    def note(self, text: str) -> None:
        """Print a remark for people, on stderr; that nobody reads it ends no command."""
        if not self.json and not self.quiet:
            with suppress(BrokenPipeError):
                print(visible(text), file=sys.stderr)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, in every mode."""
        print(f"warning: {visible(text)}", file=sys.stderr)

    def progress(self) -> Progress:
        """Progress for this command's mode."""
        return progress_for(sys.stderr, quiet=self.quiet or self.json)

    def steps(self, label: str) -> Steps:
        """Progress of counted steps for this command's mode."""
        return steps_for(label, sys.stderr, quiet=self.quiet or self.json)


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), indent: int = 0) -> str:
    """Columns aligned by spaces; the columns in `right` are right-aligned."""
    if not rows:
        return ""
    columns = max(len(r) for r in rows)
    padded = [[*r, *[""] * (columns - len(r))] for r in rows]
    widths = [max(len(r[i]) for r in padded) for i in range(columns)]
    at_right = set(right)
    lines = []
    for row in padded:
        cells = [
            cell.rjust(widths[i]) if i in at_right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append(" " * indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def types_text(types: str | tuple[str, ...]) -> str:
    """Cache types for people: a name, or how many layers have which."""
    if isinstance(types, str):
        return types
    counts = {name: types.count(name) for name in dict.fromkeys(types)}
    return " + ".join(f"{name} x{n}" for name, n in counts.items())
