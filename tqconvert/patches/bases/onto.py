"""The queue tried on another base, in memory: a verdict on every patch, and what it rests on.

A patch that does not go on is merged by git from three versions, if both sides of it are known. One
that conflicts there too is tried once more on a base that has the earlier conflicting patches in, their
side taken where both changed the same lines: if it goes on there, those are what it waits for.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tqconvert.patches.bases.landed import Signs, signs_of
from tqconvert.patches.bases.merge import Merger, Versions
from tqconvert.patches.diff import FileDiff
from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.objects import blob_id
from tqconvert.patches.place import place
from tqconvert.patches.queue import Step
from tqconvert.patches.series import Patch
from tqconvert.patches.tree.images import FindBlob, Image, Images, located_pairs
from tqconvert.patches.verdict import Verdict
from tqconvert.patches.walk import Fit, StepFit, apply_step

GOES_ON = (Verdict.CLEAN, Verdict.OFFSET, Verdict.NOT_VENDORED)
"""Verdicts that leave nothing to do."""


class Commit(NamedTuple):
    """A commit of the base's history that has to do with a patch."""

    id: str
    subject: str
    how: str
    """`same change`, `like subject`, or `same files`."""


class Clash(NamedTuple):
    """A file that does not take a patch."""

    path: str
    hunks: tuple[int, ...]
    """Counted from 1; empty if the file as a whole is the matter."""
    reason: str | None
    merged: int | None
    """Conflicts that git's merge leaves; None without both sides of the patch."""

    @property
    def text(self) -> str:
        """For people."""
        numbers = ", ".join(map(str, self.hunks))
        plural = "s" if len(self.hunks) > 1 else ""
        text = self.reason or f"hunk{plural} {numbers}"
        return f"{self.path} {text}" if self.reason else f"{self.path}: {text}"


class Tried(NamedTuple):
    """What a patch comes to on the base."""

    step: Step
    patch: Patch
    verdict: Verdict
    offsets: tuple[int, ...]
    """Of the hunks that have moved, in lines."""
    clashes: tuple[Clash, ...]
    """Files that do not take it as it is; with `merges-3way` they do when merged."""
    blocked_by: tuple[str, ...]
    signs: Signs | None
    """Of a patch that does not go on as it is: what of it is there already."""
    left_out: tuple[str, ...]
    commits: tuple[Commit, ...] = ()
    """Only with the history looked through."""
    note: str = ""
    """What is to be said of the patch file: `modified`, `re-exported`, `stale-index`, `added`."""

    @property
    def ok(self) -> bool:
        """Whether it goes on as it is."""
        return self.verdict in GOES_ON

    @property
    def evidence(self) -> str:
        """The reason of the verdict, for people; empty for `clean`."""
        parts = []
        if self.verdict is Verdict.OFFSET:
            far = max(map(abs, self.offsets))
            parts.append(f"{_counted(len(self.offsets), 'hunk')}, up to {_counted(far, 'line')}")
        if self.verdict is Verdict.BLOCKED:
            parts.append(", ".join(self.blocked_by))
        if self.verdict is Verdict.MERGES:
            parts.append("in " + ", ".join(c.path for c in self.clashes))
        if self.verdict in (Verdict.CONFLICT, Verdict.LIKELY):
            parts.append("; ".join(c.text for c in self.clashes))
        if self.signs and self.signs.any and self.verdict is not Verdict.EXACT:
            parts.append(f"there already: {self.signs.text}{_which(self.signs)}")
        parts += [f"{c.how}: {c.id[:9]} {c.subject}" for c in self.commits]
        parts += [self.note] if self.note else []
        return "; ".join(parts)


def _which(signs: Signs) -> str:
    parts = [
        f"{f.path.rpartition('/')[2]} {', '.join(map(str, f.present))}"
        for f in signs.files
        if f.present
    ]
    return f" ({'; '.join(parts)})"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class Walk:
    """A base while patches are tried on it."""

    def __init__(
        self, files: Files, layout: Layout, images: Images, merger: Merger,
        find: FindBlob | None = None,
    ) -> None:  # fmt: skip
        self.files, self.layout, self.images = files, layout, images
        self._forced: Files | None = None
        """The same with every patch in, from the first on that conflicts."""
        self._merger, self._find = merger, find
        self._failed: list[tuple[str, dict[str, frozenset[bytes]]]] = []
        """Patches that conflicted: path -> the lines that they would have added."""

    def steps(self, steps: Iterable[Step]) -> list[Tried]:
        """Try them one onto the other; one that conflicts is passed over."""
        return [self.step(s) for s in steps]

    def step(self, step: Step) -> Tried:
        """Try one."""
        fit = apply_step(self.files, step, self.layout)
        if not fit.ok:
            return self._conflicting(step, fit)
        if self._forced:
            self._forced = self._with(self._forced, step, fit.patch)[0]
        verdict = _BY_FIT[fit.fit]
        offsets = tuple(n for f in fit.files for n in f.placement.offsets if n)
        return Tried(step, fit.patch, verdict, offsets, (), (), None, fit.left_out)

    def _conflicting(self, step: Step, fit: StepFit) -> Tried:
        patch = next((p for p in step.alternatives if self._knows(step, p)), fit.patch)
        pairs = located_pairs(step, patch, self.layout)
        rows = [
            (here, self.files.get(here.path), self._before(patch, diff)) for diff, here in pairs
        ]
        signs = signs_of(rows)
        done = Tried(step, patch, Verdict.EXACT, (), (), (), signs, fit.left_out)
        if all(self._holds(patch, *pair) for pair in pairs):
            return done
        paths = [p for _, h in pairs for p in {h.old, h.new} if p]
        result, clashes = self._with(self.files, step, patch)
        earlier, again = self._forced, clashes
        if earlier is None or all(earlier.id(p) == self.files.id(p) for p in paths):
            forced = (earlier or self.files).copy()
            for path in paths:
                forced.put(path, result.get(path))
        else:
            forced, again = self._with(earlier, step, patch)
        if not _open(clashes):
            changed = any(result.id(p) != self.files.id(p) for p in paths)
            self.files.take(result)
            self._forced = forced if earlier else None
            verdict = Verdict.MERGES if changed else Verdict.EXACT
            return done._replace(verdict=verdict, clashes=clashes)
        names = () if _open(again) else self._blockers(clashes, [here for _, here in pairs])
        self._forced = forced
        self._failed.append((step.name, {here.path: _added(here) for _, here in pairs}))
        verdict = Verdict.LIKELY if signs.likely else Verdict.CONFLICT
        if names:
            verdict = Verdict.BLOCKED
        return done._replace(verdict=verdict, clashes=clashes, blocked_by=names)

    def _blockers(self, clashes: Sequence[Clash], diffs: Sequence[FileDiff]) -> tuple[str, ...]:
        """Patches that conflicted before and add what the hunks without a place stand on.

        Where none does, all that touch the same files.
        """
        needed = {c.path: c.hunks for c in clashes if c.merged != 0}
        lines: dict[str, set[bytes]] = {d.path: set() for d in diffs if d.path in needed}
        for diff in diffs:
            for n in needed.get(diff.path, ()):
                lines[diff.path].update(diff.hunks[n - 1].old.splitlines(keepends=True))
        near = [
            n for n, added in self._failed if any(added.get(p, _NONE) & lines[p] for p in lines)
        ]
        return tuple(near or (n for n, added in self._failed if lines.keys() & added.keys()))

    def _knows(self, step: Step, patch: Patch) -> bool:
        """Whether both sides of the patch are known, for every file that it changes."""
        pairs = located_pairs(step, patch, self.layout)
        return all(self.images.of(patch, d, self._find) for d, _ in pairs)

    def _before(self, patch: Patch, diff: FileDiff) -> bytes | None:
        image = self.images.of(patch, diff, self._find)
        return image.before if image else None

    def _holds(self, patch: Patch, diff: FileDiff, here: FileDiff) -> bool:
        """Whether the base has in it all that the diff does."""
        data = self.files.get(here.path)
        image = self.images.of(patch, diff, self._find)
        if here.new is None or data is None:
            return here.new is None and data is None
        if here.old not in (None, here.new) and self.files.get(here.old or "") is not None:
            return False
        if (image and image.after == data) or (
            here.new_id and blob_id(data).startswith(here.new_id)
        ):
            return True
        return here.old is not None and bool(here.hunks) and place(data, here.reversed()).ok

    def _with(self, files: Files, step: Step, patch: Patch) -> tuple[Files, tuple[Clash, ...]]:
        """The files with the patch in, its side taken in conflicts, and the files that did not take it."""
        files = files.copy()
        clashes = []
        pairs = located_pairs(step, patch, self.layout)
        self._merger.ahead(self._open_merges(files, patch, pairs))
        for diff, here in pairs:
            data = files.get(here.old or here.path)
            placed = place(data, here)
            moves = here.old and here.new and here.old != here.new
            if placed.ok and moves and files.get(here.path) is not None:
                placed = placed._replace(reason="exists already")
            made: bytes | None = placed.data
            if not placed.ok:
                image = self.images.of(patch, diff, self._find)
                made, left = self._merged(data, image, gone=here.new is None)
                if image is None and not placed.reason:
                    made = placed.data
                hunks = tuple(n + 1 for n in placed.failed)
                clashes.append(Clash(here.path, hunks, placed.reason, left))
            if here.old and here.old != here.new:
                files.put(here.old, None)
            if here.new:
                files.put(here.new, made)
        return files, tuple(clashes)

    def _merged(
        self, data: bytes | None, image: Image | None, *, gone: bool
    ) -> tuple[bytes | None, int | None]:
        """The merged file and the number of conflicts; None where nothing can be merged."""
        if image is None:
            return data, None
        if data is None or gone:
            return image.after, None
        merged = self._merger.merge(_versions(data, image))
        return merged.data, merged.conflicts

    def _open_merges(
        self, files: Files, patch: Patch, pairs: Iterable[tuple[FileDiff, FileDiff]]
    ) -> Iterator[Versions]:
        """Merges that a patch will need; they take longer than all else."""
        for diff, here in pairs:
            data = files.get(here.old or here.path)
            image = self.images.of(patch, diff, self._find)
            if data is not None and image and here.new and not place(data, here).ok:
                yield _versions(data, image)


def _versions(data: bytes, image: Image) -> Versions:
    return Versions(data, image.before or b"", image.after or b"")


_NONE: frozenset[bytes] = frozenset()


def _added(diff: FileDiff) -> frozenset[bytes]:
    """Lines that a diff puts into its file, but for such as stand everywhere."""
    lines = (
        line
        for h in diff.hunks
        for line in (h.added if diff.old else h.new.splitlines(keepends=True))
    )
    return frozenset(line for line in lines if len(line.strip()) > 4)


_BY_FIT = {
    Fit.CLEAN: Verdict.CLEAN, Fit.OFFSET: Verdict.OFFSET, Fit.NOTHING: Verdict.NOT_VENDORED,
}  # fmt: skip


def _open(clashes: Iterable[Clash]) -> bool:
    """Whether something is left that a merge does not settle."""
    return any(c.merged != 0 for c in clashes)
