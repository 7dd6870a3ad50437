"""The Modelfiles of the repository: sound, and made by the command in their header."""

import re
import shlex

import pytest
from modelshapes import GEMMA, MODELFILES, SHAPES, path_of, put, reviewed

from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.parse import parse
from tqconvert.modelfile.render import render

ALL = sorted(MODELFILES.glob("*.Modelfile"))


def made_by(text: str) -> list[str]:
    """The command in the header."""
    found = re.search(r"^# made by: (.*)$", text, re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


def test_every_modelfile_is_listed():
    """The list in the README of that folder is complete."""
    names = {p.name.removesuffix(".Modelfile") for p in ALL}
    assert names == {*SHAPES, "gemma3-270m"}
    listed = (MODELFILES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{p.name}`" in listed for p in ALL)


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_modelfile_has_no_findings_and_round_trips(path):
    """It parses, renders to the same text, and the linter is silent."""
    text = path.read_text(encoding="utf-8")
    assert lint(text) == ()
    assert render(parse(text)) == text


@pytest.mark.parametrize("name", SHAPES)
def test_modelfile_of_a_shape_is_made_by_its_command(name, run_cli, tmp_path, monkeypatch):
    """The command in the header gives the same bytes, but for the lines of the review."""
    monkeypatch.chdir(tmp_path)
    arguments = put(name, tmp_path)
    kept = path_of(name).read_text(encoding="utf-8")
    assert ["tqconvert", *arguments] == made_by(kept)
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert reviewed(name, out) == kept


def test_modelfile_of_the_real_gemma_is_made_by_its_command(run_cli, tmp_path, monkeypatch, gemma):
    """The same, from the real file."""
    monkeypatch.chdir(tmp_path)
    arguments = put("gemma3-270m", tmp_path, gemma)
    kept = path_of("gemma3-270m").read_text(encoding="utf-8")
    assert ["tqconvert", *arguments] == made_by(kept)
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert reviewed("gemma3-270m", out) == kept
    path = tmp_path / "Modelfile"
    path.write_text(kept, encoding="utf-8")
    assert run_cli("modelfile", "--lint", path)[0] == 0
    assert (tmp_path / GEMMA).exists()


def test_qwen35_has_renderer_parser_and_marked_parameters():
    """What is reported and not checked stands in comments."""
    m = parse(path_of("qwen3.5-27b").read_bytes())
    assert [(c.kind, c.value) for c in m.commands[1:3]] == [
        ("renderer", "qwen3.5"), ("parser", "qwen3.5"),
    ]  # fmt: skip
    assert "PARAMETER temperature 1" in m.trailing
    assert [c.key for c in m.of("parameter")] == ["num_ctx"]
