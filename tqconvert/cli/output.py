"""What commands print: the result on stdout, everything else on stderr.

Three modes: text for people, `--json` for programs (one document and nothing else), `--quiet` for
`$(...)` (the essential value, one a line).
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqconvert.errors import TqError
from tqconvert.progress import Progress, progress_for


def prepare_streams() -> None:
    """Replace characters that the terminal's encoding lacks (cp1252 pipes) instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def print_error(e: TqError, *, as_json: bool) -> None:
    """Print the error and its hint in the mode of the command."""
    if as_json:
        error = {"kind": e.kind, "message": e.message, "hint": e.hint}
        print(json.dumps({"schema": "tqconvert.error/1", "error": error}, indent=2))
        return
    print(f"error: {e.message}", file=sys.stderr)
    if e.hint:
        print(f"  hint: {e.hint}", file=sys.stderr)


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
            print(json.dumps({**schema, **document}, indent=2, ensure_ascii=False))
        elif self.quiet:
            for line in (quiet,) if isinstance(quiet, str) else quiet:
                print(line)
        elif text:
            print(text)

    def note(self, text: str) -> None:
        """Print a remark for people, on stderr."""
        if not self.json and not self.quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, in every mode."""
        print(f"warning: {text}", file=sys.stderr)

    def progress(self) -> Progress:
        """Progress for this command's mode."""
        return progress_for(sys.stderr, quiet=self.quiet or self.json)


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
