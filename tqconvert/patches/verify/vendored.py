"""All files of the vendored folders, also those that no patch touches: L3 of `verify`."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from tqconvert.errors import StorageError
from tqconvert.patches.checkout import Generation
from tqconvert.patches.embed import TARGET, regenerate
from tqconvert.patches.files import folder_reader
from tqconvert.patches.layout import GGML, LLAMA, Vendored
from tqconvert.patches.locks.history import Entry, tree_id
from tqconvert.patches.locks.release import ReleaseLock
from tqconvert.patches.objects import blob_id
from tqconvert.patches.tree.state import TreeState, with_lf
from tqconvert.patches.verify.check import Check, check, counted, skipped

PREFIXES = {GGML: "ggml/", LLAMA: ""}
"""Folder -> what its paths begin with in llama.cpp."""


class Survey(NamedTuple):
    """What lies in the vendored folders, our patches taken off."""

    files: Mapping[str, Entry]
    """Path in the tree -> mode and id."""
    converted: Mapping[str, str]
    """Files whose lines all end in CRLF -> their id with LF."""


def survey(state: TreeState) -> Survey:
    """Hash everything in the vendored folders. Raises StorageError."""
    root = state.queue.checkout.root
    changed = dict(state.without_ours.changes())
    disk = folder_reader(root)
    if changed and (there := disk(TARGET)) is not None and there == regenerate(disk):
        # L4 proves what is generated; here it is what the release's own sources make.
        changed[TARGET] = regenerate(state.without_ours.get) or there
    files: dict[str, Entry] = {}
    converted: dict[str, str] = {}
    for top in PREFIXES:
        for path, full in _walk(f"{root}/{top}", top):
            data = changed[path] if path in changed else _content(full)
            if data is None:
                continue
            if (plain := with_lf(data)) is not data:
                converted[path] = blob_id(plain)
            files[path] = Entry(_mode(full), blob_id(data))
    tops = tuple(f"{top}/" for top in PREFIXES)
    for path, data in changed.items():
        # A file that one of ours removes is there again.
        if data is not None and path not in files and path.startswith(tops):
            files[path] = Entry("100644", blob_id(data))
    return Survey(files, converted)


def _walk(folder: str, top: str) -> "list[tuple[str, str]]":
    found = []
    for here, folders, names in os.walk(folder):
        folders.sort()
        inner = here.removeprefix(folder).replace(os.sep, "/")
        found += [(f"{top}{inner}/{name}", f"{here}/{name}") for name in sorted(names)]
    return found


def _content(full: str) -> bytes:
    try:
        if os.path.islink(full):
            return os.fsencode(os.readlink(full))
        with open(full, "rb") as f:
            return f.read()
    except OSError as e:
        raise StorageError(f"{full}: {e.strerror}") from e


def _mode(full: str) -> str:
    status = os.lstat(full)
    if os.path.islink(full):
        return "120000"
    return "100755" if status.st_mode & 0o100 else "100644"


def check_vendored(state: TreeState, listing: Mapping[str, str] | None) -> Check:
    """L3: every file of the vendored folders, by the ids of their trees and by name."""
    if state.queue.checkout.generation is not Generation.LEGACY:
        return skipped("L3", "nothing is vendored in this tree")
    lock = state.source.lock if state.source else None
    if lock is None:
        return skipped("L3", "needs the lock of the release")
    found = survey(state)
    layout = state.queue.checkout.layout
    assert isinstance(layout, Vendored)
    expected = _expected(lock, listing or {}, layout)
    touched = {p.path for p in state.located.positions}
    own = {p for p in found.files if layout.own(p)}
    findings, converted, files = [], 0, dict(found.files)
    for path, entry in found.files.items():
        start = expected.get(path)
        plain = found.converted.get(path)
        if plain and (
            start is None or (plain.startswith(start) and not entry.id.startswith(start))
        ):
            files[path] = Entry(entry.mode, plain)
            converted += 1
        if path in own or path in touched:
            continue
        if start is None:
            if listing is not None:
                findings.append(f"{path} is not a file of the release")
        elif not files[path].id.startswith(start):
            findings.append(f"{path} differs from llama.cpp {(lock.base.commit or '')[:9]}")
        elif entry.mode != "100644":
            findings.append(f"{path} has mode {entry.mode} (expected 100644)")
    findings += [f"{p} is not there" for p in sorted(expected.keys() - files.keys() - touched)]
    trees = {top: _tree(files, top) for top in PREFIXES}
    matching = [g for g in lock.releases if all(g.trees.get(t) == i for t, i in trees.items())]
    rungs = len(state.upstream)
    whole = all(p.suits(rungs) for p in state.located.positions)
    not_covered = ""
    if not matching and not findings:
        if whole:
            of = "is one" if listing is not None else "may be one"
            findings.append(
                f"the trees of {' and '.join(PREFIXES)} are not the release's: there {of} of "
                f"{len(own)} files of Ollama's own that differs"
            )
        else:
            not_covered = (
                f"{counted(len(own), 'file')} of Ollama's own (their trees have patched files)"
            )
    tags = [t for g in matching for t in g.tags if "-rc" not in t]
    names = f", trees of {tags[0]}" + (f" to {tags[-1]}" if len(tags) > 1 else "") if tags else ""
    covered = f"{counted(len(files), 'file')}, {len(files) - len(touched & set(files))} of them untouched by patches{names}"
    if converted:
        covered += f", {converted} with CRLF"
    return check("L3", covered, findings, not_covered)


def _expected(lock: ReleaseLock, listing: Mapping[str, str], layout: Vendored) -> dict[str, str]:
    """Path in the tree -> beginning of the id that the file has in the release; own files are missing."""
    found = {}
    for path, start in listing.items():
        top = GGML if path.startswith("ggml/") else LLAMA
        found[f"{top}/{path.removeprefix(PREFIXES[top])}"] = start
    for patch in lock.patches:
        for path, (_, after) in patch.files.items():
            where = layout.locate(path)
            if where and after:
                found[where] = after
            elif where:
                found.pop(where, None)
    return found


def _tree(files: Mapping[str, Entry], top: str) -> str:
    inside = {p.removeprefix(f"{top}/"): e for p, e in files.items() if p.startswith(f"{top}/")}
    return tree_id(inside)
