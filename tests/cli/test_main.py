"""The shell of the command line: errors, signals, closed pipes, usage, version."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_gguf

from tqconvert import __version__

PROGRAM = [sys.executable, "-m", "tqconvert"]


def test_version(run_cli: Any) -> None:
    """--version is one line; with -v it says what a bug report needs."""
    assert run_cli("--version") == (0, f"tqconvert {__version__}\n", "")
    code, out, _ = run_cli("--version", "-v")
    assert code == 0
    for word in (f"tqconvert {__version__} (", "Python 3.", "gguf ", "tag schema 1"):
        assert word in out
    assert run_cli("-v", "--version")[1] == out


def test_nothing_is_a_usage_error_with_help(run_cli: Any) -> None:
    """Without a command the help goes to stderr, exit 2."""
    code, out, err = run_cli()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: tqconvert ")


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["inspcet"], "Did you mean 'inspect'?", "tqconvert --help"),
        (["inspect"], "Missing argument", "tqconvert inspect --help"),
        (["inspect", "x", "--tensor"], "--tensors", "tqconvert inspect --help"),
        (["cache", "purne"], "Did you mean 'prune'?", "tqconvert cache --help"),
    ],
)
def test_usage_errors_help_in_both_forms(
    run_cli: Any, args: list[str], message: str, hint: str
) -> None:
    """Typos get a suggestion and the help to read, as text and as JSON; exit 2."""
    code, out, err = run_cli(*args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert f"  hint: {hint}\n" in err
    code, out, err = run_cli(*args, "--json")
    assert (code, err) == (2, "")
    document = json.loads(out)
    assert document["schema"] == "tqconvert.error/1"
    assert document["error"]["kind"] == "usage"
    if "--json" not in document["error"]["message"]:
        assert message in document["error"]["message"]


def test_reader_that_goes_away(tmp_path: Path) -> None:
    """`tqconvert ... | head -1` says nothing on stderr and is no failure."""
    tensors = {f"blk.{i}.a_rather_long_name.weight": (32,) for i in range(4000)}
    path = tiny_gguf(tmp_path / "m.gguf", tensors=tensors)
    with subprocess.Popen(
        [*PROGRAM, "inspect", path, "--tensors"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


def test_reader_that_is_gone_before_the_start() -> None:
    """Output into a pipe that nobody reads is quiet too, for short outputs."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*PROGRAM, "config", "show"], stdout=write_end, stderr=subprocess.PIPE, timeout=20,
            check=False,
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


WAITING = """
import sys, time
from tqconvert import cli
from tqconvert.cli import doctor
def wait():
    "Wait."
    print("ready", flush=True)
    time.sleep(30)
doctor.register = lambda app: app.command("doctor")(wait)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_130(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end a command at once, without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 10
        assert process.stderr.read() == b"error: interrupted\n"


def test_interrupt_is_said_in_json_too() -> None:
    """Under --json even Ctrl-C leaves one document on stdout."""
    script = WAITING.replace("def wait():", "def wait(json: bool = False):").replace(
        'print("ready", flush=True)', 'print("ready", file=sys.stderr, flush=True)'
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "doctor", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert json.loads(process.stdout.read())["error"]["kind"] == "interrupted"
        assert process.stderr.read() == b""


BROKEN = """
import sys
from tqconvert import cli
from tqconvert.cli import doctor
def fail():
    "Fail."
    raise ZeroDivisionError
doctor.register = lambda app: app.command("doctor")(fail)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_bug_keeps_its_traceback() -> None:
    """An unexpected exception is exit 70, with the traceback and what to report."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, "doctor"], capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (70, "")
    assert "ZeroDivisionError" in done.stderr
    assert "tqconvert doctor --json" in done.stderr


def test_output_survives_a_poor_encoding(tmp_path: Path) -> None:
    """Characters that the terminal lacks are replaced, not an error."""
    path = tiny_gguf(tmp_path / "m.gguf", {"general.architecture": "llama", "n": "模型"})
    done = subprocess.run(
        [*PROGRAM, "inspect", path, "--get", "n"], capture_output=True, timeout=20, check=False,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"??", b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    """The shell's completion script can be shown, and names of commands complete."""
    done = subprocess.run(
        [*PROGRAM, "--help"], capture_output=True, text=True, timeout=20, check=False,
        env={**os.environ, "_TQCONVERT_COMPLETE": f"source_{shell}"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "tqconvert" in done.stdout


def test_completion_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FILE|NAME completes to models of the store and to GGUF files."""
    from tqconvert.cli.options import complete_model

    folder = tmp_path / "store" / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    folder.mkdir(parents=True)
    (folder / "1b").write_text("{}")
    tiny_gguf(tmp_path / "tiny-file.gguf")
    (tmp_path / "tiny.txt").touch()
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    assert complete_model("ti") == ["tiny:1b", "tiny-file.gguf"]
    assert complete_model("zz") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux: macOS has no /dev/full")
@pytest.mark.parametrize(
    ("args", "code"),
    [(["config", "show"], 9), (["config", "show", "--json"], 9), (["--help"], 9), (["nope"], 2)],
)
def test_full_disk_under_stdout(args: list[str], code: int) -> None:
    """A result that cannot be written is an I/O error with a message, not a bug."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20,
            check=False,
        )  # fmt: skip
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    if code == 9:
        assert done.stderr == "error: standard output: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a shell, not Windows")
@pytest.mark.parametrize(
    ("args", "code"),
    [("config show", 0), ("config show --json", 0), ("--help", 0), ("nope", 2), ("nope --json", 2)],
)
def test_closed_streams(args: str, code: int) -> None:
    """With stdout or stderr closed, or both, the exit code is the same, and no text is a bug's."""
    program = f"{sys.executable} -m tqconvert {args}"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f"{program} {closed}"], capture_output=True, text=True, timeout=20,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, closed
        assert "Traceback" not in done.stderr


def test_json_is_lossless_in_a_poor_encoding(tmp_path: Path) -> None:
    """Under an encoding that lacks a character JSON escapes it; `?` would be another value."""
    path = tiny_gguf(tmp_path / "m.gguf", {"general.architecture": "llama", "n": "模型"})
    done = subprocess.run(
        [*PROGRAM, "inspect", path, "--get", "n", "--json"], capture_output=True, timeout=20,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["value"] == "模型"


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_name_that_is_no_text_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """`tag -q` in $(...) names the file that there is, whatever its bytes."""
    name = os.fsdecode(b"\xff\xfe.gguf")
    path = tiny_gguf(tmp_path / name)
    done = subprocess.run(
        [*PROGRAM, "tag", path, "--type-k", "f16", "--type-v", "f16", "-q"],
        capture_output=True, timeout=20, check=False, env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == os.fsencode(path) + b"\n"
