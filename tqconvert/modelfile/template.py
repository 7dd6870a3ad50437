"""What can be said about a Go text/template without running it: its blocks, and the fields it uses."""

import re
from collections.abc import Iterator

_ACTION = re.compile(
    r"\{\{(?:-(?=\s))?\s*"
    r"(?P<body>/\*.*?\*/|(?:\"(?:\\.|[^\"\\\n])*\"|`[^`]*`|'(?:\\.|[^'\\\n])*'|(?!\}\})[^\"`'])*)"
    r"\s*(?:(?<=\s)-)?\}\}",
    re.DOTALL,
)
_TEXT = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|`[^`]*`|'(?:\\.|[^'\\\n])*'")
_FIELD = re.compile(r"(?<![\w)])(?:\$\w*)?\.([A-Z]\w*)")
_WORD = re.compile(r"[A-Za-z]\w*")
_OPENERS = frozenset({"if", "range", "with", "define", "block"})
_INTERFACE = frozenset({"Messages", "Prompt", "System", "Response", "Suffix", "Tools"})


def actions(template: str) -> Iterator[str]:
    """Bodies of the template's `{{ ... }}`, comments left out."""
    for m in _ACTION.finditer(template):
        body = m["body"].strip()
        if not body.startswith("/*"):
            yield body


def block_problem(template: str) -> str | None:
    """What Go's parser would say about `{{`, `}}` and blocks; None where it finds nothing.

    Names of functions and variables are not looked at.
    """
    at = 0
    while (start := template.find("{{", at)) >= 0:
        m = _ACTION.match(template, start)
        if m is None:
            return "an action {{ is not closed"
        at = m.end()
    has_else: list[bool] = []
    for body in actions(template):
        m = _WORD.match(body)
        word, rest = (m[0], body[m.end() :]) if m else ("", body)
        if not body or (body.startswith("-") and not body[1:2].isdigit()):
            return f"{{{{ {body} }}}} is no action"
        if word == "end":
            if not has_else:
                return "{{ end }} without a block"
            has_else.pop()
        elif word == "else":
            if not has_else or has_else[-1]:
                return "{{ else }} outside a block"
            has_else[-1] = not rest.strip()
        elif word in _OPENERS:
            if not rest.strip():
                return f"{{{{ {word} }}}} without a condition"
            has_else.append(False)
    return f"{len(has_else)} {{{{ end }}}} missing" if has_else else None


def fields(template: str) -> frozenset[str]:
    """Names of Ollama's template variables that it uses: Messages, Prompt, System, ..."""
    found: set[str] = set()
    for body in actions(template):
        found.update(_FIELD.findall(_TEXT.sub('""', body)))
    return frozenset(found) & _INTERFACE


def is_jinja(template: str) -> bool:
    """Whether it is a Hugging Face chat template, which Ollama's TEMPLATE does not understand."""
    return bool(
        re.search(r"\{%-?\s*(?:if|for|set|macro|endif|endfor|elif|else|generation)\b", template)
        or re.search(r"\{\{-?\s*(?:bos_token|messages?\[|content\b)", template)
    )
