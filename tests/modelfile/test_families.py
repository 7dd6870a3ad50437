"""Templates are the ones that were proven, and families are found by what the header says."""

import hashlib
import json
from pathlib import Path

import pytest

from tqconvert.modelfile import names
from tqconvert.modelfile.families import (
    CANDIDATES,
    CHAT_FORMATS,
    FAMILIES,
    chat_digest,
    chat_format_of,
    family_of,
)
from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.render import quote

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "modelfile" / "render.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("chat", CHAT_FORMATS, ids=lambda f: f.name)
def test_template_is_the_one_that_go_rendered(chat):
    """A changed template must be rendered and compared anew (tests/golden/modelfile/make.py)."""
    golden = GOLDEN["formats"][chat.name]
    assert hashlib.sha256(chat.template.encode()).hexdigest() == golden["template"]
    assert len(golden["rendered"]) >= len(GOLDEN["chats"])


@pytest.mark.parametrize("chat", CHAT_FORMATS, ids=lambda f: f.name)
def test_template_equals_each_chat_template_it_stands_for(chat):
    """Every digest was compared, and equal wherever the chat template does not refuse the chat."""
    for digest in chat.digests:
        row = GOLDEN["compared"][digest]
        assert row["format"] == chat.name
        assert row["equal"] + row["refused"] == row["of"]
        assert row["equal"] >= 5


@pytest.mark.parametrize("chat", CHAT_FORMATS, ids=lambda f: f.name)
def test_template_has_no_findings_and_can_be_written(chat):
    """The linter is silent, and the syntax carries it."""
    assert lint(f"FROM x\nTEMPLATE {quote(chat.template)}\n") == ()


def test_families_name_renderers_and_parsers_of_ollama():
    """No row names what Ollama does not know."""
    for f in FAMILIES:
        assert f.renderer in names.RENDERERS
        assert f.parser in names.PARSERS
        assert all(family_of(a) is f for a in f.architectures)
        assert not set(f.architectures) & set(CANDIDATES)


def test_a_chat_template_is_known_by_its_digest_without_outer_space():
    """One other character, and it is another template."""
    assert chat_digest(" a\n") == chat_digest("a") == hashlib.sha256(b"a").hexdigest()
    assert chat_format_of("{{ messages }}") is None
