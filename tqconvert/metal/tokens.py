"""Preprocessed Metal source as tokens: attributes folded, float literals made float.

Preprocessing leaves the words of the language, `[[...]]` and the line markers in place.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<line>^\#[^\n]*$)|(?P<space>\s+)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
    r"""|(?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)|(?P<id>[A-Za-z_]\w*)"""
    r"""|(?P<punct>\[\[|\]\]|::|->|[-+*/%&|^<>=!]=|&&|\|\||.)""",
    re.MULTILINE | re.DOTALL,
)
_FLOAT = re.compile(r"(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?")
_UNROLL = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+(?:clang[ \t]+loop[ \t]+)?unroll.*$", re.MULTILINE)


@dataclass(slots=True)
class Token:
    """A piece of source; the text may be replaced, joined texts are the new source."""

    kind: str
    """line, space, string, number, id, punct, or attr for a folded `[[...]]`."""
    text: str
    attribute: str = ""
    """What stood between the brackets of an attr."""


def tokenize(text: str) -> list[Token]:
    """All tokens, spaces and line markers included."""
    # Unrolling is the GPU compiler's business; here it only makes compiling three times as long.
    return _fold_attributes(list(_scan(_UNROLL.sub("", text))))


def _scan(text: str) -> Iterator[Token]:
    for m in _TOKEN.finditer(text):
        kind, piece = str(m.lastgroup), m.group()
        if kind == "number" and _FLOAT.fullmatch(piece) and re.search(r"[.eE]", piece):
            piece += "f"  # Metal has no double: a literal without a suffix is a float
        yield Token(kind, piece)


def _fold_attributes(tokens: list[Token]) -> list[Token]:
    """Each `[[...]]` as one token that prints as its newlines only; `x[i[j]]` is none."""
    flat: list[Token] = []
    open_: list[str] = []
    for t in tokens:
        if t.text in ("[[", "["):
            open_.append(t.text)
        elif t.text == "]" and open_:
            open_.pop()
        elif t.text == "]]":
            if open_ and open_[-1] == "[[":
                open_.pop()
            else:
                del open_[-2:]
                flat += [Token("punct", "]"), Token("punct", "]")]
                continue
        flat.append(t)
    out: list[Token] = []
    i = 0
    while i < len(flat):
        if flat[i].text != "[[":
            out.append(flat[i])
            i += 1
            continue
        end = i + 1
        while end < len(flat) and flat[end].text != "]]":
            end += 1
        body = "".join(t.text for t in flat[i + 1 : end])
        out.append(Token("attr", "\n" * body.count("\n"), body.strip()))
        i = end + 1
    return out
