"""What the linter finds: the table of codes, a finding, and what the rules look at.

`error`: Ollama refuses the Modelfile, or makes a model that cannot answer (MF302). `warning`: Ollama takes it,
and what comes out is not what the text says. True of v0.19.0 and v0.32.15 unless a finding names a version.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqconvert.modelfile.parse import Command, ModelfileError, Scanned

Severity = Literal["error", "warning"]

CODES: dict[str, tuple[Severity, str]] = {
    "MF001": ("error", "unknown command"),
    "MF002": ("error", "command without a value"),
    "MF003": ("error", "quote that is never closed"),
    "MF004": ("error", "MESSAGE role other than system, user, assistant"),
    "MF005": ("error", "PARAMETER name with a character that cannot be in one"),
    "MF006": ("warning", "empty value"),
    "MF007": ("warning", "characters that Ollama drops from values, or bytes that are not UTF-8"),
    "MF008": ("warning", "quoted value that swallows lines which look like commands"),
    "MF009": ("warning", "single quotes, which Ollama keeps as part of the value"),
    "MF010": ("warning", "comment behind a value, which Ollama keeps as part of the value"),
    "MF101": ("error", "no FROM"),
    "MF102": ("warning", "FROM more than once where only one counts"),
    "MF103": ("error", "FROM names a file that is not there"),
    "MF104": ("error", "FROM names a file that is no usable GGUF"),
    "MF105": ("warning", "FROM names a blob of this machine's store"),
    "MF106": ("error", "FROM is neither a file nor a model name"),
    "MF107": ("error", "ADAPTER or DRAFT names a file that is not there"),
    "MF108": ("error", "DRAFT is the same file as FROM"),
    "MF201": ("error", "unknown PARAMETER"),
    "MF202": ("error", "PARAMETER value of the wrong type"),
    "MF203": ("warning", "deprecated PARAMETER, which Ollama drops"),
    "MF204": ("warning", "PARAMETER more than once where only the last counts"),
    "MF205": ("warning", "stop sequence given twice"),
    "MF206": ("warning", "num_ctx above the context that the model was made for"),
    "MF207": ("warning", "PARAMETER value outside its range"),
    "MF208": ("error", "KV cache type as PARAMETER, which stock Ollama refuses"),
    "MF209": ("warning", "PARAMETER named like a command, which Ollama takes for that command"),
    "MF301": ("warning", "TEMPLATE beside a RENDERER, which wins"),
    "MF302": ("error", "unknown RENDERER"),
    "MF303": ("warning", "unknown PARSER, which Ollama ignores"),
    "MF304": ("warning", "RENDERER without the PARSER of the same name"),
    "MF305": ("warning", "command more than once where only the last counts"),
    "MF306": ("error", "TEMPLATE in Jinja (Ollama's are Go templates)"),
    "MF307": ("error", "TEMPLATE with unbalanced blocks"),
    "MF308": ("warning", "TEMPLATE that never shows the prompt"),
    "MF401": ("error", "REQUIRES is no version"),
    "MF402": ("warning", "newer than some releases, which refuse it; no REQUIRES says so"),
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A fault in a line; line 0 means the whole Modelfile."""

    line: int
    code: str
    message: str
    hint: str | None = None

    @property
    def severity(self) -> Severity:
        """`error` or `warning`."""
        return CODES[self.code][0]

    def as_json(self) -> dict[str, int | str | None]:
        """The finding as an object of `--json`."""
        return {
            "line": self.line,
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
        }

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.code} {self.severity}: {self.message}{hint}"


@dataclass(frozen=True, slots=True)
class Source:
    """What the rules look at. `folder` is the Modelfile's own; None means: look at no files."""

    commands: tuple[Scanned, ...]
    folder: Path | None
    broken: tuple[ModelfileError, ...] = ()

    def of(self, *kinds: str) -> list[Command]:
        """Commands of these kinds, in order."""
        return [s.command for s in self.commands if s.command.kind in kinds]


Rule = Callable[[Source], Iterable[Finding]]


def near(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word which is nearest, if one is near."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else None
