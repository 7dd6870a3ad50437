"""The Metal source that Ollama's legacy releases compile in: made from others, and stale when they change.

`go generate` makes `ggml-metal-embed.metal` with a `sed` command that stands in `metal.go` (Ollama v0.24.0,
ml/backend/ggml/ggml/src/ggml-metal/metal.go:5). Only it is in the darwin build: a kernel that a patch adds
to the sources is not there until it is made anew.
"""

import posixpath
import re
from collections.abc import Callable
from typing import NamedTuple

from tqconvert.patches.checkout import Generation
from tqconvert.patches.layout import GGML
from tqconvert.patches.tree.state import TextReader, TreeState
from tqconvert.patches.verify.check import FINDING, Check, check, counted, skipped

FOLDER = f"{GGML}/src/ggml-metal"
RECIPE = f"{FOLDER}/metal.go"
TARGET = f"{FOLDER}/ggml-metal-embed.metal"
"""The file that is made."""

_COMMAND = re.compile(
    r'^//go:generate sh -c "\{ echo (?P<head>[^;]*); sed (?P<script>.*) (?P<source>\S+); \} ?'
    r'>(?P<target>\S+)"$',
    re.MULTILINE,
)
_PART = re.compile(r"'/(?P<marker>[^/]*(?:/[^/rd][^/]*)*)/(?P<verb>r |d)(?P<file>[^']*)'")


class Recipe(NamedTuple):
    """What the command says."""

    first_line: bytes
    source: str
    target: str
    inserts: tuple[tuple[bytes, str], ...]
    """Text of a line that is replaced -> the file that is put there."""


def parse_recipe(text: str) -> Recipe | None:
    """The recipe in `metal.go`; None if it has no command of the known form."""
    found = _COMMAND.search(text)
    if found is None:
        return None
    script = found["script"].replace('\\"', '"')
    reads, deletes = [], set()
    for part in _PART.finditer(script):
        if part["verb"] == "d":
            deletes.add(part["marker"])
        else:
            reads.append((part["marker"], part["file"].strip()))
    left = _PART.sub("", script).replace("-e", "").strip()
    # Markers are sed's regular expressions; `.` and `-` in these match themselves, nothing else occurs.
    if left or {m for m, _ in reads} != deletes or re.search(r"[\\*\[\]^$]", "".join(deletes)):
        return None
    head = re.sub(r"['\"]", "", found["head"]).strip()
    inserts = tuple((marker.encode(), _beside(name)) for marker, name in reads)
    return Recipe(f"{head}\n".encode(), _beside(found["source"]), _beside(found["target"]), inserts)


def _beside(name: str) -> str:
    return posixpath.normpath(f"{FOLDER}/{name}")


def make(recipe: Recipe, read: Callable[[str], bytes | None]) -> bytes | None:
    """What the command would write; None if one of its files is not there."""
    source = read(recipe.source)
    parts = [(marker, read(name)) for marker, name in recipe.inserts]
    if source is None or any(data is None for _, data in parts):
        return None
    out = [recipe.first_line]
    for line in source.splitlines(keepends=True):
        hits = [data or b"" for marker, data in parts if marker in line]
        out += hits or [line]
    return b"".join(out)


def regenerate(read: Callable[[str], bytes | None]) -> bytes | None:
    """What TARGET must hold by what is in a tree; None where the tree does not tell."""
    recipe = parse_recipe((read(RECIPE) or b"").decode("utf-8", "replace"))
    return make(recipe, read) if recipe and recipe.target == TARGET else None


def first_difference(one: bytes, other: bytes) -> int:
    """The line, counted from 1, in which two texts differ."""
    pairs = zip(one.splitlines(), other.splitlines(), strict=False)
    for number, (a, b) in enumerate(pairs, start=1):
        if a != b:
            return number
    return min(one.count(b"\n"), other.count(b"\n")) + 1


def check_embed(state: TreeState) -> Check:
    """L4: the generated file, compared with what its sources make as they are now, ours included."""
    checkout = state.queue.checkout
    if checkout.generation is not Generation.LEGACY:
        return skipped("L4", "nothing is generated in this tree")
    read = TextReader(checkout.root)
    text = read(RECIPE)
    if text is None:
        return skipped("L4", f"{RECIPE} is not there")
    recipe = parse_recipe(text.decode("utf-8", "replace"))
    if recipe is None:
        return skipped("L4", f"{RECIPE} has no go:generate command of the known form")
    made, there = make(recipe, read), read(recipe.target)
    if made is None:
        return Check("L4", False, findings=(f"a source of {recipe.target} is not there",))
    covered = f"{recipe.target} against {counted(len(recipe.inserts) + 1, 'source')}"
    findings = []
    if there is None:
        findings.append(f"{recipe.target} is not there")
    elif there != made:
        line = first_difference(there, made)
        findings.append(
            f"{recipe.target} is out of date from line {line} (go generate ./{FOLDER} makes it anew)"
        )
    return check("L4", covered, findings, code=FINDING)
