"""Where settings come from, and which source wins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tqconvert.cli.options import settings as settings_with_flags
from tqconvert.errors import ConfigError
from tqconvert.settings import load_settings

LAYERS: dict[str, int] = {"user": 1, "project": 2, "environment": 3}


@pytest.mark.parametrize("mask", range(8))
def test_precedence(tmp_path: Path, mask: int) -> None:
    """Environment > tqconvert.toml > the user's file > default, in every combination."""
    env = {"HOME": str(tmp_path), "TQCONVERT_HOME": str(tmp_path / "home")}
    present = [name for i, name in enumerate(LAYERS) if mask >> i & 1]
    (tmp_path / "home").mkdir()
    origins = {"user": str(tmp_path / "home" / "config.toml"),
               "project": str(tmp_path / "tqconvert.toml"),
               "environment": "TQCONVERT_CONNECTIONS"}  # fmt: skip
    for name in present:
        if name == "environment":
            env["TQCONVERT_CONNECTIONS"] = "3"
        else:
            Path(origins[name]).write_text(f"connections = {LAYERS[name]}\n")
    loaded = load_settings(env, tmp_path)
    winner = present[-1] if present else None
    assert loaded.connections == (LAYERS[winner] if winner else 4)
    assert loaded.origins["connections"] == (origins[winner] if winner else "default")


def test_flags_win_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--store, --offline and --insecure override everything and say so."""
    monkeypatch.setenv("OLLAMA_MODELS", "/elsewhere")
    monkeypatch.setenv("TQCONVERT_OFFLINE", "false")
    loaded = settings_with_flags(store=tmp_path, offline=True, insecure=True)
    assert (loaded.store, loaded.offline, loaded.insecure) == (tmp_path, True, True)
    assert loaded.origins["store"] == "--store"
    assert loaded.origins["offline"] == "--offline"


def test_our_variable_wins_over_ollamas(tmp_path: Path) -> None:
    """TQCONVERT_STORE, then OLLAMA_MODELS, then ~/.ollama/models."""
    env = {"HOME": str(tmp_path)}
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert load_settings(env, tmp_path).store == tmp_path / ".ollama" / "models"
    env["OLLAMA_MODELS"] = "/a"
    assert load_settings(env, tmp_path).store == Path("/a")
    env["TQCONVERT_STORE"] = "/b"
    loaded = load_settings(env, tmp_path)
    assert (loaded.store, loaded.origins["store"]) == (Path("/b"), "TQCONVERT_STORE")


@pytest.mark.parametrize(
    ("value", "expected"), [("models", "models"), (' "models" ', "models"), ("/abs", "/abs")]
)
def test_store_of_a_variable_is_relative_to_the_working_folder(
    tmp_path: Path, value: str, expected: str
) -> None:
    """A relative path counts from where the command runs; quotes and spaces are stripped."""
    env = {"HOME": str(tmp_path), "OLLAMA_MODELS": value}
    assert load_settings(env, tmp_path).store == tmp_path / expected


def test_store_of_a_file_is_relative_to_the_file(tmp_path: Path) -> None:
    """tqconvert.toml can name a folder beside it."""
    (tmp_path / "tqconvert.toml").write_text('store = "models"\n')
    assert load_settings({"HOME": "/h"}, tmp_path).store == tmp_path / "models"


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False)]
)
def test_offline_of_hugging_face_is_heeded(tmp_path: Path, text: str, value: bool) -> None:
    """HF_HUB_OFFLINE means offline here too."""
    env = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": text}
    assert load_settings(env, tmp_path).offline is value


@pytest.mark.parametrize(
    "line",
    ["connections = 0", "connections = -1", "connections = 1.5", "connections = true",
     'connections = "x"', "retries = []", "stall_s = 0", "stall_s = nan", "stall_s = inf",
     'offline = "perhaps"', "offline = 2", "store = 5", "unknown = 1", "=", "connections = {}"],
)  # fmt: skip
def test_bad_line_is_refused(tmp_path: Path, line: str) -> None:
    """A value of the wrong kind, an unknown setting or broken TOML names the file."""
    (tmp_path / "tqconvert.toml").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"tqconvert\.toml"):
        load_settings({"HOME": str(tmp_path)}, tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 and a folder of that name are refused too."""
    (tmp_path / "tqconvert.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        load_settings({"HOME": str(tmp_path)}, tmp_path)
    (tmp_path / "x" / "tqconvert.toml").mkdir(parents=True)
    with pytest.raises(ConfigError):
        load_settings({"HOME": str(tmp_path)}, tmp_path / "x")


def test_settings_are_values(tmp_path: Path) -> None:
    """Settings are frozen and can be changed only by making others."""
    loaded: Any = load_settings({"HOME": str(tmp_path)}, tmp_path)
    with pytest.raises(AttributeError):
        loaded.connections = 5
    assert replace(loaded, connections=5).connections == 5


def test_an_empty_store_is_not_the_current_folder(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--store "$UNSET"` is a usage error."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("cache", "prune", "--store", "")
    assert code == 2
    assert err.startswith("error: Invalid value for '--store': empty (expected a folder)\n")
