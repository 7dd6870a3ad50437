"""A small model with a vocabulary, a text, and a program that plays llama-perplexity from stored logs."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import LLAMA, tiny_gguf

GOLDEN = Path(__file__).parent / "golden" / "perplexity"
N_VOCAB = 301
N_CHUNKS = 3
"""Of the stored logs."""

FAKE = """
import os, re, signal, struct, sys, time
from pathlib import Path

control, golden = Path(os.environ["FAKE"]), Path(os.environ["FAKE_GOLDEN"])
args = sys.argv[1:]
def value(flag, default=None):
    return args[args.index(flag) + 1] if flag in args else default
k, v, base = value("-ctk", "f16"), value("-ctv", "f16"), value("--kl-divergence-base")
against = "--kl-divergence" in args
with (control / "calls").open("a") as f:
    print(" ".join(args), file=f)
with (control / "environment").open("a") as f:
    print(sorted(n for n in os.environ if n.startswith("LLAMA_")), file=f)
only, _, mode = (control / "mode").read_text().partition(":") if (control / "mode").exists() else ("", "", "")
if only not in ("", f"{k}/{v}", "base" if not against else "against"):
    mode = ""
if mode == "hang":
    (control / "pid").write_text(str(os.getpid()))
    print("[1]15.0304,", end="", flush=True)
    time.sleep(60)
if mode == "log":
    text = (control / "log").read_text()
else:
    text = (golden / ("q8_0-q4_0.log" if against else "base.log")).read_text()
    k, v = ("f16", "f16") if mode == "ignores" else (k, v)
    text = re.sub(r"K \\([\\w]+\\)", f"K ({k})", re.sub(r"V \\([\\w]+\\)", f"V ({v})", text))
if mode == "die":
    print(text[:1700], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "garbage":
    sys.stdout.buffer.write(bytes(range(256)) * 40)
    sys.exit()
if mode == "silent":
    sys.exit()
if base and not against:
    n_vocab, n_ctx, n = int(os.environ["FAKE_VOCAB"]), int(value("-c")), 3
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    data = b"_logits_" + struct.pack("<III", n_ctx, n_vocab, n) + bytes(n * (n_ctx * 4 + (n_ctx - 1 - n_ctx // 2) * row))
    Path(base).write_bytes(data[: 10000] if mode == "full" else data)
if mode == "nan":
    text = re.sub(r"(PPL = |KLD: +)[\\d.]+", r"\\1nan", text)
for line in text.splitlines(keepends=True):
    if not line.startswith("$ "):
        sys.stdout.write(line)
        sys.stdout.flush()
"""


@dataclass(frozen=True)
class Fake:
    """The program's folder, and what it did."""

    folder: Path
    control: Path

    def mode(self, text: str) -> None:
        """What it does from now on: `die`, or `q8_0/turbo4:die` for one pair, `base:full`."""
        (self.control / "mode").write_text(text if ":" in text else f":{text}")

    def prints(self, text: str, *, run: str = "") -> None:
        """Let it print this."""
        (self.control / "log").write_text(text)
        self.mode(f"{run}:log")

    @property
    def calls(self) -> list[str]:
        """Arguments of each run."""
        path = self.control / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A runtime that is not ours, in a folder of its own."""
    folder, control = tmp_path / "runtime", tmp_path / "control"
    folder.mkdir()
    control.mkdir()
    program = folder / "llama-perplexity"
    program.write_text(f"#!{sys.executable}\n{FAKE}")
    program.chmod(0o755)
    monkeypatch.setenv("FAKE", str(control))
    monkeypatch.setenv("FAKE_GOLDEN", str(GOLDEN))
    monkeypatch.setenv("FAKE_VOCAB", str(N_VOCAB))
    monkeypatch.setenv("TQCONVERT_RUNTIME", str(folder))
    monkeypatch.setenv("TQCONVERT_CACHE", str(tmp_path / "cache"))
    return Fake(folder, control)


KEYS = {**LLAMA, "tokenizer.ggml.tokens": [f"word{i}" for i in range(N_VOCAB)]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small llama with a vocabulary."""
    return tiny_gguf(tmp_path / "m.gguf", KEYS)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some prose."""
    path = tmp_path / "prose.txt"
    path.write_text("All work and no play makes Jack a dull boy. " * 100)
    return path


def alive(pid: int) -> bool:
    """Whether a process of that id runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
