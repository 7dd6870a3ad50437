"""The check itself: a mistake in a kernel is found, whichever it is."""

from pathlib import Path

import pytest

from tqconvert.metal.build import Workshop
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.mutants import Mutant, barriers, judge, planted

METAL = Path(__file__).parents[3] / "metal"
BARRIERS, PLANTED = barriers(METAL), planted(METAL)
NOT_SEEN = 1
"""Barriers that no run can miss: the one before the next block of keys, behind a collective multiplication."""


def verdict(workshop: Workshop, upstream: Path, mutant: Mutant, work: Path) -> str:
    """What found the mutant; a process of its own, for mutants may never end."""
    with Simulator(workshop, timeout_s=30) as simulator:
        return judge(simulator, METAL, upstream, mutant, work).by


@pytest.mark.slow
def test_every_barrier_is_needed(workshop: Workshop, upstream: Path, tmp_path: Path) -> None:
    """Each barrier taken out in turn: a race or stale memory is reported, not only wrong numbers."""
    missed = []
    for i, mutant in enumerate(BARRIERS):
        (work := tmp_path / str(i)).mkdir()
        by = verdict(workshop, upstream, mutant, work)
        if not by or by == "numbers":
            missed.append(mutant.name)
    assert len(BARRIERS) == 10
    assert len(missed) <= NOT_SEEN, missed


@pytest.mark.slow
@pytest.mark.parametrize("mutant", PLANTED, ids=[m.name for m in PLANTED])
def test_planted_mistake_is_found(
    workshop: Workshop, upstream: Path, tmp_path: Path, mutant: Mutant
) -> None:
    """Limits off by one, swapped or narrow codebooks, a flipped sign, lost weights."""
    assert verdict(workshop, upstream, mutant, tmp_path)


def test_a_mutant_changes_one_place() -> None:
    """The text before and behind is as it was."""
    for mutant in (*BARRIERS, *PLANTED):
        text = (METAL / mutant.file).read_text("utf-8")
        changed = mutant.apply(text)
        assert changed != text
        assert changed[: mutant.start] == text[: mutant.start]
        assert changed.endswith(text[mutant.start + len(mutant.old) :])
