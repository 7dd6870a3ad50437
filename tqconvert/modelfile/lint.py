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
    for e in source.broken:
        hint = e.hint
        if e.reason == "command":
            word = re.match(r"unknown command '([A-Za-z_]+)", e.problem)
            hint = near(word[1], COMMANDS) if word else None
            if word and hint is None:
                hint = _parameter_hint(word[1])
            hint = re.sub(r"mean (\w+)\?", lambda m: f"mean {m[1].upper()}?", hint or "") or None
        yield Finding(e.line, _REASONS[e.reason], e.problem, hint)
    unread_from = any(re.search(r"'from\b", e.problem, re.IGNORECASE) for e in source.broken)
    if not has_from([s.command for s in source.commands]) and not unread_from:
        yield Finding(0, "MF101", "no FROM line", "begin with FROM and a model name or a GGUF file")


def _parameter_hint(word: str) -> str | None:
    return f"write PARAMETER {word.lower()}" if word.lower() in PARAMETERS else None
