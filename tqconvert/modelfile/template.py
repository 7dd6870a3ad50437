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
_OPENERS = frozenset({"if", "range", "with", "define", "block"})
_INTERFACE = frozenset({"Messages", "Prompt", "System", "Response", "Suffix", "Tools"})


def actions(template: str) -> Iterator[str]:
    """Bodies of the template's `{{ ... }}`, comments left out."""
    for m in _ACTION.finditer(template):
        body = m["body"].strip()
        if not body.startswith("/*"):
            yield body


def block_problem(template: str) -> str | None:
    """What Go's parser would say about `{{`, `}}` and `{{ end }}`; None where they match."""
    at = 0
    while (start := template.find("{{", at)) >= 0:
        m = _ACTION.match(template, start)
        if m is None:
            return "an action {{ is not closed"
        at = m.end()
    depth = 0
    for body in actions(template):
        word = re.match(r"\w*", body.removeprefix("-").lstrip())
        match word[0] if word else "":
            case "end":
                depth -= 1
            case "else" if not depth:
                return "{{ else }} outside a block"
            case opener if opener in _OPENERS:
                depth += 1
            case _:
                pass
        if depth < 0:
            return "{{ end }} without a block"
    return f"{depth} {{{{ end }}}} missing" if depth else None


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
