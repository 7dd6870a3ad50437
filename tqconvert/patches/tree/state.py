"""What is in a tree: which patches of Ollama's and of ours, what else was changed. Nothing is written.

Ours are taken off in memory, the newest first; what is left is looked up on the ladders of Ollama's
patches. Truth is the tree itself: no stamp file, no git history is asked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.layout import Layout
from tqconvert.patches.locks.origin import Source, compare_patches, upstream_of
from tqconvert.patches.queue import Origin, Queue, Step
from tqconvert.patches.series import Patch
from tqconvert.patches.tree.ladder import (
    Ladder,
    Located,
    Position,
    ladder_of_index_lines,
    ladder_of_lock,
    locate,
)
from tqconvert.patches.tree.ours import our_state, take_off
from tqconvert.patches.verdict import PatchState, Verdict
from tqconvert.patches.verify.check import counted
from tqconvert.patches.walk import FileFit, Fit, StepFit, apply_step

if TYPE_CHECKING:
    from tqconvert.patches.tree.share import Share


class TreeState(NamedTuple):
    """What is in a tree."""

    queue: Queue
    source: Source | None
    """What is known of Ollama's patches; None without an Ollama tree."""
    patches: tuple[PatchState, ...]
    located: Located
    """Files of Ollama's patches, ours taken off."""
    without_ours: Files
    converted: tuple[str, ...]
    """Files with CRLF line ends instead of the repository's."""
    known_base: bool
    """Whether any file that patches touch is one of the base that the lock names."""

    @property
    def upstream(self) -> tuple[PatchState, ...]:
        """Ollama's."""
        return tuple(p for p in self.patches if p.origin is Origin.OLLAMA)

    @property
    def ours(self) -> tuple[PatchState, ...]:
        """What tqconvert adds."""
        return tuple(p for p in self.patches if p.origin is Origin.OURS)

    @property
    def edited(self) -> tuple[Position, ...]:
        """Files with changes that no patch makes, as far as patches touch them."""
        if not self.known_base:
            return ()
        return tuple(p for p in self.located.positions if p.edited or p.missing)

    @property
    def half(self) -> tuple[PatchState, ...]:
        """Patches that are in the tree in part."""
        return tuple(p for p in self.patches if p.verdict is Verdict.HALF)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Patches that are not in the tree though later ones are."""
        found = []
        for group in (self.upstream, self.ours):
            last = max((k for k, p in enumerate(group) if p.applied), default=0)
            found += [p.name for p in group[:last] if p.applied is False]
        return tuple(found)


class TextReader:
    """Reads files of a folder with the line ends of the repository, and remembers which were converted."""

    def __init__(self, root: Path) -> None:
        self._read = folder_reader(root)
        self.converted: set[str] = set()

    def __call__(self, path: str) -> bytes | None:
        """The file, LF for CRLF if all its lines end in that."""
        data = self._read(path)
        if data is None or (plain := with_lf(data)) is data:
            return data
        self.converted.add(path)
        return plain


def with_lf(data: bytes) -> bytes:
    """The same object, unless all lines end in CRLF."""
    if b"\r" not in data or data.count(b"\n") != data.count(b"\r\n"):
        return data
    return data.replace(b"\r\n", b"\n")


def read_state(queue: Queue, folder: Path) -> TreeState:
    """What is in the queue's tree, compared with the locks in `ollama_patches` in `folder`.

    Raises BadLockError, BadPatchError, StorageError.
    """
    checkout, layout = queue.checkout, queue.checkout.layout
    reader = TextReader(checkout.root)
    patches, crlf = lf_patches(queue)
    source = compare_patches(folder, queue.source, patches) if queue.source else None
    start = Files(reader)
    files = start.copy()
    ours = take_off(files, queue.ours, layout)
    steps = tuple(
        Step((p,), s.origin, s.layer) for s, p in zip(queue.upstream, patches, strict=False)
    )
    ladder, complete = _ladder(source, steps)
    located = locate(files, steps, ladder, layout, complete=complete)
    known_base = _known_base(located, ladder, files)
    likely = (located.nearest if located.prefix is None else located.prefix) if known_base else 0
    states = [
        *_upstream_states(source, patches, located if steps else None, likely),
        *(our_state(s, t) for s, t in zip(queue.ours, ours, strict=True)),
    ]
    found = _with_forward(states, (*steps, *queue.ours), start, layout)
    converted = tuple(sorted({*reader.converted, *crlf}))
    queue = queue._replace(steps=(*steps, *queue.ours))
    return TreeState(queue, source, tuple(found), located, files, converted, known_base)


def lf_patches(queue: Queue) -> tuple[tuple[Patch, ...], list[str]]:
    """Ollama's patches with LF line ends, and the paths of those that had others."""
    if queue.source is None:
        return (), []
    found, crlf = [], []
    top = queue.source.root
    for patch, path in zip(upstream_of(queue.source), queue.source.upstream_patches(), strict=True):
        plain = with_lf(patch.data)
        if plain is not patch.data:
            crlf.append(path.relative_to(top).as_posix())
        found.append(Patch(patch.name, plain))
    return tuple(found), crlf


def _ladder(source: Source | None, steps: Sequence[Step]) -> tuple[Ladder, bool]:
    """The ladder, and whether it holds every file of every patch."""
    if source is None or not steps:
        return {}, True
    if source.lock:
        return ladder_of_lock(source.lock), not source.lock.unresolved
    return ladder_of_index_lines(steps), False


def _known_base(located: Located, ladder: Ladder, files: Files) -> bool:
    if not ladder:
        return True
    held = [p for p in located.positions if p.known and files.get(p.path) is not None]
    return not held or any(p.fits for p in held)


def _upstream_states(
    source: Source | None, patches: Sequence[Patch], located: Located | None, likely: int
) -> list[PatchState]:
    """Ollama's patches; `located` is None for a tree that does not hold llama.cpp."""
    if source is None:
        return []
    states = []
    for number, (patch, known) in enumerate(zip(patches, source.patches, strict=True), start=1):
        found = _held(located, number, likely) if located else _Held(None)
        verdict, evidence = known.verdict, known.evidence
        if found.half:
            verdict, evidence = Verdict.HALF, found.half
        elif (located is None and verdict is Verdict.APPLIED) or not found.carried:
            verdict = Verdict.NOT_VENDORED
        elif found.applied is False and verdict not in (Verdict.MODIFIED, Verdict.ADDED):
            verdict, evidence = Verdict.CLEAN, ""
        name = patch.name.removesuffix(".patch")
        states.append(
            PatchState(name, Origin.OLLAMA, known.id, found.applied, verdict, evidence, found.files)
        )
    return states


class _Held(NamedTuple):
    applied: bool | None
    half: str = ""
    """For people, if only a part of it is in."""
    files: tuple[str, ...] = ()
    carried: bool = True


def _held(located: Located, number: int, likely: int) -> _Held:
    """How much of patch `number` is in; `likely` decides where no file tells."""
    inside: list[str] = []
    outside: list[str] = []
    parts: list[tuple[str, Share]] = []
    touched = [p for p in located.positions if number in p.touched]
    for position in touched:
        share = position.shares.get(number)
        has = position.has(number)
        if share and share.half:
            parts.append((position.path, share))
        elif has is not None:
            (inside if has else outside).append(position.path)
    if parts or (inside and outside):
        text = f"in {counted(len(inside), 'file')}, not in {len(outside)}"
        text += "".join(f", {share.text} in {path}" for path, share in parts)
        fewer = inside if len(inside) < len(outside) else outside
        return _Held(None, text, tuple([path for path, _ in parts] + fewer))
    applied = bool(inside) if inside or outside else number <= likely
    return _Held(applied, carried=bool(touched))


def _with_forward(
    states: list[PatchState], steps: Sequence[Step], files: Files, layout: Layout
) -> list[PatchState]:
    """The states, those that are not in the tree with how they would go on, one onto the other."""
    if all(s.applied is not False for s in states):
        return states
    trial = files.copy()
    ahead = len(states) - len(steps)
    found = states[:ahead]
    open_files: dict[str, str] = {}
    for state, step in zip(states[ahead:], steps, strict=True):
        if state.applied is False and state.verdict is Verdict.CLEAN:
            fit = apply_step(trial, step, layout)
            state = _forward(state, fit, open_files)  # noqa: PLW2901 - the same, completed
            if not fit.ok:
                open_files.update({f.path: state.name for f in fit.files})
        elif state.applied is None:
            open_files.update(dict.fromkeys(state.files, state.name))
        found.append(state)
    return found


def _forward(state: PatchState, fit: StepFit, open_files: Mapping[str, str]) -> PatchState:
    match fit.fit:
        case Fit.CLEAN:
            return state
        case Fit.NOTHING:
            return state._replace(verdict=Verdict.NOT_VENDORED)
        case Fit.OFFSET:
            moved = [n for f in fit.files for n in f.placement.offsets if n]
            text = (
                f"{counted(len(moved), 'hunk')}, by up to {counted(max(map(abs, moved)), 'line')}"
            )
            return state._replace(verdict=Verdict.OFFSET, evidence=text)
        case Fit.CONFLICT:
            paths = tuple(f.path for f in fit.conflicts)
            blocker = next((open_files[p] for p in paths if p in open_files), None)
            if blocker:
                return state._replace(verdict=Verdict.BLOCKED, evidence=blocker, files=paths)
            text = "; ".join(_conflict_text(f) for f in fit.conflicts)
            return state._replace(verdict=Verdict.CONFLICT, evidence=text, files=paths)


def _conflict_text(fit: FileFit) -> str:
    numbers = ", ".join(str(n + 1) for n in fit.placement.failed)
    return f"{fit.path}: {fit.placement.reason or f'hunk {numbers} has no place'}"
