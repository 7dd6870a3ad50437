"""The README's transcript is what the commands print."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_TIME = re.compile(r"\d+(\.\d+)? (ms|s|[KMG]iB/s)\b")


def transcript() -> list[tuple[str, str]]:
    """(command, what it prints) of the README's console blocks, in order."""
    text = (ROOT / "README.md").read_text()
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            steps.append((command, printed))
    return steps


@pytest.mark.slow
def test_the_transcript_is_real(
    gemma: Path, tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of the README prints what stands there; only times may differ."""
    steps = transcript()
    assert len(steps) >= 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / ".ollama" / "models"))
    shutil.copyfile(gemma, tmp_path / "gemma-3-270m-q4_k_m.gguf")
    for command, printed in steps:
        program, *arguments = shlex.split(command)
        assert program == "tqconvert"
        code, out, err = run_cli(*arguments)
        assert code == 0, err
        assert _TIME.sub("N", out) == _TIME.sub("N", printed)


def test_the_table_of_commands_is_complete() -> None:
    """Every command of the program stands in the README's table."""
    from tqconvert.cli import build_app

    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("## Settings")[0]
    app = build_app()
    names = [c.name for c in app.registered_commands] + [g.name for g in app.registered_groups]
    missing = [name for name in names if name and f"`{name}" not in table]
    assert missing == []
