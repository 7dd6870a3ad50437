"""Proves the chat formats: `python tests/chatproof.py [--check]` writes docs/templates.md and proofs.json.

Every format is rendered by Go's text/template (tests/chatoracle) on every conversation of chats.py, and
compared byte by byte with what Jinja makes of each published chat template that the format stands for.
With --check nothing is written; 1 if one of them is stale.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from chatjinja import render_jinja
from chats import CHATS, KINDS, Chat
from chatsources import published
from ggmlbuilds import CACHE

from tqconvert.modelfile.chat import CHAT_FORMATS, TOOL_KINDS, ChatFormat

PAGE = Path(__file__).parents[1] / "docs" / "templates.md"
PROOFS = Path(__file__).parents[1] / "tqconvert" / "modelfile" / "templates" / "proofs.json"
PROGRAM = Path(__file__).parent / "chatoracle"
THINKING_KINDS = ("think", "thoughts", "thoughts and tools", "thoughts in the text")
_ENV = dict(os.environ)


@dataclass(frozen=True)
class Verdict:
    """How one format did on one class of conversations, against one published chat template."""

    equal: int
    refused: int
    """Conversations that the chat template itself refuses."""
    differs: int
    unused: bool = False
    """The chat template renders the same without what the class is about."""

    @property
    def cell(self) -> str:
        """As the table shows it."""
        if self.differs:
            return f"uncertain {self.differs}/{self.equal + self.refused + self.differs}"
        return "-" if self.unused else "equal" if self.equal else "refused"


@cache
def program() -> Path:
    """The Go program, built once."""
    source = b"".join(p.read_bytes() for p in sorted(PROGRAM.iterdir()))
    version = subprocess.run(["go", "version"], capture_output=True, check=True, env=_ENV).stdout
    path = CACHE / "chatoracle" / hashlib.sha256(source + version).hexdigest()[:16]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        command = ["go", "build", "-o", str(part), "."]
        subprocess.run(
            command, cwd=PROGRAM, check=True, env=_ENV | {"GOFLAGS": "", "GOWORK": "off"}
        )
        part.replace(path)
    return path


def ask(path: Path, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Go program's answers, in order."""
    lines = "\n".join(json.dumps(q) for q in requests)
    done = subprocess.run([path], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


@cache
def rendered(template: str) -> tuple[str, ...]:
    """What Go makes of the template, for every conversation."""
    answers = ask(program(), [chat.request(template) for chat in CHATS])
    assert not [a["error"] for a in answers if "error" in a]
    return tuple(a["text"] for a in answers)


@cache
def verdicts(chat_format: ChatFormat, digest: str) -> dict[str, Verdict]:
    """Class of conversations -> how it went."""
    _, source = published()[digest]
    eos = chat_format.eos or "<EOS>"
    counts = {kind: Counter[str]() for kind in KINDS}
    used: set[str] = set()
    for chat, text in zip(CHATS, rendered(chat_format.template), strict=True):
        wanted = render_jinja(source, chat, eos)
        outcome = "refused" if wanted is None else "equal" if wanted == text else "differs"
        counts[chat.kind][outcome] += 1
        if chat.kind == "tools" and wanted != render_jinja(source, replace(chat, tools=()), eos):
            used.update(TOOL_KINDS)
        if chat.kind in THINKING_KINDS and wanted != render_jinja(source, _unthinking(chat), eos):
            used.update(THINKING_KINDS)
    unused = {*TOOL_KINDS, *THINKING_KINDS} - used
    return {
        kind: Verdict(n["equal"], n["refused"], n["differs"], kind in unused)
        for kind, n in counts.items()
    }


def proved() -> dict[str, dict[str, list[str]]]:
    """What proofs.json is to hold: format -> digest -> classes that differ."""
    return {
        f.name: {
            digest: [kind for kind, v in verdicts(f, digest).items() if v.differs]
            for digest in f.proofs
        }
        for f in CHAT_FORMATS
    }


def _unthinking(chat: Chat) -> Chat:
    """The same conversation without a word on thinking."""
    messages = [{k: v for k, v in m.items() if k != "thinking"} for m in chat.messages]
    return replace(chat, messages=messages, think=None)


def page() -> str:
    """docs/templates.md."""
    intro = (PROGRAM / "page.md").read_text(encoding="utf-8")
    total = Counter(c.kind for c in CHATS)
    heads = [f"{kind} ({total[kind]})" for kind in KINDS]
    lines = []
    for f in CHAT_FORMATS:
        lines += [f"## {f.name}", "", f"`stop`: {', '.join(f'`{s}`' for s in f.stop)}", ""]
        columns = [(published()[d][0], d, verdicts(f, d)) for d in f.proofs]
        lines += ["| | " + " | ".join(f"{label}<br>`{d[:12]}`" for label, d, _ in columns) + " |"]
        lines += ["|---|" + "---|" * len(columns)]
        for kind, head in zip(KINDS, heads, strict=True):
            lines.append(f"| {head} | " + " | ".join(v[kind].cell for _, _, v in columns) + " |")
        lines.append("")
    n = sum(len(f.proofs) for f in CHAT_FORMATS)
    counts = (
        f"{len(CHAT_FORMATS)} formats, {n} chat templates, {len(CHATS)} conversations each.\n\n"
    )
    return intro + counts + "\n".join(lines)


def main() -> int:
    """Write the files, or look whether they are stale."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--check", action="store_true")
    check = p.parse_args().check
    wanted = {PAGE: page(), PROOFS: json.dumps(proved(), indent=1) + "\n"}
    if check:
        return int(any(p.read_text(encoding="utf-8") != text for p, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
