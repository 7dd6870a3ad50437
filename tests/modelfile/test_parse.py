"""The parser agrees with Ollama's."""

import base64
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.parse import (
    Command,
    Modelfile,
    ModelfileError,
    Scanner,
    parse,
    read_modelfile,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "modelfile"
CASES = json.loads((GOLDEN / "parse.json").read_text())["cases"]
PIECES = [
    "FROM x\n", "SYSTEM ", 'LICENSE """', '"', '"""', "\n", "\r\n", " ", "\t", "# c\n", "PARAMETER stop ",
    "PARAMETER num_ctx 4\n", "MESSAGE user ", "TEMPLATE ", "{{ .Prompt }}", "{{ if ", "\u200b", "é", "\ufffd",
    "RENDERER qwen3.5\n", "PARSER x\n", "REQUIRES 0.1\n", "DRAFT ./d\n", "ADAPTER ./a\n", "x", "'", "#", "\x00",
]  # fmt: skip

LINES = [
    "# note\n", "\n", "SYSTEM be brief\n", 'SYSTEM """two\nlines"""\n', "PARAMETER num_ctx 4096\n",
    'PARAMETER stop "<end>"\n', "MESSAGE user hi\n", "MESSAGE assistant ho\n", "LICENSE MIT\r\n",
    "TEMPLATE {{ .Prompt }}\n", "RENDERER qwen3.5\n", "PARSER qwen3.5\n", "REQUIRES 0.14.0\n", "ADAPTER ./a\n",
]  # fmt: skip
GRAMMAR = {"MF001", "MF002", "MF003", "MF004", "MF005", "MF101"}
"""Codes of what the parser refuses."""


def as_ollama(modelfile: Modelfile) -> list[list[str]]:
    """Commands as Ollama names them: FROM is `model`, a PARAMETER has its own name."""
    rows = []
    for c in modelfile.commands:
        if c.kind == "message":
            rows.append(["message", f"{c.key}: {c.value}"])
        else:
            rows.append(["model" if c.kind == "from" else c.key or c.kind, c.value])
            if c.kind == "parameter":
                rows[-1][0] = c.key
    return rows


def test_golden_modelfiles_parse_as_in_ollama():
    """814 Modelfiles are taken with the same commands, or refused, as by Ollama v0.32.15."""
    assert len(CASES) > 800
    taken = 0
    for case in CASES:
        data = base64.b64decode(case["data"])
        try:
            got = as_ollama(parse(data))
        except ModelfileError:
            got = None
        assert got == case["v0.32.15"], data
        taken += got is not None
    assert taken > 200


def test_the_two_grammars_differ_in_draft_alone():
    """v0.19.0 says the same of every golden Modelfile without a DRAFT."""
    differ = [c for c in CASES if c["v0.19.0"] != c["v0.32.15"]]
    assert differ
    assert all(b"DRAFT" in base64.b64decode(c["data"]) for c in differ)


def test_commands_keep_their_lines_and_comments():
    """Line numbers count as editors do; comments belong to the command below them."""
    m = parse('# title\r\n\r\n# why\r\nFROM x\r\n\r\nSYSTEM """a\r\nb"""\r\n#\r\n# last\r\n')
    assert m.header == ("title",)
    assert m.commands == (
        Command("from", "x", comments=("why",)),
        Command("system", "a\r\nb"),
    )
    assert [c.line for c in m.commands] == [4, 6]
    assert m.trailing == ("", "last")


def test_of_and_parameter_answer_by_kind_and_name():
    """The last PARAMETER of a name counts, as in Ollama."""
    m = parse("FROM x\nPARAMETER num_ctx 1\nPARAMETER num_ctx 2\nMESSAGE user hi\n")
    assert m.parameter("num_ctx") == "2"
    assert m.parameter("seed") is None
    assert m.of("message") == (Command("message", "hi", "user"),)


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("SYSTEM x\n", "from", 0),
        ("FROM x\nFORM y\n", "command", 2),
        ("FROM x\n\nSYSTEM\n", "value", 3),
        ("FROM", "value", 1),
        ("FROM x\nPARAMETER num_ctx\n", "value", 2),
        ("FROM x\nPARAMETER num-ctx 4\n", "parameter", 2),
        ("FROM x\nMESSAGE robot hi\n", "role", 2),
        ('FROM x\nSYSTEM "a\nb\n', "quote", 2),
        ('FROM x\nSYSTEM """a""\n', "quote", 2),
        ("FROM x\n1\n", "command", 2),
    ],
)
def test_refusals_name_line_and_reason(text, reason, line):
    """An error says in which line it is and what kind it is."""
    with pytest.raises(ModelfileError) as e:
        parse(text)
    assert (e.value.reason, e.value.line) == (reason, line)
    assert e.value.exit_code == 4


def test_a_role_in_capitals_gets_a_suggestion():
    """Ollama's roles are lower case."""
    with pytest.raises(ModelfileError) as e:
        parse("FROM x\nMESSAGE User hi\n")
    assert e.value.hint == "did you mean user?"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_accepted(encoding):
    """Files of Windows editors parse."""
    assert parse("FROM é\n".encode(encoding)).commands == (Command("from", "é"),)


def test_a_gguf_is_no_modelfile(tmp_path):
    """A model's file given by mistake is named as such, not read whole."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelfileError, match="a GGUF, not a Modelfile"):
        read_modelfile(path)


def test_a_huge_file_is_refused(tmp_path):
    """The limit is 16 MiB."""
    path = tmp_path / "big"
    with path.open("wb") as f:
        f.truncate((16 << 20) + 1)
    with pytest.raises(ModelfileError, match="no Modelfile"):
        read_modelfile(path)


def test_long_quoted_text_takes_linear_time():
    """A license of 50,000 lines that end in quotes is scanned once."""
    text = 'FROM x\nLICENSE """\n' + 'a "quoted"\n' * 50_000 + '"""\n'
    assert len(parse(text).commands) == 2


def mutated(r: random.Random) -> bytes:
    """A Modelfile of whole lines, with pieces put in and bytes changed at random places."""
    text = "FROM x\n" + "".join(r.choice(LINES) for _ in range(r.randint(0, 6)))
    for _ in range(r.randint(0, 3)):
        at = r.randrange(len(text) + 1)
        text = text[:at] + r.choice(PIECES) + text[at:]
    data = bytearray(text.encode())
    for _ in range(r.choice((0, 0, 1, 2))):
        data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data)


def test_three_thousand_mutated_modelfiles_never_crash():
    """Parser and linter answer whatever the text, and agree on what is refused."""
    r = random.Random(5)
    refused = 0
    for _ in range(3000):
        data = mutated(r)
        codes = {f.code for f in lint(data)}
        try:
            parse(data)
        except ModelfileError:
            refused += 1
            assert codes & GRAMMAR, data
        else:
            assert not codes & GRAMMAR, data
    assert 600 < refused < 2400


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_any_bytes_or_text_end_in_a_value_or_an_error(data):
    """Nothing but ModelfileError leaves the parser; the linter always answers."""
    lint(data)
    try:
        parse(data)
    except ModelfileError as e:
        assert str(e)


def test_recover_goes_on_at_the_next_command():
    """One mistake does not hide those below it."""
    scanner = Scanner('SYSTEM """a\nFROM x\n')
    with pytest.raises(ModelfileError) as e:
        scanner.next()
    scanner.recover(e.value.line)
    found = scanner.next()
    assert found is not None
    assert found.command == Command("from", "x")
