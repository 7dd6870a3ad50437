"""Modelfile text to value, accepting and refusing exactly what Ollama's own parser does.

Source of the grammar: ollama parser/parser.go, v0.19.0, and v0.32.15 for DRAFT. Its ways that surprise:
characters that Go's strconv.IsPrint refuses vanish from values, a quoted value ends only where a line
ends with the quote, there are no escapes, and `#` begins a comment only where a command could begin.
"""

import codecs
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

from tqconvert.errors import IntegrityError, NotFoundError
from tqconvert.fs import storage_error

COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter",
    "message", "requires",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
MAX_BYTES = 16 << 20
"""Larger files are no Modelfiles: the longest licenses have some 40 kB."""

_BLANK = " \t"
_NEWLINE = "\r\n"
_BREAK = re.compile(r"\r\n|\r|\n")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME = _LETTERS | frozenset("0123456789_")


class ModelfileError(IntegrityError):
    """Ollama refuses this Modelfile; `line` is where, 0 for the whole of it.

    `reason` is one of command, value, quote, role, parameter, from, render, size.
    """

    kind = "invalid_modelfile"

    def __init__(
        self, message: str, *, reason: str, line: int = 0, hint: str | None = None
    ) -> None:
        super().__init__(f"line {line}: {message}" if line else message, hint=hint)
        self.problem = message
        self.reason = reason
        self.line = line


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `key` is the name of a PARAMETER or the role of a MESSAGE, else empty."""

    kind: str
    value: str
    key: str = ""
    comments: tuple[str, ...] = ()
    """Comment lines above the command, without `# `."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Modelfile:
    """Commands in order, with the comments that stand above them."""

    commands: tuple[Command, ...]
    header: tuple[str, ...] = ()
    """Comment lines at the top, which an empty line parts from the first command."""
    trailing: tuple[str, ...] = ()
    """Comment lines after the last command."""

    def of(self, kind: str) -> tuple[Command, ...]:
        """All commands of one kind."""
        return tuple(c for c in self.commands if c.kind == kind)

    def parameter(self, name: str) -> str | None:
        """Value of a PARAMETER; the last one counts. None where it is not set."""
        found = [c.value for c in self.commands if c.kind == "parameter" and c.key == name]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class Scanned:
    """A command with the source text of its value, quotes and dropped characters included."""

    command: Command
    raw: str


def parse(text: bytes | str) -> Modelfile:
    """Modelfile of the text. Raises ModelfileError for what Ollama refuses."""
    scanner = Scanner(decode(text))
    commands = []
    while (found := scanner.next()) is not None:
        commands.append(found.command)
    if not has_from(commands):
        raise ModelfileError(
            "no FROM line", reason="from", hint="begin with FROM and a model name or a GGUF file"
        )
    return Modelfile(tuple(commands), scanner.header, scanner.trailing)


def read_modelfile(path: Path) -> bytes:
    """Bytes of a Modelfile. Raises NotFoundError, StorageError, ModelfileError for a model's file."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise NotFoundError(f"{path}: is a folder (expected a Modelfile)") from None
    except OSError as e:
        raise storage_error(e, path) from e
    if data.startswith(b"GGUF"):
        raise ModelfileError(
            f"{path}: a GGUF, not a Modelfile", reason="size", hint=f"tqconvert modelfile {path}"
        )
    if len(data) > MAX_BYTES:
        raise ModelfileError(f"{path}: more than {MAX_BYTES} bytes, no Modelfile", reason="size")
    return data


def has_from(commands: list[Command]) -> bool:
    """Whether Ollama finds a FROM: it names the command "model", and parameters by their own name."""
    return any(c.kind == "from" or (c.kind == "parameter" and c.key == "model") for c in commands)


def decode(text: bytes | str) -> str:
    """Text by its byte order mark, UTF-8 without one; what is ill-formed becomes U+FFFD."""
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if text.startswith(mark):
            body, odd = text[2 : len(text) & ~1], len(text) % 2
            return body.decode(encoding, "replace") + "\ufffd" * odd
    return text.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


class Scanner:
    """Commands one after the other; `recover` goes on after an error."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.header: tuple[str, ...] = ()
        self.trailing: tuple[str, ...] = ()
        self._begun = False
        self._starts = _line_starts(text)

    def line_of(self, at: int) -> int:
        """Number of the line that the position stands in, from 1."""
        return bisect_right(self._starts, at)

    def next(self) -> Scanned | None:
        """The next command; None at the end. Raises ModelfileError."""
        comments = self._comments()
        if self.at >= len(self.text):
            self.trailing = comments
            return None
        self._begun = True
        line = self.line_of(self.at)
        kind = self._kind(line)
        key = ""
        if kind == "parameter":
            key = self._word(_NAME, "a parameter's name", "parameter", line)
        elif kind == "message":
            key = self._word(_LETTERS, "a role", "role", line)
            if key not in ROLES:
                raise _bad_role(key, line)
        value, raw = self._value(line)
        return Scanned(Command(kind, value, key, comments, line), raw)

    def recover(self, line: int) -> None:
        """Go on behind `line`, at the next line that begins with a command or a comment."""
        for n in range(line, len(self._starts)):
            start = self._starts[n]
            end = self._starts[n + 1] if n + 1 < len(self._starts) else len(self.text)
            if begins_command(self.text[start:end]):
                self.at = start
                return
        self.at = len(self.text)

    def _comments(self) -> tuple[str, ...]:
        """Step over white space and comments; the comment lines."""
        text, pending, blank = self.text, list[str](), True
        while self.at < len(text):
            c = text[self.at]
            if c in _NEWLINE:
                if blank and pending and not self._begun and not self.header:
                    self.header, pending = tuple(pending), []
                blank = True
                self.at += 2 if text.startswith("\r\n", self.at) else 1
            elif c in _BLANK:
                self.at += 1
            elif c == "#":
                end = self._line_end(self.at)
                pending.append(text[self.at + 1 : end].removeprefix(" "))
                self.at, blank = end, False
            else:
                break
        return tuple(pending)

    def _line_end(self, at: int) -> int:
        """Position of the next line break, or of the end."""
        ends = [p for p in (self.text.find("\n", at), self.text.find("\r", at)) if p >= 0]
        return min(ends, default=len(self.text))

    def _kind(self, line: int) -> str:
        start = self.at
        self.at += 1  # whatever it is: the state machine takes any first character into the name
        while self.at < len(self.text) and self.text[self.at] in _LETTERS:
            self.at += 1
        word = "".join(c for c in self.text[start : self.at] if c.isprintable())
        follower = self.text[self.at : self.at + 1]
        if word.lower() not in COMMANDS or follower not in {" ", "\t", "\r", "\n", ""}:
            end = self._line_end(start)
            shown = self.text[start:end].split(maxsplit=1)
            raise ModelfileError(
                f"unknown command {(shown or [word])[0][:40]!r}", reason="command", line=line
            )
        if follower not in _BLANK or not follower:
            raise ModelfileError(f"{word.upper()} without a value", reason="value", line=line)
        self.at += 1
        return word.lower()

    def _word(self, allowed: frozenset[str], what: str, reason: str, line: int) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in allowed:
            self.at += 1
        word, follower = self.text[start : self.at], self.text[self.at : self.at + 1]
        if follower in ("", "\r", "\n"):
            raise ModelfileError(f"{word or what} without a value", reason="value", line=line)
        if follower not in _BLANK:
            raise ModelfileError(f"{follower!r} cannot be in {what}", reason=reason, line=line)
        self.at += 1
        return word

    def _value(self, line: int) -> tuple[str, str]:
        """Value and its source text. A value ends at a line break unless a quote is open there."""
        start = self.at
        self.at = self._line_end(start)
        kept = [printable(self.text[start : self.at])]
        first = kept[0].strip(_BLANK)
        quote = '"""' if first.startswith('"""') else '"' if first.startswith('"') else ""
        closed = not quote or (len(first) >= 2 * len(quote) and first.endswith(quote))
        while not closed:
            if self.at >= len(self.text):
                raise ModelfileError(f"{quote} is never closed", reason="quote", line=line)
            kept.append(self.text[self.at])
            begin = self.at + 1
            self.at = self._line_end(begin)
            kept.append(printable(self.text[begin : self.at]))
            closed = kept[-1].rstrip(_BLANK).endswith(quote)
        value = "".join(kept).strip(_BLANK + _NEWLINE)
        return value[len(quote) : len(value) - len(quote)], self.text[start : self.at]


def begins_command(line: str) -> bool:
    """Whether the line begins with a command's name and a space."""
    word, _, rest = line.lstrip(_BLANK).partition(" ")
    return bool(rest.strip()) and word.lower() in COMMANDS


def printable(text: str) -> str:
    """The text without the characters that Ollama drops: controls, formats, spaces but U+0020."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c == "\t" or c.isprintable())


def _bad_role(role: str, line: int) -> ModelfileError:
    hint = f"did you mean {role.lower()}?" if role.lower() in ROLES else None
    return ModelfileError(
        f"MESSAGE role {role!r} (expected {', '.join(ROLES)})", reason="role", line=line, hint=hint
    )


def _line_starts(text: str) -> list[int]:
    """Positions where lines begin, as editors count them: CR LF is one break."""
    return [0, *(m.end() for m in _BREAK.finditer(text))]
