"""The runs of a KL divergence: order, arguments, what is left on disk, how each can fail."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import tiny_gguf
from fakeperplexity import *  # noqa: F403 - its fixtures
from fakeperplexity import KEYS, N_VOCAB, Fake, alive

from tqconvert.quality.base import base_bytes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kld(fake: Fake, model: Path, text: Path, run_cli: Run) -> Run:
    """`quality kld` on the model and the text."""
    return lambda *args: run_cli("quality", "kld", model, "--text", text, "--ctx", "256", *args)


def leftovers(tmp_path: Path) -> list[Path]:
    """Files in the cache."""
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_base_then_floor_then_pairs(kld: Run, fake: Fake, model: Path, tmp_path: Path) -> None:
    """The base with explicit f16, and nothing of it is left."""
    code, out, err = kld(
        "--pair", "turbo4/turbo4", "--pair", "q8_0/turbo4", "--chunks", "5", "-t", "2", "--json"
    )
    assert code == 0, out + err
    base, floor, first, second = fake.calls
    common = f"-m {model} -c 256 -b 256 -fa on -lv 4 -t 2"
    assert base.startswith(
        f"{common} -f {tmp_path}/prose.txt --chunks 5 -ctk f16 -ctv f16 --kl-div"
    )
    assert floor.startswith(f"{common} -ctk bf16 -ctv bf16 --kl-divergence --kl-divergence-base ")
    assert first.startswith(f"{common} -ctk turbo4 -ctv turbo4 --kl-divergence ")
    assert second.startswith(f"{common} -ctk q8_0 -ctv turbo4 --kl-divergence ")
    assert leftovers(tmp_path) == []
    document = json.loads(out)
    assert document["schema"] == "tqconvert.quality/1"
    assert document["measure"] == "kld"
    assert (document["n_chunks"], document["n_scored"]) == (3, 3 * 127)
    assert document["floor"]["name"] == "bf16/bf16"
    names = [(r["name"], r["bits_per_value"], r["kld"]["value"]) for r in document["rows"]]
    assert names == [("turbo4/turbo4", 4.125, 0.013018), ("q8_0/turbo4", 6.3125, 0.013018)]
    assert document["rows"][0]["kld_net"] == 0
    assert document["base"]["file"] is None
    assert document["base"]["bytes"] == base_bytes(N_VOCAB, 256, 3)
    assert document["runtime"]["id"].startswith("sha256:")


def test_tags_are_the_default(kld: Run, fake: Fake, model: Path, run_cli: Run) -> None:
    """The types of a tagged file; one flag replaces one side; without tags it asks."""
    code, _, err = kld()
    assert code == 2
    assert "no tags" in err
    assert fake.calls == []
    run_cli("tag", model)
    assert kld("--no-floor")[0] == 0
    assert "-ctk q8_0 -ctv turbo4" in fake.calls[-1]
    assert kld("--no-floor", "--type-k", "q5_0")[0] == 0
    assert "-ctk q5_0 -ctv turbo4" in fake.calls[-1]


def test_types_by_layer_are_left_to_the_runtime(
    kld: Run, fake: Fake, model: Path, run_cli: Run
) -> None:
    """No flag for a side with several types; a runtime that does not obey tags is found out."""
    assert run_cli("tag", model, "--type-k", "q8_0", "--type-v", "turbo4,turbo3")[0] == 0
    code, _, err = kld("--no-floor")
    assert "-ctk q8_0 --kl-divergence" in fake.calls[-1]
    assert code == 1
    assert "the runtime's V cache is f16" in err


def test_reference_of_a_balanced_file(kld: Run, fake: Fake, tmp_path: Path, run_cli: Run) -> None:
    """Base and floor come from the reference, the pairs from the file."""
    original = tiny_gguf(tmp_path / "original.gguf", KEYS)
    code, out, _ = kld("--reference", original, "--pair", "q4_0/q4_0", "--json")
    assert code == 0
    models = [call.split()[1] for call in fake.calls]
    assert [Path(m).name for m in models] == ["original.gguf", "original.gguf", "m.gguf"]
    assert json.loads(out)["reference"] == str(original)


def test_reference_with_another_vocabulary_is_refused(kld: Run, fake: Fake, tmp_path: Path) -> None:
    """Before anything runs."""
    other = tiny_gguf(tmp_path / "o.gguf", {**KEYS, "tokenizer.ggml.tokens": ["a", "b"]})
    code, _, err = kld("--reference", other, "--pair", "q4_0/q4_0")
    assert code == 2
    assert f"2 words, m.gguf has {N_VOCAB}" in err
    assert fake.calls == []


def test_a_kept_base_is_reused(kld: Run, fake: Fake, tmp_path: Path) -> None:
    """By the model, the text, the flags and the runtime; a note beside it tells them."""
    base = tmp_path / "kept.base"
    args = ("--base", base, "--no-floor", "--pair", "q8_0/q8_0", "--json")
    first = json.loads(kld(*args)[1])
    assert (first["base"]["file"], first["base"]["reused"]) == (str(base), False)
    assert base.stat().st_size == base_bytes(N_VOCAB, 256, 3)
    assert (
        json.loads((tmp_path / "kept.base.json").read_text())["schema"]
        == "tqconvert.quality-base/1"
    )
    second = json.loads(kld(*args)[1])
    assert second["base"]["reused"] is True
    assert len(fake.calls) == 3
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("change", ["model", "text", "chunks", "runtime", "size", "note"])
def test_a_base_of_something_else_is_refused(
    change: str, kld: Run, fake: Fake, model: Path, text: Path, tmp_path: Path
) -> None:
    """Nothing runs and the file stays."""
    base = tmp_path / "kept.base"
    args = ["--base", base, "--no-floor", "--pair", "q8_0/q8_0"]
    assert kld(*args)[0] == 0
    match change:
        case "model":
            tiny_gguf(model, {**KEYS, "general.name": "other"})
        case "text":
            text.write_text(text.read_text() + "more")
        case "chunks":
            args += ["--chunks", "2"]
        case "runtime":
            program = fake.folder / "llama-perplexity"
            program.write_text(program.read_text() + "# newer\n")
        case "size":
            os.truncate(base, 10_000)
        case "note":
            (tmp_path / "kept.base.json").unlink()
    size, calls = base.stat().st_size, len(fake.calls)
    code, _, err = kld(*args)
    assert code == 6, err
    assert "kept.base" in err
    assert (base.stat().st_size, len(fake.calls)) == (size, calls)


@pytest.mark.parametrize("run", ["base", "bf16/bf16", "turbo4/turbo4"])
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("die", "was ended by signal 9"),
        ("garbage", "without a result"),
        ("silent", "printed last: nothing"),
        ("nan", " is nan"),
    ],
)
def test_a_run_that_fails_is_exit_code_1(
    mode: str, said: str, run: str, kld: Run, fake: Fake, tmp_path: Path
) -> None:
    """Whichever of the runs it is: an error with what the program said, nothing left on disk."""
    fake.mode(f"{run}:{mode}")
    code, out, err = kld("--pair", "turbo4/turbo4", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (1, "measure_failed"), err
    assert said in error["message"]
    assert error["message"].replace("\n", "").isprintable()
    assert leftovers(tmp_path) == []


def test_a_base_that_is_short_is_found(kld: Run, fake: Fake, tmp_path: Path) -> None:
    """The program does not look whether its writes succeed, and ends with 0."""
    fake.mode("base:full")
    base = tmp_path / "kept.base"
    code, _, err = kld("--base", base, "--pair", "turbo4/turbo4")
    assert code == 9
    assert "disk full?" in err
    assert not base.exists()
    assert len(fake.calls) == 1


def test_a_disk_that_is_too_small_is_told_before(
    kld: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it takes and what is free."""
    monkeypatch.setattr("tqconvert.quality.base.free_bytes", lambda _: 1000)
    code, _, err = kld("--pair", "turbo4/turbo4")
    assert code == 9
    assert "the base takes" in err
    assert "1000 B are free" in err
    assert fake.calls == []


def test_a_type_that_the_runtime_ignores_is_found(kld: Run, fake: Fake) -> None:
    """The log says f16 where turbo4 was asked for."""
    fake.mode("turbo4/turbo4:ignores")
    code, _, err = kld("--pair", "turbo4/turbo4")
    assert code == 1
    assert "turbo4/turbo4: the runtime's K cache is f16" in err


def test_arguments_from_the_environment_are_kept_out(
    kld: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp takes flags from LLAMA_ARG_*; what changes the arithmetic passes, and is told."""
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "64")
    monkeypatch.setenv("LLAMA_LOG_FILE", "x")
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    document = json.loads(kld("--no-floor", "--pair", "q4_0/q4_0", "--json")[1])
    assert document["runtime"]["environment"] == {"LLAMA_ATTN_ROT_DISABLE": "1"}
    assert set((fake.control / "environment").read_text().split()) == {"['LLAMA_ATTN_ROT_DISABLE']"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_the_program_and_removes_the_base(
    number: signal.Signals, fake: Fake, model: Path, text: Path, tmp_path: Path
) -> None:
    """Exit code 130; no process and no gigabytes stay behind."""
    fake.mode("bf16/bf16:hang")
    command = [
        sys.executable, "-m", "tqconvert", "quality", "kld", str(model), "--text", str(text),
        "--ctx", "256", "--pair", "turbo4/turbo4",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    pid = fake.control / "pid"
    for _ in range(600):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.05)
    assert len(leftovers(tmp_path)) == 1
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert not alive(int(pid.read_text()))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("where", ["cache/quality", "mine"])
def test_what_a_killed_process_left_is_swept(where: str, kld: Run, tmp_path: Path) -> None:
    """A folder of a process that is gone, in the cache or beside --base; that of a living one stays."""
    folder = tmp_path / where
    names = (f".tqconvert-base-{pid}-x" for pid in (999999999, os.getpid()))
    gone, mine = (folder / name for name in names)
    for left in (gone, mine):
        left.mkdir(parents=True)
        (left / "logits").write_bytes(b"x")
    base = ("--base", folder / "kept") if where == "mine" else ()
    assert kld("--no-floor", "--pair", "q4_0/q4_0", *base)[0] == 0
    assert not gone.exists()
    assert mine.exists()


def test_size_of_a_base_by_hand() -> None:
    """As the real program wrote it: 2 chunks of 1024 tokens, 262,144 words."""
    assert base_bytes(262_144, 1024, 2) == 535_838_724
