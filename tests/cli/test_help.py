"""Every command's help: summary, examples, what it writes, exit codes; and what it costs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tqconvert.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
SLOW_MODULES = (
    "numpy", "gguf", "huggingface_hub", "urllib3", "tqdm", "filelock", "psutil", "rich", "pydantic",
    "http.client", "tqconvert.kv", "tqconvert.gguf", "tqconvert.registry",
)  # fmt: skip


def load_generator() -> ModuleType:
    """docs/generate.py, which knows how to list the commands."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()
COMMANDS = GENERATOR.commands()


QUEUE = (
    "list", "status", "verify", "lock", "apply", "unapply", "edit", "refresh", "import", "export", "rebase",
    "continue", "skip", "abort", "lint", "watch", "bisect-base", "build", "whatis",
)  # fmt: skip


METAL = ("names", "lint", "check", "gpu", "bench")


def test_commands_stand_in_the_order_of_the_work() -> None:
    """Pull first, upkeep last."""
    assert [" ".join(c) for c in COMMANDS] == [
        "pull", "inspect", "plan", "tag", "untag", "balance", "modelfile", "install", "verify", "share",
        "push", "fingerprint", "serve", "doctor", "quality ppl", "quality kld",
        *(f"ollama-build {name}" for name in QUEUE),
        *(f"metal {name}" for name in METAL),
        "config show", "cache prune",
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_complete(command: tuple[str, ...]) -> None:
    """Summary, two examples that begin with tqconvert, a Writes line, exit codes of the table."""
    text = GENERATOR.help_of(*command)
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) >= 2, "two examples"
    assert any(f"tqconvert {' '.join(command)}" in line for line in examples)
    assert re.search(r"^  Writes: \S", text, re.MULTILINE)
    codes = re.search(r"^  Exit codes: (.*?)(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert codes
    numbers = [int(n) for n in re.findall(r"(?:^|[;,]\s+)(\d+)\b", codes[1])]
    assert numbers[:1] == [0]
    assert set(numbers) <= set(EXIT_CODES)
    assert "--json" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_h_is_help(run_cli: Any, command: tuple[str, ...]) -> None:
    """-h means --help everywhere, on stdout, exit 0."""
    code, out, err = run_cli(*command, "-h")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: tqconvert {' '.join(command)}")


def test_summaries_fit_one_line() -> None:
    """The list of commands cuts no summary off."""
    listing = GENERATOR.help_of().partition("\nCommands:\n")[2]
    assert "..." not in listing, listing


def test_help_imports_nothing_slow() -> None:
    """`tqconvert --help` must stay fast: nothing that commands need only when they run."""
    code = (
        "import sys; from tqconvert.cli import main; main(['--help']);"
        f"print([m for m in {SLOW_MODULES!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr.strip() == "[]"
