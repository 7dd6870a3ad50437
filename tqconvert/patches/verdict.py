"""What is said of one patch, in one word, and with its evidence."""

from enum import StrEnum
from typing import NamedTuple

from tqconvert.patches.queue import Origin


class Verdict(StrEnum):
    """How a patch stands to a tree or to another base."""

    APPLIED = "applied"
    """In the tree, its bytes as they should be."""
    HALF = "half-applied"
    """Some of its hunks or files are in the tree, others are not."""
    CLEAN = "clean"
    """Not in the tree; goes on as it is."""
    OFFSET = "offset"
    """Not in the tree; goes on, hunks have moved."""
    MERGES = "merges-3way"
    """Does not go on, but git's merge of three versions has no conflict."""
    CONFLICT = "conflict"
    BLOCKED = "blocked-by"
    """Conflicts where an earlier patch that is not in the tree has changed the lines."""
    EXACT = "upstream-exact"
    """The base holds what it makes."""
    LIKELY = "upstream-likely"
    """The base holds much of what it makes; a person decides."""
    RE_EXPORTED = "re-exported"
    """In the tree; its file differs from the release's, its change does not."""
    STALE = "stale-index"
    """In the tree; its `index` lines state other ids than the files have, in the release too."""
    MODIFIED = "modified"
    """It changes something else than the release's patch of that name, or a file of ours is not ours."""
    ADDED = "added"
    """In the tree's folder of patches, not in the release's."""
    NOT_VENDORED = "not-vendored"
    """The tree carries none of its files."""


class PatchState(NamedTuple):
    """One patch of the queue."""

    name: str
    origin: Origin
    id: str | None
    """The TQ-Id of ours, the patch id of Ollama's."""
    applied: bool | None
    """None: half of it is in, or this kind of tree does not hold it."""
    verdict: Verdict
    evidence: str
    files: tuple[str, ...]
    """Those that the evidence speaks of."""
