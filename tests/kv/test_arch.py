"""Which layers of an architecture keep what: hand-worked, one case per family."""

from pathlib import Path
from typing import Any

import pytest
from builders import keys_of, tiny_gguf

from tqconvert.errors import InvalidGgufError
from tqconvert.gguf.header import read_header
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import LayerKind as K
from tqconvert.kv.layers import Layout
from tqconvert.kv.rules import DENSE, NO_CACHE, RULES
from tqconvert.kv.size import kv_bytes
from tqconvert.kv.types import F16

HEADS: dict[str, Any] = {
    "embedding_length": 1024, "attention__head_count": 8, "attention__head_count_kv": 2,
    "attention__key_length": 128, "attention__value_length": 128, "context_length": 131072,
}  # fmt: skip
SSM: dict[str, Any] = {
    "ssm__conv_kernel": 4, "ssm__inner_size": 2048, "ssm__state_size": 128, "ssm__group_count": 1,
    "ssm__time_step_rank": 32,
}  # fmt: skip
W: dict[str, Any] = {"attention__sliding_window": 512}
CELL = 2 * 256 * 2
"""Bytes of K and V per token and layer with these heads in f16."""


def layout(tmp_path: Path, arch: str, **own: Any) -> Layout:
    """Layout of a header with these keys; a key that is None is left out."""
    keys = {name: value for name, value in (HEADS | own).items() if value is not None}
    return layout_of(read_header(tiny_gguf(tmp_path / "m.gguf", keys_of(arch, **keys))))


CASES: list[tuple[str, dict[str, Any], dict[K, int]]] = [
    ("llama", {"block_count": 32}, {K.FULL: 32}),
    ("qwen2", {"block_count": 28}, {K.FULL: 28}),
    ("qwen2moe", {"block_count": 28}, {K.FULL: 28}),
    ("qwen3", {"block_count": 36}, {K.FULL: 36}),
    ("qwen3moe", {"block_count": 48}, {K.FULL: 48}),
    ("gemma", {"block_count": 28}, {K.FULL: 28}),
    ("gemma2", {"block_count": 26}, {K.FULL: 13, K.SLIDING: 13}),
    ("gemma3", {"block_count": 34, **W}, {K.FULL: 5, K.SLIDING: 29}),
    ("gemma3", {"block_count": 34}, {K.FULL: 34}),
    ("gemma3n", {"block_count": 30, **W}, {K.FULL: 4, K.SLIDING: 16, K.SHARED: 10}),
    (
        "gemma4",
        {
            "block_count": 6,
            **W,
            "attention__sliding_window_pattern": [True, True, False] * 2,
            "attention__shared_kv_layers": 2,
        },
        {K.FULL: 1, K.SLIDING: 3, K.SHARED: 2},
    ),
    ("phi3", {"block_count": 32, **W}, {K.FULL: 32}),
    ("cohere2", {"block_count": 32, **W}, {K.FULL: 8, K.SLIDING: 24}),
    ("command-r", {"block_count": 40}, {K.FULL: 40}),
    ("gpt-oss", {"block_count": 24, **W}, {K.FULL: 12, K.SLIDING: 12}),
    ("gptoss", {"block_count": 24, **W}, {K.FULL: 12, K.SLIDING: 12}),
    ("llama4", {"block_count": 48}, {K.FULL: 12, K.CHUNKED: 36}),
    ("llama4", {"block_count": 48, "attention__sliding_window": 0}, {K.FULL: 48}),
    ("mistral3", {"block_count": 26}, {K.FULL: 26}),
    ("granite", {"block_count": 40}, {K.FULL: 40}),
    ("olmo2", {"block_count": 32}, {K.FULL: 32}),
    ("olmo2", {"block_count": 32, **W}, {K.FULL: 8, K.SLIDING: 24}),
    ("exaone4", {"block_count": 30, **W}, {K.FULL: 30}),
    ("exaone4", {"block_count": 64, **W}, {K.FULL: 16, K.SLIDING: 48}),
    ("smollm3", {"block_count": 36}, {K.FULL: 36}),
    ("smallthinker", {"block_count": 32, **W}, {K.FULL: 8, K.SLIDING: 24}),
    ("glm4", {"block_count": 40}, {K.FULL: 40}),
    ("glm4moe", {"block_count": 47, "nextn_predict_layers": 1}, {K.FULL: 46}),
    ("starcoder2", {"block_count": 30}, {K.FULL: 30}),
    ("minicpm3", {"block_count": 62}, {K.FULL: 62}),
    ("qwen3next", {"block_count": 48, **SSM}, {K.FULL: 12, K.RECURRENT: 36}),
    ("qwen35moe", {"block_count": 40, **SSM}, {K.FULL: 10, K.RECURRENT: 30}),
    (
        "jamba",
        {"block_count": 8, **SSM, "attention__head_count_kv": [0, 0, 0, 0, 2, 0, 0, 0]},
        {K.FULL: 1, K.RECURRENT: 7},
    ),
    (
        "granitehybrid",
        {"block_count": 4, **SSM, "attention__head_count_kv": [0, 0, 0, 2]},
        {K.FULL: 1, K.RECURRENT: 3},
    ),
    (
        "plamo2",
        {"block_count": 4, **SSM, "attention__head_count_kv": [0, 2, 0, 2]},
        {K.FULL: 2, K.RECURRENT: 2},
    ),
    (
        "nemotron_h",
        {
            "block_count": 4,
            **SSM,
            "attention__head_count_kv": [0, 0, 2, 0],
            "feed_forward_length": [0, 64, 0, 64],
        },
        {K.FULL: 1, K.RECURRENT: 1, K.NONE: 2},
    ),
    ("falcon-h1", {"block_count": 36, **SSM}, {K.PARALLEL: 36}),
    ("mamba2", {"block_count": 24, **SSM, "attention__head_count": 0}, {K.RECURRENT: 24}),
    (
        "lfm2",
        {"block_count": 4, "shortconv__l_cache": 3, "attention__head_count_kv": [0, 0, 2, 0]},
        {K.FULL: 1, K.RECURRENT: 3},
    ),
    (
        "kimi-linear",
        {
            "block_count": 4,
            "ssm__conv_kernel": 4,
            "kda__head_dim": 128,
            "attention__head_count_kv": [0, 0, 0, 1],
            "attention__key_length_mla": 192,
            "attention__value_length_mla": 128,
        },
        {K.LATENT: 1, K.RECURRENT: 3},
    ),
    ("bert", {"block_count": 12}, {K.NONE: 12}),
]


@pytest.mark.parametrize(("arch", "own", "kinds"), CASES, ids=[c[0] for c in CASES])
def test_layers_by_kind(
    arch: str, own: dict[str, Any], kinds: dict[K, int], tmp_path: Path
) -> None:
    """Each architecture has the layers that llama.cpp gives it."""
    found = layout(tmp_path, arch, **own)
    assert found.known
    assert found.kinds == kinds


def test_bytes_of_a_dense_model_by_hand(tmp_path: Path) -> None:
    """Llama 3.1 8B: 32 layers x 8 heads x 128 x 2 sides x 2 bytes = 128 KiB per token."""
    own = layout(tmp_path, "llama", block_count=32, attention__head_count_kv=8)
    assert kv_bytes(own, 8192, k=F16, v=F16).total == 128 * 1024 * 8192


def test_bytes_of_windows_by_hand(tmp_path: Path) -> None:
    """Gemma 2: 13 layers of 8192 cells and 13 of 4096 + 512."""
    own = layout(tmp_path, "gemma2", block_count=26)
    size = kv_bytes(own, 8192, k=F16, v=F16)
    assert size.total == 13 * CELL * (8192 + 4608)
    assert size.by_kind == {K.FULL: 13 * CELL * 8192, K.SLIDING: 13 * CELL * 4608}


def test_bytes_of_shared_caches_by_hand(tmp_path: Path) -> None:
    """Gemma 3n: of 30 layers 4 are full and 16 slide, 10 keep nothing."""
    own = layout(tmp_path, "gemma3n", block_count=30, **W)
    assert kv_bytes(own, 8192, k=F16, v=F16).total == CELL * (4 * 8192 + 16 * 1024)


def test_bytes_of_chunks_by_hand(tmp_path: Path) -> None:
    """Llama 4: 12 layers of 32768 cells and 36 of 8192 + 512."""
    own = layout(tmp_path, "llama4", block_count=48)
    assert kv_bytes(own, 32768, k=F16, v=F16).total == CELL * (12 * 32768 + 36 * 8704)


def test_bytes_of_mla_by_hand(tmp_path: Path) -> None:
    """DeepSeek V3: 61 layers x (512 + 64) x 2 bytes per token; V is not stored."""
    mla = {"attention__head_count": 128, "attention__head_count_kv": 1, "attention__key_length": 576,
           "attention__value_length": 512, "attention__key_length_mla": 192,
           "attention__value_length_mla": 128}  # fmt: skip
    own = layout(tmp_path, "deepseek2", block_count=61, **mla)
    size = kv_bytes(own, 4096, k=F16, v=F16)
    assert (size.total, size.v) == (61 * 576 * 2 * 4096, 0)


def test_old_mla_conversion_stores_all_heads(tmp_path: Path) -> None:
    """Without the MLA keys the runtime keeps K of 192 and V of 128 for each of 16 heads, and we say so."""
    heads = {
        "attention__head_count": 16,
        "attention__head_count_kv": 16,
        "attention__key_length": 192,
    }
    own = layout(tmp_path, "deepseek2", block_count=27, **heads)
    assert kv_bytes(own, 4096, k=F16, v=F16).total == 27 * 16 * (192 + 128) * 2 * 4096
    assert "without MLA keys" in own.notes[0]


def test_states_of_mamba2_by_hand(tmp_path: Path) -> None:
    """3 x (2048 + 2 x 128) values of convolution and 2048 x 128 of state, f32, per layer and slot."""
    own = layout(tmp_path, "mamba2", block_count=24, **SSM, attention__head_count=0)
    size = kv_bytes(own, 4096, k=F16, v=F16, n_seq=2)
    assert size.total == size.state == 24 * 4 * 2 * (3 * (2048 + 256) + 2048 * 128)


def test_states_of_rwkv_and_delta_attention_by_hand(tmp_path: Path) -> None:
    """RWKV: 2 embeddings and one times the head size; Kimi: 3 convolutions of 3 and a square per head."""
    rwkv = layout(tmp_path, "rwkv7", block_count=2, wkv__head_size=64, attention__head_count=0)
    assert {x.state_values for x in rwkv.layers} == {2 * 1024 + 1024 * 64}
    kda = {"ssm__conv_kernel": 4, "kda__head_dim": 128, "attention__head_count_kv": [0, 1]}
    kimi = layout(tmp_path, "kimi-linear", block_count=2, **kda)
    assert kimi.layers[0].state_values == 3 * 3 * 8 * 128 + 128 * 128 * 8


def test_head_dimensions_of_windows_may_differ(tmp_path: Path) -> None:
    """Gemma 4: 512 on full layers, 256 on those with windows, K/V heads per layer."""
    own = {**W, "attention__sliding_window_pattern": [True, False], "attention__key_length": 512,
           "attention__value_length": 512, "attention__key_length_swa": 256,
           "attention__value_length_swa": 256, "attention__head_count_kv": [8, 4]}  # fmt: skip
    layers = layout(tmp_path, "gemma4", block_count=2, **own).layers
    assert [(x.head_dim_k, x.n_head_kv) for x in layers] == [(256, 8), (512, 4)]


def test_an_indexer_has_a_cache_of_its_own(tmp_path: Path) -> None:
    """MiniMax M3: the sparse layers keep one more head of K (64) and of V (128)."""
    own = layout(
        tmp_path, "minimax-m3", block_count=3, leading_dense_block_count=1,
        attention__indexer__key_length=64,
    )  # fmt: skip
    assert [(x.indexer_k, x.indexer_v) for x in own.layers] == [(0, 0), (64, 128), (64, 128)]
    assert kv_bytes(own, 256, k=F16, v=F16).total == 256 * (3 * CELL + 2 * (64 + 128) * 2)


def test_unknown_architecture_is_an_upper_bound(tmp_path: Path) -> None:
    """Every layer full, the largest head count, states on top; and it says so."""
    heads = {"attention__head_count_kv": [0, 2, 0, 2]}
    own = layout(tmp_path, "newmodel", block_count=4, **heads, **SSM)
    assert not own.known
    assert "unknown architecture newmodel" in own.notes[0]
    assert "upper bound" in own.notes[0]
    assert own.kinds == {K.PARALLEL: 4}
    known = layout(tmp_path, "granitehybrid", block_count=4, **heads, **SSM)
    bound, exact = (kv_bytes(x, 8192, k=F16, v=F16).total for x in (own, known))
    assert bound > exact


def test_a_missing_key_makes_an_upper_bound(tmp_path: Path) -> None:
    """Cohere 2 without a window is nothing that the runtime loads."""
    own = layout(tmp_path, "cohere2", block_count=32)
    assert not own.known
    assert "cohere2.attention.sliding_window" in own.notes[0]
    assert own.kinds == {K.FULL: 32}


@pytest.mark.parametrize("missing", ["block_count", "embedding_length", "attention__head_count"])
def test_without_the_common_keys_nothing_is_claimed(missing: str, tmp_path: Path) -> None:
    """No layers instead of a size of zero."""
    own = layout(tmp_path, "newmodel", **{"block_count": 2, missing: None})
    assert not own.known
    assert own.layers == ()
    assert missing.replace("__", ".") in own.notes[0]


@pytest.mark.parametrize(
    "own",
    [
        {"block_count": 4_000_000_000},
        {"block_count": 0},
        {"block_count": 4, "attention__head_count_kv": [2, 2, 2]},
        {"block_count": 4, "attention__key_length": 1 << 31},
        {"block_count": 4, "nextn_predict_layers": 5},
    ],
)
def test_absurd_values_are_refused(own: dict[str, Any], tmp_path: Path) -> None:
    """Values that no runtime takes end in an error, not in a huge list."""
    with pytest.raises(InvalidGgufError):
        layout(tmp_path, "llama", **own)


def test_no_architecture_is_in_two_tables() -> None:
    """Each name has one meaning."""
    assert not DENSE & NO_CACHE
    assert not (DENSE | NO_CACHE) & RULES.keys()


def test_tables_name_what_gguf_py_knows() -> None:
    """Names that gguf-py lists are in a table, but for those that are left to the upper bound."""
    gguf = pytest.importorskip("gguf")
    names = set(gguf.constants.MODEL_ARCH_NAMES.values())
    left_out = names - DENSE - NO_CACHE - RULES.keys()
    assert left_out <= {"deepseek4", "dflash", "gptj", "mmproj", "clip", "bitnet-25"}


def test_a_model_of_next_token_layers_alone_is_refused(tmp_path: Path) -> None:
    """Nanbeige repeats its other layers: of none there are no repetitions."""
    with pytest.raises(InvalidGgufError, match="all 2 layers predict next tokens"):
        layout(tmp_path, "nanbeige", block_count=2, nextn_predict_layers=2)
