"""`config show`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


def test_defaults(run_cli: Any) -> None:
    """Every setting is a line that a configuration file would take."""
    code, out, err = run_cli("config", "show")
    assert (code, err) == (0, "")
    assert out == (
        f'store = "{os.environ["OLLAMA_MODELS"]}"\n'
        "connections = 4\nretries = 6\nstall_s = 30.0\ninsecure = false\noffline = false\n"
        'hf_endpoint = "https://huggingface.co"\n'
        f'cache = "{os.environ["HOME"]}/.cache/tqconvert"\n'
        f'docker_config = "{os.environ["HOME"]}/.docker"\n'
    )


def test_origin_names_variable_file_or_default(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--origin and --json say where each value came from."""
    (tmp_path / "tqconvert.toml").write_text("connections = 8\nretries = 9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQCONVERT_RETRIES", "2")
    out = run_cli("config", "show", "--origin")[1]
    origins = {line.split()[0]: line.partition("# ")[2] for line in out.splitlines()}
    assert origins == {
        "store": "OLLAMA_MODELS", "connections": str(tmp_path / "tqconvert.toml"),
        "retries": "TQCONVERT_RETRIES", "stall_s": "default", "insecure": "default",
        "offline": "default", "hf_endpoint": "default", "cache": "default", "docker_config": "default",
    }  # fmt: skip
    document = json.loads(run_cli("config", "show", "--json")[1])
    assert document["schema"] == "tqconvert.config.show/1"
    assert document["settings"]["retries"] == {"value": 2, "origin": "TQCONVERT_RETRIES"}
    assert document["settings"]["connections"]["value"] == 8


def test_shown_settings_are_a_configuration_file(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shown, saved as tqconvert.toml, gives the same settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / 'a "quoted" folder'))
    out = run_cli("config", "show")[1]
    (tmp_path / "tqconvert.toml").write_text(out)
    monkeypatch.delenv("OLLAMA_MODELS")
    assert run_cli("config", "show")[1] == out


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_bad_value(run_cli: Any, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]) -> None:
    """A value that cannot be used is exit 13 and names the variable."""
    monkeypatch.setenv("TQCONVERT_CONNECTIONS", "many")
    code, out, err = run_cli("config", "show", *form)
    assert code == 13
    assert "TQCONVERT_CONNECTIONS: connections = 'many' (expected a whole number)" in out + err


@pytest.mark.parametrize("group", ["config", "cache"])
def test_a_group_lists_whole_summaries(run_cli: Any, group: str) -> None:
    """The summary of a command is not cut off at the line's end."""
    _, out, _ = run_cli(group, "--help")
    assert "..." not in out.partition("Commands:")[2]
