"""Modelfile value to text. What comes out parses back to the same value, or nothing comes out.

Ollama's syntax has no escapes, so some values cannot be written at all; its own `ollama show --modelfile`
writes them anyway and they come back changed (parser/parser.go quote, v0.19.0).
"""

from tqconvert.modelfile.parse import (
    ROLES,
    Command,
    Modelfile,
    ModelfileError,
    Scanner,
    has_from,
    printable,
)

_PLAIN_KEY = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def render(modelfile: Modelfile) -> str:
    """Text of the Modelfile, such that `parse` gives the same value back.

    Raises ModelfileError for a value that the syntax cannot carry; the message says why.
    """
    if not has_from(list(modelfile.commands)):
        raise ModelfileError("no FROM line", reason="from")
    blocks, lines = [], list[str]()
    if modelfile.header:
        blocks.append(_comments(modelfile.header))
    for command in modelfile.commands:
        if command.comments and lines:
            blocks.append(lines)
            lines = []
        lines = [*lines, *_comments(command.comments), render_command(command)]
    blocks.append(lines)
    if modelfile.trailing:
        blocks.append(_comments(modelfile.trailing))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def render_command(command: Command) -> str:
    """The command's line or lines, without its comments. Raises ModelfileError."""
    word = command.kind.upper()
    if command.kind == "parameter":
        if not command.key or command.key.strip(_PLAIN_KEY):
            raise ModelfileError(f"{command.key!r} cannot name a PARAMETER", reason="render")
        word = f"{word} {command.key}"
    elif command.kind == "message":
        if command.key not in ROLES:
            raise ModelfileError(
                f"{command.key!r} cannot be the role of a MESSAGE", reason="render"
            )
        word = f"{word} {command.key}"
    elif command.key:
        raise ModelfileError(f"{word} takes no name ({command.key!r})", reason="render")
    return f"{word} {quote(command.value, what=word)}"


def quote(value: str, *, what: str = "value") -> str:
    """The value as written: bare, in quotes or in triple quotes, whichever Ollama reads back.

    Raises ModelfileError where none of them does.
    """
    bare, single, triple = value, f'"{value}"', f'"""{value}"""'
    lines = "\n" in value or "\r" in value
    order = (triple, single) if lines else (bare, single, triple) if value else (single, triple)
    for written in order:
        if _reads_back(written, value):
            return written
    raise ModelfileError(f"{what}: {why_not(value)}", reason="render")


def why_not(value: str) -> str:
    """Why the syntax cannot carry the value; for values that `quote` refuses."""
    for c in value:
        if c not in "\r\n" and printable(c) != c:
            return f"holds U+{ord(c):04X}, which Ollama's parser drops"
    if '"""' in value:
        return 'holds """ at the end of a line, which ends the value there'
    return "holds quotes at the ends of lines, which end the value there"


def _reads_back(written: str, value: str) -> bool:
    scanner = Scanner(f"SYSTEM {written}\n")
    try:
        found = scanner.next()
    except ModelfileError:
        return False
    return found is not None and found.command.value == value and scanner.next() is None


def _comments(lines: tuple[str, ...]) -> list[str]:
    for line in lines:
        if "\n" in line or "\r" in line:
            raise ModelfileError("a comment holds a line break", reason="render")
    return [f"# {line}" if line else "#" for line in lines]
