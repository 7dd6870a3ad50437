"""Ollama's patches in a tree, compared with the releases that are known: whose bytes they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.patches.checkout import COMPAT, PATCHES, Checkout, Generation
from tqconvert.patches.layout import GGML, LLAMA
from tqconvert.patches.locks.release import (
    ReleaseLock,
    base_fits,
    find_lock,
    nearest_lock,
    series_id,
)
from tqconvert.patches.series import Patch
from tqconvert.patches.verdict import Verdict
from tqconvert.patches.verify.check import counted

FOLDERS = {Generation.LEGACY: (PATCHES, LLAMA, GGML), Generation.MODERN: (COMPAT,)}
"""Folders whose trees a lock holds; Ollama's patches lie in the first."""


class PatchOrigin(NamedTuple):
    """One patch file."""

    verdict: Verdict
    """APPLIED stands for unchanged bytes, or for patches of which nothing is known."""
    evidence: str
    """For people; empty where there is nothing to say."""
    id: str | None
    """Its patch id, where a lock or a comparison tells it."""


class Source(NamedTuple):
    """All of them."""

    series: str
    lock: ReleaseLock | None
    """That of the release, None if no lock has these patches on this llama.cpp."""
    nearest: ReleaseLock | None
    """The lock that shares most with them, where none is theirs."""
    patches: tuple[PatchOrigin, ...]
    missing: tuple[str, ...]
    """Patches of the nearest release that the tree lacks."""
    other_base: bool
    """Whether the patches are the nearest release's and only the llama.cpp that is named is not."""


def upstream_of(checkout: Checkout) -> tuple[Patch, ...]:
    """Ollama's patches in a tree, named by their path below the folder of patches."""
    if not checkout.is_ollama:
        return ()
    folder = checkout.root / FOLDERS[checkout.generation][0]
    return tuple(
        Patch(p.relative_to(folder).as_posix(), p.read_bytes()) for p in checkout.upstream_patches()
    )


def compare_patches(folder: Path, checkout: Checkout, patches: Sequence[Patch]) -> Source:
    """What the locks in `ollama_patches` in `folder` say of a tree's patches. Raises BadLockError."""
    digests = [p.sha256 for p in patches]
    series = series_id(digests)
    if lock := find_lock(folder, checkout, series):
        found = tuple(
            PatchOrigin(
                Verdict.STALE if p.stale else Verdict.APPLIED,
                f"index lines of {counted(len(p.stale), 'file')} state other ids"
                if p.stale
                else "",
                p.patch_id,
            )
            for p in lock.patches
        )
        return Source(series, lock, None, found, (), other_base=False)
    near = nearest_lock(folder, checkout, digests)
    compared = tuple(_compare(p, near.lock) for p in patches) if near else ()
    if near is None or all(p.verdict is Verdict.ADDED for p in compared):
        unknown = PatchOrigin(Verdict.APPLIED, "", None)
        return Source(series, None, None, (unknown,) * len(patches), (), other_base=False)
    names = {p.name for p in patches}
    ids = {p.id for p in compared}
    missing = tuple(
        p.name for p in near.lock.patches if p.name not in names and p.patch_id not in ids
    )
    other = near.lock.series == series and not base_fits(near.lock, checkout.base)
    return Source(series, None, near.lock, compared, missing, other)


def made_for(folder: Path, source: Checkout) -> str:
    """Whose patches an Ollama tree holds and for which llama.cpp, in words, by the locks in `folder`."""
    found = compare_patches(folder, source, upstream_of(source))
    base = f"llama.cpp {source.base or 'that is not named'}"
    if found.lock:
        return f"those of {found.lock.title}, for {base}"
    if found.nearest:
        return f"nearest to those of {found.nearest.title}, for {base}"
    return f"of no release that is known, for {base}"


def _compare(patch: Patch, lock: ReleaseLock) -> PatchOrigin:
    for known in lock.patches:
        if known.sha256 == patch.sha256:
            return PatchOrigin(Verdict.APPLIED, "", known.patch_id)
    from tqconvert.patches.patch_id import patch_id

    own = patch_id(patch.data)
    for known in lock.patches:
        if own and known.patch_id == own:
            text = f"bytes differ from {known.name} of {lock.title}, the change is the same"
            return PatchOrigin(Verdict.RE_EXPORTED, text, own)
    if any(known.name == patch.name for known in lock.patches):
        text = f"changes something else than in {lock.title}"
        return PatchOrigin(Verdict.MODIFIED, text, own)
    return PatchOrigin(Verdict.ADDED, f"not in {lock.title}", own)
