"""What each patch makes of which file, taken from a tree that has the patches in: both sides of a merge.

A vendored tree holds the result of Ollama's patches. Taken off one after the other they give every
content before and after, so that three versions can be merged without llama.cpp's history.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqconvert.patches.diff import FileDiff
from tqconvert.patches.files import Files, Reader
from tqconvert.patches.layout import Layout, Plain
from tqconvert.patches.place import place
from tqconvert.patches.queue import Layer, Queue, Step
from tqconvert.patches.series import Patch


class Image(NamedTuple):
    """One file before and after one patch; None where there is no file."""

    before: bytes | None
    after: bytes | None


FindBlob = Callable[[str], bytes | None]
"""Content of a blob by its id or the beginning of it."""


class Images:
    """Contents by patch and path, as far as they could be had."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Image] = {}
        self._ids: set[str] = set()

    def add(self, patch: Patch, diff: FileDiff, image: Image) -> None:
        """Remember what `diff` of `patch` did; `diff` has llama.cpp's paths."""
        self._found[patch.name, diff.path] = image

    def of(self, patch: Patch, diff: FileDiff, find: FindBlob | None = None) -> Image | None:
        """Both contents; if the tree did not tell them, by the id in the diff's `index` line."""
        found = self._found.get((patch.name, diff.path))
        if found or diff.old is None:
            return found or Image(None, place(None, diff).data)
        data = find(diff.old_id) if find and diff.old_id else None
        placed = place(data, diff) if data is not None else None
        if placed is None or not placed.ok:
            return None
        return Image(data, placed.data)


def images_of(queue: Queue, read: Reader) -> Images:
    """The images of the queue's patches in its own tree, `read` by path.

    Steps that are in the tree are taken off, others put on; a file that an edit keeps from that has none.
    """
    found = Images()
    layout = queue.checkout.layout
    files = Files(read)
    inside = _take_off(found, files, queue.ours, layout)
    trial = files.copy()
    _put_on(found, trial, [s for s in queue.ours if s not in inside], layout)
    if not _take_off(found, files, queue.upstream, layout):
        _put_on(found, files, queue.upstream, layout)
    return found


def images_on(steps: Sequence[Step], read: Reader, layout: Layout) -> Images:
    """The images of steps that are put on a tree without them, as far as they go on."""
    found = Images()
    _put_on(found, Files(read), steps, layout)
    return found


def located_pairs(step: Step, patch: Patch, layout: Layout) -> list[tuple[FileDiff, FileDiff]]:
    """Each diff as it stands in the patch, and at its place; those without a place are left out."""
    if step.layer is not Layer.LLAMA_CPP:
        layout = Plain()
    found = []
    for diff in step.located(patch, Plain()).diffs:
        old = layout.locate(diff.old) if diff.old else None
        new = layout.locate(diff.new) if diff.new else None
        if bool(old) == bool(diff.old) and bool(new) == bool(diff.new):
            found.append((diff, diff.moved(old, new)))
    return found


def _take_off(found: Images, files: Files, steps: Sequence[Step], layout: Layout) -> list[Step]:
    """Take off what can be, file by file, the last step first; the steps of which something was in."""
    stuck: set[str] = set()
    taken = []
    for step in reversed(steps):
        for patch in step.alternatives:
            some = False
            for diff, here in reversed(located_pairs(step, patch, layout)):
                if here.path in stuck:
                    continue
                after = files.get(here.path)
                placed = place(after, here.reversed())
                if not placed.ok:
                    continue
                if here.new and here.new != here.old:
                    files.put(here.new, None)
                if here.old:
                    files.put(here.old, placed.data)
                found.add(patch, diff, Image(placed.data if here.old else None, after))
                some = True
            if some:
                taken.append(step)
                break
        else:
            continue
        stuck |= {
            here.path
            for diff, here in located_pairs(step, patch, layout)
            if (patch.name, diff.path) not in found._found  # noqa: SLF001 - of this module
        }
    return taken


def _put_on(found: Images, files: Files, steps: Sequence[Step], layout: Layout) -> None:
    for step in steps:
        for patch in step.alternatives:
            pairs = located_pairs(step, patch, layout)
            placed = [(d, h, place(files.get(h.old or h.path), h)) for d, h in pairs]
            if not any(p.ok for *_, p in placed):
                continue
            for diff, here, made in placed:
                if made.ok:
                    before = files.get(here.old) if here.old else None
                    if here.old and here.old != here.new:
                        files.put(here.old, None)
                    if here.new:
                        files.put(here.new, made.data)
                    found.add(patch, diff, Image(before, made.data))
            break
