"""What FILE|NAME means, and what is said where it means nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from builders import tiny_gguf

from tqconvert.reference import ModelName

Run = Callable[..., tuple[int, str, str]]

COMMANDS = ("inspect", "plan", "verify", "modelfile")


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Run) -> None:
    """A working folder with one model in the store and one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert run_cli("install", tiny_gguf(tmp_path / "m.gguf"), "--as", "tiny:1b-tq")[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("", "'': no such file, and no model's name (expected NAME[:TAG])", None),
        ("a b", "'a b': no such file, and no model's name (expected NAME[:TAG])", None),
        ("folder", "folder: is a folder (expected a GGUF file or a model's name)", None),
        ("tiny", "tiny:latest: not in the store", "installed: tiny:1b-tq"),
        ("tinny:1b-tq", "tinny:1b-tq: not in the store", "installed: tiny:1b-tq"),
        ("q:2b", "q:2b: not in the store", "tqconvert pull q:2b installs it as q:2b-tq"),
        ("q:2b-tq", "q:2b-tq: not in the store", "tqconvert pull q:2b installs it as q:2b-tq"),
    ],
)
def test_what_is_not_there(
    run_cli: Run, command: str, target: str, message: str, hint: str | None
) -> None:
    """Every command says the same, exit 5; the hint is a model that is there or how to get it."""
    code, out, err = run_cli(command, target)
    assert (code, out) == (5, "")
    assert err.startswith(f"error: {message}")
    assert (f"  hint: {hint}\n" in err) if hint else ("hint" not in err)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pinned_digest_is_compared(run_cli: Run, command: str) -> None:
    """`name@sha256:...` is that manifest or an error, exit 4."""
    digest = run_cli("install", "m.gguf", "--as", "tiny:1b-tq", "-q")[1].strip()
    assert run_cli(command, f"tiny:1b-tq@{digest}")[0] == 0
    assert run_cli(command, f"tiny:1b-tq@sha256:{'0' * 64}")[0] == 4


def test_remove_proposes_no_pull(run_cli: Run) -> None:
    """Who wants a model gone is not told how to get it."""
    code, _, err = run_cli("install", "--remove", "q:2b")
    assert (code, "hint" in err) == (5, False)


def test_tag_of_a_name_says_how(run_cli: Run) -> None:
    """`tag` takes files; for an installed model it names the two commands that do it."""
    code, _, err = run_cli("tag", "tiny:1b-tq")
    assert code == 5
    assert "the model tiny:1b-tq is in the store" in err
    assert "then tqconvert install OUT --as tiny:1b-tq\n" in err
    assert "the store" not in run_cli("tag", "tiny:7b")[2]


@pytest.mark.parametrize(("name", "bare"), [("q:2b-tq", "q:2b"), ("q:2b", "q:2b")])
def test_untagged_undoes_tagged(name: str, bare: str) -> None:
    """The name of the model before it was tagged, if it carries the mark."""
    assert str(ModelName.parse(name).untagged()) == bare
    assert ModelName.parse(bare).tagged().untagged() == ModelName.parse(bare)


def test_the_home_of_an_unknown_user_is_no_bug(run_cli: Run) -> None:
    """A path that begins with ~ and no user's name is a file that is not there."""
    for command in ("inspect", "plan", "pull"):
        code, _, err = run_cli(command, "~nobody-has-this-name/m.gguf")
        assert (code, "no such file" in err) == (5, True), err
    assert run_cli("cache", "prune", "--store", "~nobody-has-this-name/x")[0] == 0
