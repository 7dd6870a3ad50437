"""`tqconvert balance` as a user meets it."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import LLAMA, keys_of, tiny_gguf
from turbo.attentions import FAMILIES, stats_of, write_family

from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import read_tags

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small qwen3."""
    return write_family(tmp_path / "m.gguf", FAMILIES["qwen3"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the balanced file goes."""
    return tmp_path / "out.gguf"


@pytest.fixture
def stats(file: Path, tmp_path: Path) -> Path:
    """Statistics of the model as llama-kv-stats writes them."""
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats_of(FAMILIES["qwen3"], file)))
    return path


def fake_runtime(folder: Path, stats: Path, *, code: int = 0) -> Path:
    """A folder with a llama-kv-stats that copies `stats` to its -o."""
    folder.mkdir()
    program = folder / "llama-kv-stats"
    program.write_text(
        "#!/bin/sh\n"
        "while [ $# -gt 0 ]; do case $1 in -o) out=$2;; -f) text=$2;; esac; shift; done\n"
        f'echo "reading $text"; echo "it broke" >&2; [ {code} = 0 ] && cp "{stats}" "$out"\n'
        f"exit {code}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def test_text_says_how_what_and_what_to_expect(run_cli: Cli, file: Path, out: Path) -> None:
    """The way, the tensors, the factors, the prediction, the bytes."""
    before = file.read_bytes()
    code, text, err = run_cli("balance", file, "-o", out)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith(f"{out}: balanced by ")
    assert lines[1].startswith(
        "  from the weights, 4 tensors in 2 layers (norm weights), factors 0."
    )
    assert " dB less logit noise of a quantized K (" in lines[2]
    assert lines[3].startswith("  changed: 1.0 KiB of ")
    assert "warning" not in err
    assert file.read_bytes() == before
    assert read_header(out).text("turboquant.balance") == "weights"
    code, text, _ = run_cli("balance", file, "-o", out)
    assert (code, text) == (6, "")


def test_json_is_one_document(run_cli: Cli, file: Path, out: Path) -> None:
    """What was done, by layer."""
    code, text, err = run_cli("balance", file, "-o", out, "--json")
    assert (code, err) == (0, "")
    document = json.loads(text)
    layers = document.pop("layers")
    assert [sorted(layer) for layer in layers] == [
        ["d_max", "d_min", "layer", "predicted_gain_db"]
    ] * 2
    assert document.pop("method") in ("copy", "reflink")
    assert document.pop("predicted_gain_db") > 1
    assert document.pop("rounding")["F32"]["largest"] < 1e-7
    document.pop("why")
    assert document == {
        "schema": "tqconvert.balance/1", "file": str(file), "output": str(out), "dry_run": False,
        "architecture": "qwen3", "balance": "weights", "folded_into": ["norms"],
        "rope_pairs": "halves", "powers_of_two": False, "k_mean": False, "calibration_tokens": None,
        "tensors": [f"blk.{i}.attn_{s}_norm.weight" for i in range(2) for s in "kq"],
        "bytes_changed": 1024, "size": out.stat().st_size,
    }  # fmt: skip


def test_quiet_and_dry_run(run_cli: Cli, file: Path, out: Path) -> None:
    """The path for `$(...)`; with -n nothing is written."""
    code, text, _ = run_cli("balance", file, "-o", out, "-n")
    assert code == 0
    assert "would be balanced by" in text
    assert json.loads(run_cli("balance", file, "-o", out, "-n", "--json")[1])["size"] is None
    assert not out.exists()
    assert run_cli("balance", file, "-o", out, "-q") == (0, f"{out}\n", "")


def test_rows_and_their_rounding(run_cli: Cli, tmp_path: Path, out: Path) -> None:
    """Without QK-norm the rows are scaled; --exact takes powers of two and says so."""
    import gguf

    kinds = dict.fromkeys(("attn_q.weight", "attn_k.weight"), gguf.GGMLQuantizationType.Q8_0)
    file = write_family(tmp_path / "l.gguf", FAMILIES["llama"], kinds)
    code, text, _ = run_cli("balance", file, "-o", out)
    assert code == 0
    assert "4 tensors in 2 layers (rows)" in text
    assert text.splitlines()[-1].startswith("  rounding of Q8_0 scales: 2.")
    assert text.endswith("e-04 rms\n")
    code, text, _ = run_cli("balance", file, "-o", out, "--exact", "-y")
    assert code == 0
    assert "factors 0." in text
    assert "powers of two" in text
    assert "rounding of" not in text


def test_statistics_of_a_file(run_cli: Cli, file: Path, out: Path, stats: Path) -> None:
    """D from what was measured and K's mean, or D alone; a text of few tokens is warned of."""
    n_tokens = json.loads(stats.read_text())["n_tokens"]
    code, text, err = run_cli("balance", file, "-o", out, "--stats", stats)
    assert code == 0
    assert f"  calibrated on {n_tokens} tokens, 4 tensors" in text
    assert f"warning: {n_tokens} tokens are few to calibrate on (expected 2048)" in err
    assert "  with the mean of K, 256 values" in text
    header = read_header(out)
    assert header.text("turboquant.balance") == "calibrated"
    assert header.entries["turboquant.k_mean"].type_name == "array of 256 float32"
    code, text, _ = run_cli("balance", file, "-o", out, "--stats", stats, "--no-mean", "-y")
    assert code == 0
    assert "mean of K" not in text
    assert "turboquant.k_mean" not in read_header(out).entries


def test_calibration_runs_the_program_over_the_text(
    run_cli: Cli, file: Path, out: Path, stats: Path, tmp_path: Path
) -> None:
    """The same file as with its statistics; its failure is told in its own last words."""
    text = tmp_path / "prose.txt"
    text.write_text("Many words.")
    runtime = fake_runtime(tmp_path / "bin", stats)
    code, _, err = run_cli("balance", file, "-o", out, "--calibrate", text, "--runtime", runtime)
    assert code == 0
    assert f"measuring K and Q over {text}" in err
    other = tmp_path / "other.gguf"
    assert run_cli("balance", file, "-o", other, "--stats", stats)[0] == 0
    assert out.read_bytes() == other.read_bytes()
    broken = fake_runtime(tmp_path / "broken", stats, code=3)
    code, _, err = run_cli(
        "balance", file, "-o", out, "-y", "--calibrate", text, "--runtime", broken
    )
    assert code == 1
    assert "llama-kv-stats ended with 3: " in err
    assert "it broke" in err
    missing = tmp_path / "none.txt"
    args = ("balance", file, "-o", out, "-y", "--runtime", runtime, "--calibrate", missing)
    assert run_cli(*args)[0] == 5
    assert out.read_bytes() == other.read_bytes(), "what was there stays"


def test_what_is_refused_is_refused_before_it_is_measured(
    run_cli: Cli, tmp_path: Path, out: Path, stats: Path
) -> None:
    """No minutes of calibration for a model that cannot be balanced."""
    runtime = fake_runtime(tmp_path / "bin", stats, code=3)
    mamba = tiny_gguf(tmp_path / "mamba.gguf", keys_of("mamba", block_count=1))
    code, _, err = run_cli("balance", mamba, "-o", out, "--calibrate", stats, "--runtime", runtime)
    assert code == 6
    assert "mamba: an architecture whose attention is not known here" in err
    assert "  hint: docs/balance.md" in err


def test_a_model_with_attention_sinks_keeps_its_mean(
    run_cli: Cli, tmp_path: Path, out: Path
) -> None:
    """A mean taken out of K would shift all logits against the sink's."""
    from golden.kv_models import write_model

    file = write_model("gpt-oss", tmp_path / "m.gguf")
    layers = [
        {"layer": i, "head_dim": 64, "n_head": 4, "n_head_kv": 2, "n_k": 2, "k_sum": [0.5] * 128,
         "k_sq": [2.0] * 128, "n_q": 2, "q_sq": [1.0] * 256, "q_sum": [0.0] * 256}
        for i in range(4)
    ]  # fmt: skip
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"schema": "tqconvert.kv-stats/1", "n_tokens": 2, "layers": layers}))
    code, _, err = run_cli("balance", file, "-o", out, "--stats", path)
    assert code == 6
    assert "has attention sinks" in err
    assert "  hint: --no-mean" in err
    assert run_cli("balance", file, "-o", out, "--stats", path, "--no-mean")[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--stats", "a", "--calibrate", "b"), 2, "give one of them"),
        (("--no-mean",), 2, "only a calibration knows the mean"),
        (("--stats", "/nowhere.json"), 5, "no such file"),
        (("--calibrate", "/nowhere.txt"), 5, "no such file"),
        (("--calibrate", "/"), 2, "is a folder"),
    ],
)
def test_bad_options(
    run_cli: Cli, file: Path, out: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    """Nothing is written."""
    found, _, err = run_cli("balance", file, "-o", out, *options)
    assert (found, words in err) == (code, True), err
    assert not out.exists()


def test_inputs_that_are_none(run_cli: Cli, tmp_path: Path, out: Path, file: Path) -> None:
    """Missing, no GGUF, no attention tensors, one shard of several, an interrupted tag, no -o."""
    assert run_cli("balance", tmp_path / "none.gguf", "-o", out)[0] == 5
    other = tmp_path / "x.gguf"
    other.write_bytes(b"not a model at all, but long enough to be read")
    assert run_cli("balance", other, "-o", out)[0] == 4
    assert run_cli("balance", tiny_gguf(other, LLAMA), "-o", out)[0] == 4
    shard = tiny_gguf(other, {**LLAMA, "split.no": 0, "split.count": 2})
    code, _, err = run_cli("balance", shard, "-o", out)
    assert code == 6
    assert "llama-gguf-split --merge" in err
    other.write_bytes(bytes(4096) + file.read_bytes())
    code, _, err = run_cli("balance", other, "-o", out)
    assert (code, "hint: tqconvert untag" in err) == (6, True)
    assert run_cli("balance", file)[0] == 2
    assert not out.exists()


def test_the_rest_of_the_tool_takes_a_balanced_file(run_cli: Cli, file: Path, out: Path) -> None:
    """`inspect` tells the balance, tag keeps it, untag gives the balanced file back."""
    assert run_cli("balance", file, "-o", out)[0] == 0
    before = out.read_bytes()
    assert "balance       weights\n" in run_cli("inspect", out)[1]
    assert json.loads(run_cli("inspect", out, "--json")[1])["balance"] == "weights"
    code, text, _ = run_cli("tag", out, "--type-k", "q8_0", "--type-v", "q8_0", "--json")
    assert code == 0
    assert json.loads(text)["balance"] == "weights"
    tags = read_tags(read_header(out))
    assert tags is not None
    assert tags.balance == "weights"
    code, text, _ = run_cli("inspect", out)
    assert code == 0
    assert "balance weights" in text
    assert run_cli("untag", out)[0] == 0
    assert out.read_bytes() == before
    assert run_cli("balance", out, "-o", os.devnull)[0] == 6
