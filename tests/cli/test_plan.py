"""`tqconvert plan` in its three modes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import keys_of, tiny_gguf

Run = Callable[..., tuple[int, str, str]]


def test_gemma_in_json(gemma: Path, run_cli: Run) -> None:
    """The goldens, as integers: 111.00 MiB f16 and 58.97 MiB q8_0 at 32768 tokens."""
    code, out, err = run_cli("plan", gemma, "--ctx", "32k", "--json")
    document = json.loads(out)
    rows = {(r["type_k"], r["type_v"]): r["kv_bytes"] for r in document["rows"]}
    assert (code, err, document["schema"]) == (0, "", "tqconvert.plan/1")
    assert rows["f16", "f16"] == 111 * 2**20
    assert f"{rows['q8_0', 'q8_0'] / 2**20:.2f}" == "58.97"
    assert document["layers"] == {"full": 3, "sliding": 15}
    assert document["recommendation"]["type_v"] == "turbo4"
    assert document["weights_bytes"] == gemma.stat().st_size


def test_gemma_for_people(gemma: Path, run_cli: Run) -> None:
    """Header, table and recommendation."""
    code, out, _ = run_cli("plan", gemma, "--ctx", "8k,32k")
    assert code == 0
    assert "gemma3, 3 full + 15 sliding (window 512) layers, 4 heads, 1 K/V x 256" in out
    assert re.search(r"^f16/f16 +39\.0 MiB +111\.0 MiB +100\.0 %$", out, re.MULTILINE)
    assert re.search(r"^q8_0/turbo4 +15\.4 MiB +43\.8 MiB +39\.5 %$", out, re.MULTILINE)
    assert "recommended: q8_0/turbo4 (unmeasured)" in out


def test_quiet_prints_the_types(tmp_path: Path, run_cli: Run) -> None:
    """One line for `$(...)`; "none" where nothing is recommended."""
    assert run_cli("plan", tiny_gguf(tmp_path / "a.gguf"), "-q")[:2] == (0, "q8_0/turbo4\n")
    keys = keys_of("newmodel", block_count=2, embedding_length=256, attention__head_count=2)
    assert run_cli("plan", tiny_gguf(tmp_path / "b.gguf", keys), "-q")[:2] == (0, "none\n")


def test_unknown_architecture_says_upper_bound(tmp_path: Path, run_cli: Run) -> None:
    """In text and in JSON."""
    keys = keys_of("newmodel", block_count=2, embedding_length=256, attention__head_count=2)
    path = tiny_gguf(tmp_path / "m.gguf", keys)
    assert "UPPER BOUND" in run_cli("plan", path)[1]
    assert json.loads(run_cli("plan", path, "--json")[1])["upper_bound"] is True


@pytest.mark.parametrize("mode", ["--json", "-q", None])
def test_what_does_not_fit_is_exit_code_1(mode: str | None, tmp_path: Path, run_cli: Run) -> None:
    """The verdict is the exit code, and the result is printed all the same."""
    args = ["plan", tiny_gguf(tmp_path / "m.gguf"), "--memory", "1MiB", *([mode] if mode else [])]
    code, out, _ = run_cli(*args)
    assert code == 1
    assert out
    if mode == "--json":
        assert json.loads(out)["fits"] is False
    if mode is None:
        assert "nothing fits" in out


def test_what_fits_is_named(tmp_path: Path, run_cli: Run) -> None:
    """The largest context of each pair, and the assumption behind it."""
    code, out, _ = run_cli("plan", tiny_gguf(tmp_path / "m.gguf"), "--memory", "24GiB")
    assert code == 0
    assert "largest context in" in out
    assert "assumption" in out


def test_requested_types_are_a_row(tmp_path: Path, run_cli: Run) -> None:
    """A pair that is not in the table."""
    path = tiny_gguf(tmp_path / "m.gguf")
    out = run_cli("plan", path, "--type-k", "q5_1", "--type-v", "turbo2")[1]
    assert "q5_1/turbo2 (requested)" in out


def test_head_dimension_64_names_types_that_work(tmp_path: Path, run_cli: Run) -> None:
    """What cannot be used stands below with its reason and the way out."""
    keys = keys_of("llama", block_count=2, embedding_length=256, attention__head_count=4)
    out = run_cli("plan", tiny_gguf(tmp_path / "m.gguf", keys))[1]
    assert "does not divide head dimension 64 of V (layer 0)" in out
    assert "types that work: K f32, f16, bf16, q8_0" in out


@pytest.mark.parametrize(
    ("args", "expected", "text"),
    [
        (["--ctx", "many"], 2, "not a context length"),
        (["--memory", "much"], 2, "not a size"),
        (["--type-k", "turbo5"], 2, "not a KV cache type"),
        (["--parallel", "0"], 2, ""),
    ],
)
def test_bad_options(
    args: list[str], expected: int, text: str, tmp_path: Path, run_cli: Run
) -> None:
    """Usage errors, before anything is printed."""
    code, out, err = run_cli("plan", tiny_gguf(tmp_path / "m.gguf"), *args)
    assert (code, out) == (expected, "")
    assert text in err


def test_missing_file_and_other_files(tmp_path: Path, run_cli: Run) -> None:
    """5 for what is not there or no language model, 4 for what is no GGUF."""
    (tmp_path / "x.gguf").write_bytes(b"not a model at all, but long enough")
    other = tiny_gguf(tmp_path / "o.gguf", {"general.architecture": "newthing"})
    assert run_cli("plan", tmp_path / "none.gguf")[0] == 5
    assert run_cli("plan", other)[0] == 5
    assert run_cli("plan", tmp_path / "x.gguf")[0] == 4
