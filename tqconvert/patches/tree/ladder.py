"""Ladders of blob ids: which patches are in a file, told by its hash alone.

The ids before and after each patch form a ladder per file, from the untouched file to the one with all
patches. A file on a rung has the patches below it and no other change.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tqconvert.patches.files import Files
from tqconvert.patches.layout import Layout
from tqconvert.patches.locks.release import ReleaseLock
from tqconvert.patches.objects import ABSENT
from tqconvert.patches.queue import Step, diffs_of
from tqconvert.patches.tree.share import Share, take_share


class Rung(NamedTuple):
    """A state of a file."""

    patches: int
    """The number of the last patch that made it, 0 for the base."""
    id: str
    """Beginning of its blob id, or the whole."""


Ladder = Mapping[str, Sequence[Rung]]
"""llama.cpp's path -> its states, the base first."""


class Position(NamedTuple):
    """Where one file stands."""

    path: str
    """In the tree."""
    touched: tuple[int, ...]
    """Numbers of the patches that touch it, from 1."""
    fits: tuple[tuple[int, int], ...]
    """Ranges of prefixes (first, last) whose state it is in; empty if it is on no rung."""
    shares: Mapping[int, Share]
    """Patch -> its hunks; for files on no rung, and those without a ladder."""
    edited: bool
    """Whether it holds changes that no patch makes."""
    missing: bool = False
    known: bool = True
    """Whether there is a ladder for it."""

    def has(self, number: int) -> bool | None:
        """Whether patch `number` is in the file; None if half of it is, or the file does not tell."""
        if self.fits:
            if all(low >= number for low, _ in self.fits):
                return True
            return False if all(high < number for _, high in self.fits) else None
        share = self.shares.get(number)
        return share.whole if share else None

    def suits(self, prefix: int) -> bool:
        """Whether it is as it should be under the first `prefix` patches."""
        if self.fits:
            return any(low <= prefix <= high for low, high in self.fits)
        if any(s.half for s in self.shares.values()):
            return False
        return all(self.has(n) in (None, n <= prefix) for n in self.touched)

    @property
    def patches(self) -> int:
        """The last of its patches that is in it."""
        if self.fits:
            return max((n for n in self.touched if n <= self.fits[-1][1]), default=0)
        return max((n for n in self.touched if self.has(n) is not False), default=0)


def ladder_of_lock(lock: ReleaseLock) -> Ladder:
    """The ladders that a lock holds, whole ids."""
    ladder: dict[str, list[Rung]] = {}
    for number, patch in enumerate(lock.patches, start=1):
        for path, (old, new) in patch.files.items():
            rungs = ladder.setdefault(path, [Rung(0, old or ABSENT)])
            rungs.append(Rung(number, new or ABSENT))
    return ladder


def ladder_of_index_lines(steps: Iterable[Step]) -> Ladder:
    """The ladders that the patches' own `index` lines state.

    A file has none if a line is missing, or where one does not start at the id that the last ended at.
    """
    ladder: dict[str, list[Rung]] = {}
    broken = set()
    for number, step in enumerate(steps, start=1):
        for diff in diffs_of(step.alternatives[0]):
            if not diff.old_id or not diff.new_id or (diff.old and diff.old != diff.new):
                broken |= {p for p in (diff.old, diff.new) if p}
                continue
            rungs = ladder.setdefault(diff.path, [Rung(0, diff.old_id)])
            last = rungs[-1].id
            if not (last.startswith(diff.old_id) or diff.old_id.startswith(last)):
                broken.add(diff.path)
            rungs.append(Rung(number, diff.new_id))
    return {p: r for p, r in ladder.items() if p not in broken}


class Located(NamedTuple):
    """All files that a series touches."""

    positions: tuple[Position, ...]
    not_vendored: int
    """Files of patches, each counted once per patch, that the tree does not carry."""
    total: int
    """Number of patches."""

    @property
    def prefix(self) -> int | None:
        """The number of patches whose files are all as they should be; None: no prefix explains them."""
        held = [p for p in self.positions if not p.missing]
        found = [n for n in range(self.total + 1) if all(p.suits(n) for p in held)]
        return found[-1] if found else None

    @property
    def nearest(self) -> int:
        """The prefix that explains most files."""
        counts = [sum(p.suits(n) for p in self.positions) for n in range(self.total + 1)]
        return max(range(self.total + 1), key=lambda n: (counts[n], n))


def locate(
    files: Files, steps: Sequence[Step], ladder: Ladder, layout: Layout, *, complete: bool
) -> Located:
    """Where each file stands that `steps` touch; nothing in `files` is changed.

    With a ladder that is `complete` no patch is parsed as long as the files are on rungs.
    """
    positions = []
    not_vendored = 0
    for path, numbers in _touched(steps, ladder, complete=complete).items():
        where = layout.locate(path)
        if where is None:
            not_vendored += len(numbers)
        else:
            positions.append(_position(files, steps, where, path, numbers, ladder.get(path, ())))
    return Located(tuple(positions), not_vendored, len(steps))


def _touched(
    steps: Sequence[Step], ladder: Ladder, *, complete: bool
) -> dict[str, tuple[int, ...]]:
    """Path -> numbers of its patches."""
    if complete:
        return {p: tuple(r.patches for r in rungs[1:]) for p, rungs in ladder.items()}
    found: dict[str, list[int]] = {}
    for number, step in enumerate(steps, start=1):
        for diff in diffs_of(step.alternatives[0]):
            found.setdefault(diff.path, []).append(number)
    return {p: tuple(numbers) for p, numbers in found.items()}


def _position(
    files: Files, steps: Sequence[Step], where: str, path: str, numbers: tuple[int, ...],
    rungs: Sequence[Rung],
) -> Position:  # fmt: skip
    oid = files.id(where)
    total = len(steps)
    fits = tuple(
        (rung.patches, rungs[k + 1].patches - 1 if k + 1 < len(rungs) else total)
        for k, rung in enumerate(rungs)
        if oid.startswith(rung.id)
    )
    if fits:
        return Position(where, numbers, fits, {}, edited=False)
    first = next(
        d for d in diffs_of(steps[numbers[0] - 1].alternatives[0]) if path in (d.path, d.old)
    )
    if oid == ABSENT and first.old is not None:
        return Position(where, numbers, (), {}, edited=False, missing=True)
    trial = files.copy()
    shares = {}
    for number in reversed(numbers):
        for diff in diffs_of(steps[number - 1].alternatives[0]):
            if diff.path == path:
                old, new = (where if p else None for p in (diff.old, diff.new))
                shares[number] = take_share(trial, diff.moved(old, new))
    edited = bool(rungs) and not trial.id(where).startswith(rungs[0].id)
    return Position(where, numbers, (), shares, edited, known=bool(rungs))
