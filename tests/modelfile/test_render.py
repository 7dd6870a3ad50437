"""What is rendered parses back to the same value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.modelfile.parse import COMMANDS, ROLES, Command, Modelfile, ModelfileError, parse
from tqconvert.modelfile.render import quote, render

TEXT = st.text(
    st.one_of(st.sampled_from("ab \"\n\r\t'#é{}漢"), st.characters(codec="utf-8")), max_size=30
)
COMMENT = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), max_size=3
).map(tuple)
KEY = st.text("abcXYZ019_", min_size=1, max_size=8)


@st.composite
def commands(draw):
    """A command of any kind with any value."""
    kind = draw(st.sampled_from(COMMANDS))
    key = (
        draw(KEY)
        if kind == "parameter"
        else draw(st.sampled_from(ROLES))
        if kind == "message"
        else ""
    )
    return Command(kind, draw(TEXT), key, draw(COMMENT))


@settings(max_examples=400, deadline=None)
@given(st.lists(commands(), max_size=5), COMMENT, COMMENT)
def test_parse_of_render_is_the_same_value_or_render_refuses(found, header, trailing):
    """A value never changes when rendered: it comes back equal, comments included, or an error is raised."""
    m = Modelfile((Command("from", "x"), *found), header, trailing)
    try:
        text = render(m)
    except ModelfileError as e:
        assert e.reason == "render"
        return
    assert parse(text) == m
    assert parse(text.encode()) == m


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("x y", "x y"),
        ("", '""'),
        (" x", '" x"'),
        ("a\nb", '"""a\nb"""'),
        ('say "a"', 'say "a"'),
        ('"a', '""a"'),
        ('""a', '"""""a"""'),
        ('a\n"b"\nc', '"""a\n"b"\nc"""'),
        ('a """ b', 'a """ b'),
        ('a """ b\nc', '"""a """ b\nc"""'),
        ("a\n", '"""a\n"""'),
        ("# no comment", "# no comment"),
        ("\ta", '"\ta"'),
    ],
)
def test_values_are_quoted_only_where_they_must_be(value, written):
    """Each value has one form."""
    assert quote(value) == written


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('a"""\n"b"\n""" c', 'holds """ at the end of a line'),
        ("zero\u200bwidth", r"U\+200B"),
        ("a\x00b", r"U\+0000"),
        ("no\u00a0break", r"U\+00A0"),
        ("\ud800", r"U\+D800"),
    ],
)
def test_values_that_the_syntax_cannot_carry_are_refused(value, why):
    """Ollama would change them silently; render says why not."""
    with pytest.raises(ModelfileError, match=why):
        quote(value)


@pytest.mark.parametrize(
    "command",
    [
        Command("parameter", "1"),
        Command("parameter", "1", "num-ctx"),
        Command("message", "x", "robot"),
        Command("system", "x", "key"),
        Command("system", "x", comments=("a\nFROM evil",)),
    ],
)
def test_commands_that_have_no_form_are_refused(command):
    """Names, roles and comments cannot smuggle lines in."""
    with pytest.raises(ModelfileError):
        render(Modelfile((Command("from", "x"), command)))


def test_a_modelfile_without_from_is_not_rendered():
    """It could not be parsed back."""
    with pytest.raises(ModelfileError, match="no FROM"):
        render(Modelfile((Command("system", "x"),)))


def test_groups_are_parted_by_empty_lines():
    """Comments stand above their command, the header above all."""
    m = Modelfile(
        (Command("from", "x"), Command("system", "s", comments=("why",)), Command("parser", "p")),
        ("title",), ("end",),
    )  # fmt: skip
    assert render(m) == "# title\n\nFROM x\n\n# why\nSYSTEM s\nPARSER p\n\n# end\n"
