"""How much of a patch is in a file: hunk by hunk, where the whole is neither in nor out."""

from typing import NamedTuple

from tqconvert.patches.diff import FileDiff
from tqconvert.patches.files import Files
from tqconvert.patches.place import place


class Share(NamedTuple):
    """The hunks of one file's diff, counted from 1."""

    path: str
    inside: tuple[int, ...]
    """In the file."""
    outside: tuple[int, ...]
    """Not in the file, and would go on."""
    foreign: tuple[int, ...]
    """Neither: the file has other lines there."""
    differs: bool = False
    """The file is one that the diff makes, and holds something else."""

    @property
    def half(self) -> bool:
        """Whether some hunks are in and others would still go on."""
        return bool(self.inside and self.outside)

    @property
    def whole(self) -> bool | None:
        """Whether the diff is in the file, as far as its lines tell; None: half, or they do not tell."""
        return None if bool(self.inside) is bool(self.outside) else bool(self.inside)

    @property
    def text(self) -> str:
        """For people: `hunks 1, 3 of 4`."""
        count = len(self.inside) + len(self.outside) + len(self.foreign)
        return f"hunk{'s' * (len(self.inside) != 1)} {', '.join(map(str, self.inside))} of {count}"


def take_share(files: Files, diff: FileDiff) -> Share:
    """Take off `files` what of the diff is in its file; returns what that was."""
    source = diff.path
    count = max(len(diff.hunks), 1)
    every = tuple(range(1, count + 1))
    back = place(files.get(source), diff.reversed())
    if diff.old is None and files.get(source) is not None and not back.ok:
        return Share(source, every, (), (), differs=True)
    if back.reason:
        fits = place(files.get(diff.old or source), diff).ok
        return Share(source, (), every if fits else (), () if fits else every)
    inside = tuple(n for n in every if n - 1 not in back.failed)
    if inside:
        if diff.old != diff.new:
            files.put(source, None)
        if diff.old:
            files.put(diff.old, back.data)
    outside: list[int] = []
    foreign: list[int] = []
    for index in back.failed:
        one = diff._replace(hunks=(diff.hunks[index],))
        fits = place(files.get(diff.old or source), one).ok
        (outside if fits else foreign).append(index + 1)
    return Share(source, inside, tuple(outside), tuple(foreign))
