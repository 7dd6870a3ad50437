"""The check itself: a mistake in a kernel is found, whichever it is."""

from pathlib import Path

import pytest

from tqconvert.metal.build import Workshop
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.mutants import Mutant, barriers, judge, planted

METAL = Path(__file__).parents[3] / "metal"
BARRIERS, PLANTED = barriers(METAL), planted(METAL)


def verdict(workshop: Workshop, upstream: Path, mutant: Mutant, work: Path) -> str:
    """What found the mutant; a process of its own, for mutants may never end."""
    with Simulator(workshop, timeout_s=30) as simulator:
        return judge(simulator, METAL, upstream, mutant, work).by


@pytest.mark.slow
def test_every_barrier_is_needed(workshop: Workshop, upstream: Path, tmp_path: Path) -> None:
    """Each barrier taken out in turn: a race or stale memory is reported, not only wrong numbers."""
    found_by = {}
    for i, mutant in enumerate(BARRIERS):
        (work := tmp_path / str(i)).mkdir()
        found_by[mutant.name] = verdict(workshop, upstream, mutant, work)
    assert len(found_by) == 10
    assert {n: by for n, by in found_by.items() if by in ("", "numbers")} == {}


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
