"""What `list`, `status` and `verify` print: documents for programs, lines for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqconvert.cli.output import table

if TYPE_CHECKING:
    from tqconvert.patches.locks.origin import Source
    from tqconvert.patches.queue import Queue
    from tqconvert.patches.tree.findings import Problem
    from tqconvert.patches.tree.state import TreeState
    from tqconvert.patches.verdict import PatchState
    from tqconvert.patches.verify.check import Check

Document = dict[str, Any]


def head_document(queue: "Queue", source: "Source | None") -> Document:
    """The tree and what is known of where it comes from."""
    lock = source.lock if source else None
    known = lock or (source.nearest if source else None)
    named = queue.source.base if queue.source else None
    return {
        "generation": str(queue.checkout.generation),
        "tree": str(queue.checkout.root),
        "release": {
            "known": lock is not None,
            "title": lock.title if lock else None,
            "tags": list(lock.tags) if lock else [],
            "nearest": source.nearest.title if source and source.nearest else None,
            "series_sha256": source.series if source else None,
        },
        "base": {
            "named": named,
            "repo": known.base.repo if known else None,
            "tag": lock.base.tag if lock else None,
            "commit": lock.base.commit if lock else None,
        },
    }


def state_document(state: "TreeState", problems: Sequence["Problem"]) -> Document:
    """What `status` says."""
    located = state.located
    return {
        **head_document(state.queue, state.source),
        "state": {
            "applied": sum(p.applied is True for p in state.upstream),
            "total": len(state.upstream),
            "ours_applied": sum(p.applied is True for p in state.ours),
            "ours_total": len(state.ours),
            "half_applied": [p.name for p in state.half],
            "gaps": list(state.gaps),
            "edited_files": [p.path for p in state.edited if not p.missing],
            "missing_files": [p.path for p in state.edited if p.missing],
            "converted_files": list(state.converted),
            "not_vendored": located.not_vendored,
        },
        "patches": [patch_document(p) for p in state.patches],
        "problems": [
            {"kind": p.kind, "text": p.text, "files": list(p.files)} for p in problems
        ],
    }  # fmt: skip


def patch_document(patch: "PatchState") -> Document:
    """One patch of `status`."""
    return {
        "name": patch.name, "id": patch.id, "origin": str(patch.origin),
        "applied": patch.applied, "verdict": str(patch.verdict), "evidence": patch.evidence,
        "files": list(patch.files),
    }  # fmt: skip


def head_text(queue: "Queue", source: "Source | None") -> str:
    """The tree in one line."""
    checkout = queue.checkout
    if source is None:
        return f"{checkout.root}: llama.cpp"
    assert queue.source
    whose = f"Ollama {source.lock.title}" if source.lock else "Ollama, release not known"
    base = queue.source.base or "unnamed"
    what = f"{whose} ({queue.source.generation}), llama.cpp {base}"
    if checkout.is_ollama:
        return f"{checkout.root}: {what}"
    return f"{checkout.root}: llama.cpp for {what}"


def state_text(state: "TreeState", problems: Sequence["Problem"]) -> str:
    """What `status` says: counts, then only what is not as expected."""
    lines = [head_text(state.queue, state.source)]
    rows = []
    if state.upstream:
        rows.append(("Ollama's patches", _count(state.upstream)))
    rows.append(("ours", _count(state.ours)))
    lines.append(table(rows, indent=2))
    notable = [
        (p.name, str(p.verdict), p.evidence)
        for p in state.patches
        if p.verdict not in ("applied", "clean", "not-vendored")
    ]
    if notable:
        lines.append(table(notable, indent=2))
    lines += [f"  problem: {p.text}" for p in problems]
    return "\n".join(lines)


def _count(patches: Sequence["PatchState"]) -> str:
    """`12 of 13 applied` with how the others would go on."""
    if all(p.applied is None and p.verdict != "half-applied" for p in patches):
        return f"{len(patches)}, for a llama.cpp that is fetched when it is built"
    applied = sum(p.applied is True for p in patches)
    text = f"{applied} of {len(patches)} applied"
    rest = [str(p.verdict) for p in patches if p.applied is not True]
    kinds = [f"{rest.count(v)} {v}" for v in dict.fromkeys(rest)]
    return f"{text} ({', '.join(kinds)})" if kinds else text


def checks_text(checks: Sequence["Check"]) -> str:
    """The levels of `verify`, a line each, and under it what was found and not looked at."""
    lines = []
    for check in checks:
        word = {True: "ok", False: "FAILED", None: "-"}[check.ok]
        said = check.covered or check.not_covered
        lines.append(f"  {check.level:<4}  {word:<6}  {said}".rstrip())
        lines += [f"{'':16}{finding}" for finding in check.findings]
        if check.covered and check.not_covered:
            lines.append(f"{'':16}not looked at: {check.not_covered}")
    return "\n".join(lines)


def checks_document(checks: Sequence["Check"]) -> list[Document]:
    """The levels of `verify`."""
    return [
        {
            "level": c.level, "ok": c.ok, "covered": c.covered, "not_covered": c.not_covered,
            "findings": list(c.findings),
        }
        for c in checks
    ]  # fmt: skip
