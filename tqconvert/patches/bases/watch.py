"""Newer releases of Ollama in a clone: how our patches fare there, and what became of Ollama's own.

Releases are read from their tags; the clone's files and its HEAD are of no matter.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import GitFailedError, NotFoundError
from tqconvert.patches.bases.merge import Merger
from tqconvert.patches.bases.onto import Tried, Walk
from tqconvert.patches.bases.target import NO_FETCH, Target, target_of
from tqconvert.patches.bases.trial import paths_of
from tqconvert.patches.checkout import SYNC, VERSION, Generation, sync_base
from tqconvert.patches.files import Files
from tqconvert.patches.git import Git
from tqconvert.patches.layout import FILTER, GGML, LLAMA
from tqconvert.patches.locks.history import Commit
from tqconvert.patches.locks.origin import FOLDERS
from tqconvert.patches.locks.release import ReleaseLock, all_locks, tag_order
from tqconvert.patches.patch_id import patch_id
from tqconvert.patches.queue import Layer, Origin, Step, our_steps
from tqconvert.patches.series import Patch
from tqconvert.patches.tree.images import Images, images_on

_TAG = re.compile(r"v\d+\.\d+\.\d+(-rc\d+)?")


class Change(NamedTuple):
    """What became of one of Ollama's patches since the release before."""

    name: str
    what: str
    """`added`, `removed`, `renamed`, `re-exported`, `modified`."""
    was: str | None = None
    """Its name before, if it was renamed."""


class Part(NamedTuple):
    """Our patches tried on one tree of a release."""

    what: str
    """`ollama` or `llama.cpp`"""
    tried: tuple[Tried, ...]
    same_as: str | None
    """An earlier release whose files are the same, as far as patches touch them."""


class Release(NamedTuple):
    """One release."""

    tag: str
    commit: str
    generation: Generation | None
    """None: neither of the layouts that are known."""
    base: str | None
    lock: str | None
    """The title of the lock that knows it."""
    parts: tuple[Part, ...]
    since: str | None
    """What `changes` compares with."""
    changes: tuple[Change, ...]
    not_covered: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all of ours go on as they are."""
        return self.generation is not None and all(t.ok for p in self.parts for t in p.tried)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> patches."""
        found: dict[str, int] = {}
        for tried in (t for p in self.parts for t in p.tried):
            found[str(tried.verdict)] = found.get(str(tried.verdict), 0) + 1
        return found


class Watched(NamedTuple):
    """What there is."""

    since: str
    releases: tuple[Release, ...]
    not_in_clone: tuple[str, ...]
    """Newer tags that the remote has."""

    @property
    def ok(self) -> bool:
        """Whether ours go onto every release."""
        return all(r.ok for r in self.releases)


class Wish(NamedTuple):
    """What to look at."""

    since: str | None = None
    """Default: the newest release that a lock knows."""
    candidates: bool = False
    """Release candidates too."""
    llama_cpp: Path | None = None
    """A llama.cpp repository, for what modern releases fetch."""
    ask_remote: bool = False


_Known = dict[str, tuple[str, str | None]]
"""Ollama's patches: name -> sha256 and patch id."""


def watch(clone: Path, folder: Path, env: Mapping[str, str], wish: Wish) -> Watched:
    """The releases after `wish.since`, with our patches in `folder` tried on each.

    Raises NotFoundError, GitFailedError, NetworkError, BadLockError, BadSeriesError, BadPatchError.
    """
    locks = [x for g in (Generation.LEGACY, Generation.MODERN) for x in all_locks(folder, g)]
    known = [t for lock in locks for t in lock.tags]
    since = wish.since or max(known, key=tag_order, default=None)
    if since is None:
        raise NotFoundError(
            f"{folder}: no lock names a release", hint="say where to start: --since TAG"
        )
    if not _TAG.fullmatch(since):
        raise NotFoundError(f"{since}: not a tag of a release (expected v0.24.0 or v0.30.0-rc1)")
    git = Git(clone, {**env, **NO_FETCH})
    if not clone.is_dir() or git.run("rev-parse", "--git-dir").returncode:
        raise NotFoundError(f"{clone}: not a clone of Ollama")
    here = git.text_of("for-each-ref", "--format=%(refname:strip=2)", "refs/tags").splitlines()
    with Merger(env) as merger:
        watcher = _Watcher(git, folder, locks, merger, _llama(wish, env))
        if since in here:
            watcher.start(since)
        else:
            watcher.start_from_lock(since)
        found = [watcher.look(tag) for tag in _newer(here, since, wish)]
    absent: list[str] = []
    if wish.ask_remote:
        from tqconvert.patches.bases.remote import remote_tags

        absent = [t for t in _newer(remote_tags(clone, env), since, wish) if t not in here]
    return Watched(since, tuple(found), tuple(absent))


def _newer(tags: Sequence[str], since: str, wish: Wish) -> list[str]:
    start = tag_order(since)
    found = [t for t in tags if (m := _TAG.fullmatch(t)) and (wish.candidates or not m[1])]
    return sorted((t for t in set(found) if tag_order(t) > start), key=tag_order)


def _llama(wish: Wish, env: Mapping[str, str]) -> Git | None:
    return Git(wish.llama_cpp, {**env, **NO_FETCH}) if wish.llama_cpp else None


class _Watcher:
    def __init__(
        self, git: Git, folder: Path, locks: Sequence[ReleaseLock], merger: Merger,
        llama: Git | None,
    ) -> None:  # fmt: skip
        self._git, self._folder, self._locks = git, folder, locks
        self._merger, self._llama = merger, llama
        self._steps: dict[tuple[Generation, Generation], tuple[Step, ...]] = {}
        self._seen: dict[object, tuple[str, tuple[Tried, ...]]] = {}
        self._good: dict[tuple[Generation, str], tuple[Target, tuple[Step, ...]]] = {}
        """The last trees that all went onto: both sides of a merge come from there."""
        self._before: tuple[str, _Known] | None = None

    def start(self, tag: str) -> None:
        """Take a release as known: what follows is compared with it."""
        self.look(tag)

    def start_from_lock(self, tag: str) -> None:
        """The same for one that the clone lacks."""
        for lock in self._locks:
            if tag in lock.tags:
                self._before = tag, {p.name: (p.sha256, p.patch_id) for p in lock.patches}

    def look(self, tag: str) -> Release:
        """Try our patches on a release."""
        commit = Commit(self._git, f"refs/tags/{tag}")
        try:
            return self._look(tag, commit, target_of(tag, commit, self._git))
        except (NotFoundError, GitFailedError) as e:
            # Another layout, or a partial clone that lacks content: nothing is known, the next may be.
            text = f"{tag}: {e.message.removeprefix(f'{tag}: ')}"
            return Release(tag, commit.id, None, None, self._title(tag), (), None, (), (text,))

    def _look(self, tag: str, commit: Commit, target: Target) -> Release:
        legacy = target.generation is Generation.LEGACY
        patches = _patches(commit, target.generation)
        fixed = (SYNC, *(f"{t}/{FILTER}" for t in (GGML, LLAMA))) if legacy else (VERSION,)
        commit.fetch([*patches, *fixed])
        upstream = [Patch(n, commit.read(p) or b"") for p, n in patches.items()]
        text = (commit.read(fixed[0]) or b"").decode("utf-8", "replace")
        base = sync_base(text) if legacy else text.strip() or None
        parts = [
            self._part("ollama", tag, target, self._ours(target.generation, target.generation))
        ]
        skipped = []
        if not legacy:
            part, reason = self._llama_part(tag, base, upstream)
            parts += [part] if part else []
            skipped += [reason] if reason else []
        before, changes = self._changes(tag, upstream)
        return Release(
            tag, commit.id, target.generation, base, self._title(tag), tuple(parts), before, changes,
            tuple(skipped),
        )  # fmt: skip

    def _ours(self, generation: Generation, source: Generation) -> tuple[Step, ...]:
        key = (generation, source)
        if key not in self._steps:
            self._steps[key] = tuple(our_steps(self._folder, generation, source))
        return self._steps[key]

    def _llama_part(
        self, tag: str, base: str | None, upstream: Sequence[Patch]
    ) -> tuple[Part | None, str | None]:
        """Ollama's patches and ours on the llama.cpp that a modern release fetches."""
        if self._llama is None:
            return None, f"llama.cpp {base}: no repository given (--llama-cpp DIR)"
        try:
            commit = Commit(self._llama, str(base))
        except NotFoundError:
            return None, f"llama.cpp {base}: not in {self._llama.folder}"
        target = target_of(str(base), commit, self._llama)
        steps = tuple(Step((p,), Origin.OLLAMA, Layer.LLAMA_CPP) for p in upstream)
        ours = self._ours(Generation.LLAMA_CPP, Generation.MODERN)
        return self._part("llama.cpp", tag, target, (*steps, *ours)), None

    def _part(self, what: str, tag: str, target: Target, steps: tuple[Step, ...]) -> Part:
        layout = target.layout
        commit = target.commit
        assert commit
        legacy = target.generation is Generation.LEGACY
        paths = paths_of(steps, layout.locate if legacy else None)
        rows = [commit.entries[p].id if p in commit.entries else None for p in paths]
        filters = [
            commit.entries[p].id for t in (GGML, LLAMA) if (p := f"{t}/{FILTER}") in commit.entries
        ]
        key = (
            what,
            tuple(paths),
            tuple(rows),
            tuple(filters),
            tuple(p.sha256 for s in steps for p in s.alternatives),
        )
        if key in self._seen:
            earlier, tried = self._seen[key]
            return Part(what, tried, earlier)
        commit.fetch(paths)
        place = (target.generation, what)
        images = Images()
        if place in self._good:
            good, before = self._good[place]
            images = images_on(before, good.read, good.layout)
        tried = tuple(Walk(Files(target.read), layout, images, self._merger).steps(steps))
        self._seen[key] = tag, tried
        if all(t.ok for t in tried):
            self._good[place] = target, steps
        return Part(what, tried, None)

    def _title(self, tag: str) -> str | None:
        return next((x.title for x in self._locks if tag in x.tags), None)

    def _changes(
        self, tag: str, upstream: Sequence[Patch]
    ) -> tuple[str | None, tuple[Change, ...]]:
        now: _Known = {p.name: (p.sha256, patch_id(p.data)) for p in upstream}
        before, self._before = self._before, (tag, now)
        if before is None:
            return None, ()
        return before[0], tuple(_compare(before[1], now))


def _patches(commit: Commit, generation: Generation) -> dict[str, str]:
    """Ollama's patches in the order in which they go on: path -> path below their folder."""
    top = f"{FOLDERS[generation][0]}/"
    found = [p for p in commit.entries if p.startswith(top) and p.endswith(".patch")]
    if generation is Generation.LEGACY:
        found = [p for p in found if "/" not in p[len(top) :]]
    return {p: p[len(top) :] for p in sorted(found, key=lambda p: (p.rpartition("/")[2], p))}


def _compare(before: _Known, now: _Known) -> Iterator[Change]:
    gone = {name: ids for name, ids in before.items() if name not in now}
    for name, (digest, own) in now.items():
        if name in before:
            if before[name][0] != digest:
                same = own is not None and before[name][1] == own
                yield Change(name, "re-exported" if same else "modified")
            continue
        was = next(
            (n for n, ids in gone.items() if ids[0] == digest or (own and ids[1] == own)), None
        )
        if was:
            del gone[was]
        yield Change(name, "renamed" if was else "added", was)
    for name in gone:
        yield Change(name, "removed")
