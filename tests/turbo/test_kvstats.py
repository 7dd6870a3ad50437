"""Statistics of llama-kv-stats: moments by hand, and documents that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turbo.attentions import FAMILIES, stats_of, write_family

from tqconvert.errors import NotFoundError, RefusedError
from tqconvert.turbo.balanceplan import plan_balance
from tqconvert.turbo.kvstats import BadStatsError, parse_stats, read_stats

LAYER: dict[str, Any] = {
    "layer": 0, "head_dim": 2, "n_head": 2, "n_head_kv": 1, "n_k": 4, "k_sum": [4, -8],
    "k_sq": [8, 20], "n_q": 2, "q_sum": [0, 0, 0, 0], "q_sq": [2, 4, 6, 8],
}  # fmt: skip
DOCUMENT: dict[str, Any] = {"schema": "tqconvert.kv-stats/1", "n_tokens": 12, "layers": [LAYER]}


def test_moments_by_hand(tmp_path: Path) -> None:
    """E k^2, less the squared mean where K is centred; E q^2 by head."""
    stats = parse_stats(json.dumps(DOCUMENT), subject="s")
    found = stats.layers[0]
    assert found.k_sum.tolist() == [[4, -8]]
    path = write_family(tmp_path / "m.gguf", FAMILIES["qwen3"])
    from tqconvert.gguf.header import read_header
    from tqconvert.turbo.attention import read_attention

    layer = read_attention(read_header(path), subject="m").layers[0]
    layer = layer._replace(dim=2, n_head=2, n_head_kv=1)
    whole, centred = stats.moments(layer, centred=False), stats.moments(layer, centred=True)
    assert whole.k.tolist() == [[2, 5]]
    assert whole.q.tolist() == [[1, 2], [3, 4]]
    assert whole.k_mean is None
    assert centred.k.tolist() == [[1, 1]]
    assert centred.k_mean is not None
    assert centred.k_mean.tolist() == [[1, -2]]
    assert whole.q_by_group.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k_sq": [8]}, r"layers\[0\]: k_sq: not a list of 1 \* 2 numbers"),
        ({"k_sq": [8, -1]}, "numbers that no sum can be"),
        ({"k_sum": [1, float("nan")]}, "numbers that no sum can be"),
        ({"q_sq": [1, 2, 3, "x"]}, "not all of it numbers"),
        ({"n_k": 0}, r"n_k: 0 \(expected a number above 0\)"),
        ({"layer": -1}, "layer: -1"),
        ({"head_dim": True}, "head_dim: True"),
    ],
)
def test_layers_that_are_none(change: dict[str, Any], words: str) -> None:
    """The message names the layer and the key."""
    text = json.dumps({**DOCUMENT, "layers": [{**LAYER, **change}]})
    with pytest.raises(BadStatsError, match=words) as caught:
        parse_stats(text, subject="s")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": "x"}', '{"schema": "tqconvert.kv-stats/1", "layers": []}', "\0"]
)
def test_documents_that_are_none(tmp_path: Path, text: str) -> None:
    """Nor is a missing file or one of bytes."""
    with pytest.raises(BadStatsError):
        parse_stats(text, subject="s")
    with pytest.raises(NotFoundError):
        read_stats(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\0")
    with pytest.raises(BadStatsError, match="not JSON"):
        read_stats(tmp_path / "bytes.json")


def test_statistics_of_another_model_are_refused(tmp_path: Path) -> None:
    """Other heads, or a layer too few."""
    file = write_family(tmp_path / "m.gguf", FAMILIES["qwen3"])
    document = stats_of(FAMILIES["qwen3"], file)
    other = parse_stats(json.dumps({**document, "layers": document["layers"][:1]}), subject="s")
    with pytest.raises(RefusedError, match="has no layer 1; it is of another model"):
        plan_balance(file, tmp_path / "o.gguf", stats=other)
    heads = write_family(tmp_path / "h.gguf", FAMILIES["gemma3"])
    other = parse_stats(json.dumps(stats_of(FAMILIES["gemma3"], heads)), subject="s")
    with pytest.raises(
        RefusedError, match=r"layer 0 has 2 heads, 1 K/V x 128 \(expected 4, 2 x 64\)"
    ):
        plan_balance(file, tmp_path / "o.gguf", stats=other)


def test_a_channel_that_never_moves_gets_a_finite_factor(tmp_path: Path) -> None:
    """Its variance may come out below 0 by rounding."""
    family = FAMILIES["qwen3"]
    file = write_family(tmp_path / "m.gguf", family)
    document = stats_of(family, file)
    row = document["layers"][0]
    row["k_sum"][5], row["k_sq"][5] = 0.1 * row["n_k"], 0.01 * row["n_k"] * (1 - 1e-9)
    plan = plan_balance(
        file, tmp_path / "o.gguf", stats=parse_stats(json.dumps(document), subject="s")
    )
    assert np.isfinite(plan.layers[0].d).all()
    assert (plan.layers[0].d > 0).all()
