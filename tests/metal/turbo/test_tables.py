"""Tables of the Metal kernels: each is what the NumPy reference renders."""

import re
from pathlib import Path

import pytest

from tqconvert.metal.turbo.tables import render
from tqconvert.turbo.codebook import CODEBOOKS, verify_codebook

METAL = Path(__file__).parents[3] / "metal"
TABLES = METAL / "ggml-metal-turbo-tables.h"


def test_header_is_what_the_reference_renders() -> None:
    """No table in the tree differs from the reference by a digit."""
    assert TABLES.read_text("utf-8") == render()


@pytest.mark.parametrize("name", CODEBOOKS)
def test_codebook_in_the_header_is_sound(name: str) -> None:
    """The levels that a kernel reads, judged by their error on normal data and not by their name."""
    row = re.search(
        rf"turbo_levels\[3\]\[16\] = {{(?:.*\n){{{CODEBOOKS[name].bits}}}",
        TABLES.read_text("utf-8"),
    )
    assert row
    levels = [float(x) for x in re.findall(r"(-?\d+)\.0f", row[0].splitlines()[-1])]
    book = CODEBOOKS[name]
    verify_codebook(levels[: 1 << book.bits], book.unit, name=name)


def test_no_other_file_holds_a_table() -> None:
    """Codebooks, signs and thresholds stand in the rendered header only."""
    for path in METAL.glob("*.metal"):
        assert not re.search(r"\bconstant\s+\w+\s+\w+\s*(\[\w+\]\s*)+=", path.read_text("utf-8"))
