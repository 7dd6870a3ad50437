"""Release locks: what a release of Ollama holds, as hashes. No text of anybody's is in them.

One lock stands for one series of Ollama's patches on one llama.cpp: the digest of each patch, and for
each file that it touches the blob ids before and after, a ladder that starts at the untouched llama.cpp.
File names end in the first 8 digits of the series' hash, so that only the one that matters is read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqconvert.errors import BadLockError
from tqconvert.patches.checkout import Checkout, Generation

SCHEMA = "tqconvert.release-lock/1"
LISTING_SCHEMA = "tqconvert.base-files/1"
UPSTREAM = "upstream"
SUFFIX = ".lock.json"

Ids = tuple[str | None, str | None]
"""Blob ids before and after a patch; None where there is no file."""


class LockedPatch(NamedTuple):
    """One patch of Ollama's."""

    name: str
    """Path below the folder of patches."""
    sha256: str
    blob: str
    patch_id: str | None
    files: Mapping[str, Ids]
    """llama.cpp's path -> full ids; files whose ids could not be had are missing."""
    stale: Mapping[str, Ids]
    """Ids that the patch's `index` lines state, where they are not those of `files`."""


class Unresolved(NamedTuple):
    """A file of a patch whose content was not at hand, with the ids that the patch states."""

    patch: str
    path: str
    old_id: str | None
    new_id: str | None


class Group(NamedTuple):
    """Releases whose trees are equal."""

    tags: Mapping[str, str | None]
    """Tag -> commit, where known."""
    trees: Mapping[str, str | None]
    """Folder -> id of its tree."""


class Base(NamedTuple):
    """The llama.cpp that the patches are made for."""

    repo: str
    tag: str | None
    commit: str | None
    tree: str | None


class ReleaseLock(NamedTuple):
    """What is known of some releases with the same patches on the same llama.cpp."""

    generation: Generation
    releases: tuple[Group, ...]
    base: Base
    patches: tuple[LockedPatch, ...]
    result_tree: str | None
    """The tree of the base with all patches, files that are not vendored included."""
    unresolved: tuple[Unresolved, ...]
    not_recomputed: tuple[str, ...]
    """Fields that were taken from an earlier lock, since the tree at hand does not tell them."""

    @property
    def series(self) -> str:
        """What the patches' bytes are, in one hash."""
        return series_id(p.sha256 for p in self.patches)

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags, oldest first."""
        return tuple(sorted((t for g in self.releases for t in g.tags), key=tag_order))

    @property
    def title(self) -> str:
        """The releases for people: `v0.17.1 to v0.19.0`."""
        first, last = self._ends
        return first if first == last else f"{first} to {last}"

    @property
    def file_name(self) -> str:
        """The name that `find_lock` looks for."""
        return f"{'_'.join(dict.fromkeys(self._ends))}.{self.series[:8]}{SUFFIX}"

    @property
    def _ends(self) -> tuple[str, str]:
        tags = self.tags or ("unnamed",)
        finished = [t for t in tags if "-rc" not in t] or tags
        # The last may be a candidate of a release that is not out yet.
        return finished[0], max(finished[-1], tags[-1], key=tag_order)


class Nearest(NamedTuple):
    """The lock that has most in common with patches that no lock has."""

    lock: ReleaseLock
    equal: int
    """Patches with equal bytes."""


def tag_order(tag: str) -> tuple[tuple[int, ...], int, str]:
    """Sorts tags by age: candidates before their release."""
    numbers, candidate, count = tag.removeprefix("v").partition("-rc")
    parts = tuple(int(n) for n in numbers.split(".") if n.isdecimal())
    return parts, int(count) if candidate and count.isdecimal() else 1 << 30, tag


def series_id(digests: Iterable[str]) -> str:
    """The hash of a series: sha256 over the hex digests of its patches, one after the other."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def find_lock(folder: Path, checkout: Checkout, series: str) -> ReleaseLock | None:
    """The lock of a tree's patches among those of `ollama_patches` in `folder`. Raises BadLockError."""
    for path in _paths(folder, checkout.generation, f".{series[:8]}{SUFFIX}"):
        lock = read_lock(path)
        if lock.series == series and base_fits(lock, checkout.base):
            return lock
    return None


def base_fits(lock: ReleaseLock, base: str | None) -> bool:
    """Whether the llama.cpp that a tree names is the lock's; what is not named fits any."""
    if lock.generation is Generation.MODERN:
        return base == lock.base.tag
    commit = lock.base.commit
    return base is None or commit is None or commit.startswith(base)


def nearest_lock(folder: Path, checkout: Checkout, digests: Iterable[str]) -> Nearest | None:
    """The lock that shares most patches with `digests`.

    Of several the one on the same llama.cpp, then that with the fewest other patches, then the newest.
    """
    wanted = set(digests)
    best: tuple[tuple[int, bool, int, int], ReleaseLock] | None = None
    for order, path in enumerate(_paths(folder, checkout.generation, SUFFIX)):
        lock = read_lock(path)
        equal = sum(p.sha256 in wanted for p in lock.patches)
        rank = (equal, base_fits(lock, checkout.base), equal - len(lock.patches), order)
        if best is None or rank > best[0]:
            best = rank, lock
    return Nearest(best[1], best[0][0]) if best else None


def all_locks(folder: Path, generation: Generation) -> Iterator[ReleaseLock]:
    """All locks of a generation, oldest releases first. Raises BadLockError."""
    for path in _paths(folder, generation, SUFFIX):
        yield read_lock(path)


def _paths(folder: Path, generation: Generation, suffix: str) -> list[Path]:
    found = (folder / generation / UPSTREAM).glob(f"*{suffix}")
    return sorted(
        found, key=lambda p: (tag_order(re.split(r"_|\.[0-9a-f]{8}\.", p.name)[0]), p.name)
    )


def read_lock(path: Path) -> ReleaseLock:
    """The lock in a file. Raises BadLockError."""
    try:
        return parse_lock(path.read_text("utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        reason = f"{type(e).__name__} {e}" if isinstance(e, KeyError) else str(e)
        raise BadLockError(f"{path}: not a lock of releases ({reason})") from None


def parse_lock(text: str) -> ReleaseLock:
    """The lock in a JSON text. Raises ValueError, KeyError, TypeError."""
    document = json.loads(text)
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r}, expected {SCHEMA!r}")
    base = document["base"]
    lock = ReleaseLock(
        Generation(document["generation"]),
        tuple(Group(g["tags"], g["trees"]) for g in document["releases"]),
        Base(base["repo"], base["tag"], base["commit"], base["tree"]),
        tuple(
            LockedPatch(
                p["name"], p["sha256"], p["blob"], p["patch_id"],
                {path: (a, b) for path, (a, b) in p["files"].items()},
                {path: (a, b) for path, (a, b) in p.get("stale", {}).items()},
            )
            for p in document["patches"]
        ),
        document["result"]["tree"],
        tuple(Unresolved(*row) for row in document["unresolved"]),
        tuple(document["not_recomputed"]),
    )  # fmt: skip
    if lock.series != document["series_sha256"]:
        raise ValueError("series_sha256 is not that of its patches")
    return lock


def lock_document(lock: ReleaseLock) -> dict[str, Any]:
    """The lock as it stands in JSON."""
    return {
        "schema": SCHEMA,
        "generation": str(lock.generation),
        "releases": [{"tags": dict(g.tags), "trees": dict(g.trees)} for g in lock.releases],
        "base": lock.base._asdict(),
        "patches": [
            {
                "name": p.name, "sha256": p.sha256, "blob": p.blob, "patch_id": p.patch_id,
                "files": {path: list(ids) for path, ids in p.files.items()},
                **({"stale": {path: list(ids) for path, ids in p.stale.items()}} if p.stale else {}),
            }
            for p in lock.patches
        ],
        "series_sha256": lock.series,
        "result": {"tree": lock.result_tree},
        "unresolved": [list(u) for u in lock.unresolved],
        "not_recomputed": list(lock.not_recomputed),
    }  # fmt: skip


def render_lock(lock: ReleaseLock) -> str:
    """The text of a lock file: sorted keys, one line a file."""
    return render_json(lock_document(lock))


def render_json(document: Mapping[str, Any]) -> str:
    """JSON with sorted keys and short lists on one line."""
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    # Pairs of ids and rows of `unresolved`; nothing else is a list of strings and nulls alone.
    item = r'(?:"[^"\\]*"|null)'
    text = re.sub(rf"\[\s+({item}(?:,\s+{item})*)\s+\]", _one_line, text)
    return f"{text}\n"


def _one_line(found: "re.Match[str]") -> str:
    row = re.sub(r",\s+", ", ", found[1])
    return f"[{row}]"


def read_listing(folder: Path, lock: ReleaseLock) -> dict[str, str] | None:
    """llama.cpp's path -> beginning of its blob id, for the files of a base that legacy trees carry.

    None if there is no listing of the lock's base. Raises BadLockError.
    """
    path = folder / lock.generation / UPSTREAM / listing_name(lock.base)
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != LISTING_SCHEMA or document["commit"] != lock.base.commit:
            raise BadLockError(f"{path}: not a listing of llama.cpp {lock.base.commit}")
        return {
            f"{top}/{name}" if top else name: start
            for top, names in document["files"].items()
            for name, start in names.items()
        }
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError) as e:
        raise BadLockError(f"{path}: not a listing of files ({e})") from None


def listing_name(base: Base) -> str:
    """The file name of a base's listing."""
    return f"{(base.commit or base.tag or 'unknown')[:9]}.files.json"


def listing_document(base: Base, ids: Mapping[str, str]) -> dict[str, Any]:
    """The listing as it stands in JSON; ids are cut, whole ones follow from the trees' ids."""
    folders: dict[str, dict[str, str]] = {}
    for path, oid in sorted(ids.items()):
        top, _, name = path.rpartition("/")
        folders.setdefault(top, {})[name] = oid[:12]
    return {
        "schema": LISTING_SCHEMA, "repo": base.repo, "commit": base.commit, "files": folders,
    }  # fmt: skip
