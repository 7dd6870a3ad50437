"""What Apple's compiler would refuse, and what can be told from tokens alone.

No replacement for that compiler: its address spaces are part of types, and here only whether one is
written is looked at. Each file is read as it stands, then once with all that it includes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError
from tqconvert.findings import Finding
from tqconvert.metal.kernels import closing
from tqconvert.metal.lint_codes import finding
from tqconvert.metal.source import Preprocessor, Token, code_tokens, evaluate

SPACES = frozenset({"device", "constant", "threadgroup", "thread", "ray_data", "object_data"})
BANNED = frozenset(
    [
        "double",
        "new",
        "delete",
        "throw",
        "try",
        "catch",
        "virtual",
        "goto",
        "std",
        "dynamic_cast",
        "typeid",
        "asm",
        "thread_local",
        "malloc",
        "printf",
        "wchar_t",
        "long_double",
    ]
)
NEWER = {
    "bfloat": 310, "bfloat2": 310, "bfloat4": 310, "os_log": 320, "tensor": 400,
    "cooperative_tensor": 400, "simdgroup_bfloat8x8": 310,
}  # fmt: skip
"""Names -> the version of the language (__METAL_VERSION__) that has them."""
OLDEST = 300
"""The version that this is checked against: macOS 13. What is newer stands under #if."""
_SCALARS = {"char": 1, "uchar": 1, "bool": 1, "short": 2, "ushort": 2, "half": 2, "int": 4, "uint": 4,
            "float": 4, "long": 8, "ulong": 8}  # fmt: skip
_FIXED = {f"{u}int{n}_t": n // 8 for u in ("", "u") for n in (8, 16, 32, 64)}
SIZES: Mapping[str, int] = {
    **_SCALARS, **_FIXED, **{f"{t}{n}": s * n for t, s in _SCALARS.items() for n in (2, 4)},
}  # fmt: skip
_DELIMITERS = frozenset("(){};,<>=:?![]+-/%|^~.") | {
    "return",
    "->",
    "&&",
    "||",
    "==",
    "!=",
    "template",
}
_MOST = 32768


class Report(NamedTuple):
    """What was read and found."""

    files: tuple[Path, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether files were read, and nothing but notes was found."""
        return not any(f.severity == "error" for f in self.findings)


def lint(folder: Path) -> Report:
    """Look at all `.metal` files of a folder and at the headers that lie beside them.

    Raises NotFoundError if there is no such folder.
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder (expected Metal kernels)")
    files = tuple(sorted(p for p in folder.iterdir() if p.suffix in (".metal", ".h")))
    if not files:
        return Report((), (finding(str(folder), 0, "MN001", "no .metal file in it"),))
    types = known_types(files)
    findings = [f for path in files for f in _file(path, types)]
    for path in files:
        if path.suffix == ".metal":
            findings += _whole(path)
    here = str(folder) + "/"
    placed = {f._replace(path=f.path.removeprefix(here)): None for f in findings}
    return Report(files, tuple(sorted(placed, key=lambda f: (f.path, f.line, f.code))))


def known_types(files: Sequence[Path]) -> frozenset[str]:
    """Names of types: Metal's, and those that the files define."""
    found = {*SIZES, "void", "auto", "size_t", "half4x4", "float4x4", "bfloat"}
    for path in files:
        tokens = code_tokens(path.read_text("utf-8", "replace"), str(path))
        for token, after in pairwise(tokens):
            if token.text in ("struct", "enum", "union"):
                found.add(after.text)
            if token.kind == "name" and token.text.startswith(("ggml_metal_kargs_", "block_")):
                found.add(token.text)
    return frozenset(found)


def _file(path: Path, types: frozenset[str]) -> Iterator[Finding]:
    tokens = code_tokens(path.read_text("utf-8", "replace"), str(path))
    own: frozenset[str] = frozenset()
    end = 0
    for i, token in enumerate(tokens):
        if i > end:
            own = frozenset()
        if token.text == "template" and i > end:
            end = _extent(tokens, i)
            own = frozenset(
                t.text
                for before, t in pairwise(tokens[i:end])
                if before.text in ("typename", "class")
            )
        if token.kind == "name" and token.text in BANNED:
            yield finding(token.file, token.line, "MT201", token.text)
        elif token.kind == "number" and _is_float(token.text) and token.text[-1] not in "fFhH":
            yield finding(token.file, token.line, "MT204", token.text)
        elif token.text in ("*", "&") and _is_declarator(tokens, i, types | own):
            words = _segment(tokens, i)
            if not SPACES & set(words):
                after = tokens[i + 1].text if i + 1 < len(tokens) else ""
                text = " ".join([*words, token.text, after]).strip(" );,")
                yield finding(token.file, token.line, "MT101", text)


def _extent(tokens: Sequence[Token], at: int) -> int:
    """The place where a template ends: its body, or the semicolon without one."""
    for i in range(at, len(tokens)):
        if tokens[i].text == ";":
            return i
        if tokens[i].text == "{":
            return closing(tokens, i)
    return len(tokens)


def _is_float(text: str) -> bool:
    if text[:2].lower() == "0x":
        return False
    return "." in text or "e" in text.lower()


def _is_declarator(tokens: Sequence[Token], at: int, types: frozenset[str]) -> bool:
    """Whether `*` or `&` makes a type: a type's name stands in front of it, no value."""
    before = tokens[at - 1] if at else None
    while before is not None and before.text in ("const", "volatile") and at > 1:
        at -= 1
        before = tokens[at - 1]
    return before is not None and before.kind == "name" and before.text in types


def _segment(tokens: Sequence[Token], at: int) -> list[str]:
    """The words of a declaration in front of `*` or `&`."""
    words: list[str] = []
    for token in reversed(tokens[:at]):
        if token.text in _DELIMITERS or token.text in ("*", "&"):
            break
        words.insert(0, token.text)
    return words


def _whole(path: Path) -> Iterator[Finding]:
    """What needs macros and includes: newer names, recursion, variables, threadgroup arrays."""
    reader = Preprocessor([path.parent], {"__METAL_VERSION__": str(OLDEST)})
    tokens = reader.read(path)
    for token in tokens:
        if token.kind == "name" and token.text in NEWER:
            text = f"{token.text} is of Metal {NEWER[token.text] / 100:.1f}"
            yield finding(token.file, token.line, "MT301", text)
    bodies: dict[str, set[str]] = {}
    places: dict[str, Token] = {}
    for head, body in _outer(tokens):
        name = _function_name(head)
        if name is None or body is None:
            yield from _variable(head, body)
            continue
        bodies.setdefault(name.text, set()).update(
            t.text for t, after in pairwise(body)
            if t.kind == "name" and after.text in ("(", "<")
        )  # fmt: skip
        places[name.text] = name
        yield from _arrays(head, body, name)
    for caller, place in places.items():
        if caller in _reached(caller, bodies):
            yield finding(place.file, place.line, "MT202", caller)


def _outer(tokens: Sequence[Token]) -> Iterator[tuple[list[Token], list[Token] | None]]:
    """Declarations at the outermost level: the tokens in front of a body or semicolon, and the body."""
    head: list[Token] = []
    i = 0
    while i < len(tokens):
        if tokens[i].text == "{":
            end = closing(tokens, i)
            body = list(tokens[i + 1 : end])
            i = end
            if _function_name(head) is None:
                if "struct" in (t.text for t in head):
                    yield from (d for d in _outer(body) if _function_name(d[0]))
                head.append(tokens[end])  # a value or a record: the semicolon ends it
            else:
                yield head, body
                head = []
        elif tokens[i].text == ";":
            yield head, None
            head = []
        else:
            head.append(tokens[i])
        i += 1


def _function_name(head: Sequence[Token]) -> Token | None:
    """The name in front of a function's parameters; None if the tokens declare no function."""
    start = 0
    if head and head[0].text == "template":
        depth = 0
        for i, token in enumerate(head):
            depth += {"<": 1, ">": -1, ">>": -2}.get(token.text, 0)
            if depth == 0 and i:
                start = i + 1
                break
    for i in range(start, len(head)):
        text = head[i].text
        if text in ("=", "struct", "enum", "union", "typedef", "using", "static_assert"):
            return None
        if text == "[" and i + 1 < len(head) and head[i + 1].text == "[":
            return (
                None
                if "host_name" in (t.text for t in head[i:])
                else _function_name([*head[start:i], *head[closing(head, i) + 1 :]])
            )
        if text == "(" and i > start and head[i - 1].kind == "name":
            return head[i - 1]
    return None


def _variable(head: Sequence[Token], body: Sequence[Token] | None) -> Iterator[Finding]:
    """A variable of the whole program that is not constant."""
    words = [t.text for t in head]
    passing = {"constant", "constexpr", "typedef", "using", "template", "struct", "enum", "union",
               "static_assert", "decltype", "_Pragma", "friend"}  # fmt: skip
    named = [t for t in head if t.kind == "name"]
    if body is None and len(named) > 1 and not passing & set(words) and "(" not in words:
        yield finding(head[0].file, head[0].line, "MT203", " ".join(words[:6]))


def _arrays(head: Sequence[Token], body: Sequence[Token], function: Token) -> Iterator[Finding]:
    """Threadgroup variables of a function: where they stand, and how long they are."""
    kernel = any(t.text == "kernel" for t in head)
    parameters = {t.text for t in head if t.kind == "name"} if kernel else set()
    total = 0
    for i, token in enumerate(body):
        opens = not i or body[i - 1].text in (";", "{", "}")
        if token.text != "threadgroup" or not opens or i + 3 >= len(body):
            continue
        end = next(
            e for e in range(i, len(body)) if body[e].text in (";", "=") or e == len(body) - 1
        )
        words = body[i:end]
        if any(t.text in ("*", "&") for t in words[: 1 + _bracket(words)]):
            continue
        name = words[_bracket(words) - 1]
        if not kernel:
            yield finding(token.file, token.line, "MT402", f"{name.text} in {function.text}")
        length = words[_bracket(words) + 1 : -1]
        known = {t.text for t in length if t.kind == "name"}
        if known & (parameters - _template_names(head)):
            text = f"{name.text}[{''.join(t.text for t in length)}]"
            yield finding(token.file, token.line, "MT401", text)
        elif not known:
            count = evaluate(length) if length else 1
            total += (count or 0) * SIZES.get(words[1].text, 4)
    if total > _MOST:
        yield finding(function.file, function.line, "MT403", f"{total} bytes in {function.text}")


def _bracket(words: Sequence[Token]) -> int:
    return next((i for i, t in enumerate(words) if t.text == "["), len(words))


def _template_names(head: Sequence[Token]) -> set[str]:
    """Names in the brackets behind `template`."""
    depth, found = 0, set()
    for i, token in enumerate(head):
        depth += {"<": 1, ">": -1, ">>": -2}.get(token.text, 0)
        if depth == 0 and i:
            break
        found.add(token.text)
    return found


def _reached(name: str, bodies: Mapping[str, set[str]]) -> set[str]:
    """Functions that are called from `name`, directly or not."""
    seen: set[str] = set()
    todo = set(bodies[name])
    while todo:
        other = todo.pop()
        if other in bodies and other not in seen:
            seen.add(other)
            todo |= bodies[other]
    return seen
