"""C-like source read without a compiler: tokens with their places, includes, conditions and macros.

Enough of a preprocessor for `.metal` files and the headers they include: quoted includes, `#if` with
`defined`, numbers, comparisons and logic, object- and function-like macros with `#` and `##`. What it
does not know is left as it stands, never guessed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\f\v]|\\\n)+)
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<newline>\n)
      | (?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<char>'(?:\\.|[^'\\\n])*')
      | (?P<number>\.?[0-9](?:[eEpP][+-]|[0-9A-Za-z_.])*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<punct>\#\#|::|->|<<=|>>=|<<|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
SKIPPED = frozenset({"ggml-common.h"})
"""Includes that hold tables of numbers and no name that anything here asks for."""


class Token(NamedTuple):
    """One token; `file` and `line` say where it stands."""

    kind: str
    """`name`, `number`, `string`, `char` or `punct`; inside of this module also `newline`."""
    text: str
    file: str
    line: int


class Macro(NamedTuple):
    """A `#define`."""

    parameters: tuple[str, ...] | None
    body: tuple[Token, ...]


def tokenize(text: str, file: str = "") -> list[Token]:
    """All tokens of a text, comments and blanks left out, with line ends as tokens of their own."""
    found, line = [], 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "punct"
        whole = match[0]
        if kind not in ("space", "comment"):
            found.append(Token(kind, whole, file, line))
        line += whole.count("\n")
    return found


def code_tokens(text: str, file: str = "") -> list[Token]:
    """The tokens without line ends and preprocessor lines, for source that is not preprocessed."""
    return [t for line in _lines(tokenize(text, file)) if line[0].text != "#" for t in line]


def _lines(tokens: Iterable[Token]) -> list[list[Token]]:
    lines: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind == "newline":
            lines.append([])
        else:
            lines[-1].append(token)
    return [line for line in lines if line]


@lru_cache(128)
def _file_lines(path: Path) -> tuple[tuple[Token, ...], ...]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as e:
        raise NotFoundError(f"{path}: {e.strerror}") from None
    return tuple(tuple(line) for line in _lines(tokenize(text, str(path))))


class Preprocessor:
    """Reads a file with all that it includes; `macros` are what was defined when it ended."""

    def __init__(self, folders: Sequence[Path], defines: Mapping[str, str]) -> None:
        self.folders = folders
        self.macros: dict[str, Macro] = {
            name: Macro(None, tuple(t for t in tokenize(text) if t.kind != "newline"))
            for name, text in defines.items()
        }
        self.missing: list[Token] = []
        """Quoted includes that no folder holds."""
        self._once: set[Path] = set()
        self._out: list[Token] = []

    def read(self, path: Path) -> list[Token]:
        """The tokens of a file after preprocessing. Raises NotFoundError."""
        self._out = []
        self._read(path)
        return self._out

    def _read(self, path: Path) -> None:
        if path in self._once:
            return
        conditions: list[tuple[bool, bool]] = []  # this branch is read, one was read already
        pending: list[Token] = []
        for line in _file_lines(path):
            active = all(c[0] for c in conditions)
            if line[0].text != "#":
                if active:
                    pending += line
                continue
            if pending:
                self._out += self.expand(pending)
                pending = []
            directive, rest = (line[1].text, line[2:]) if len(line) > 1 else ("", ())
            if directive in ("if", "ifdef", "ifndef"):
                value = active and self._condition(directive, rest)
                conditions.append((value, value or not active))
            elif directive in ("elif", "else") and conditions:
                done = conditions[-1][1]
                outer = all(c[0] for c in conditions[:-1])
                value = outer and not done and (directive == "else" or self._value(rest))
                conditions[-1] = (value, done or value)
            elif directive == "endif" and conditions:
                conditions.pop()
            elif active:
                self._obey(path, directive, rest)
        self._out += self.expand(pending)

    def _obey(self, path: Path, directive: str, rest: Sequence[Token]) -> None:
        if directive == "define" and rest:
            self._define(rest)
        elif directive == "undef" and rest:
            self.macros.pop(rest[0].text, None)
        elif directive == "pragma" and rest and rest[0].text == "once":
            self._once.add(path)
        elif directive == "include" and rest and rest[0].kind == "string":
            name = rest[0].text[1:-1]
            if Path(name).name in SKIPPED:
                return
            for folder in (path.parent, *self.folders):
                if (folder / name).is_file():
                    self._read(folder / name)
                    return
            self.missing.append(rest[0])

    def _define(self, rest: Sequence[Token]) -> None:
        name, body = rest[0], list(rest[1:])
        parameters = None
        # A macro takes arguments if its bracket follows without a blank; the tokens keep no blanks, so
        # that `#define NSG (FC)` is told apart by what stands in the brackets.
        if body and body[0].text == "(" and self._is_parameters(body):
            end = next(i for i, t in enumerate(body) if t.text == ")")
            parameters = tuple(t.text for t in body[1:end] if t.text != ",")
            body = body[end + 1 :]
        self.macros[name.text] = Macro(parameters, tuple(body))

    @staticmethod
    def _is_parameters(body: Sequence[Token]) -> bool:
        end = next((i for i, t in enumerate(body) if t.text == ")"), None)
        if end is None or end == len(body) - 1:
            return False
        inner = body[1:end]
        names = inner[::2]
        return all(t.kind == "name" for t in names) and all(t.text == "," for t in inner[1::2])

    def expand(self, tokens: Sequence[Token], hidden: frozenset[str] = frozenset()) -> list[Token]:
        """The tokens with macros replaced; each keeps the place where its macro was used."""
        out: list[Token] = []
        i = 0
        while i < len(tokens):
            token = tokens[i]
            macro = self.macros.get(token.text) if token.kind == "name" else None
            i += 1
            if macro is None or token.text in hidden:
                out.append(token)
                continue
            body: Sequence[Token] = macro.body
            if macro.parameters is not None:
                if i >= len(tokens) or tokens[i].text != "(":
                    out.append(token)
                    continue
                arguments, i = _arguments(tokens, i)
                body = self._substitute(macro, arguments, hidden)
            here = [t._replace(file=token.file, line=token.line) for t in body]
            out += self.expand(here, hidden | {token.text})
        return _join_strings(out)

    def _substitute(
        self, macro: Macro, arguments: Sequence[Sequence[Token]], hidden: frozenset[str]
    ) -> list[Token]:
        names = macro.parameters or ()
        given = dict(zip(names, arguments, strict=False))
        out: list[Token] = []
        body = macro.body
        i = 0
        while i < len(body):
            token = body[i]
            after = body[i + 1].text if i + 1 < len(body) else ""
            if token.text == "#" and after in given:
                text = "".join(t.text for t in given[after])
                out.append(token._replace(kind="string", text=f'"{text}"'))
                i += 2
            elif token.text == "##" and out and i + 1 < len(body):
                right = given.get(after, [body[i + 1]])
                glued = out.pop().text + (right[0].text if right else "")
                out += [token._replace(kind=_kind(glued), text=glued), *right[1:]]
                i += 2
            else:
                raw = after == "##"
                part = given.get(token.text, [token])
                out += part if raw or part == [token] else self.expand(part, hidden)
                i += 1
        return out

    def _condition(self, directive: str, rest: Sequence[Token]) -> bool:
        if directive == "if":
            return self._value(rest)
        return bool(rest) and (rest[0].text in self.macros) is (directive == "ifdef")

    def _value(self, rest: Sequence[Token]) -> bool:
        plain: list[Token] = []
        i = 0
        while i < len(rest):
            if rest[i].text == "defined":
                at = i + 2 if i + 1 < len(rest) and rest[i + 1].text == "(" else i + 1
                known = at < len(rest) and rest[at].text in self.macros
                plain.append(rest[i]._replace(kind="number", text="1" if known else "0"))
                i = at + (2 if at == i + 2 else 1)
            else:
                plain.append(rest[i])
                i += 1
        return bool(evaluate(self.expand(plain)) or 0)


def _kind(text: str) -> str:
    match = _TOKEN.match(text)
    return (match.lastgroup if match else None) or "punct"


def _arguments(tokens: Sequence[Token], at: int) -> tuple[list[list[Token]], int]:
    """The arguments of a macro whose bracket is at `at`, and the place after them."""
    found: list[list[Token]] = [[]]
    depth = 0
    for i in range(at, len(tokens)):
        text = tokens[i].text
        if text == ")" and depth == 1:
            return found, i + 1
        if text in "([{":
            depth += 1
            if depth == 1:
                continue
        elif text in ")]}":
            depth -= 1
        if text == "," and depth == 1:
            found.append([])
        else:
            found[-1].append(tokens[i])
    return found, len(tokens)


def _join_strings(tokens: Sequence[Token]) -> list[Token]:
    out: list[Token] = []
    for token in tokens:
        if token.kind == "string" and out and out[-1].kind == "string":
            out[-1] = out[-1]._replace(text=out[-1].text[:-1] + token.text[1:])
        else:
            out.append(token)
    return out


_OPERATORS = {"&&": " and ", "||": " or ", "!": " not ", "/": "//"}
_ALLOWED = frozenset(["+", "-", "*", "//", "%", "(", ")", "<", ">", "<=", ">=", "==", "!=", "<<", ">>", "&", "|", "^", "~"]) | {
    " and ", " or ", " not ",
}  # fmt: skip


def evaluate(tokens: Sequence[Token]) -> int | None:
    """The value of an expression of integers; None if there is anything else in it.

    A name that is no macro counts as 0, as in `#if`.
    """
    parts = []
    for token in tokens:
        if token.kind == "number":
            digits = token.text.rstrip("uUlL")
            if not re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", digits):
                return None
            parts.append(str(int(digits, 16 if digits[:2].lower() == "0x" else 10)))
        elif token.kind == "name":
            parts.append("0")
        else:
            text = _OPERATORS.get(token.text, token.text)
            if text not in _ALLOWED:
                return None
            parts.append(text)
    try:
        return int(eval(" ".join(parts), {"__builtins__": {}}))  # noqa: S307 - numbers and operators only
    except (SyntaxError, ArithmeticError, TypeError, ValueError):
        return None
