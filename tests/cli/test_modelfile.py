"""The command `modelfile` in its modes."""

import json
import os
import sys

import pytest
from builders import LLAMA, tiny_gguf

TEXT = """\
# Modelfile of tiny llama, for stock Ollama
# made by: tqconvert modelfile m.gguf --num-ctx 2k
# KV cache types: OLLAMA_KV_CACHE_TYPE of the server, or tags in the GGUF (tqconvert tag); no PARAMETER sets them

FROM ./m.gguf

# num_ctx: asked for by --num-ctx
PARAMETER num_ctx 2048

# TEMPLATE: none: the file has no chat template, as base models have none
# LICENSE: not certain: the file names none
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder with a small model."""
    monkeypatch.chdir(tmp_path)
    tiny_gguf(tmp_path / "m.gguf", LLAMA)


def test_stdout_is_the_modelfile(run_cli):
    """What is printed can be saved beside the file as it is."""
    assert run_cli("modelfile", "m.gguf", "--num-ctx", "2k") == (0, TEXT, "")


def test_json_has_the_commands_and_the_text(run_cli):
    """One document, with the Modelfile's text in it."""
    code, out, err = run_cli("modelfile", "m.gguf", "--num-ctx", "2k", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["schema"] == "tqconvert.modelfile/1"
    assert document["modelfile"] == TEXT
    assert document["commands"][1] == {"kind": "parameter", "key": "num_ctx", "value": "2048"}
    assert document["file"] is None


def test_output_is_written_once_and_never_over_another(run_cli, tmp_path):
    """A second run changes nothing; a file that differs needs --yes."""
    arguments = ("modelfile", "m.gguf", "--num-ctx", "2k", "-o", "Modelfile")
    assert run_cli(*arguments) == (0, "Modelfile: written\n", "")
    assert (tmp_path / "Modelfile").read_text() == TEXT
    before = os.stat("Modelfile")
    assert run_cli(*arguments) == (0, "Modelfile: unchanged\n", "")
    assert os.stat("Modelfile").st_ino == before.st_ino
    (tmp_path / "Modelfile").write_text("mine")
    code, out, err = run_cli(*arguments)
    assert (code, out) == (6, "")
    assert "Modelfile: exists and differs" in err
    assert "--yes" in err
    assert (tmp_path / "Modelfile").read_text() == "mine"
    assert run_cli(*arguments, "--yes", "-q") == (0, "Modelfile\n", "")
    assert (tmp_path / "Modelfile").read_text() == TEXT


def test_num_ctx_comes_from_the_plan_without_options(run_cli):
    """The plan's value and its reason stand in the Modelfile."""
    _, plain, _ = run_cli("modelfile", "m.gguf")
    _, limited, _ = run_cli("modelfile", "m.gguf", "--memory", "1GiB")
    assert "\nPARAMETER num_ctx 4096\n" in plain
    assert "# num_ctx: the most that fits in 1.0 GiB" in limited


def test_num_ctx_above_the_models_context_is_said(run_cli):
    """The user gets what was asked for, with a remark."""
    _, out, _ = run_cli("modelfile", "m.gguf", "--num-ctx", "8k")
    assert "# num_ctx: asked for by --num-ctx; the model was made for 4096\n" in out


def test_tags_of_the_file_are_named(run_cli, tmp_path):
    """They stand in a comment: a PARAMETER for them would be refused."""
    tags = {"general.kv_cache.type_k": "q8_0", "general.kv_cache.type_v": ["turbo4", "f16"]}
    tiny_gguf(tmp_path / "t.gguf", LLAMA | tags)
    _, out, _ = run_cli("modelfile", "t.gguf")
    assert "# KV cache types: tagged q8_0/by layer in the GGUF" in out
    assert "PARAMETER kv" not in out


def test_template_is_chosen_by_name(run_cli):
    """An unknown name lists the known ones."""
    assert (
        'TEMPLATE """{{- define "trim" }}'
        in run_cli("modelfile", "m.gguf", "--template", "gemma")[1]
    )
    code, _, err = run_cli("modelfile", "m.gguf", "--template", "jemma")
    assert code == 2
    assert "gemma, granite3.0" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing.gguf",), 5, "no such file"),
        (("no-such-model",), 5, "not in the store"),
        (("m.gguf", "--memory", "1GiB", "--num-ctx", "1k"), 2, "give one"),
        (("m.gguf", "--num-ctx", "big"), 2, "not a context length"),
        (("--lint", "m.gguf"), 4, "a GGUF, not a Modelfile"),
        (("--lint", "nothing"), 5, "no such file"),
        (("--lint", "m.gguf", "-o", "x"), 2, "--lint takes"),
    ],
)
def test_refusals_have_their_exit_code(run_cli, arguments, code, said):
    """Each kind of mistake is told apart, and nothing is printed as a result."""
    got, out, err = run_cli("modelfile", *arguments)
    assert (got, out) == (code, "")
    assert said in err


def test_lint_prints_all_findings_and_exits_1(run_cli, tmp_path):
    """Human, JSON and quiet forms of the same findings."""
    (tmp_path / "M").write_text("FORM ./m.gguf\nPARAMETER num_ctxx 4\n")
    code, out, _ = run_cli("modelfile", "--lint", "M")
    assert code == 1
    assert out == (
        "M: line 1: MF001 error: unknown command 'FORM' (did you mean FROM?)\n"
        "M: line 2: MF201 error: unknown PARAMETER num_ctxx (did you mean num_ctx?)\n"
    )
    code, out, _ = run_cli("modelfile", "--lint", "M", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert document["findings"][1] == {
        "line": 2, "code": "MF201", "severity": "error", "message": "unknown PARAMETER num_ctxx",
        "hint": "did you mean num_ctx?",
    }  # fmt: skip
    assert run_cli("modelfile", "--lint", "M", "-q") == (1, "MF001 1\nMF201 2\n", "")


def test_lint_of_a_sound_modelfile_exits_0(run_cli, tmp_path):
    """FROM is looked for beside the Modelfile, not in the working folder."""
    (tmp_path / "sub").mkdir()
    tiny_gguf(tmp_path / "sub" / "n.gguf", LLAMA)
    (tmp_path / "sub" / "M").write_text("FROM ./n.gguf\n")
    assert run_cli("modelfile", "--lint", "sub/M") == (0, "sub/M: ok\n", "")
    _, out, _ = run_cli("modelfile", "--lint", "sub/M", "--json")
    assert json.loads(out)["findings"] == []


def test_what_is_made_has_no_findings(run_cli):
    """The linter agrees with the generator."""
    run_cli("modelfile", "m.gguf", "-o", "Modelfile")
    assert run_cli("modelfile", "--lint", "Modelfile")[0] == 0


def test_help_names_examples_writes_and_exit_codes(run_cli):
    """The help says what a script needs."""
    code, out, _ = run_cli("modelfile", "--help")
    assert code == 0
    assert all(word in out for word in ("Examples:", "Writes:", "Exit codes:", "--lint"))
    assert max(map(len, out.splitlines())) <= 80


def test_registering_imports_no_slow_module():
    """The command's module alone loads neither numpy nor gguf."""
    import subprocess

    code = "import sys, tqconvert.cli.modelfile; print({'numpy', 'gguf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_memory_that_is_too_small_is_a_verdict(run_cli, tmp_path):
    """No num_ctx can be right where the weights do not fit: exit 1, and no file."""
    code, out, err = run_cli("modelfile", "m.gguf", "--memory", "100MiB", "-o", "Modelfile")
    assert (code, out) == (1, "")
    assert err.startswith("error: 100.0 MiB: the model does not fit at any context (weights ")
    assert not (tmp_path / "Modelfile").exists()
    assert run_cli("modelfile", "m.gguf", "--memory", "2GiB")[0] == 0
    assert run_cli("modelfile", "m.gguf", "--num-ctx", "2k")[0] == 0


@pytest.mark.parametrize(
    ("output", "message", "hint"),
    [
        (".", ".: is a folder (expected a file name)", "-o ./Modelfile"),
        ("none/M", "none: no such folder", "mkdir -p none"),
    ],
)
def test_output_that_can_be_no_file(run_cli, output, message, hint):
    """The refusal says what the place is and what to type; exit 2."""
    code, out, err = run_cli("modelfile", "m.gguf", "--num-ctx", "2k", "-o", output)
    assert (code, out, err) == (2, "", f"error: {message}\n  hint: {hint}\n")
