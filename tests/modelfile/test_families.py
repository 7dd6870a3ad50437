"""Families are found by what the header says."""

from tqconvert.modelfile import names
from tqconvert.modelfile.families import CANDIDATES, FAMILIES, family_of


def test_families_name_renderers_and_parsers_of_ollama():
    """No row names what Ollama does not know."""
    for f in FAMILIES:
        assert f.renderer in names.RENDERERS
        assert f.parser in names.PARSERS
        assert all(family_of(a) is f for a in f.architectures)
        assert not set(f.architectures) & set(CANDIDATES)
