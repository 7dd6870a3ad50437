"""What is wrong with a tree, from its state: one problem a line, with the files it lies in."""

from typing import NamedTuple

from tqconvert.patches.checkout import Generation
from tqconvert.patches.queue import Origin
from tqconvert.patches.tree.state import TreeState
from tqconvert.patches.verdict import Verdict
from tqconvert.patches.verify.check import counted

UNKNOWN = ("unknown-release", "unknown-base", "missing-patch", Verdict.ADDED)
"""Kinds that say that nothing is known, not that something is wrong."""


class Problem(NamedTuple):
    """One finding."""

    kind: str
    text: str
    files: tuple[str, ...] = ()


def find_problems(state: TreeState) -> tuple[Problem, ...]:
    """All that is wrong or not known, the gravest first."""
    return (*_half(state), *_edits(state), *_patch_files(state), *_unknown(state))


def exit_code(problems: tuple[Problem, ...]) -> int:
    """0 nothing wrong, 1 something is, 5 what the tree is made from is not known."""
    if any(p.kind not in UNKNOWN for p in problems):
        return 1
    return 5 if problems else 0


def _half(state: TreeState) -> list[Problem]:
    found = [
        Problem(Verdict.HALF, f"{p.name} is applied in part: {p.evidence}", p.files)
        for p in state.half
    ]
    if state.gaps:
        names = ", ".join(state.gaps)
        found.append(Problem("gap", f"not applied, though later patches are: {names}"))
    checkout = state.queue.checkout
    upstream = state.upstream
    applied = sum(p.applied is True for p in upstream)
    if checkout.generation is Generation.LEGACY and not found and applied < len(upstream):
        text = f"{applied} of Ollama's {len(upstream)} patches are applied (expected all)"
        found.append(Problem(Verdict.HALF, text))
    return found


def _edits(state: TreeState) -> list[Problem]:
    found = [
        Problem("missing-file", f"{p.path} is not there", (p.path,))
        for p in state.edited
        if p.missing
    ]
    for position in state.edited:
        if not position.missing:
            at = position.patches
            after = f"after patch {at}" if at else "without patches"
            text = f"{position.path} is on no rung: edited ({after})"
            found.append(Problem("local-edit", text, (position.path,)))
    if state.converted:
        count = len(state.converted)
        text = f"{counted(count, 'file')} with CRLF line ends (expected LF: git config core.autocrlf false)"
        found.append(Problem("eol-converted", text, state.converted))
    return found


def _patch_files(state: TreeState) -> list[Problem]:
    found = []
    for patch in state.patches:
        if patch.verdict is Verdict.MODIFIED:
            whose = "Ollama's patch" if patch.origin is Origin.OLLAMA else "ours"
            text = f"{patch.name} ({whose}) is modified: {patch.evidence}"
            found.append(Problem(Verdict.MODIFIED, text, patch.files))
        elif patch.verdict is Verdict.ADDED and state.source and state.source.nearest:
            found.append(Problem(Verdict.ADDED, f"{patch.name} is {patch.evidence}"))
    if state.source:
        near = state.source.nearest
        found += [
            Problem("missing-patch", f"{n}, a patch of {near.title}, is not there")
            for n in state.source.missing
            if near
        ]
    return found


def _unknown(state: TreeState) -> list[Problem]:
    source = state.source
    found = []
    if not state.known_base and source:
        of = source.lock or source.nearest
        name = (of.base.tag or (of.base.commit or "")[:9]) if of else "the patches' base"
        text = f"the tree is not llama.cpp {name}, which Ollama's patches are made for"
        found.append(Problem("unknown-base", text))
    if source and source.lock is None:
        near = source.nearest
        if near is None:
            text = "no lock knows these patches"
        elif source.other_base:
            base = near.base.tag or (near.base.commit or "")[:9]
            text = f"the patches are those of {near.title}, which has llama.cpp {base}"
        else:
            same = sum(p.verdict is Verdict.APPLIED for p in source.patches)
            count = len(source.patches)
            text = f"no lock knows these patches; {same} of {count} are those of {near.title}"
        found.append(Problem("unknown-release", text))
    return found
