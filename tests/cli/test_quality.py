"""`tqconvert quality` for people, programs and `$(...)`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakeperplexity import *  # noqa: F403 - its fixtures
from fakeperplexity import KEYS, Fake

Run = Callable[..., tuple[int, str, str]]


def test_kld_for_people(fake: Fake, model: Path, text: Path, run_cli: Run) -> None:
    """The table, and before it on stderr the disk that the base takes."""
    args = ("quality", "kld", model, "--text", text, "--ctx", "256", "--pair", "turbo4/turbo4")
    code, out, err = run_cli(*args)
    assert code == 0
    assert "on prose.txt: 3 chunks of 256 tokens, 381 scored" in out
    assert "base f16/f16: PPL 25.5793" in out
    assert re.search(
        r"^bf16/bf16 \(floor\) +16 +25.6722 +\+0.36 % +0.01302 +\+-0.00181 ", out, re.MULTILINE
    )
    assert re.search(
        r"^turbo4/turbo4 +4.125 +25.6722 .* 0.0829 +93.33 % +\+-1.77$", out, re.MULTILINE
    )
    assert max(map(len, out.splitlines()[2:])) <= 100
    assert re.search(r"the base takes about [\d.]+ KiB in .*; deleted afterwards", err)
    assert run_cli(*args, "-q")[1] == "0.013018\n"


def test_ppl_of_several_pairs(fake: Fake, model: Path, text: Path, run_cli: Run) -> None:
    """One run each; f16/f16 for a model without tags."""
    args = ("quality", "ppl", model, "--text", text, "--ctx", "256")
    code, out, err = run_cli(*args, "--pair", "f16/f16", "--pair", "q8_0/turbo4")
    assert (code, err) == (0, "ppl: 3 of 6, f16/f16 PPL 25.5793\n")
    assert re.search(r"^q8_0/turbo4 +6.312 +25.5793 +\+-5.54$", out, re.MULTILINE)
    assert run_cli(*args, "-q")[1] == "25.5793\n"
    document = json.loads(run_cli(*args, "--json")[1])
    assert (document["schema"], document["measure"]) == ("tqconvert.quality/1", "ppl")
    assert [r["name"] for r in document["rows"]] == ["f16/f16"]
    assert document["rows"][0]["ppl"]["error"] == 2.82422
    assert document["text"]["bytes"] == text.stat().st_size
    assert document["n_threads"] == 2


@pytest.mark.parametrize(
    ("args", "expected", "said"),
    [
        (["--pair", "q8_0"], 2, "not a pair"),
        (["--pair", "q8_0/turbo5"], 2, "did you mean turbo"),
        (["--ctx", "100"], 2, "too short to score"),
        (["--ctx", "8k"], 2, "trained for 4096"),
        (["--ctx", "4k"], 2, "fewer than two contexts"),
        (["--chunks", "0"], 2, ""),
        (["--text", "/"], 2, "is a folder"),
        (["--runtime", "/nowhere"], 5, "no llama-perplexity"),
    ],
)
def test_bad_options(
    args: list[str], expected: int, said: str, fake: Fake, model: Path, text: Path, run_cli: Run
) -> None:
    """Told before anything runs."""
    code, out, err = run_cli(
        "quality", "kld", model, "--text", text, "--ctx", "256", "--pair", "q4_0/q4_0", *args
    )
    assert (code, out) == (expected, "")
    assert said in err
    assert fake.calls == []


def test_a_text_is_needed(fake: Fake, model: Path, run_cli: Run, tmp_path: Path) -> None:
    """None is shipped; a missing one is another error."""
    code, _, err = run_cli("quality", "kld", model, "--pair", "q4_0/q4_0")
    assert code == 2
    assert "--text: needed" in err
    assert "none are shipped" in err
    for name in ("ppl", "kld"):
        assert run_cli("quality", name, model, "--text", tmp_path / "none.txt")[0] == 5


def test_types_that_the_model_cannot_use(
    fake: Fake, text: Path, run_cli: Run, tmp_path: Path
) -> None:
    """A head dimension of 64 takes no turbo."""
    from builders import tiny_gguf

    keys = {**KEYS, "llama.attention.key_length": 64, "llama.attention.value_length": 64}
    model = tiny_gguf(tmp_path / "small.gguf", keys)
    args = ("quality", "ppl", model, "--text", text, "--ctx", "256", "--pair", "turbo4/turbo4")
    code, _, err = run_cli(*args)
    assert code == 2
    assert "does not divide head dimension 64" in err


def test_no_runtime(model: Path, text: Path, run_cli: Run) -> None:
    """The hint is the command that builds one."""
    code, _, err = run_cli("quality", "ppl", model, "--text", text, "--ctx", "256")
    assert code == 5
    assert "tqconvert ollama-build build" in err
