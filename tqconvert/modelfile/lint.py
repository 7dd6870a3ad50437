"""Faults of a Modelfile, all of them in one go, each with a code of `findings.CODES`."""

import re
from collections.abc import Iterator
from pathlib import Path

from tqconvert.modelfile.findings import CODES, Finding, Severity, Source, near
from tqconvert.modelfile.names import PARAMETERS
from tqconvert.modelfile.parse import COMMANDS, ModelfileError, Scanned, Scanner, decode, has_from
from tqconvert.modelfile.rules import RULES

__all__ = ["CODES", "Finding", "Severity", "lint"]

_REASONS = {
    "command": "MF001", "value": "MF002", "quote": "MF003", "role": "MF004", "parameter": "MF005",
}  # fmt: skip


def lint(text: bytes | str, *, folder: Path | None = None) -> tuple[Finding, ...]:
    """All findings, by line. With `folder`, that of the Modelfile, files it names are looked at."""
    source = _scan(decode(text), folder)
    found = set(_broken(source))
    for rule in RULES:
        found.update(rule(source))
    return tuple(sorted(found, key=lambda f: (f.line, f.code, f.message)))


def _scan(text: str, folder: Path | None) -> Source:
    scanner, commands, broken = Scanner(text), list[Scanned](), list[ModelfileError]()
    while True:
        try:
            found = scanner.next()
        except ModelfileError as e:
            broken.append(e)
            scanner.recover(e.line)
            continue
        if found is None:
            return Source(tuple(commands), folder, tuple(broken))
        commands.append(found)


def _broken(source: Source) -> Iterator[Finding]:
    """MF001 to MF005, and MF101 unless a misspelt line was meant to be the FROM."""
    meant = False
    for e in source.broken:
        hint = e.hint
        word = re.match(r"unknown command '([A-Za-z_]+)", e.problem)
        if word:
            hint = _command_hint(word[1])
            meant = meant or word[1].lower() == "from" or hint == "did you mean FROM?"
        yield Finding(e.line, _REASONS[e.reason], e.problem, hint)
        meant = meant or e.problem == "FROM without a value"
    if not meant and not has_from([s.command for s in source.commands]):
        yield Finding(0, "MF101", "no FROM line", "begin with FROM and a model name or a GGUF file")


def _command_hint(word: str) -> str | None:
    if word.lower() in PARAMETERS:
        return f"write PARAMETER {word.lower()}"
    return near(word.upper(), [c.upper() for c in COMMANDS])
