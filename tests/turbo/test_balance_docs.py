"""docs/balance.md names what the code knows."""

import re
from pathlib import Path

from tqconvert.turbo.rope import PAIRINGS


def test_the_page_lists_the_known_architectures() -> None:
    """All of them, by their pairs."""
    text = (Path(__file__).parents[2] / "docs" / "balance.md").read_text("utf-8")
    listing = text.partition("Known are:\n\n")[2].partition(".\n\n")[0]
    found = {}
    for part in listing.split(";"):
        pairing, _, names = part.partition(":")
        names = re.sub(r"\(.*?\)", "", names)
        found |= {name.strip(): pairing.strip() for name in names.split(",")}
    assert found == {name: p.replace("none", "no RoPE") for name, p in PAIRINGS.items()}
