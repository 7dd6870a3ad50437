"""Every code of the linter is found where it is planted, and nowhere else."""

import json
from pathlib import Path

import pytest
from builders import LLAMA, tiny_gguf

from tqconvert.modelfile import names
from tqconvert.modelfile.lint import CODES, lint
from tqconvert.modelfile.rules import _SEMVER
from tqconvert.modelfile.template import block_problem, fields, is_jinja

VALUES = json.loads(
    (Path(__file__).parents[1] / "golden" / "modelfile" / "values.json").read_text(encoding="utf-8")
)
SOUND = """\
# a sound Modelfile
FROM llama3.2:3b
TEMPLATE \"\"\"{{ range .Messages }}{{ .Role }}: {{ .Content }}
{{ end }}\"\"\"
SYSTEM be brief
PARAMETER num_ctx 4096
PARAMETER temperature 0.5
PARAMETER stop "<end>"
PARAMETER stop "</s>"
PARAMETER use_mmap true
MESSAGE user hi
LICENSE MIT
REQUIRES 0.14.0
"""
BLOB = "/models/blobs/sha256-" + "0" * 64

# (code, line, Modelfile): the only fault of each.
PLANTED = [
    ("MF001", 2, "FROM x\nSYTSEM y\n"),
    ("MF001", 1, "FORM x\n"),
    ("MF001", 2, "FROM x\nnum_ctx 4096\n"),
    ("MF002", 2, "FROM x\nSYSTEM\n"),
    ("MF002", 1, "FROM"),
    ("MF003", 2, 'FROM x\nSYSTEM """a\nb\n'),
    ("MF004", 2, "FROM x\nMESSAGE robot hi\n"),
    ("MF005", 2, "FROM x\nPARAMETER num-ctx 4\n"),
    ("MF006", 2, 'FROM x\nSYSTEM ""\n'),
    ("MF006", 2, "FROM x\nPARAMETER stop \n"),
    ("MF007", 2, "FROM x\nSYSTEM a\u200bb\n"),
    ("MF007", 2, b"FROM x\nSYSTEM a\xff\n"),
    ("MF008", 2, 'FROM x\nSYSTEM "a\nPARAMETER num_ctx 4\nb"\n'),
    ("MF009", 2, "FROM x\nPARAMETER stop '<end>'\n"),
    ("MF101", 0, "SYSTEM x\n"),
    ("MF102", 2, "FROM x\nFROM y\n"),
    ("MF102", 2, "FROM ./m.gguf\nFROM ./m.gguf\n"),
    ("MF102", 2, "FROM ./m.gguf\nFROM y\n"),
    ("MF102", 2, "FROM y\nFROM ./m.gguf\n"),
    ("MF103", 1, "FROM ./nowhere.gguf\n"),
    ("MF104", 1, "FROM ./broken.gguf\n"),
    ("MF106", 1, "FROM a/b/c/d/e\n"),
    ("MF107", 2, "FROM x\nADAPTER ./nowhere\n"),
    ("MF108", 3, "REQUIRES 0.30.0\nFROM ./m.gguf\nDRAFT ./m.gguf\n"),
    ("MF201", 2, "FROM x\nPARAMETER num_ctxx 4\n"),
    ("MF201", 2, "FROM x\nPARAMETER  num_ctx 4\n"),
    ("MF201", 2, "FROM x\nPARAMETER num_gqa 8\n"),
    ("MF202", 2, "FROM x\nPARAMETER num_ctx 4k\n"),
    ("MF202", 2, "FROM x\nPARAMETER temperature hot\n"),
    ("MF202", 2, "FROM x\nPARAMETER use_mmap yes\n"),
    ("MF203", 2, "FROM x\nPARAMETER mirostat 1\n"),
    ("MF204", 3, "FROM x\nPARAMETER seed 1\nPARAMETER seed 2\n"),
    ("MF205", 3, "FROM x\nPARAMETER stop a\nPARAMETER stop a\n"),
    ("MF206", 2, "FROM ./m.gguf\nPARAMETER num_ctx 4097\n"),
    ("MF207", 2, "FROM x\nPARAMETER top_p 1.5\n"),
    ("MF207", 2, "FROM x\nPARAMETER num_ctx 0\n"),
    ("MF208", 2, "FROM x\nPARAMETER kv_cache_type q8_0\n"),
    ("MF209", 2, "FROM x\nPARAMETER system y\n"),
    ("MF301", 2, "FROM x\nTEMPLATE a {{ .Prompt }}\nRENDERER qwen3.5\nPARSER qwen3.5\n"),
    ("MF302", 2, "FROM x\nRENDERER qwen35\n"),
    ("MF303", 2, "FROM x\nPARSER qwen35\n"),
    ("MF304", 2, "FROM x\nRENDERER qwen3.5\n"),
    ("MF305", 2, "FROM x\nSYSTEM a\nSYSTEM b\n"),
    ("MF306", 2, "FROM x\nTEMPLATE {% for m in messages %}{{ m }}{% endfor %}\n"),
    ("MF307", 2, "FROM x\nTEMPLATE {{ if .System }}{{ .Prompt }}\n"),
    ("MF308", 2, "FROM x\nTEMPLATE {{ .System }}\n"),
    ("MF401", 2, "FROM x\nREQUIRES latest\n"),
    ("MF402", 2, "FROM x\nPARAMETER draft_num_predict 0\n"),
    ("MF402", 2, "FROM x\nDRAFT ./m.gguf\n"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small GGUF of context 4096, and a broken one."""
    tiny_gguf(tmp_path / "m.gguf", LLAMA)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF broken")
    return tmp_path


def test_a_sound_modelfile_has_no_findings(folder):
    """The linter is silent on what is right."""
    assert lint(SOUND, folder=folder) == ()


@pytest.mark.parametrize(("code", "line", "text"), PLANTED)
def test_planted_fault_is_the_only_finding(folder, code, line, text):
    """The fault is found, in its line, and nothing else."""
    assert [(f.code, f.line) for f in lint(text, folder=folder)] == [(code, line)]


def test_a_blob_path_is_found(tmp_path):
    """`ollama show --modelfile` writes paths that exist on one machine only."""
    assert [f.code for f in lint(f"FROM {BLOB}\n")] == ["MF105"]


def test_a_comment_behind_a_value_is_found():
    """It is part of the value, which is then wrong besides."""
    assert [f.code for f in lint("FROM x\nREQUIRES 0.1 # newer\n")] == ["MF010", "MF401"]
    assert lint("FROM x\nPARAMETER stop a #\nSYSTEM a # b\n") == ()


def test_every_code_is_planted():
    """No code without a test."""
    assert {code for code, _, _ in PLANTED} | {"MF010", "MF105"} == set(CODES)


def test_all_faults_come_in_one_go():
    """Grammar mistakes do not hide the ones below."""
    text = 'FROM x\nPARAMTER a 1\nMESSAGE bot x\nPARAMETER num_ctxx 4\nSYSTEM """open\nRENDERER q\n'
    assert [(f.line, f.code) for f in lint(text)] == [
        (2, "MF001"), (3, "MF004"), (4, "MF201"), (5, "MF003"), (6, "MF302"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("FROM x\nPARAMTER num_ctx 4\n", "did you mean PARAMETER?"),
        ("FORM x\n", "did you mean FROM?"),
        ("FROM x\ntemperature 1\n", "write PARAMETER temperature"),
        ("FROM x\nPARAMETER num_ctxx 4\n", "did you mean num_ctx?"),
        ("FROM x\nPARAMETER Temperature 1\n", "did you mean temperature?"),
        ("FROM x\nRENDERER qwen35\n", "did you mean qwen3.5?"),
        ("FROM x\nPARAMETER zzz 1\n", None),
    ],
)
def test_misspelt_names_get_a_suggestion(text, hint):
    """The nearest known word is named, none if none is near."""
    assert [f.hint for f in lint(text)] == [hint]


def test_projectors_and_shards_may_repeat_from(folder):
    """Several files after FROM are one model to Ollama."""
    tiny_gguf(folder / "mmproj.gguf")
    assert lint("FROM ./m.gguf\nFROM ./mmproj.gguf\n", folder=folder) == ()


def test_the_template_that_ollama_shows_beside_a_renderer_is_no_fault():
    """`ollama show --modelfile` always writes a TEMPLATE."""
    assert lint("FROM x\nTEMPLATE {{ .Prompt }}\nRENDERER qwen3.5\nPARSER qwen3.5\n") == ()


def test_requires_silences_the_warning_about_versions():
    """A Modelfile that says which Ollama it needs has said enough."""
    assert lint("FROM x\nPARAMETER draft_num_predict 0\nREQUIRES 0.30.0\n") == ()
    assert lint("FROM x\nPARAMETER draft_num_predict 0\nREQUIRES 0.29.9\n")


def test_without_a_folder_no_file_is_looked_at():
    """Text from elsewhere cannot make the linter read files."""
    assert lint("FROM /etc/passwd\n") == ()


def test_parameter_values_are_judged_as_by_go():
    """Verdicts of api.FormatParams (Ollama v0.19.0) on names and on values at the edges of the types."""
    assert len(VALUES["parameters"]) > 110
    for name, value, taken in VALUES["parameters"]:
        if name in names.SINCE:
            continue  # of a newer release
        kind = names.PARAMETERS.get(name)
        assert (kind is not None and names.accepts(kind, value)) == taken, (name, value)


def test_versions_are_judged_as_by_go():
    """Verdicts of semver.IsValid."""
    for value, taken in VALUES["versions"]:
        assert bool(_SEMVER.fullmatch(value)) == taken, value


def test_no_template_that_go_takes_is_called_unbalanced():
    """Verdicts of template.Parse: blocks are judged alike, unknown functions are not looked at."""
    missed = []
    for text, taken in VALUES["templates"]:
        problem = block_problem(text)
        assert not (taken and problem), (text, problem)
        if not taken and not problem and not is_jinja(text):
            missed.append(text)
    assert len(missed) == 3
    assert all("nosuch" in t or "$y" in t or "define" in t for t in missed)


def test_fields_are_found_where_the_template_uses_them():
    """Names in strings and fields of other values do not count."""
    assert fields('{{ if .System }}{{ "x .Prompt" }}{{ $.Messages }}{{ .Tools.Suffix }}{{ end }}') == {
        "System", "Messages", "Tools",
    }  # fmt: skip


def test_code_table_of_the_docs_is_the_one_of_the_linter():
    """docs/modelfile.md lists every code as the linter means it."""
    text = (Path(__file__).parents[2] / "docs" / "modelfile.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| MF")]
    assert rows == [
        f"| {code} | {severity} | {title} |" for code, (severity, title) in CODES.items()
    ]


def test_numbers_of_any_length_are_judged():
    """More digits than Python turns into an integer, in parameters and versions, and leading zeros."""
    long = "9" * 5000
    assert [f.code for f in lint(f"FROM x\nPARAMETER top_k {long}\n")] == ["MF202"]
    assert not names.accepts("int", "-" + long)
    assert names.accepts("int", "0" * 5000 + "7")
    assert names.integer("-" + "0" * 5000 + "7") == -7
    lint(f"FROM x\nREQUIRES {long}.0.0\n")


def test_a_long_number_with_a_wrong_end_is_refused_at_once():
    """Two groups of digits side by side tried each way to share 100,000 digits: 10**9 steps and more."""
    for text in ("1" * 100_000 + "x", "." + "1" * 100_000 + "x", "0x" + "1" * 100_000 + "g"):
        assert not names.accepts("float", text)
