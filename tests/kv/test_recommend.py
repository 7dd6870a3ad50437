"""The types that a model gets before anybody has measured it."""

from pathlib import Path
from typing import Any

import pytest
from builders import keys_of, tiny_gguf

from tqconvert.errors import UsageError
from tqconvert.gguf.header import read_header
from tqconvert.kv.arch import layout_of
from tqconvert.kv.recommend import TypeChoice, default_types
from tqconvert.kv.types import CACHE_TYPES, parse_cache_type


def choice(tmp_path: Path, arch: str, head_dim: int, **own: Any) -> TypeChoice:
    """The default types of a model with heads of that dimension."""
    keys = {
        "block_count": 2, "embedding_length": 1024, "attention__head_count": 8,
        "attention__head_count_kv": 2, "attention__key_length": head_dim,
        "attention__value_length": head_dim, "context_length": 8192, **own,
    }  # fmt: skip
    header = read_header(tiny_gguf(tmp_path / "m.gguf", keys_of(arch, **keys)))
    return default_types(header, layout_of(header))


@pytest.mark.parametrize(
    ("head_dim", "k", "v"),
    [(128, "q8_0", "turbo4"), (256, "q8_0", "turbo4"), (64, "q8_0", "q8_0"), (96, "q8_0", "q8_0"),
     (80, None, None)],
)  # fmt: skip
def test_head_dimension_decides(head_dim: int, k: str, v: str, tmp_path: Path) -> None:
    """turbo4 where 128 divides it, q8_0 where 32 does, nothing else; the reason names it."""
    found = choice(tmp_path, "llama", head_dim)
    assert (found.type_k, found.type_v, found.measured) == (k, v, False)
    assert str(head_dim) in " ".join(found.reasons)
    assert ("unmeasured" in " ".join(found.reasons)) == (k is not None)


@pytest.mark.parametrize("arch", ["gpt-oss", "gptoss", "gemma4"])
def test_families_that_must_not_be_quantized(arch: str, tmp_path: Path) -> None:
    """No types, and the figures that say why; head dimensions would allow them."""
    window = {"attention__sliding_window": 128, "attention__sliding_window_pattern": [True, False]}
    found = choice(tmp_path, arch, 128, **window)
    assert (found.type_k, found.type_v) == (None, None)
    assert "KLD" in found.reasons[0]


def test_mla_gets_equal_types(tmp_path: Path) -> None:
    """The runtime takes one type for both, and no turbo."""
    mla = {"attention__key_length_mla": 192, "attention__value_length_mla": 128}
    found = choice(tmp_path, "deepseek2", 576, attention__value_length=512, **mla)
    assert (found.type_k, found.type_v) == ("q8_0", "q8_0")
    assert any(reason.startswith("MLA") for reason in found.reasons)


def test_turbo_v_wants_a_k_of_whole_blocks_too(tmp_path: Path) -> None:
    """K of 192 and V of 128: no turbo."""
    found = choice(tmp_path, "plm", 192, attention__value_length=128)
    assert (found.type_k, found.type_v) == ("q8_0", "q8_0")


@pytest.mark.parametrize("arch", ["newmodel", "bert"])
def test_unknown_models_and_encoders_get_none(arch: str, tmp_path: Path) -> None:
    """What is not known is not quantized, and there must be something to quantize."""
    found = choice(tmp_path, arch, 128)
    assert found.type_k is None
    assert found.reasons


def test_shared_k_heads_are_mentioned(tmp_path: Path) -> None:
    """24 query heads on 4 K heads is the ratio from which on a low-bit K is never blind."""
    found = choice(tmp_path, "llama", 128, attention__head_count=24, attention__head_count_kv=4)
    assert any(r.startswith("6 query heads share a K head") and "never" in r for r in found.reasons)


def test_types_are_the_runtimes_blocks() -> None:
    """Bytes of the types that gguf-py knows equal its table; turbo types are 66, 50 and 34 of 128."""
    gguf = pytest.importorskip("gguf")
    sizes = {t.name.lower(): size for t, size in gguf.GGML_QUANT_SIZES.items()}
    for name, own in CACHE_TYPES.items():
        if own.is_turbo:
            assert (own.values, own.bytes) == (128, 2 + 128 * int(name[-1]) // 8)
        else:
            assert (own.values, own.bytes) == sizes[name]


def test_a_misspelt_type_is_guessed() -> None:
    """`q8` names all types and the nearest; case does not matter."""
    assert parse_cache_type(" Q8_0") is CACHE_TYPES["q8_0"]
    with pytest.raises(UsageError) as e:
        parse_cache_type("turbo44")
    assert e.value.hint == "did you mean turbo4?"
