"""`quality kld` with the built runtime and a real model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kvruntime import our_runtime

pytestmark = [pytest.mark.runtime, pytest.mark.slow]
Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
N_LAYERS = 18


@pytest.fixture
def kld(run_cli: Run, tmp_path: Path) -> Callable[..., dict]:
    """The document of one chunk of 512 tokens."""
    folder = our_runtime().folder
    text = tmp_path / "prose.txt"
    text.write_text(
        "".join(p.read_text("utf-8") for p in sorted((ROOT / "docs").glob("k*.md"))) * 2
    )

    def measure(*args: object) -> dict:
        code, out, err = run_cli(
            "quality", "kld", *args, "--text", text, "--ctx", "512", "--chunks", "1",
            "--runtime", folder, "--base", tmp_path / "base", "--json",
        )  # fmt: skip
        assert code == 0, out + err
        return json.loads(out)

    return measure


def test_types_stand_in_the_order_of_their_bits(kld: Callable[..., dict], gemma: Path) -> None:
    """f16 is at zero, the floor above it, and fewer bits of K cost more."""
    pairs = ("f16/f16", "q8_0/turbo4", "turbo4/turbo4", "turbo2/turbo2")
    document = kld(gemma, *(x for p in pairs for x in ("--pair", p)))
    values = [row["kld"]["value"] for row in document["rows"]]
    assert values == sorted(values)
    assert abs(values[0]) < 1e-5
    assert values[0] < document["floor"]["kld"]["value"] < values[2]
    assert values[2] < 0.4 < values[3]
    assert document["n_scored"] == 255


def test_types_by_layer_come_from_the_tags(
    kld: Callable[..., dict], gemma: Path, tmp_path: Path, run_cli: Run
) -> None:
    """Without a flag for that side; the runtime's log has the size that `plan` computes."""
    tagged = tmp_path / "tagged.gguf"
    types_v = ",".join(["turbo4"] * 12 + ["turbo2"] * 6)
    assert run_cli("tag", gemma, "-o", tagged, "--type-k", "q8_0", "--type-v", types_v)[0] == 0
    (row,) = kld(tagged, "--no-floor")["rows"]
    assert row["name"] == "q8_0/turbo4 x12 + turbo2 x6"
    rows = json.loads(run_cli("plan", tagged, "--ctx", "512", "--json")[1])["rows"]
    (planned,) = [r for r in rows if r["origin"] == "tagged"]
    assert row["kv_mib"] == pytest.approx(planned["kv_bytes"] / 2**20, abs=0.011)
