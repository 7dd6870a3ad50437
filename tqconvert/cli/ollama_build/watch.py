"""`ollama-build watch`: newer releases of Ollama in a clone."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.ollama_build.onto import tried_document, tried_table
from tqconvert.cli.ollama_build.options import PatchesOpt, patches_folder
from tqconvert.cli.options import JsonOpt, QuietOpt
from tqconvert.cli.output import Output, table

if TYPE_CHECKING:
    from tqconvert.patches.bases.watch import Change, Release, Watched


def watch(
    clone: Annotated[Path, typer.Argument(metavar="[CLONE]", help="A clone of Ollama.")] = Path(),
    since: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Look at what is newer; default: the locks' newest."),
    ] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Release candidates (-rc) too.")
    ] = False,
    llama_cpp: Annotated[
        Path | None,
        typer.Option("--llama-cpp", metavar="REPO", help="llama.cpp, for releases from v0.30 on."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Ask the clone's remote for tags too (network).")
    ] = False,
    patches: PatchesOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Say which newer releases Ollama has, and how our patches fare there.

    Each release is read from its tag in the clone; no file is checked out. With
    --fetch git ls-remote tells which tags the clone lacks; nothing is fetched.
    Ollama's own patches are compared with those of the release before.

    \b
    Examples:
      tqconvert ollama-build watch ../ollama
      tqconvert ollama-build watch ../ollama --since v0.32.0 --fetch --json

    \b
    Writes: nothing.
    -q prints each release with ok, or the patches that do not go on as they are.
    Exit codes: 0 ours go onto all of them, 1 onto one not, 2 usage, 4 a lock is
    not valid, 5 no such clone or tag, 8 git is missing, 11 network.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.patches.bases.watch import Wish
    from tqconvert.patches.bases.watch import watch as watch_clone

    wish = Wish(since, candidates, llama_cpp.expanduser() if llama_cpp else None, fetch)
    found = watch_clone(clone.expanduser(), patches_folder(patches), dict(os.environ), wish)
    out = Output("ollama-build.watch", json=json, quiet=quiet)
    out.result(_document(clone, found), _text(clone, found), [_short(r) for r in found.releases])
    if not found.ok:
        raise typer.Exit(1)


def _document(clone: Path, found: "Watched") -> dict[str, Any]:
    return {
        "clone": str(clone), "since": found.since, "ok": found.ok,
        "releases": [
            {
                "tag": r.tag, "commit": r.commit, "ok": r.ok,
                "generation": str(r.generation) if r.generation else None, "base": r.base,
                "lock": r.lock, "counts": r.counts,
                "parts": [
                    {"what": p.what, "same_as": p.same_as, "patches": [tried_document(t) for t in p.tried]}
                    for p in r.parts
                ],
                "upstream": {"since": r.since, "changes": [c._asdict() for c in r.changes]},
                "not_covered": list(r.not_covered),
            }
            for r in found.releases
        ],
        "not_in_clone": list(found.not_in_clone),
    }  # fmt: skip


def _text(clone: Path, found: "Watched") -> str:
    if not found.releases and not found.not_in_clone:
        return f"{clone}: has nothing newer than {found.since} (--fetch asks its remote)"
    lines = [f"{clone}: {len(found.releases)} releases after {found.since}"]
    rows: list[tuple[str, ...]] = []
    for release in found.releases:
        row = (f"{release.generation or 'unknown'} {release.base or ''}", _counts(release))
        if rows and rows[-1][1:] == (*row, "") and not release.changes:
            first = rows[-1][0].partition(" ")[0]
            rows[-1] = (f"{first} to {release.tag}", *row, "")
        else:
            rows.append((release.tag, *row, _changes(release.changes)))
    lines += [table(rows, indent=2)] if rows else []
    for release in found.releases:
        for part in release.parts:
            if part.same_as is None and not all(t.ok for t in part.tried):
                bad = tuple(t for t in part.tried if not t.ok)
                lines += [f"{release.tag}, {part.what}:", tried_table(bad)]
    skipped: dict[str, list[str]] = {}
    for what, _, why in (t.partition(": ") for r in found.releases for t in r.not_covered):
        skipped.setdefault(why, []).append(what)
    for why, names in skipped.items():
        lines.append(f"  not looked at: {', '.join(dict.fromkeys(names))}: {why}")
    if found.not_in_clone:
        lines.append(f"  not in the clone (git fetch --tags): {', '.join(found.not_in_clone)}")
    return "\n".join(lines)


def _counts(release: "Release") -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in release.counts.items()) or "not looked at"


def _changes(changes: Sequence["Change"]) -> str:
    """What became of Ollama's patches; empty if nothing."""
    kinds = [c.what for c in changes]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
    return f"Ollama's patches: {counts}" if counts else ""


def _short(release: "Release") -> str:
    bad = [t.step.name for p in release.parts for t in p.tried if not t.ok]
    return f"{release.tag} {' '.join(bad) or ('ok' if release.ok else 'unknown')}"
