"""A fault that a lint of sources found: where, and its code in the lint's own table."""

from typing import Any, Literal, NamedTuple

Severity = Literal["error", "note"]
"""An `error` makes a lint fail, a `note` does not."""


class Finding(NamedTuple):
    """A fault."""

    path: str
    """Below the folder that was looked at."""
    line: int
    """0: the file as a whole."""
    code: str
    message: str
    severity: Severity

    def as_json(self) -> dict[str, Any]:
        """The finding as an object of `--json`."""
        return self._asdict()

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.code} {self.severity}: {self.message}"
