"""Where the files of llama.cpp lie in a tree: as they are, or as Ollama's legacy releases vendor them.

The vendored copies hold a part of llama.cpp only; which part, two rsync filters in the tree say
(`Makefile.sync`, target `sync`, of Ollama v0.17.1 to v0.24.0). A change of any other file has no place there.
"""

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

GGML = "ml/backend/ggml/ggml"
LLAMA = "llama/llama.cpp"
FILTER = ".rsync-filter"


class Layout(Protocol):
    """Path in llama.cpp -> path in a tree, and back."""

    def locate(self, path: str) -> str | None:
        """Where the file lies in the tree, None where the tree does not carry it."""

    def source(self, path: str) -> str | None:
        """Where a file of the tree lies in llama.cpp, None if it is not of llama.cpp."""


class Plain:
    """A tree of its own: every path is what it is."""

    def locate(self, path: str) -> str | None:
        """The path itself."""
        return path

    def source(self, path: str) -> str | None:
        """The path itself."""
        return path


class Vendored:
    """An Ollama tree of the legacy generation."""

    def __init__(self, root: Path) -> None:
        self._filters = {
            GGML: read_filter(root / GGML / FILTER),
            LLAMA: read_filter(root / LLAMA / FILTER),
        }

    @cached_property
    def _places(self) -> dict[str, str | None]:
        """What was located before: each file is asked for several times."""
        return {}

    def locate(self, path: str) -> str | None:
        """Where the file is vendored, None if the filters leave it out."""
        if path not in self._places:
            self._places[path] = self._locate(path)
        return self._places[path]

    def _locate(self, path: str) -> str | None:
        top, _, rest = path.partition("/")
        folder, inner = (GGML, rest) if top == "ggml" and rest else (LLAMA, path)
        return f"{folder}/{inner}" if _passes(self._filters[folder], inner) else None

    def source(self, path: str) -> str | None:
        """The path in llama.cpp; None outside of the vendored trees, and for what is Ollama's own."""
        for folder, prefix in ((GGML, "ggml/"), (LLAMA, "")):
            if path.startswith(f"{folder}/") and not self.own(path):
                return prefix + path[len(folder) + 1 :]
        return None

    def own(self, path: str) -> bool:
        """Whether the filters protect the vendored file as Ollama's own (`*.go`, `*-embed.*`)."""
        for folder, rules in self._filters.items():
            if path.startswith(f"{folder}/"):
                name = path.rpartition("/")[2]
                return any(r.keeps and r.matches(name) for r in rules)
        return True


class Rule(NamedTuple):
    """One line of an rsync filter."""

    sends: bool
    keeps: bool
    """`protect`: speaks of the receiving side alone."""
    matches: Callable[[str], bool]
    anchored: bool
    depth: int
    """How many names of a path's end an unanchored pattern is compared with."""
    folders: bool
    """Whether it matches folders only."""


@lru_cache(8)
def read_filter(path: Path) -> tuple[Rule, ...]:
    """The rules of a filter file; without the file everything passes."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return ()
    return parse_filter(text)


def parse_filter(text: str) -> tuple[Rule, ...]:
    """The rules of a filter, in order; of rsync's language what Ollama's filters use."""
    rules = []
    for line in text.splitlines():
        verb, _, pattern = line.strip().partition(" ")
        if verb in ("include", "+", "hide", "H", "exclude", "-", "show", "S", "protect", "P"):
            rules.append(
                Rule(
                    sends=verb in ("include", "+", "show", "S"),
                    keeps=verb in ("protect", "P"),
                    matches=_matcher(pattern.strip("/")),
                    anchored=pattern.startswith("/"),
                    depth=pattern.strip("/").count("/") + 1,
                    folders=pattern.endswith("/"),
                )
            )
    return tuple(rules)


_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Tells whether a name matches. Most patterns have one star or none, and need no regex."""
    head, star, tail = pattern.partition("*")
    if not re.search(r"[*?\[]", head + tail):
        if not star:
            return pattern.__eq__
        ends = len(head) + len(tail)
        return lambda name: (
            len(name) >= ends
            and name.startswith(head)
            and name.endswith(tail)
            and "/" not in name[len(head) : len(name) - len(tail)]
        )
    parts = re.findall(r"\*\*|\*|\?|\[[^\]]+\]|.", pattern)
    regex = "".join(_WILD.get(p) or (p if len(p) > 1 else re.escape(p)) for p in parts)
    compiled = re.compile(regex)
    return lambda name: compiled.fullmatch(name) is not None


def _passes(rules: tuple[Rule, ...], path: str) -> bool:
    """Whether the file and every folder above it is sent: the first rule that matches decides."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        for rule in rules:
            if rule.keeps or (rule.folders and depth == len(parts)):
                continue
            if _matches(rule, name):
                if not rule.sends:
                    return False
                break
    return True


def _matches(rule: Rule, name: str) -> bool:
    if rule.anchored:
        return rule.matches(name)
    tail = "/".join(name.split("/")[-rule.depth :])
    return rule.matches(tail)
