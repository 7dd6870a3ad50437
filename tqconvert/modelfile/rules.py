"""The rules of the linter, one function for each subject; every code is in `lint.CODES`."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tqconvert.errors import TqError
from tqconvert.modelfile import names
from tqconvert.modelfile.findings import Finding, Rule, Source, near
from tqconvert.modelfile.parse import COMMANDS, Command, begins_command, printable
from tqconvert.modelfile.template import block_problem, fields, is_jinja
from tqconvert.reference import ModelName

PASS_THROUGH = "{{ .Prompt }}"
"""The TEMPLATE that Ollama shows for models which have a RENDERER instead."""

_SEMVER = re.compile(
    r"v?(0|[1-9]\d*)(?:\.(0|[1-9]\d*)(?:\.(0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?)?)?",
    re.ASCII,
)
_BLOB = re.compile(r"blobs[/\\]sha256[-:][0-9a-fA-F]{64}$")
_ONCE = ("template", "system", "renderer", "parser", "requires", "adapter")
_WORDS = ("from", "adapter", "draft", "renderer", "parser", "requires", "parameter")


def check_values(source: Source) -> Iterator[Finding]:
    """MF006 to MF010: what is written is not what Ollama reads."""
    for scanned in source.commands:
        c, raw = scanned.command, scanned.raw.strip(" \t")
        if not c.value.strip():
            yield Finding(c.line, "MF006", f"{_title(c)} is empty")
        dropped = sorted({x for x in raw if x not in "\r\n" and not printable(x)})
        if dropped or "\ufffd" in raw:
            what = ", ".join(f"U+{ord(x):04X}" for x in dropped) or "bytes that are not UTF-8"
            yield Finding(c.line, "MF007", f"{_title(c)} holds {what}")
        lines = c.value.splitlines()
        inside = [n for n, line in enumerate(lines) if n and _is_upper_command(line)]
        if raw.startswith('"') and not raw.startswith('"""') and inside:
            yield Finding(
                c.line, "MF008", f"{_title(c)} holds line {c.line + inside[0]}, which looks like a command",
                "is a closing quote missing?",
            )  # fmt: skip
        if len(c.value) > 1 and c.value[0] == c.value[-1] == "'":
            yield Finding(c.line, "MF009", f"{_title(c)} is in single quotes", 'write "..."')
        if c.kind in _WORDS and c.key != "stop" and re.search(r"\s#", c.value):
            yield Finding(
                c.line, "MF010", f"{_title(c)} ends in a comment", "put it on a line of its own"
            )


def check_from(source: Source) -> Iterator[Finding]:
    """MF102 to MF106: what the model is made from."""
    seen: set[str] = set()
    named: str | None = None
    for c in source.of("from"):
        if not c.value:
            continue
        if c.value in seen:
            yield Finding(c.line, "MF102", f"FROM {c.value} is there twice")
        elif not _is_path(c.value, source.folder):
            if named is not None:
                yield Finding(c.line, "MF102", f"FROM {named} does not count: this one comes later")
            elif seen:
                yield Finding(
                    c.line, "MF102", f"FROM {c.value} makes Ollama ignore the files above"
                )
            named = c.value
        elif named is not None:
            yield Finding(c.line, "MF102", f"FROM {named} makes Ollama ignore this file")
        seen.add(c.value)
        if _BLOB.search(c.value):
            yield Finding(
                c.line,
                "MF105",
                "FROM names a blob of one machine's store",
                "write the model's name",
            )
        yield from _check_source(c, source.folder)


def _check_source(c: Command, folder: Path | None) -> Iterator[Finding]:
    if not _is_path(c.value, folder):
        try:
            ModelName.parse(c.value)
        except TqError as e:
            yield Finding(c.line, "MF106", f"FROM {e.message}")
        return
    path = _resolve(c.value, folder)
    if path is None or path.is_dir():
        return
    if not path.exists():
        yield Finding(c.line, "MF103", f"FROM {c.value}: no such file")
    elif path.suffix != ".safetensors":
        try:
            _context(path)
        except TqError as e:
            yield Finding(c.line, "MF104", f"FROM {e.message}", e.hint)


def check_files(source: Source) -> Iterator[Finding]:
    """MF107, MF108: adapters and drafts are files, never names."""
    models = {_resolve(c.value, source.folder) for c in source.of("from")}
    for c in source.of("adapter", "draft"):
        path = _resolve(c.value, source.folder)
        if path is None or not c.value:
            continue
        if not path.exists():
            yield Finding(c.line, "MF107", f"{_title(c)} {c.value}: no such file")
        if c.kind == "draft" and path in models:
            yield Finding(c.line, "MF108", f"DRAFT {c.value} is the same file as FROM")


def check_parameters(source: Source) -> Iterator[Finding]:
    """MF201 to MF205 and MF207 to MF209: names, types and ranges."""
    seen: set[str] = set()
    stops: set[str] = set()
    for c in source.of("parameter"):
        yield from _check_parameter(c)
        if c.key == "stop":
            if c.value in stops:
                yield Finding(c.line, "MF205", f"PARAMETER stop {c.value} is there twice")
            stops.add(c.value)
        elif c.key in names.PARAMETERS and c.key in seen:
            yield Finding(c.line, "MF204", f"PARAMETER {c.key} is there twice; this one counts")
        seen.add(c.key)


def _check_parameter(c: Command) -> Iterator[Finding]:
    kind = names.PARAMETERS.get(c.key)
    if kind is None:
        yield _unknown_parameter(c)
    elif not names.accepts(kind, c.value):
        article = "an" if kind == "int" else "a"
        expected = "true or false" if kind == "bool" else f"{article} {kind}"
        yield Finding(c.line, "MF202", f"PARAMETER {c.key} {c.value[:60]!r} (expected {expected})")
    elif c.key in names.RANGES:
        low, high = names.RANGES[c.key]
        if not low <= _number(c.value) <= high:
            limits = f"from {low:g} to {high:g}" if high < float("inf") else f"{low:g} or more"
            yield Finding(c.line, "MF207", f"PARAMETER {c.key} {c.value} (expected {limits})")


def _unknown_parameter(c: Command) -> Finding:
    lower = c.key.lower()
    if c.key in names.DEPRECATED:
        return Finding(c.line, "MF203", f"PARAMETER {c.key} is deprecated and dropped")
    if lower in names.KV_CACHE:
        return Finding(
            c.line, "MF208", f"PARAMETER {c.key}: stock Ollama has no such parameter",
            "set OLLAMA_KV_CACHE_TYPE for the server, or tag the GGUF: tqconvert tag",
        )  # fmt: skip
    if c.key in (*COMMANDS, "model") and c.key not in ("from", "parameter"):
        kind = "FROM" if c.key == "model" else c.key.upper()
        return Finding(
            c.line,
            "MF209",
            f"PARAMETER {c.key} is taken for {kind}",
            f"write {kind} without PARAMETER",
        )
    if not c.key:
        return Finding(
            c.line, "MF201", "PARAMETER '': two spaces make the name empty", "write one space"
        )
    removed = "Ollama no longer has it" if c.key in names.REMOVED else None
    return Finding(
        c.line, "MF201", f"unknown PARAMETER {c.key}", removed or near(lower, names.PARAMETERS)
    )


def check_context(source: Source) -> Iterator[Finding]:
    """MF206: more context than the model was made for."""
    files = [c for c in source.of("from") if _is_path(c.value, source.folder)]
    limit = None
    for c in files:
        path = _resolve(c.value, source.folder)
        if limit is None and path is not None and path.is_file():
            try:
                limit = _context(path)
            except TqError:
                continue  # MF104 says so
    for c in source.of("parameter"):
        if (
            c.key == "num_ctx"
            and limit
            and names.accepts("int", c.value)
            and names.integer(c.value) > limit
        ):
            yield Finding(
                c.line,
                "MF206",
                f"PARAMETER num_ctx {c.value} is above the model's context of {limit}",
            )


def check_prompt(source: Source) -> Iterator[Finding]:
    """MF301 to MF308: who turns messages into a prompt, and back."""
    renderers, parsers = source.of("renderer"), source.of("parser")
    for found, known, code in (
        (renderers, names.RENDERERS, "MF302"),
        (parsers, names.PARSERS, "MF303"),
    ):
        for c in found:
            if c.value and c.value not in known:
                yield Finding(
                    c.line,
                    code,
                    f"unknown {_title(c)} {c.value[:60]}",
                    near(c.value.lower(), known),
                )
    if renderers and not parsers and renderers[-1].value in names.RENDERERS & names.PARSERS:
        name = renderers[-1].value
        yield Finding(
            renderers[-1].line,
            "MF304",
            f"RENDERER {name} without PARSER {name}",
            f"add PARSER {name}",
        )
    for kind in _ONCE:
        for c in source.of(kind)[:-1]:
            yield Finding(c.line, "MF305", f"{_title(c)} does not count: another one comes later")
    for c in source.of("template"):
        yield from _check_template(c, rendered=bool(renderers))


def _check_template(c: Command, *, rendered: bool) -> Iterator[Finding]:
    if rendered and c.value.strip() != PASS_THROUGH:
        yield Finding(
            c.line, "MF301", "TEMPLATE is not used: RENDERER makes the prompt", "leave it out"
        )
    if is_jinja(c.value):
        yield Finding(
            c.line,
            "MF306",
            "TEMPLATE is a Jinja chat template",
            "leave it out, or write a Go template",
        )
        return
    problem = block_problem(c.value)
    if problem:
        yield Finding(c.line, "MF307", f"TEMPLATE: {problem}")
    elif c.value.strip() and not fields(c.value) & {"Prompt", "Messages"}:
        yield Finding(c.line, "MF308", "TEMPLATE uses neither .Messages nor .Prompt")


def check_versions(source: Source) -> Iterator[Finding]:
    """MF401, MF402: which Ollama the Modelfile needs."""
    required: tuple[int, ...] = (0, 0, 0)
    for c in source.of("requires"):
        m = _SEMVER.fullmatch(c.value)
        if m is None:
            yield Finding(
                c.line, "MF401", f"REQUIRES {c.value[:60]!r} (expected a version such as 0.14.0)"
            )
        else:
            required = tuple(names.integer(part or "0") for part in m.group(1, 2, 3))
    for c in source.of("draft", "parameter"):
        since = names.SINCE.get(c.key or c.kind)
        if since and required < since:
            version = ".".join(map(str, since))
            yield Finding(
                c.line,
                "MF402",
                f"{_title(c)} is refused before Ollama {version}",
                f"add REQUIRES {version}",
            )


def _title(c: Command) -> str:
    return f"{c.kind.upper()} {c.key}".rstrip()


def _is_upper_command(line: str) -> bool:
    word = line.split(maxsplit=1)[:1]
    return begins_command(line) and bool(word) and word[0].isupper()


def _number(value: str) -> float:
    digits = value.replace("_", "")
    return float.fromhex(digits) if "x" in digits.lower() else float(digits)


def _is_path(value: str, folder: Path | None) -> bool:
    """Whether Ollama finds a file there, or the user can only have meant one."""
    if value.startswith((".", "/", "~", "\\")) or value.lower().endswith((".gguf", ".safetensors")):
        return True
    path = _resolve(value, folder)
    return path is not None and path.exists()


def _resolve(value: str, folder: Path | None) -> Path | None:
    """The file that a value means; None where no files are looked at or the text cannot be a path."""
    if folder is None or "\0" in value or len(value) > 4096:
        return None
    try:
        path = folder / os.path.expanduser(value)
        path.exists()
    except (OSError, ValueError, RuntimeError):
        return None
    return path


def _context(path: Path) -> int | None:
    from tqconvert.gguf.header import read_header

    context = read_header(path).arch("context_length")
    return context if isinstance(context, int) else None


RULES: tuple[Rule, ...] = (
    check_values, check_from, check_files, check_parameters, check_context, check_prompt, check_versions,
)  # fmt: skip
