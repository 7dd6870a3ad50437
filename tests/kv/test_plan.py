"""Plans: rows, tags, budgets, and the context for a Modelfile."""

from pathlib import Path
from typing import Any

import pytest
from builders import I32, LLAMA, U16, keys_of, tiny_gguf

from tqconvert.errors import NotFoundError, UsageError
from tqconvert.gguf.header import Header, read_header
from tqconvert.kv.plan import Plan, choose_num_ctx, make_plan, overhead_of, read_model

GIB = 2**30


def header(
    tmp_path: Path, arch: str = "llama", extra: dict[str, Any] | None = None, **own: Any
) -> Header:
    """Llama 3.1 8B's shape: 128 KiB per token in f16."""
    keys = {
        "block_count": 32, "embedding_length": 4096, "context_length": 131072,
        "attention__head_count": 32, "attention__head_count_kv": 8, **own,
    }  # fmt: skip
    return read_header(tiny_gguf(tmp_path / "m.gguf", keys_of(arch, **keys) | (extra or {})))


def tagged(plan: Plan) -> Any:
    """The row of the file's tags."""
    return next(row for row in plan.rows if row.pair.origin == "tagged")


def total(tmp_path: Path, name: str, n_ctx: int) -> int:
    """Bytes of everything for a pair at a context, with 5 GiB of weights."""
    rows = make_plan(header(tmp_path), weights_bytes=5 * GIB, contexts=[n_ctx]).rows
    return next(row.total or 0 for row in rows if row.pair.name == name)


def test_largest_context_is_the_largest(tmp_path: Path) -> None:
    """What is named fits, and 256 tokens more do not."""
    plan = make_plan(header(tmp_path), weights_bytes=5 * GIB, memory=10 * GIB)
    for found in plan.largest:
        assert total(tmp_path, found.pair.name, found.n_ctx) <= 10 * GIB
        if found.n_ctx < 131072:
            assert total(tmp_path, found.pair.name, found.n_ctx + 256) > 10 * GIB


def test_total_is_weights_cache_and_overhead(tmp_path: Path) -> None:
    """5 GiB of weights, 4 GiB of f16 cache at 32k, and the stated overhead."""
    plan = make_plan(header(tmp_path), weights_bytes=5 * GIB, contexts=[32768], memory=16 * GIB)
    row = plan.row(plan.baseline, 32768)
    assert row.total == 9 * GIB + overhead_of(32768, 1, 512)
    assert row.fits is True


def test_slots_multiply(tmp_path: Path) -> None:
    """Each of 4 slots has its own 8192 tokens."""
    plan = make_plan(header(tmp_path), weights_bytes=0, contexts=[8192], n_seq=4)
    size = plan.row(plan.baseline, 8192).size
    assert size is not None
    assert size.total == 4 * GIB


def test_unusable_pairs_have_a_reason_and_no_size(tmp_path: Path) -> None:
    """At a head dimension of 64 turbo rows say why."""
    plan = make_plan(header(tmp_path, attention__head_count=64), weights_bytes=0, contexts=[8192])
    row = next(r for r in plan.rows if r.pair.name == "q8_0/turbo4")
    assert row.size is None
    assert "head dimension 64" in str(row.pair.unusable)
    assert "turbo4" not in plan.usable["v"]


def test_tags_are_a_row(tmp_path: Path) -> None:
    """A tagged file shows what its tags take."""
    tags = {"general.kv_cache.type_k": "q8_0", "general.kv_cache.type_v": "turbo3"}
    row = tagged(make_plan(header(tmp_path, extra=tags), weights_bytes=0, contexts=[8192]))
    assert row.pair.name == "q8_0/turbo3"
    assert row.size.v == 8192 * 32 * 8 * 50


def test_tags_per_layer(tmp_path: Path) -> None:
    """One type per layer: two layers f16, thirty turbo4."""
    types = ["f16", "f16"] + ["turbo4"] * 30
    tags = {"general.kv_cache.type_k": types, "general.kv_cache.type_v": "f16"}
    row = tagged(make_plan(header(tmp_path, extra=tags), weights_bytes=0, contexts=[8192]))
    assert row.pair.name == "f16 x2 + turbo4 x30/f16"
    assert row.size.k == 8192 * (2 * 2048 + 30 * 8 * 66)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("turbo4", "head dimension 64"), ("tq9", "tq9 is not a cache type"), ("Q8_0", "Q8_0 is not a cache type"),
      (["q8_0"] * 3, "3 types for 32")],
)  # fmt: skip
def test_tags_that_cannot_be_used_become_f16(value: object, reason: str, tmp_path: Path) -> None:
    """The runtime warns and takes f16 on that side; the plan counts that and says so."""
    tags = {"general.kv_cache.type_k": "q8_0", "general.kv_cache.type_v": value}
    own = header(tmp_path, extra=tags, attention__head_count=64)
    row = tagged(make_plan(own, weights_bytes=0, contexts=[8192]))
    assert row.pair.effective_v == ("f16",)
    assert row.pair.effective_k == ("q8_0",)
    assert reason in row.pair.unusable
    assert row.size.v == 8192 * 32 * 8 * 64 * 2


def test_default_contexts_end_at_the_trained_one(tmp_path: Path) -> None:
    """No row goes beyond what the model was trained for; a wanted one does, with a note."""
    own = header(tmp_path, context_length=40960)
    assert make_plan(own, weights_bytes=0).contexts == (8192, 32768, 40960)
    wanted = make_plan(own, weights_bytes=0, contexts=[65536])
    assert "trained for 40k" in wanted.notes[-1]


def test_bad_types_are_refused(tmp_path: Path) -> None:
    """A misspelt type is an error, not a missing row."""
    with pytest.raises(UsageError):
        make_plan(header(tmp_path), weights_bytes=0, type_k="q9_0")


def test_a_file_that_is_no_language_model(tmp_path: Path) -> None:
    """Without the common keys there is no plan."""
    path = tiny_gguf(tmp_path / "m.gguf", {"general.architecture": "newthing"})
    with pytest.raises(NotFoundError, match=r"newthing\.block_count"):
        make_plan(read_header(path), weights_bytes=0)


def test_num_ctx_without_a_budget(tmp_path: Path) -> None:
    """32k where the f16 cache takes at most 4 GiB, less where it takes more, never beyond training."""
    assert choose_num_ctx(header(tmp_path), None)[0] == 32768
    assert choose_num_ctx(header(tmp_path, block_count=80), None)[0] == 8192
    assert choose_num_ctx(header(tmp_path, context_length=4096), None)[0] == 4096
    assert "more than 4 GiB" in choose_num_ctx(header(tmp_path, block_count=80), None)[1]


def test_num_ctx_with_a_budget(tmp_path: Path) -> None:
    """The most that fits with f16: (8 GiB - 0.5 GiB) / (128 KiB + 1 KiB) is 60,966 tokens: 59 x 1024."""
    value, reason = choose_num_ctx(header(tmp_path), 8 * GIB)
    assert value == 59 * 1024
    assert "8.0 GiB" in reason
    assert choose_num_ctx(header(tmp_path), 1024)[0] == 2048


def test_shards_count_as_one_model(tmp_path: Path) -> None:
    """The first shard has the keys, the weights are those of all, whichever is named."""
    for i in range(2):
        split = {"split.no": (U16, i), "split.count": (U16, 2), "split.tensors.count": (I32, 2)}
        keys = (LLAMA if i == 0 else {}) | split
        tensors = {f"t{i}.weight": (32, 2)}
        tiny_gguf(tmp_path / f"m-{i + 1:05d}-of-00002.gguf", keys, tensors=tensors)
    paths = sorted(tmp_path.glob("*.gguf"))
    for path in paths:
        found, weights = read_model(path)
        assert found.architecture == "llama"
        assert weights == sum(p.stat().st_size for p in paths)
